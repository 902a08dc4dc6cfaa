// SPDX-License-Identifier: Apache-2.0

package rendertest

import (
	"fmt"
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// OnePolicyEach returns n policies of one rule in one tier: a source /24, UDP and port 8000.
// Policy i allows 10.(100+i/256).(i%256).0/24.
func OnePolicyEach(n int) *ir.Program {
	p := &ir.Program{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "hook/normal-in"}}}
	origin := func(o flow.Origin) ir.OriginID {
		p.Origins = append(p.Origins, o)
		return ir.OriginID(len(p.Origins))
	}
	tier := ir.Block{ID: "tier/default/normal-in"}
	for i := range n {
		name := fmt.Sprintf("policy-%d", i)
		b := ir.Block{ID: ir.BlockID("policy/default/" + name + "/normal-in"), Steps: []ir.Step{ir.Rule{
			Match: ir.Match{
				{ir.InMask{Field: ir.Family, Mask: ir.MaskOf(inet.IPv4)}}, {ir.InMask{Field: ir.Protocol, Mask: ir.MaskOf(inet.UDP)}},
				{ir.InPrefixes{Field: ir.SrcAddr, Prefixes: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(100 + i>>8), byte(i), 0}), 24)}}},
				{ir.InPorts{Field: ir.DstPort, Ranges: []inet.PortRange{{Min: 8000, Max: 8000}}}},
			},
			Then: ir.Allow, Origin: origin(flow.Origin{Kind: flow.OriginPolicy, Tier: "default", Name: name}),
		}}}
		p.Blocks = append(p.Blocks, b)
		tier.Steps = append(tier.Steps, ir.Call{Block: b.ID})
	}
	tier.Steps = append(tier.Steps, ir.Rule{Then: ir.Deny, Origin: origin(flow.Origin{Kind: flow.OriginTier, Tier: "default"})})
	eth0, _ := ir.Name("eth0")
	p.Blocks = append(p.Blocks, tier, ir.Block{ID: "hook/normal-in", Steps: []ir.Step{
		ir.Switch{Key: []ir.Field{ir.InIface}, Cases: []ir.Case{{Key: []ir.Interval{ir.Exactly(eth0)}, Then: ir.Target{Block: tier.ID}}}},
	}})
	return ir.Canonical(p)
}
