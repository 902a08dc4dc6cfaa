// SPDX-License-Identifier: Apache-2.0

package liveflow_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/liveflow"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// judge denies what its function names a rule for.
type judge func(*flow.Packet) int

func (j judge) Verdict(p *flow.Packet) (flow.Verdict, flow.Origin) {
	if i := j(p); i > 0 {
		return flow.Deny, flow.Origin{Kind: flow.OriginPolicy, Tier: "t", Name: "p", Index: i, Pos: field.Pos{File: "p.yaml", Line: i}}
	}
	return flow.Allow, flow.Origin{}
}

func tuple(from, to string) flow.Tuple {
	s, d := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	return flow.Tuple{Protocol: inet.TCP, Src: s.Addr(), SrcPort: s.Port(), Dst: d.Addr(), DstPort: d.Port()}
}

func TestCheckOrdersWhatItFinds(t *testing.T) {
	flows := []liveflow.Flow{
		{Path: flow.Input, In: "eth0", Tuple: tuple("10.0.0.9:1", "10.0.0.1:80"), Tracked: true, Answered: true},
		{Path: flow.Input, In: "eth0", Tuple: tuple("10.0.0.8:1", "10.0.0.1:80"), Answered: true},
		{Path: flow.Input, In: "eth0", Tuple: tuple("10.0.0.7:1", "10.0.0.1:22"), Tracked: true, Answered: true},
		{Path: flow.Output, Out: "lo", Tuple: tuple("10.0.0.1:7", "10.0.0.1:2379"), Answered: true},
		{Path: flow.Output, Out: "eth0", Tuple: tuple("10.0.0.1:7", "10.0.0.2:53"), Tracked: true, Answered: true},
		{Path: flow.Forward, In: "eth0", Out: "eth1", Tuple: tuple("10.0.0.7:1", "10.1.0.1:22"), Tracked: true, Answered: true},
		{Path: flow.Input, In: "eth0", Tuple: tuple("10.0.0.6:1", "10.0.0.1:443"), Tracked: true, Answered: true},
	}
	fs := liveflow.Check(flows, judge(func(p *flow.Packet) int {
		switch {
		case p.DstPort == 443:
			return 0
		case p.SrcPort == 53 && p.State == flow.Established && p.Path == flow.Input && p.In == "eth0":
			return 5 // answers before connection tracking
		case p.State == flow.Established || p.DstPort == 53:
			return 0
		case p.DstPort == 2379 && p.Path == flow.Output:
			return 0 // it may leave, and not arrive
		}
		return int(p.DstPort)
	}), liveflow.Keep, liveflow.DefaultGuards())
	var got []string
	for _, f := range fs {
		got = append(got, f.String())
	}
	require.Equal(t, []string{
		"cuts tcp 10.0.0.1:7 > 10.0.0.1:2379 guarded as datastore, by policy:t/p/ingress[2379] at p.yaml:2379",
		"cuts tcp 10.0.0.1:7 > 10.0.0.2:53 guarded as dns, by policy:t/p/ingress[5] at p.yaml:5",
		"bars tcp 10.0.0.7:1 > 10.0.0.1:22 guarded as ssh, by policy:t/p/ingress[22] at p.yaml:22",
		"cuts tcp 10.0.0.8:1 > 10.0.0.1:80 by policy:t/p/ingress[80] at p.yaml:80",
		"bars tcp 10.0.0.7:1 > 10.1.0.1:22 by policy:t/p/ingress[22] at p.yaml:22",
		"bars tcp 10.0.0.9:1 > 10.0.0.1:80 by policy:t/p/ingress[80] at p.yaml:80",
	}, got)
	require.True(t, fs[1].Answer)
	require.ErrorContains(t, liveflow.Lockout(fs), "the change would cut off what is guarded: 3 flows")
	require.NoError(t, liveflow.Lockout(fs[3:]))
}

func TestGuards(t *testing.T) {
	in := liveflow.Flow{Path: flow.Input, In: "eth0", Tuple: tuple("10.0.0.7:1000", "10.0.0.1:22"), Process: "sshd", Answered: true}
	through := liveflow.Flow{Path: flow.Forward, In: "eth0", Out: "eth1", Tuple: tuple("10.0.0.7:1000", "10.1.0.1:22"), Answered: true}
	ports := func(p uint16) []inet.PortRange { return []inet.PortRange{{Min: p, Max: p}} }
	nets := func(s string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(s)} }
	for i, c := range []struct {
		g           liveflow.Guard
		in, through bool
	}{
		{liveflow.Guard{}, true, true},
		{liveflow.Guard{Local: ports(22)}, true, false},
		{liveflow.Guard{Local: ports(1000)}, false, false},
		{liveflow.Guard{Remote: ports(1000)}, true, false},
		{liveflow.Guard{Protocol: inet.UDP}, false, false},
		{liveflow.Guard{Nets: nets("10.0.0.0/24")}, true, true},
		{liveflow.Guard{Nets: nets("10.1.0.0/24")}, false, true},
		{liveflow.Guard{Process: "sshd"}, true, false},
		{liveflow.Guard{Process: "sshd", Local: ports(23)}, false, false},
		{liveflow.Guard{Tuple: tuple("10.0.0.7:1000", "10.0.0.1:22")}, true, false},
		{liveflow.Guard{Tuple: tuple("10.1.0.1:22", "10.0.0.7:1000")}, false, true},
	} {
		for _, f := range []struct {
			flow liveflow.Flow
			want bool
		}{{in, c.in}, {through, c.through}} {
			fs := liveflow.Check([]liveflow.Flow{f.flow}, judge(func(*flow.Packet) int { return 1 }), liveflow.Keep, []liveflow.Guard{c.g})
			require.Len(t, fs, 1)
			require.Equal(t, f.want, fs[0].Guard != "", "guard %d, %s", i, f.flow.Tuple)
		}
	}
}

// What is denied already, and tried again and again, must not keep anything from being applied.
func TestGuardsProtectNoFlowThatNobodyAnswers(t *testing.T) {
	f := liveflow.Flow{Path: flow.Output, Out: "eth0", Tuple: tuple("10.0.0.1:7", "10.0.0.2:53"), Tracked: true}
	deny := judge(func(*flow.Packet) int { return 1 })
	require.NoError(t, liveflow.Lockout(liveflow.Check([]liveflow.Flow{f}, deny, liveflow.Keep, liveflow.DefaultGuards())))
	f.Answered = true
	require.Error(t, liveflow.Lockout(liveflow.Check([]liveflow.Flow{f}, deny, liveflow.Keep, liveflow.DefaultGuards())))
}

func TestFateText(t *testing.T) {
	for _, f := range []liveflow.Fate{liveflow.Keep, liveflow.CutDenied, liveflow.CutAll} {
		got, err := liveflow.ParseFate(f.String())
		require.NoError(t, err)
		require.Equal(t, f, got)
	}
	_, err := liveflow.ParseFate("cut")
	require.ErrorContains(t, err, "keep, cut-denied, cut-all")
	_, err = liveflow.NewGate(liveflow.Options{Fate: 3})
	require.ErrorContains(t, err, "fate(3)")
}

func ExampleCheck() {
	// In real life the flows come from List, and the judge from Judging.
	flows := []liveflow.Flow{{Path: flow.Input, In: "eth0", Tuple: tuple("10.9.0.2:40000", "10.9.0.1:22"), Tracked: true, Answered: true, Process: "sshd"}}
	denySSH := judge(func(p *flow.Packet) int {
		if p.State == flow.New && p.DstPort == 22 {
			return 12
		}
		return 0
	})
	fs := liveflow.Check(flows, denySSH, liveflow.Keep, liveflow.DefaultGuards())
	fmt.Println(fs[0])
	fmt.Println(liveflow.Lockout(fs) != nil)
	// Output:
	// bars tcp 10.9.0.2:40000 > 10.9.0.1:22 (sshd) guarded as ssh, by policy:t/p/ingress[12] at p.yaml:12
	// true
}
