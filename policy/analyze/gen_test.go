// SPDX-License-Identifier: Apache-2.0

package analyze_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// world is a universe so small that all of its packets can be asked. Programs name nothing but what is in it, so that what
// holds for its packets holds for all.
type world struct {
	*rand.Rand
	paths        []flow.Path
	in, out      []string
	states       []flow.ConnState
	protocols    []inet.Protocol
	addrs        []netip.Addr
	sport, dport []uint16
	codes        []uint8
	nat          bool
}

func some[T any](r *rand.Rand, n int, of ...T) []T {
	r.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
	return of[:n]
}

func pick[T any](w *world, of []T) T { return of[w.IntN(len(of))] }

func newWorld(seed uint64) *world {
	r := rand.New(rand.NewPCG(seed, 7))
	w := &world{Rand: r}
	w.paths = some(r, 1, flow.Input, flow.Output, flow.Forward, flow.Local)
	if r.IntN(8) == 0 {
		w.paths = []flow.Path{flow.Input, flow.Output, flow.Forward}
	}
	w.in = some(r, 2, "eth0", "eth1", "cali1", "e")
	w.out = some(r, 2, "eth0", "eth1", "cali1", "e")
	w.states = some(r, 2, flow.New, flow.Established, flow.Related, flow.Invalid, flow.Untracked)
	w.protocols = some(r, 2, inet.TCP, inet.UDP, inet.UDPLite, inet.ICMP, inet.ICMPv6, 0, 255)
	a := netip.MustParseAddr
	w.addrs = some(r, 2, a("0.0.0.0"), a("10.0.0.1"), a("10.0.0.2"), a("10.0.1.0"), a("255.255.255.255"))
	w.addrs = append(w.addrs, some(r, 2, a("::"), a("::1"), a("fd00::1"), a("::1:0:0:0"), a("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))...)
	w.sport = some[uint16](r, 2, 0, 1, 80, 443, 65535)
	w.dport = some[uint16](r, 2, 0, 1, 80, 443, 65535)
	w.codes = some[uint8](r, 2, 0, 1, 8, 255)
	w.nat = r.IntN(3) == 0
	return w
}

// packets calls f with all packets of the world.
func (w *world) packets(f func(*flow.Packet)) {
	for _, path := range w.paths {
		ins, outs := w.in, w.out
		switch path {
		case flow.Input, flow.Local:
			outs = []string{""}
		case flow.Output:
			ins = []string{""}
		}
		for _, in := range ins {
			for _, out := range outs {
				for _, st := range w.states {
					for _, src := range w.addrs {
						for _, dst := range w.addrs {
							if src.Is4() != dst.Is4() {
								continue
							}
							p := flow.Packet{Path: path, In: in, Out: out, State: st, Src: src, Dst: dst}
							for _, p.Protocol = range w.protocols {
								w.upper(p, f)
							}
						}
					}
				}
			}
		}
	}
}

func (w *world) upper(p flow.Packet, f func(*flow.Packet)) {
	ports := p.Protocol.HasPorts() || p.Protocol == inet.UDPLite
	switch {
	case ports:
		for _, p.SrcPort = range w.sport {
			for _, p.DstPort = range w.dport {
				w.translated(p, ports, f)
			}
		}
	case p.Protocol == inet.ICMP && p.Src.Is4() || p.Protocol == inet.ICMPv6 && !p.Src.Is4():
		for _, p.ICMPType = range w.codes {
			for _, p.ICMPCode = range w.codes {
				w.translated(p, ports, f)
			}
		}
	default:
		w.translated(p, ports, f)
	}
}

func (w *world) translated(p flow.Packet, ports bool, f func(*flow.Packet)) {
	f(&p)
	if !w.nat {
		return
	}
	for _, a := range w.addrs {
		if a.Is4() != p.Src.Is4() {
			continue
		}
		q := p
		port := uint16(0)
		if ports {
			port = w.dport[0]
		}
		q.NATDst = netip.AddrPortFrom(a, port)
		for _, q.DstLocal = range []bool{false, true} {
			if q.Path == flow.Output {
				for _, q.RouteOut = range append([]string{""}, w.out...) {
					f(&q)
				}
				continue
			}
			f(&q)
		}
	}
}

// program makes a valid program.
func (w *world) program(blocks, steps int) analyze.Input {
	p := &ir.Program{}
	var m ir.Members
	for i := range w.IntN(3) {
		d := ir.SetDecl{ID: ir.SetID(fmt.Sprintf("s:%d", i)), Kind: pick(w, []ir.SetKind{ir.SetOfPrefixes, ir.SetOfEndpoints})}
		p.Sets = append(p.Sets, d)
		members := ir.SetMembers{ID: d.ID}
		for range w.IntN(4) {
			e := ir.Element{Prefix: w.prefix()}
			if d.Kind == ir.SetOfEndpoints {
				a := pick(w, w.addrs)
				e = ir.Element{Prefix: netip.PrefixFrom(a, a.BitLen()), Protocol: pick(w, []inet.Protocol{inet.TCP, inet.UDP, inet.UDPLite, inet.ICMP}), Port: pick(w, append(w.sport, w.dport...))}
			}
			members.Elements = append(members.Elements, e)
		}
		m.Sets = append(m.Sets, members)
	}
	for i := range 5 {
		p.Origins = append(p.Origins, flow.Origin{Kind: flow.OriginPolicy, Tier: "t", Name: "p", Index: i})
	}
	p.Origins = append(p.Origins, flow.Origin{Kind: flow.OriginNoVerdict}, flow.Origin{Kind: flow.OriginWorkload})
	var below []ir.BlockID
	for i := range blocks {
		b := ir.Block{ID: ir.BlockID(fmt.Sprintf("b%d", blocks-i))}
		for range w.IntN(steps + 1) {
			b.Steps = append(b.Steps, w.step(p, below))
		}
		p.Blocks = append(p.Blocks, b)
		below = append(below, b.ID)
	}
	for _, h := range flow.Hooks {
		if w.IntN(4) == 0 {
			continue
		}
		e := ir.Entry{Hook: h, Block: pick(w, below), Default: pick(w, []ir.Outcome{ir.Undecided, ir.Pass})}
		if w.IntN(3) == 0 {
			e.Always = pick(w, below)
		}
		e.NoTrack = h.Stage() == flow.StageUntracked && w.IntN(2) == 0
		if w.IntN(2) == 0 {
			switch h {
			case flow.UntrackedIn:
				e.Settles = flow.HooksOf(flow.PreDNAT, flow.NormalIn, flow.ForwardIn)
			case flow.PreDNAT:
				e.Settles = flow.HooksOf(flow.NormalIn, flow.ForwardIn)
			case flow.UntrackedOut:
				e.Settles = flow.HooksOf(flow.NormalOut)
			}
		}
		p.Entries = append(p.Entries, e)
	}
	return analyze.Input{Program: ir.Canonical(p), Members: m.Canonical()}
}

func (w *world) step(p *ir.Program, below []ir.BlockID) ir.Step {
	resume := ir.OutcomeSet(w.IntN(16))
	origin := func() ir.OriginID { return ir.OriginID(1 + w.IntN(len(p.Origins))) }
	switch k := w.IntN(6); {
	case k <= 1 && len(below) > 0:
		return ir.Call{Match: w.match(p, w.IntN(2)), Block: pick(w, below), Resume: resume}
	case k == 2:
		sw := ir.Switch{Resume: resume, Key: []ir.Field{pick(w, []ir.Field{ir.InIface, ir.OutIface, ir.Protocol, ir.SrcAddr, ir.DstPort, ir.State})}}
		for range w.IntN(3) {
			c := ir.Case{Key: []ir.Interval{w.interval(sw.Key[0])}}
			if slices.ContainsFunc(sw.Cases, func(o ir.Case) bool {
				return o.Key[0].Lo.Compare(c.Key[0].Hi) <= 0 && c.Key[0].Lo.Compare(o.Key[0].Hi) <= 0
			}) {
				continue
			}
			if len(below) > 0 && w.IntN(2) == 0 {
				c.Then.Block = pick(w, below)
			} else {
				c.Then.Outcome, c.Origin = ir.Outcome(1+w.IntN(3)), origin()
			}
			sw.Cases = append(sw.Cases, c)
		}
		return sw
	}
	r := ir.Rule{Match: w.match(p, 1+w.IntN(3)), Then: ir.Outcome(w.IntN(4)), Origin: origin()}
	if w.IntN(4) == 0 {
		r.Do = []ir.Effect{ir.Log}
	}
	return r
}

func (w *world) interval(f ir.Field) ir.Interval {
	switch f {
	case ir.InIface, ir.OutIface:
		s := pick(w, append(w.in, w.out...))
		if w.IntN(3) == 0 {
			i, _ := ir.NamePrefix(s)
			return i
		}
		v, _ := ir.Name(s)
		return ir.Exactly(v)
	case ir.Protocol:
		return ir.Exactly(ir.Number(pick(w, w.protocols)))
	case ir.SrcAddr:
		return ir.AddrPrefix(w.prefix())[0]
	case ir.State:
		return ir.Exactly(ir.Number(pick(w, w.states)))
	}
	a, b := pick(w, w.dport), pick(w, w.dport)
	return ir.Interval{Lo: ir.Number(min(a, b)), Hi: ir.Number(max(a, b))}
}

func (w *world) prefix() netip.Prefix {
	a := pick(w, w.addrs)
	p, _ := ir.PlainPrefix(netip.PrefixFrom(a, pick(w, []int{0, 1, 8, a.BitLen(), a.BitLen(), a.BitLen()})))
	return p
}

func (w *world) match(p *ir.Program, clauses int) ir.Match {
	var m ir.Match
	for range clauses {
		c := ir.Clause{w.term(p)}
		if w.IntN(3) == 0 {
			c = append(c, w.term(p))
		}
		m = append(m, c)
	}
	return m
}

func (w *world) term(p *ir.Program) ir.Term {
	not := w.IntN(3) == 0
	switch k := w.IntN(6); {
	case k == 0 && len(p.Sets) > 0:
		d := pick(w, p.Sets)
		fs := pick(w, [][]ir.Field{{ir.SrcAddr}, {ir.DstAddr}})
		if d.Kind == ir.SetOfEndpoints {
			fs = pick(w, [][]ir.Field{{ir.SrcAddr, ir.Protocol, ir.SrcPort}, {ir.DstAddr, ir.Protocol, ir.DstPort}})
		}
		return ir.InSet{Fields: fs, Set: d.ID, Not: not}
	case k == 1 || k == 0:
		return ir.InPrefixes{Field: pick(w, []ir.Field{ir.SrcAddr, ir.DstAddr}), Prefixes: []netip.Prefix{w.prefix()}, Not: not}
	case k == 2:
		return ir.InNames{Field: pick(w, []ir.Field{ir.InIface, ir.OutIface}), Names: []ir.NamePattern{{Name: pick(w, append(w.in, w.out...)), Prefix: w.IntN(2) == 0}}, Not: not}
	case k == 3:
		f, of := ir.SrcPort, w.sport
		if w.IntN(2) == 0 {
			f, of = ir.DstPort, w.dport
		}
		a, b := pick(w, of), pick(w, of)
		return ir.InPorts{Field: f, Ranges: []inet.PortRange{{Min: min(a, b), Max: max(a, b)}}, Not: not}
	}
	switch w.IntN(5) {
	case 0:
		return ir.InMask{Field: ir.Family, Mask: ir.MaskOf(pick(w, []uint8{4, 6})), Not: not}
	case 1:
		return ir.InMask{Field: ir.State, Mask: ir.MaskOf(pick(w, w.states)), Not: not}
	case 2:
		return ir.InMask{Field: pick(w, []ir.Field{ir.ICMPType, ir.ICMPCode}), Mask: ir.MaskOf(pick(w, w.codes)), Not: not}
	}
	return ir.InMask{Field: ir.Protocol, Mask: ir.MaskOf(pick(w, w.protocols)), Not: not}
}

// edit returns the program with some steps changed.
func (w *world) edit(in analyze.Input) analyze.Input {
	p := *in.Program
	p.Blocks = slices.Clone(p.Blocks)
	if len(p.Origins) == 0 {
		p.Origins = []flow.Origin{{Kind: flow.OriginPolicy, Tier: "t", Name: "q"}}
	}
	for range 1 + w.IntN(2) {
		b := &p.Blocks[w.IntN(len(p.Blocks))]
		b.Steps = slices.Clone(b.Steps)
		switch n := len(b.Steps); {
		case n > 0 && w.IntN(2) == 0:
			b.Steps = slices.Delete(b.Steps, n-1, n)
		default:
			b.Steps = slices.Insert(b.Steps, w.IntN(n+1), w.step(&p, nil))
		}
	}
	return analyze.Input{Program: ir.Canonical(&p), Members: in.Members}
}
