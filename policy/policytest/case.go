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
	"iter"
	"slices"
	"strings"

	"golang.org/x/tools/txtar"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
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

	// Invalid is what validation says of the resources, nil if they are valid. Cases may hold objects that could not be
	// written and can be found stored; the engine then uses them as it uses stored objects.
	Invalid error
}

// Parse reads a case. Name is used in positions. The error is a *field.Errors that lists everything that is wrong, with
// file and line.
func Parse(name string, data []byte) (*Case, error) {
	c := &Case{Name: name}
	p := caseParser{c: c}
	a := txtar.Parse(data)
	c.Comment = string(a.Comment)
	line := 1 + bytes.Count(a.Comment, []byte("\n")) // of the marker
	sections := map[string]*section{}
	for _, f := range a.Files {
		if !slices.Contains(sectionNames[:], f.Name) {
			p.fail(line, field.ErrUnknown, "no section is called %q", f.Name)
		} else if sections[f.Name] != nil {
			p.fail(line, field.ErrDuplicate, "section %s begins a second time", f.Name)
		}
		sections[f.Name] = &section{line + 1, f.Data}
		line += 1 + bytes.Count(f.Data, []byte("\n"))
	}
	for _, need := range requiredSections {
		if sections[need] == nil {
			p.fail(line, field.ErrRequired, "section %s is missing", need)
		}
	}
	if len(p.errs) == 0 {
		p.host(sections["host.yaml"])
		p.resources(sections["resources.yaml"])
	}
	if len(p.errs) == 0 {
		p.rest(sections)
	}
	if err := p.errs.Err(); err != nil {
		return nil, err
	}
	return c, nil
}

var sectionNames = [...]string{"resources.yaml", "host.yaml", "packets", "ir", "errors", "unsupported"}

var requiredSections = sectionNames[:3]

// caseParser is the state of one Parse.
type caseParser struct {
	c    *Case
	errs field.List
}

func (p *caseParser) fail(line int, kind error, format string, args ...any) {
	p.errs = append(p.errs, &field.Error{
		Pos: field.Pos{File: p.c.Name, Line: line}, Reason: fmt.Sprintf(format, args...), Err: kind,
	})
}

// take keeps the errors of a part that has positions of its own.
func (p *caseParser) take(line int, err error) {
	var list *field.Errors
	if errors.As(err, &list) {
		p.errs = append(p.errs, list.List()...)
		return
	}
	p.fail(line, err, "%v", err)
}

func (p *caseParser) host(s *section) {
	f, err := manifest.ParseHost(s.source(p.c.Name))
	if err != nil {
		p.take(s.line, err)
		return
	}
	if p.c.Config, err = ConfigOf(f); err != nil {
		p.take(s.line, err)
		return
	}
	p.c.Host, p.c.Forwarding, p.c.DNAT = f.Host, f.Forwarding, f.DNAT
}

func (p *caseParser) resources(s *section) {
	src := s.source(p.c.Name)
	r, err := manifest.Parse(src)
	if err != nil {
		p.c.Invalid = err
		if r, err = (manifest.Options{Stored: true}).Parse(src); err != nil {
			p.take(s.line, err)
			return
		}
	}
	p.c.Resources = r
}

func (p *caseParser) rest(sections map[string]*section) {
	for line, text := range sections["packets"].lines() {
		pkt, err := ParsePacket(text, p.c.Host, p.c.DNAT)
		switch {
		case err != nil:
			p.fail(line, err, "%v", err)
			continue
		case !pkt.Asked:
			p.fail(line, field.ErrRequired, "%s: the verdict is missing", pkt.Text)
		}
		pkt.Line = line
		p.c.Packets = append(p.c.Packets, pkt)
	}
	if s := sections["ir"]; s != nil {
		p.c.IR = string(s.data)
	}
	if s := sections["errors"]; s != nil {
		p.c.Errors = []string{}
		for _, text := range s.lines() {
			p.c.Errors = append(p.c.Errors, text)
		}
	}
	if s := sections["unsupported"]; s != nil {
		p.c.Unsupported = map[string]string{}
		for line, text := range s.lines() {
			runner, reason, ok := strings.Cut(text, ":")
			if reason = strings.TrimSpace(reason); !ok || reason == "" {
				p.fail(line, field.ErrSyntax, "%q: want RUNNER: REASON", text)
			}
			p.c.Unsupported[runner] = reason
		}
	}
}

// ConfigOf returns the configuration that a host file holds. The error is a *field.Errors.
func ConfigOf(f manifest.HostFile) (policy.Config, error) {
	var errs field.List
	word := func(path, text string, words ...string) uint8 {
		if text == "" {
			return 0
		}
		i := slices.Index(words, text)
		if i < 0 {
			errs = append(errs, &field.Error{Path: path, Value: text, Err: field.ErrInvalid, Reason: "want one of " + strings.Join(words, ", ")})
		}
		return uint8(i)
	}
	in := f.Config
	out := policy.Config{
		Failsafes:                    policy.Failsafes{Inbound: failsafes(in.Failsafes.Inbound), Outbound: failsafes(in.Failsafes.Outbound)},
		AllowAction:                  policy.AllowAction(word("config.allowAction", in.AllowAction, "Accept", "Return")),
		DenyAction:                   policy.DenyAction(word("config.denyAction", in.DenyAction, "Drop", "Reject")),
		DisableConntrackInvalidCheck: in.DisableConntrackInvalidCheck,
		IgnoreHTTP:                   in.IgnoreHTTP,
		ExemptLoopback:               in.ExemptLoopback,
		WorkloadInterfacePrefixes:    f.WorkloadInterfacePrefixes,
	}
	if nd := in.Failsafes.NeighborDiscovery; nd != nil && !*nd {
		out.Failsafes.NeighborDiscovery = policy.Off
	}
	if err := errs.Err(); err != nil {
		return policy.Config{}, err
	}
	return out, nil
}

func failsafes(in []manifest.FailsafePort) []policy.FailsafePort {
	if in == nil {
		return nil
	}
	out := make([]policy.FailsafePort, len(in))
	for i, f := range in {
		out[i] = policy.FailsafePort{Protocol: f.Protocol, Port: f.Port, Net: f.Net}
	}
	return out
}

// section is one file of the archive.
type section struct {
	line int // of its first line
	data []byte
}

// source returns the section for a parser that counts lines on its own: they are the lines of the case.
func (s *section) source(name string) manifest.Source {
	return manifest.Source{Name: name, Data: append(bytes.Repeat([]byte("\n"), s.line-1), s.data...)}
}

// lines yields the lines that say something, with their numbers.
func (s *section) lines() iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		line := s.line
		for l := range strings.Lines(string(s.data)) {
			if t := strings.TrimSpace(l); t != "" && !strings.HasPrefix(t, "#") && !yield(line, t) {
				return
			}
			line++
		}
	}
}
