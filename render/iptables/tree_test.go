// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/iptables"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// probe is a packet for the comparison of two rulesets. What the kernel makes of rules is for the tests of the backend to
// say; here it matters only that trees and lists say the same.
type probe struct {
	src, dst     netip.Addr
	proto        inet.Protocol
	sport, dport uint16
}

// walk leads a packet through the chain of a hook and returns what it met: origins in order, and the end.
func walk(t *testing.T, sets *iptables.Ruleset, tab *iptables.Table, p probe) (met []string, tests int) {
	t.Helper()
	var mark uint32
	var run func(name string) bool
	run = func(name string) (ended bool) {
		c, ok := tab.Chain(name)
		require.True(t, ok)
		for _, r := range c.Rules {
			tests++
			if slices.ContainsFunc(r.Tests, func(x iptables.Test) bool { return !holds(t, sets, x, p, mark) }) {
				continue
			}
			if r.Origin != nil {
				met = append(met, r.Origin.String())
			}
			if m, ok := r.Target.(iptables.SetMark); ok {
				mark = mark&^m.Mask | m.Value
			}
			v, ok := r.Target.(iptables.Verdict)
			if !ok {
				continue
			}
			switch v.Op {
			case iptables.Return:
				return false
			case iptables.Jump:
				if run(v.Chain) {
					return true
				}
			case iptables.Goto:
				return run(v.Chain)
			default:
				met = append(met, fmt.Sprint("end ", v.Op))
				return true
			}
		}
		return false
	}
	run(tab.Hooks[0].Root)
	return met, tests
}

func holds(t *testing.T, sets *iptables.Ruleset, x iptables.Test, p probe, mark uint32) bool {
	t.Helper()
	in := func(rs []inet.PortRange, port uint16) bool {
		return slices.ContainsFunc(rs, func(r inet.PortRange) bool { return r.Contains(port) })
	}
	switch x := x.(type) {
	case iptables.Source:
		return x.Prefix.Contains(p.src) != x.Not
	case iptables.Destination:
		return x.Prefix.Contains(p.dst) != x.Not
	case iptables.Protocol:
		return (x.Number == p.proto) != x.Not
	case iptables.SourcePort:
		return x.Ports.Contains(p.sport) != x.Not
	case iptables.DestinationPort:
		return x.Ports.Contains(p.dport) != x.Not
	case iptables.MultiPort:
		if x.Source {
			return in(x.Ranges, p.sport) != x.Not
		}
		return in(x.Ranges, p.dport) != x.Not
	case iptables.Mark:
		return mark&x.Mask == x.Value
	case iptables.InIface:
		return true
	case iptables.InSet:
		a := p.dst
		if x.Source {
			a = p.src
		}
		set, ok := sets.Set(x.Set)
		require.True(t, ok && !x.Port, x.Set)
		return slices.ContainsFunc(set.Elements, func(e ir.Element) bool { return e.Prefix.Contains(a) }) != x.Not
	}
	t.Fatalf("unexpected test %T", x)
	return false
}

// universe is what rules and packets of one trial are made of.
type universe struct {
	*rand.Rand
	family   inet.Family
	prefixes []netip.Prefix
	ports    []uint16
	wild     int // percent of rules that leave a field open
	lists    int // percent of addresses that are several
}

func newUniverse(seed uint64) *universe {
	u := &universe{Rand: rand.New(rand.NewPCG(seed, 7)), family: inet.IPv4}
	if seed%3 == 2 {
		u.family = inet.IPv6
	}
	u.wild = []int{0, 0, 2, 20}[u.IntN(4)]
	u.lists = []int{0, 10, 80}[u.IntN(3)]
	for range 1 + u.IntN(120) {
		bits := []int{8, 15, 16, 20, 24, 31, 32}[u.IntN(7)]
		if u.family == inet.IPv4 {
			a := netip.AddrFrom4([4]byte{10, byte(u.IntN(4)), byte(u.IntN(8)), byte(u.IntN(256))})
			u.prefixes = append(u.prefixes, netip.PrefixFrom(a, bits).Masked())
			continue
		}
		a := [16]byte{0xfd, 0, byte(u.IntN(3)), byte(u.IntN(4)), 0, byte(u.IntN(8)), 0, 0, 0, byte(u.IntN(2)), 0, 0, 0, 0, 0, byte(u.IntN(4))}
		u.prefixes = append(u.prefixes, netip.PrefixFrom(netip.AddrFrom16(a), []int{8, 24, 32, 48, 64, 80, 128}[u.IntN(7)]).Masked())
	}
	for range 1 + u.IntN(60) {
		u.ports = append(u.ports, uint16(u.IntN([]int{50, 3000, 65535}[u.IntN(3)])))
	}
	return u
}

func (u *universe) chance(percent int) bool { return u.IntN(100) < percent }

// some returns one prefix, or a few.
func (u *universe) some() []netip.Prefix {
	n := 1
	if u.chance(u.lists) {
		n += u.IntN(20)
	}
	var ps []netip.Prefix
	for range n {
		ps = append(ps, u.prefixes[u.IntN(len(u.prefixes))])
	}
	return ir.MergePrefixes(ps)
}

func (u *universe) rule(p *ir.Program) ir.Rule {
	r := ir.Rule{Then: []ir.Outcome{ir.Allow, ir.Deny, ir.Pass, ir.Allow}[u.IntN(4)]}
	if u.chance(8) {
		r.Then, r.Do = ir.Undecided, []ir.Effect{ir.Log}
	}
	add := func(ts ir.Term) { r.Match = append(r.Match, ir.Clause{ts}) }
	if !u.chance(u.wild) {
		add(ir.InPrefixes{Field: ir.SrcAddr, Prefixes: u.some(), Not: u.chance(5)})
	}
	if u.chance(30) {
		add(ir.InPrefixes{Field: ir.DstAddr, Prefixes: u.some()})
	}
	if u.chance(80) {
		add(ir.InMask{Field: ir.Protocol, Mask: ir.MaskOf([]inet.Protocol{inet.TCP, inet.UDP, inet.UDP, inet.SCTP, 47}[u.IntN(5)]), Not: u.chance(4)})
		for _, f := range []ir.Field{ir.DstPort, ir.SrcPort} {
			if u.chance(60) {
				var rs []inet.PortRange
				for range 1 + u.IntN(3) {
					lo := u.ports[u.IntN(len(u.ports))]
					rs = append(rs, inet.PortRange{Min: lo, Max: lo + uint16(min(65535-int(lo), u.IntN(2)*u.IntN(100)))})
				}
				add(ir.InPorts{Field: f, Ranges: ir.MergePorts(rs), Not: u.chance(8)})
			}
			if !u.chance(30) {
				break
			}
		}
	}
	p.Origins = append(p.Origins, flow.Origin{Kind: flow.OriginPolicy, Tier: "t", Name: "p", Index: len(p.Origins)})
	r.Origin = ir.OriginID(len(p.Origins))
	return r
}

func (u *universe) packet() probe {
	addr := func() netip.Addr {
		p := u.prefixes[u.IntN(len(u.prefixes))]
		b := p.Addr().AsSlice()
		for i := p.Bits(); i < 8*len(b); i++ {
			b[i/8] ^= byte(u.IntN(2)) << (7 - i%8)
		}
		if u.chance(10) {
			b[u.IntN(len(b))] ^= byte(u.IntN(256))
		}
		a, _ := netip.AddrFromSlice(b)
		return a
	}
	p := probe{src: addr(), dst: addr(), proto: []inet.Protocol{inet.TCP, inet.UDP, inet.UDP, inet.SCTP, 47, 1}[u.IntN(6)]}
	if p.proto != 47 && p.proto != 1 {
		p.sport, p.dport = u.ports[u.IntN(len(u.ports))]+uint16(u.IntN(3)), u.ports[u.IntN(len(u.ports))]+uint16(u.IntN(3))
	}
	return p
}

// TestTreesChangeNothing compares lists with trees of the smallest leaves, for the same packets.
func TestTreesChangeNothing(t *testing.T) {
	split := 0
	for seed := range uint64(200) {
		u := newUniverse(seed)
		p := &ir.Program{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b"}}}
		b := ir.Block{ID: "b"}
		for range 1 + u.IntN(150) {
			b.Steps = append(b.Steps, u.rule(p))
		}
		p.Blocks = []ir.Block{b}
		list, err := iptables.RenderSized(p, ir.Members{}, iptables.Options{}, 1<<30, 1)
		require.NoError(t, err)
		tree, err := iptables.RenderSized(p, ir.Members{}, iptables.Options{}, 2, 1+u.IntN(3))
		require.NoError(t, err)
		x, ok := list.Table(u.family, iptables.Filter)
		if !ok {
			continue
		}
		y, _ := tree.Table(u.family, iptables.Filter)
		split += len(y.Chains) - len(x.Chains)
		for range 200 {
			pkt := u.packet()
			want, _ := walk(t, list, x, pkt)
			got, _ := walk(t, tree, y, pkt)
			require.Equal(t, want, got, "seed %d, %+v\n%s\n%s", seed, pkt, list, tree)
		}
	}
	require.Greater(t, split, 500, "hardly any trees were made")
}

// TestTreesMakeTheLastRuleCheap is what trees are for.
func TestTreesMakeTheLastRuleCheap(t *testing.T) {
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(100 + i>>8), byte(i), 9}) }
	shapes := []struct {
		name    string
		sizes   []int
		program func(n int) *ir.Program
		packet  func(i int) probe
	}{
		{"a prefix and a port", []int{100, 1000, 5000, 20000}, rendertest.OnePolicyEach, func(i int) probe {
			return probe{src: addr(i), dst: netip.MustParseAddr("10.0.0.1"), proto: inet.UDP, dport: 8000}
		}},
		{"three prefixes and three ports", []int{100, 1000, 5000}, func(n int) *ir.Program { return several(n, addr) }, func(i int) probe {
			return probe{src: addr(i + 20), dst: netip.MustParseAddr("10.0.0.1"), proto: inet.UDP, dport: 8002}
		}},
	}
	for _, s := range shapes {
		for _, n := range s.sizes {
			p := s.program(n)
			r, err := iptables.Render(p, ir.Members{}, iptables.Options{})
			require.NoError(t, err)
			tab, ok := r.Table(inet.IPv4, iptables.Filter)
			require.True(t, ok)
			i := n - 1
			met, tests := walk(t, r, tab, s.packet(i))
			require.Equal(t, []string{fmt.Sprintf("policy:default/policy-%d/ingress[0]", i), "end 1"}, met)
			rules := 0
			for _, c := range tab.Chains {
				rules += len(c.Rules)
			}
			t.Logf("%s, %d rules: %d tests, %d lines in %d chains", s.name, n, tests, rules, len(tab.Chains))
			require.LessOrEqual(t, tests, 80, "%s, %d rules", s.name, n)
			require.LessOrEqual(t, rules, 5*n+20, "%s, %d rules", s.name, n)
		}
	}
}

// several returns n policies of one rule with several prefixes, near each other and far away, and several ports.
func several(n int, addr func(int) netip.Addr) *ir.Program {
	p := rendertest.OnePolicyEach(n)
	q := *p
	q.Blocks = slices.Clone(p.Blocks)
	for k := range q.Blocks {
		b := &q.Blocks[k]
		var i int
		if _, err := fmt.Sscanf(string(b.ID), "policy/default/policy-%d/", &i); err != nil {
			continue
		}
		r := b.Steps[0].(ir.Rule)
		r.Match = slices.Clone(r.Match)
		for j, c := range r.Match {
			switch c[0].(type) {
			case ir.InPrefixes:
				var ps []netip.Prefix
				for _, a := range []netip.Addr{addr(i), addr(i + 20), netip.AddrFrom4([4]byte{172, byte(16 + i>>12), byte(i >> 4), byte(i << 4)})} {
					x, _ := a.Prefix(28)
					ps = append(ps, x)
				}
				r.Match[j] = ir.Clause{ir.InPrefixes{Field: ir.SrcAddr, Prefixes: ir.MergePrefixes(ps)}}
			case ir.InPorts:
				r.Match[j] = ir.Clause{ir.InPorts{Field: ir.DstPort, Ranges: []inet.PortRange{{Min: 8000, Max: 8000}, {Min: 8002, Max: 8002}, {Min: 9000, Max: 9100}}}}
			}
		}
		b.Steps = append([]ir.Step{r}, b.Steps[1:]...)
	}
	return ir.Canonical(&q)
}
