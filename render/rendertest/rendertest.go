// SPDX-License-Identifier: Apache-2.0

// Package rendertest makes random rule programs for tests of renderers and backends. They use everything that the IR
// has, far beyond what compiled policy uses: any outcome may be resumed, blocks call blocks under conditions, and
// clauses mix terms of all kinds. Their universe is that of policytest.Generate, so that the packets of its cases meet
// the rules.
package rendertest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Size bounds what Program makes. The zero value is small.
type Size struct {
	Levels int // of blocks that call one another, below those of entries; 0 means 3
	Blocks int // in each level; 0 means 3
	Steps  int // at most, in each block; 0 means 4
}

// Program returns a random valid program and its members, as a pure function of seed and size.
func Program(seed uint64, size Size) (*ir.Program, ir.Members) {
	if size.Levels == 0 {
		size.Levels = 3
	}
	if size.Blocks == 0 {
		size.Blocks = 3
	}
	if size.Steps == 0 {
		size.Steps = 4
	}
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0x72756c65)), size: size}
	g.sets()
	var below []ir.BlockID
	for level := range size.Levels {
		var here []ir.BlockID
		for i := range size.Blocks {
			here = append(here, g.block(ir.BlockID(fmt.Sprintf("level%d/%d", level, i)), below))
		}
		below = append(below, here...)
	}
	for _, h := range flow.Hooks {
		if g.chance(85) {
			g.entry(h, below)
		}
	}
	return ir.Canonical(&g.p), g.m.Canonical()
}

type generator struct {
	*rand.Rand
	size Size
	p    ir.Program
	m    ir.Members
}

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

func pick[T any](g *generator, xs ...T) T { return xs[g.IntN(len(xs))] }

// some returns between lo and hi of xs, without repetition.
func some[T any](g *generator, lo, hi int, xs ...T) []T {
	var out []T
	for _, i := range g.Perm(len(xs))[:min(lo+g.IntN(hi-lo+1), len(xs))] {
		out = append(out, xs[i])
	}
	return out
}

// The universe.
var (
	prefixes = parse(
		"10.9.0.0/24", "10.9.0.2/32", "10.9.0.1/32", "10.8.0.2/32", "10.8.0.0/24", "10.65.0.2/32", "10.0.0.0/8", "0.0.0.0/0", "10.9.0.0/31", "192.0.2.0/24",
		"0.0.0.0/1", "128.0.0.0/1", "255.255.255.255/32", "10.8.0.0/13", "127.0.0.0/8",
		"fd00:9::/64", "fd00:9::2/128", "fd00:9::1/128", "fd00:8::2/128", "fd00:8::/64", "fd00:65::2/128", "fd00::/16", "::/0", "2001:db8::/32", "8000::/1", "fd00:8::/29", "::1/128")
	ports  = []uint16{22, 53, 80, 8080, 40000}
	ranges = []inet.PortRange{{Min: 22, Max: 22}, {Min: 53, Max: 53}, {Min: 80, Max: 80}, {Min: 8080, Max: 8080}, {Min: 50, Max: 100}, {Max: 65535}, {Min: 40000, Max: 65535}, {Max: 60}}
	protos = []inet.Protocol{inet.TCP, inet.UDP, inet.SCTP, inet.ICMP, inet.ICMPv6, inet.UDPLite, 253}
	states = []flow.ConnState{flow.New, flow.Established, flow.Related, flow.Invalid, flow.Untracked}
	icmps  = []uint8{0, 8, 13, 128, 129, 135, 139, 143}
	names  = []string{"eth0", "eth1", "cali1", "lo", "eth10"}
	starts = []string{"eth", "cali", "eth1", "l", "x"}
)

func parse(ss ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(ss))
	for i, s := range ss {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

func (g *generator) sets() {
	for i := range 4 {
		id, kind := ir.SetID(fmt.Sprintf("s:%d", i)), ir.SetOfPrefixes
		if i >= 2 {
			id, kind = ir.SetID(fmt.Sprintf("n:%d", i)), ir.SetOfEndpoints
		}
		g.p.Sets = append(g.p.Sets, ir.SetDecl{ID: id, Kind: kind, Note: pick(g, "", `role == "web"`, "has(x)")})
		g.m.Sets = append(g.m.Sets, ir.SetMembers{ID: id, Elements: Elements(g.Uint64(), kind)})
	}
}

// Elements returns random members of a set, some of them prefixes inside others.
func Elements(seed uint64, kind ir.SetKind) []ir.Element {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0x656c656d))}
	var es []ir.Element
	for _, p := range some(g, 0, 6, prefixes...) {
		e := ir.Element{Prefix: p}
		if kind == ir.SetOfEndpoints {
			e = ir.Element{Prefix: netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), Protocol: pick(g, inet.TCP, inet.UDP, inet.SCTP), Port: pick(g, ports...)}
		}
		es = append(es, e)
	}
	slices.SortFunc(es, ir.CompareElements)
	return slices.Compact(es)
}

func (g *generator) origin() ir.OriginID {
	n := len(g.p.Origins)
	g.p.Origins = append(g.p.Origins, flow.Origin{Kind: flow.OriginPolicy, Tier: "t", Name: fmt.Sprintf("p%d", n/4), Index: n % 4})
	return ir.OriginID(n + 1)
}

func (g *generator) entry(h flow.Hook, below []ir.BlockID) {
	e := ir.Entry{Hook: h, Block: g.block(ir.BlockID("hook/"+h.String()), below), Default: pick(g, ir.Undecided, ir.Undecided, ir.Pass)}
	if g.chance(25) {
		e.Always = g.block(ir.BlockID("always/"+h.String()), below)
	}
	switch h {
	case flow.UntrackedIn:
		e.Settles, e.NoTrack = flow.HooksOf(flow.PreDNAT, flow.NormalIn, flow.ForwardIn), true
	case flow.PreDNAT:
		e.Settles = flow.HooksOf(flow.NormalIn, flow.ForwardIn)
	case flow.UntrackedOut:
		e.Settles, e.NoTrack = flow.HooksOf(flow.NormalOut), true
	}
	g.p.Entries = append(g.p.Entries, e)
}

func (g *generator) block(id ir.BlockID, below []ir.BlockID) ir.BlockID {
	b := ir.Block{ID: id}
	for range g.IntN(g.size.Steps + 1) {
		b.Steps = append(b.Steps, g.step(below))
	}
	g.p.Blocks = append(g.p.Blocks, b)
	return id
}

func (g *generator) outcome() ir.Outcome { return pick(g, ir.Allow, ir.Deny, ir.Pass, ir.Pass) }

func (g *generator) resume() ir.OutcomeSet {
	switch {
	case g.chance(40):
		return 0
	case g.chance(60):
		return ir.OutcomesOf(ir.Pass)
	}
	return ir.OutcomesOf(some(g, 0, 3, ir.Allow, ir.Deny, ir.Pass)...)
}

func (g *generator) step(below []ir.BlockID) ir.Step {
	switch {
	case len(below) > 0 && g.chance(35):
		c := ir.Call{Block: pick(g, below...), Resume: g.resume()}
		if g.chance(40) {
			c.Match = g.match()
		}
		return c
	case g.chance(25):
		return g.switchOf(below)
	}
	r := ir.Rule{Match: g.match(), Origin: g.origin()}
	if g.chance(85) {
		r.Then = g.outcome()
	}
	if r.Then == ir.Undecided || g.chance(20) {
		r.Do = []ir.Effect{ir.Log}
	}
	return r
}

func (g *generator) switchOf(below []ir.BlockID) ir.Step {
	s := ir.Switch{Resume: g.resume()}
	s.Key = some(g, 1, 3, ir.InIface, ir.OutIface, ir.Family, ir.Protocol, ir.SrcAddr, ir.DstAddr, ir.SrcPort, ir.DstPort, ir.ICMPType, ir.ICMPCode, ir.State)
	for range 1 + g.IntN(5) {
		c := ir.Case{}
		for _, f := range s.Key {
			c.Key = append(c.Key, g.interval(f))
		}
		if slices.ContainsFunc(s.Cases, func(o ir.Case) bool { return overlap(o, c) }) {
			continue
		}
		if len(below) > 0 && g.chance(50) {
			c.Then.Block = pick(g, below...)
		} else {
			c.Then.Outcome, c.Origin = g.outcome(), g.origin()
		}
		s.Cases = append(s.Cases, c)
	}
	return s
}

func overlap(a, b ir.Case) bool {
	for i := range a.Key {
		if a.Key[i].Lo.Compare(b.Key[i].Hi) > 0 || b.Key[i].Lo.Compare(a.Key[i].Hi) > 0 {
			return false
		}
	}
	return true
}

func (g *generator) interval(f ir.Field) ir.Interval {
	if g.chance(10) {
		return f.Domain()
	}
	switch f {
	case ir.InIface, ir.OutIface:
		if g.chance(25) {
			i, _ := ir.NamePrefix(pick(g, starts...))
			return i
		}
		v, _ := ir.Name(pick(g, names...))
		return ir.Exactly(v)
	case ir.Family:
		return ir.Exactly(ir.Number(pick(g, uint8(4), 6)))
	case ir.Protocol:
		return ir.Exactly(ir.Number(pick(g, protos...)))
	case ir.SrcAddr, ir.DstAddr:
		is := ir.AddrPrefix(pick(g, prefixes...))
		return pick(g, is...)
	case ir.SrcPort, ir.DstPort:
		r := pick(g, ranges...)
		return ir.Interval{Lo: ir.Number(r.Min), Hi: ir.Number(r.Max)}
	case ir.State:
		lo := g.IntN(len(states))
		return ir.Interval{Lo: ir.Number(states[lo]), Hi: ir.Number(states[lo+g.IntN(len(states)-lo)])}
	}
	n := pick(g, icmps...)
	return ir.Interval{Lo: ir.Number(n), Hi: ir.Number(n + uint8(g.IntN(3)))}
}

func (g *generator) match() ir.Match {
	var m ir.Match
	for range g.IntN(4) {
		c := ir.Clause{g.term()}
		for g.chance(25) {
			c = append(c, g.term())
		}
		m = append(m, c)
	}
	return m
}

func (g *generator) term() ir.Term {
	not := g.chance(35)
	switch g.IntN(6) {
	case 0:
		return ir.InPorts{Field: pick(g, ir.SrcPort, ir.DstPort), Ranges: ir.MergePorts(some(g, 1, 3, ranges...)), Not: not}
	case 1, 2:
		return ir.InPrefixes{Field: pick(g, ir.SrcAddr, ir.DstAddr), Prefixes: ir.MergePrefixes(some(g, 1, 4, prefixes...)), Not: not}
	case 3:
		var ns []ir.NamePattern
		for _, n := range some(g, 1, 3, names...) {
			ns = append(ns, ir.NamePattern{Name: n})
		}
		if g.chance(30) {
			ns = append(ns, ir.NamePattern{Name: pick(g, starts...), Prefix: true})
		}
		slices.SortFunc(ns, ir.CompareNames)
		return ir.InNames{Field: pick(g, ir.InIface, ir.OutIface), Names: ns, Not: not}
	case 4:
		switch g.IntN(5) {
		case 0:
			return ir.InMask{Field: ir.Family, Mask: ir.MaskOf(some(g, 1, 2, uint8(4), 6)...), Not: not}
		case 1:
			return ir.InMask{Field: ir.State, Mask: ir.MaskOf(some(g, 1, 5, states...)...), Not: not}
		case 2:
			return ir.InMask{Field: pick(g, ir.ICMPType, ir.ICMPCode), Mask: ir.MaskOf(some(g, 1, 4, icmps...)...), Not: not}
		}
		return ir.InMask{Field: ir.Protocol, Mask: ir.MaskOf(some(g, 1, 3, protos...)...), Not: not}
	}
	s := pick(g, g.p.Sets...)
	dir := pick(g, 0, 1)
	t := ir.InSet{Set: s.ID, Not: not}
	switch {
	case s.Kind == ir.SetOfPrefixes:
		t.Fields = []ir.Field{[]ir.Field{ir.SrcAddr, ir.DstAddr}[dir]}
	case dir == 0:
		t.Fields = []ir.Field{ir.SrcAddr, ir.Protocol, ir.SrcPort}
	default:
		t.Fields = []ir.Field{ir.DstAddr, ir.Protocol, ir.DstPort}
	}
	return t
}
