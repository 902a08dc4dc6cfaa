// SPDX-License-Identifier: Apache-2.0

package analyze_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/policytest/irtest"
)

func TestWhoIsWhatExhaustionFinds(t *testing.T) {
	found := 0
	for seed := range uint64(*pairs / 4) {
		w := newWorld(seed)
		in := w.program(1+w.IntN(3), 3)
		var q analyze.Query
		maybe := func() bool { return w.IntN(3) == 0 }
		if maybe() {
			q.Path = irtest.Pick(w.World, w.Paths)
		}
		if maybe() {
			q.In = irtest.Pick(w.World, w.In)
		}
		if maybe() {
			q.Out = irtest.Pick(w.World, w.Out)
		}
		if maybe() {
			s := irtest.Pick(w.World, w.States)
			q.State = &s
		}
		if maybe() {
			q.Protocols = ir.MaskOf(irtest.Pick(w.World, w.Protocols))
		}
		if maybe() {
			q.Src, _ = inet.NewPrefixSet(w.Prefix())
		}
		if maybe() {
			q.Dst, _ = inet.NewPrefixSet(w.Prefix())
		}
		if maybe() {
			n := irtest.Pick(w.World, w.DstPorts)
			q.DstPorts, _ = inet.NewPortSet(inet.PortRange{Min: n, Max: n})
		}
		if maybe() {
			q.SrcPorts, _ = inet.NewPortSet(inet.PortRange{Max: 65535})
		}
		if maybe() {
			q.Verdicts = []flow.Verdict{flow.Deny, flow.None}
		}
		a, err := analyze.Who(t.Context(), in, q, analyze.Options{})
		require.NoError(t, err)
		require.False(t, a.Partial)
		run := interpreter(t, in)
		w.Packets(func(p *flow.Packet) {
			d := decision(run, p)
			want := 0
			if asked(&q, p, d.Verdict) {
				want = 1
				found++
			}
			n := 0
			for _, f := range a.Flows {
				for i := range f.Boxes {
					if f.Boxes[i].Contains(p) {
						n++
						require.Equal(t, d, f.Decision, "seed %d: %+v", seed, p)
					}
				}
			}
			require.Equal(t, want, n, "seed %d: %+v of %+v is %s\n%s", seed, p, q, d, in.Program)
		})
		for _, f := range a.Flows {
			require.Equal(t, f.Decision, decision(run, &f.Witness))
		}
	}
	require.Greater(t, found, *pairs)
}

func asked(q *analyze.Query, p *flow.Packet, v flow.Verdict) bool {
	same := func(p flow.Path) flow.Path {
		if p == flow.Local {
			return flow.Input
		}
		return p
	}
	dst := netip.AddrPortFrom(p.Dst, p.DstPort)
	if p.NATDst.IsValid() {
		dst = p.NATDst
	}
	ports := p.Protocol.HasPorts() || p.Protocol == inet.UDPLite
	verdicts := q.Verdicts
	if verdicts == nil {
		verdicts = []flow.Verdict{flow.Allow}
	}
	return (q.Path == 0 || same(q.Path) == same(p.Path)) && (q.In == "" || q.In == p.In) && (q.Out == "" || q.Out == p.Out) &&
		(q.State == nil || *q.State == p.State) && (q.Protocols == ir.Mask{} || q.Protocols.Has(uint8(p.Protocol))) &&
		(q.Src.IsEmpty() || q.Src.Contains(p.Src)) && (q.Dst.IsEmpty() || q.Dst.Contains(dst.Addr())) &&
		(q.SrcPorts.IsEmpty() || ports && q.SrcPorts.Contains(p.SrcPort)) && (q.DstPorts.IsEmpty() || ports && q.DstPorts.Contains(dst.Port())) &&
		slices.Contains(verdicts, v)
}
