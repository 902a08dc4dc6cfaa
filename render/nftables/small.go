// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// maxTests is up to how many tests cost less than a lookup in a map. Measured: a lookup costs as much as about eight
// expressions that the kernel evaluates without a call, and a test is three of them.
const maxTests = 2

// asTests writes a rule for each case of a small switch on one key. It reports false, and writes nothing, if a map is
// better.
func (b *builder) asTests(c *chain, tests []Expr, g *group) bool {
	if len(g.keys) != 1 || len(g.cases) > 2*maxTests {
		return false
	}
	type one struct {
		test    Expr
		verdict Verdict
		comment string
	}
	var all []one
	for _, k := range g.cases {
		test := testOf(g.keys[0], k.Key[0])
		if test == nil {
			return false
		}
		if n := len(all); n > 0 && all[n-1].verdict == k.Verdict && all[n-1].comment == k.Comment {
			if last, ok := all[n-1].test.(InStates); ok {
				all[n-1].test = InStates{last.Bits | test.(InStates).Bits}
				continue
			}
		}
		all = append(all, one{test, k.Verdict, k.Comment})
	}
	if len(all) > maxTests || g.keys[0] == State && len(all) > 1 { // new packets would meet every test
		return false
	}
	for _, x := range all {
		b.put(c, append(tests[:len(tests):len(tests)], x.test), []Expr{x.verdict}, x.comment, nil)
	}
	return true
}

// byProtocol takes a switch on protocol and port apart into one for each protocol, if there are two and one of them has
// so few cases that tests are better for it: failsafes know one port of UDP, and a datagram need not be looked up among
// those of TCP. It returns nil if one map is better.
func byProtocol(g *group) []group {
	if len(g.keys) != 2 || g.keys[0] != Protocol {
		return nil
	}
	var parts []group
	for _, k := range g.cases {
		if k.Key[0].Lo != k.Key[0].Hi {
			return nil
		}
		test := testOf(Protocol, k.Key[0])
		i := slices.IndexFunc(parts, func(p group) bool { return p.tests[len(p.tests)-1] == test })
		if i < 0 {
			if i = len(parts); i == 2 {
				return nil
			}
			parts = append(parts, group{tests: append(slices.Clone(g.tests), test), keys: g.keys[1:]})
		}
		parts[i].cases = append(parts[i].cases, VerdictCase{k.Key[1:], k.Verdict, k.Comment})
	}
	if len(parts) < 2 || min(len(parts[0].cases), len(parts[1].cases)) > maxTests {
		return nil
	}
	return parts
}

// testOf returns the test for an interval of one key; nil if there is none that is as cheap as a comparison.
func testOf(k Key, i ir.Interval) Expr {
	exact := i.Lo == i.Hi
	switch k {
	case InIface, OutIface:
		if name, ok := i.Lo.Name(); ok && exact {
			return InNames{k, []string{name}, false}
		}
	case State:
		if exact && int(i.Lo[15]) < len(ctBit) {
			return InStates{ctBit[i.Lo[15]]}
		}
	case Protocol:
		if exact {
			return InNumbers{k, ir.MaskOf(i.Lo[15]), false}
		}
	case SrcPort, DstPort:
		if r := (inet.PortRange{Min: binary.BigEndian.Uint16(i.Lo[14:]), Max: binary.BigEndian.Uint16(i.Hi[14:])}); r != (inet.PortRange{Max: 65535}) {
			return InPorts{k, []inet.PortRange{r}, false}
		}
	case Src4, Dst4, Src6, Dst6:
		if p, ok := prefixOf(i, k == Src4 || k == Dst4); ok && p.Bits() > 0 {
			return InPrefixes{k, []netip.Prefix{p}, false}
		}
	}
	return nil
}
