// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// large returns a program of n rules in policies of ten, in one tier of one endpoint, and a set with members.
func large(n, members int) (*ir.Program, ir.Members) {
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

// BenchmarkApply loads a table from nothing, and changes one rule of it.
func BenchmarkApply(b *testing.B) {
	const n = 10000
	p, m := large(n, 10)
	require.NoError(b, ir.Validate(p, m))
	b.Run(fmt.Sprintf("rules=%d/change=all", n), func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			be := newBackend(b, nftables.Options{})
			runtime.GC()
			b.StartTimer()
			_, err := be.Apply(b.Context(), p, m)
			require.NoError(b, err)
		}
	})
	b.Run(fmt.Sprintf("rules=%d/change=one", n), func(b *testing.B) {
		be := newBackend(b, nftables.Options{})
		q := *p
		q.Blocks = append([]ir.Block(nil), p.Blocks...)
		for i := range q.Blocks {
			if q.Blocks[i].ID == "policy/default/policy-500/normal-in" {
				q.Blocks[i].Steps = q.Blocks[i].Steps[1:]
			}
		}
		both := [2]*ir.Program{p, &q}
		_, err := be.Apply(b.Context(), p, m)
		require.NoError(b, err)
		i := 1
		for b.Loop() {
			r, err := be.Apply(b.Context(), both[i%2], m)
			require.NoError(b, err)
			require.Equal(b, 1, r.Changes)
			i++
		}
	})
}

// BenchmarkApplyMember changes one member of a large set.
func BenchmarkApplyMember(b *testing.B) {
	const n = 100000
	p, m := large(100, n)
	extra := ir.Element{Prefix: netip.MustParsePrefix("172.20.5.5/32")}
	b.Run(fmt.Sprintf("members=%d/how=delta", n), func(b *testing.B) {
		be := newBackend(b, nftables.Options{})
		_, err := be.Apply(b.Context(), p, m)
		require.NoError(b, err)
		on := false
		for b.Loop() {
			c := ir.MembersChange{ID: "s:all", Added: []ir.Element{extra}}
			if on {
				c = ir.MembersChange{ID: "s:all", Removed: []ir.Element{extra}}
			}
			on = !on
			r, err := be.ApplyMembers(b.Context(), ir.MembersChanges{c})
			require.NoError(b, err)
			require.Equal(b, 1, r.Changes)
		}
	})
	b.Run(fmt.Sprintf("members=%d/how=whole", n), func(b *testing.B) {
		be := newBackend(b, nftables.Options{})
		more := ir.Members{Sets: []ir.SetMembers{{ID: "s:all", Elements: append(append([]ir.Element(nil), m.Sets[0].Elements...), extra)}}}.Canonical()
		_, err := be.Apply(b.Context(), p, m)
		require.NoError(b, err)
		both, i := [2]ir.Members{m, more}, 1
		for b.Loop() {
			r, err := be.Apply(b.Context(), p, both[i%2])
			require.NoError(b, err)
			require.Equal(b, 1, r.Changes)
			i++
		}
	})
}

// BenchmarkObserve reads a large table back.
func BenchmarkObserve(b *testing.B) {
	p, m := large(10000, 1000)
	be := newBackend(b, nftables.Options{})
	_, err := be.Apply(b.Context(), p, m)
	require.NoError(b, err)
	for b.Loop() {
		st, err := be.Observe(b.Context())
		require.NoError(b, err)
		require.Empty(b, st.Drift)
	}
}
