// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/iptables"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// onePolicyEach returns n policies of one rule in one tier: a source /24, UDP and one port.
func onePolicyEach(n int) *ir.Program {
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

// BenchmarkRender renders to typed rules and to text. Rules of "mixed" are in both families, most of them.
func BenchmarkRender(b *testing.B) {
	const n = 10000
	mixed, members := rendertest.Large(n, 10)
	for _, x := range []struct {
		name string
		p    *ir.Program
		m    ir.Members
	}{{"one", onePolicyEach(n), ir.Members{}}, {"mixed", mixed, members}} {
		b.Run(fmt.Sprintf("program=%s/rules=%d", x.name, n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := iptables.Render(x.p, x.m, iptables.Options{})
				require.NoError(b, err)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/rule")
		})
	}
}
