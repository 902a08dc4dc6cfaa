// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

// Test is one assertion about policy as a test file has it: what must become of some traffic.
type Test struct {
	Name string // "" if the file gives none
	Pos  field.Pos

	// The traffic, from every one of From to every one of To.
	From, To   []Peer
	Protocol   *hostendpoint.Protocol
	Ports      []hostendpoint.Port // of the destination; numbers, ranges, or names of ports of To
	SourcePort uint16              // 0 if the file does not say
	ICMP       *hostendpoint.ICMPFields
	IPVersion  int    // 4, 6, or 0 for all that both sides have
	State      string // of the connection; "" if the file does not say

	// Or else one packet as case files write it, on one node.
	Packet, Node string

	Expect string // "allow", "deny" or "none"
	By     string // what must decide; "" leaves it open

	source *field.Source // of the file
	path   string        // of the test in it
}

// At returns where a field of the test stands, or its nearest ancestor that stands somewhere.
func (t *Test) At(path string) field.Pos {
	if t.source == nil {
		return t.Pos
	}
	return t.source.At(join(t.path, path))
}

// Peer is one end of the traffic of a Test. Exactly one field is set.
type Peer struct {
	Text         string `json:"text"` // the name of a host endpoint, or an address or CIDR
	HostEndpoint string `json:"hostEndpoint"`
	Selector     string `json:"selector"` // of host endpoints
	NetworkSet   string `json:"networkSet"`
	Address      string `json:"address"` // or CIDR
}

// testFileJSON is a test file as it is written.
type testFileJSON struct {
	Tests []struct {
		Name       string                   `json:"name"`
		From       []Peer                   `json:"from"`
		To         []Peer                   `json:"to"`
		Protocol   *hostendpoint.Protocol   `json:"protocol"`
		Port       []hostendpoint.Port      `json:"port"`
		SourcePort uint16                   `json:"sourcePort"`
		ICMP       *hostendpoint.ICMPFields `json:"icmp"`
		IPVersion  int                      `json:"ipVersion"`
		State      string                   `json:"state"`
		Node       string                   `json:"node"`
		Packet     string                   `json:"packet"`
		Expect     string                   `json:"expect"`
		By         string                   `json:"by"`
	} `json:"tests"`
}

// ParseTests reads files of policy tests, as strictly as Parse reads resources. A document is {tests: [...]}; port, from
// and to take one value or a list. Names, selectors and addresses are not looked up here. The error is a *field.Errors.
func ParseTests(srcs ...Source) ([]Test, error) { return Options{}.ParseTests(srcs...) }

// ParseTests is the function ParseTests with these options.
func (o Options) ParseTests(srcs ...Source) ([]Test, error) {
	p := parser{opts: o.withDefaults()}
	var out []Test
	p.run(srcs, func(doc *document) { out = append(out, p.tests(doc)...) })
	if err := p.errs.Err(); err != nil {
		return nil, err
	}
	return out, nil
}

func (p *parser) tests(doc *document) []Test {
	d := &decoder{p: p, doc: doc, lines: map[string]int{}}
	start := doc.pos(doc.root)
	d.value(doc.root, testFileSchema, "", start.Line)
	if d.failed || p.full {
		return nil
	}
	var in testFileJSON
	if err := json.Unmarshal(d.out, &in); err != nil {
		d.fail(doc.root, "", "", field.ErrInvalid, "%v", err)
		return nil
	}
	src := field.NewSource(start, d.lines)
	if len(in.Tests) == 0 {
		p.report(&field.Error{Path: "tests", Pos: start, Err: field.ErrRequired, Reason: "a test file has a list of tests"})
		return nil
	}
	out := make([]Test, 0, len(in.Tests))
	for i, x := range in.Tests {
		path := fmt.Sprintf("tests[%d]", i)
		t := Test{
			Name: x.Name, Pos: src.At(path), From: x.From, To: x.To, Protocol: x.Protocol, Ports: x.Port, SourcePort: x.SourcePort, ICMP: x.ICMP,
			IPVersion: x.IPVersion, State: x.State, Packet: x.Packet, Node: x.Node, Expect: x.Expect, By: x.By, source: src, path: path,
		}
		p.checkTest(&t)
		out = append(out, t)
	}
	return out
}

// checkTest reports what is wrong with a test whatever the resources are.
func (p *parser) checkTest(t *Test) {
	fail := func(path, value string, kind error, format string, args ...any) {
		p.report(&field.Error{Path: join(t.path, path), Pos: t.At(path), Value: shorten(value), Err: kind, Reason: fmt.Sprintf(format, args...)})
	}
	if verdicts := []string{"allow", "deny", "none"}; t.Expect == "" {
		fail("expect", "", field.ErrRequired, "what must become of the traffic is required: %s", strings.Join(verdicts, ", "))
	} else if !slices.Contains(verdicts, t.Expect) {
		fail("expect", t.Expect, field.ErrInvalid, "must be one of %s", strings.Join(verdicts, ", "))
	}
	if v := t.IPVersion; v != 0 && v != 4 && v != 6 {
		fail("ipVersion", fmt.Sprint(v), field.ErrInvalid, "must be 4 or 6")
	}
	if t.Packet != "" {
		if t.Node == "" {
			fail("node", "", field.ErrRequired, "a packet needs the node on which it is judged")
		}
		for _, f := range []struct {
			name string
			set  bool
		}{{"from", len(t.From) > 0}, {"to", len(t.To) > 0}, {"protocol", t.Protocol != nil}, {"port", len(t.Ports) > 0}, {"sourcePort", t.SourcePort != 0},
			{"icmp", t.ICMP != nil}, {"ipVersion", t.IPVersion != 0}, {"state", t.State != ""}} {
			if f.set {
				fail(f.name, "", field.ErrForbidden, "not beside packet, which says it all")
			}
		}
		return
	}
	if t.Node != "" {
		fail("node", t.Node, field.ErrForbidden, "only beside packet: from and to say which nodes are asked")
	}
	for _, side := range []struct {
		name  string
		peers []Peer
	}{{"from", t.From}, {"to", t.To}} {
		if len(side.peers) == 0 {
			fail(side.name, "", field.ErrRequired, "give from and to (a host endpoint, an address, {selector: ...} or {networkSet: ...}), or else a packet")
		}
		for i, x := range side.peers {
			if n := x.count(); n != 1 {
				fail(fmt.Sprintf("%s[%d]", side.name, i), "", field.ErrInvalid, "give exactly one of hostEndpoint, selector, networkSet and address, not %d", n)
			}
		}
	}
}

func (x *Peer) count() int {
	n := 0
	for _, s := range []string{x.Text, x.HostEndpoint, x.Selector, x.NetworkSet, x.Address} {
		if s != "" {
			n++
		}
	}
	return n
}
