// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"encoding/binary"
	"net/netip"

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
