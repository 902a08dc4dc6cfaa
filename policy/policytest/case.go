// SPDX-License-Identifier: Apache-2.0

// Package policytest is the conformance corpus of host endpoint policy, and what runs it: for any implementation,
// from the reference evaluator to a kernel.
//
// A case is a txtar file:
//
//	Free text: what is shown, and where the expectation comes from.
//	-- resources.yaml --
//	HostEndpoints, policies, profiles, tiers and sets
//	-- host.yaml --
//	node: host-a                     # which spec.node is local
//	interfaces:
//	  - {name: eth0, addresses: [10.9.0.1/24, "fd00:9::1/64"]}
//	  - {name: cali1, addresses: []}
//	workloadInterfacePrefixes: [cali]
//	forwarding: true
//	dnat:
//	  - {protocol: tcp, to: "10.9.0.1:32010", becomes: "10.65.0.2:8055"}
//	config: {}
//	-- packets --
//	# path            packet                                         verdict  by
//	input eth0        tcp 10.9.0.2:40000 > 10.9.0.1:443              allow    policy:security/web/ingress[0]
//	forward eth0>eth1 icmp 8/0 10.9.0.2 > 10.8.0.2                   deny
//	output eth0       tcp 10.9.0.1:443 > 10.9.0.2:40000 established  allow    conntrack:established
//	-- ir --
//	the canonical text of the compiled program; optional
//	-- errors --
//	what resolving must report, one "severity object path: message" a line; optional
//	-- unsupported --
//	runner: reason; optional
//
// A packet line is "PATH PACKET [STATE] VERDICT [BY]":
//
//   - PATH is "input IF", "output IF", "forward IN>OUT", or "local IF" (from a workload of this host to a process of this
//     host).
//   - PACKET is "tcp|udp|sctp|udplite SRC:PORT > DST:PORT", "icmp|icmp6 TYPE/CODE SRC > DST" or "proto N SRC > DST", as
//     the sender wrote it; the dnat table says what becomes of its destination.
//   - STATE is new, established, related, invalid or untracked. It goes without saying that the first packet of a flow
//     is new and that IPv6 neighbour discovery is untracked.
//   - VERDICT is allow, deny or none.
//   - BY is the text of the flow.Origin that decided; left out where the case is not about it.
package policytest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/tools/txtar"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy"
)

// Case is one conformance case.
type Case struct {
	Name    string // the file's name
	Comment string

	Resources  hostendpoint.Resources
	Host       hostendpoint.Host
	Config     policy.Config
	Forwarding bool
	DNAT       []DNAT
	Packets    []Packet

	IR          string            // "" if the case has none
	Errors      []string          // nil if the case is not about them
	Unsupported map[string]string // runner to reason
}

// Parse reads a case. Name is used in positions. The error lists everything that is wrong, as *field.Error with file
// and line.
func Parse(name string, data []byte) (*Case, error) {
	c := &Case{Name: name}
	var errs []error
	fail := func(line int, format string, args ...any) {
		e := fmt.Errorf(format, args...)
		errs = append(errs, &field.Error{Pos: field.Pos{File: name, Line: line}, Reason: e.Error(), Err: cmpOr(errors.Unwrap(e), field.ErrSyntax)})
	}
	a := txtar.Parse(data)
	c.Comment = string(a.Comment)
	line := 1 + bytes.Count(a.Comment, []byte("\n")) // of the marker
	sections := map[string]section{}
	for _, f := range a.Files {
		switch f.Name {
		case "resources.yaml", "host.yaml", "packets", "ir", "errors", "unsupported":
			if _, dup := sections[f.Name]; dup {
				fail(line, "a second section %s", f.Name)
			}
			sections[f.Name] = section{line + 1, f.Data}
		default:
			fail(line, "unknown section %q", f.Name)
		}
		line += 1 + bytes.Count(f.Data, []byte("\n"))
	}
	for _, need := range []string{"resources.yaml", "host.yaml", "packets"} {
		if _, ok := sections[need]; !ok {
			fail(line, "section %s is missing", need)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return c, errors.Join(errs...)
}

type section struct {
	line int // of its first line
	data []byte
}

// lines returns the lines that say something, with their numbers.
func (s section) lines(fn func(line int, text string)) {
	for i, l := range strings.Split(strings.TrimSuffix(string(s.data), "\n"), "\n") {
		if t := strings.TrimSpace(l); t != "" && !strings.HasPrefix(t, "#") {
			fn(s.line+i, t)
		}
	}
}

func cmpOr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}
