// SPDX-License-Identifier: Apache-2.0

package rendertest

import (
	"fmt"
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Large returns a program of n rules in policies of ten, in one tier of one endpoint, and a set with members.
func Large(n, members int) (*ir.Program, ir.Members) {
	p := &ir.Program{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "hook/normal-in"}}}
	p.Sets = []ir.SetDecl{{ID: "s:all", Kind: ir.SetOfPrefixes}}
	origin := func(o flow.Origin) ir.OriginID {
		p.Origins = append(p.Origins, o)
		return ir.OriginID(len(p.Origins))
	}
	tier := ir.Block{ID: "tier/default/normal-in"}
	for i := 0; i < n; i += 10 {
		name := fmt.Sprintf("policy-%d", i/10)
		b := ir.Block{ID: ir.BlockID("policy/default/" + name + "/normal-in")}
		for j := range 10 {
			r := ir.Rule{Then: ir.Allow, Origin: origin(flow.Origin{Kind: flow.OriginPolicy, Tier: "default", Name: name, Index: j})}
			r.Match = ir.Match{{ir.InMask{Field: ir.Protocol, Mask: ir.MaskOf(inet.TCP)}}, {ir.InPorts{Field: ir.DstPort, Ranges: []inet.PortRange{{Min: uint16(1000 + i + j), Max: uint16(1000 + i + j)}}}}}
			switch j % 5 {
			case 0:
				r.Match = append(r.Match, ir.Clause{ir.InSet{Fields: []ir.Field{ir.SrcAddr}, Set: "s:all"}})
			case 1, 2:
				r.Match = append(r.Match, ir.Clause{ir.InPrefixes{Field: ir.SrcAddr, Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)}}})
			case 3:
				r.Match = append(r.Match, ir.Clause{ir.InPrefixes{Field: ir.SrcAddr, Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.168.0.0/16")}}})
				r.Then = ir.Deny
			}
			b.Steps = append(b.Steps, r)
		}
		p.Blocks = append(p.Blocks, b)
		tier.Steps = append(tier.Steps, ir.Call{Block: b.ID})
	}
	tier.Steps = append(tier.Steps, ir.Rule{Then: ir.Deny, Origin: origin(flow.Origin{Kind: flow.OriginTier, Tier: "default"})})
	p.Blocks = append(p.Blocks, tier, ir.Block{ID: "endpoint/web/normal-in", Steps: []ir.Step{
		ir.Call{Block: tier.ID, Resume: ir.OutcomesOf(ir.Pass)},
		ir.Rule{Then: ir.Deny, Origin: origin(flow.Origin{Kind: flow.OriginDefault, Name: "web"})},
	}})
	eth0, _ := ir.Name("eth0")
	p.Blocks = append(p.Blocks, ir.Block{ID: "hook/normal-in", Steps: []ir.Step{
		ir.Switch{Key: []ir.Field{ir.InIface}, Cases: []ir.Case{{Key: []ir.Interval{ir.Exactly(eth0)}, Then: ir.Target{Block: "endpoint/web/normal-in"}}}},
	}})
	m := ir.Members{Sets: []ir.SetMembers{{ID: "s:all"}}}
	for i := range members {
		a := netip.AddrFrom4([4]byte{172, byte(16 + i>>16), byte(i >> 8), byte(i)})
		m.Sets[0].Elements = append(m.Sets[0].Elements, ir.Element{Prefix: netip.PrefixFrom(a, 32)})
	}
	return ir.Canonical(p), m.Canonical()
}
