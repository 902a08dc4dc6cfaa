// SPDX-License-Identifier: Apache-2.0

// Package irtest makes programs of the IR at random, for tests of what answers questions about them: small ones in worlds
// all of whose packets can be asked, and large ones of the shapes that hosts have.
package irtest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// World is a universe so small that all of its packets can be asked. Programs name nothing but what is in it, so that what
// holds for its packets holds for all.
type World struct {
	*rand.Rand
	Paths              []flow.Path
	In, Out            []string
	States             []flow.ConnState
	Protocols          []inet.Protocol
	Addrs              []netip.Addr
	SrcPorts, DstPorts []uint16
	Codes              []uint8 // types and codes of ICMP
	NAT                bool    // there are packets whose destination is translated
}

func some[T any](r *rand.Rand, n int, of ...T) []T {
	r.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
	return of[:n]
}

// Pick returns one of the values.
func Pick[T any](w *World, of []T) T { return of[w.IntN(len(of))] }

// NewWorld makes a world; equal seeds make equal ones.
func NewWorld(seed uint64) *World {
	r := rand.New(rand.NewPCG(seed, 7))
	w := &World{Rand: r}
	w.Paths = some(r, 1, flow.Input, flow.Output, flow.Forward, flow.Local)
	if r.IntN(8) == 0 {
		w.Paths = []flow.Path{flow.Input, flow.Output, flow.Forward}
	}
	w.In = some(r, 2, "eth0", "eth1", "cali1", "e")
	w.Out = some(r, 2, "eth0", "eth1", "cali1", "e")
	w.States = some(r, 2, flow.New, flow.Established, flow.Related, flow.Invalid, flow.Untracked)
	w.Protocols = some(r, 2, inet.TCP, inet.UDP, inet.UDPLite, inet.ICMP, inet.ICMPv6, 0, 255)
	a := netip.MustParseAddr
	w.Addrs = some(r, 2, a("0.0.0.0"), a("10.0.0.1"), a("10.0.0.2"), a("10.0.1.0"), a("255.255.255.255"))
	w.Addrs = append(w.Addrs, some(r, 2, a("::"), a("::1"), a("fd00::1"), a("::1:0:0:0"), a("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))...)
	w.SrcPorts = some[uint16](r, 2, 0, 1, 80, 443, 65535)
	w.DstPorts = some[uint16](r, 2, 0, 1, 80, 443, 65535)
	w.Codes = some[uint8](r, 2, 0, 1, 8, 255)
	w.NAT = r.IntN(3) == 0
	return w
}

// Packets calls f with all packets of the world.
func (w *World) Packets(f func(*flow.Packet)) {
	for _, path := range w.Paths {
		ins, outs := w.In, w.Out
		switch path {
		case flow.Input, flow.Local:
			outs = []string{""}
		case flow.Output:
			ins = []string{""}
		}
		for _, in := range ins {
			for _, out := range outs {
				for _, st := range w.States {
					for _, src := range w.Addrs {
						for _, dst := range w.Addrs {
							if src.Is4() != dst.Is4() {
								continue
							}
							p := flow.Packet{Path: path, In: in, Out: out, State: st, Src: src, Dst: dst}
							for _, p.Protocol = range w.Protocols {
								w.upper(p, f)
							}
						}
					}
				}
			}
		}
	}
}

func (w *World) upper(p flow.Packet, f func(*flow.Packet)) {
	ports := p.Protocol.HasPorts() || p.Protocol == inet.UDPLite
	switch {
	case ports:
		for _, p.SrcPort = range w.SrcPorts {
			for _, p.DstPort = range w.DstPorts {
				w.translated(p, ports, f)
			}
		}
	case p.Protocol == inet.ICMP && p.Src.Is4() || p.Protocol == inet.ICMPv6 && !p.Src.Is4():
		for _, p.ICMPType = range w.Codes {
			for _, p.ICMPCode = range w.Codes {
				w.translated(p, ports, f)
			}
		}
	default:
		w.translated(p, ports, f)
	}
}

func (w *World) translated(p flow.Packet, ports bool, f func(*flow.Packet)) {
	f(&p)
	if !w.NAT {
		return
	}
	for _, a := range w.Addrs {
		if a.Is4() != p.Src.Is4() {
			continue
		}
		q := p
		port := uint16(0)
		if ports {
			port = w.DstPorts[0]
		}
		q.NATDst = netip.AddrPortFrom(a, port)
		for _, q.DstLocal = range []bool{false, true} {
			if q.Path == flow.Output {
				for _, q.RouteOut = range append([]string{""}, w.Out...) {
					f(&q)
				}
				continue
			}
			f(&q)
		}
	}
}

// Program makes a valid program, and the members of its sets.
func (w *World) Program(blocks, steps int) (*ir.Program, ir.Members) {
	p := &ir.Program{}
	var m ir.Members
	for i := range w.IntN(3) {
		d := ir.SetDecl{ID: ir.SetID(fmt.Sprintf("s:%d", i)), Kind: Pick(w, []ir.SetKind{ir.SetOfPrefixes, ir.SetOfEndpoints})}
		p.Sets = append(p.Sets, d)
		members := ir.SetMembers{ID: d.ID}
		for range w.IntN(4) {
			e := ir.Element{Prefix: w.Prefix()}
			if d.Kind == ir.SetOfEndpoints {
				a := Pick(w, w.Addrs)
				e = ir.Element{Prefix: netip.PrefixFrom(a, a.BitLen()), Protocol: Pick(w, []inet.Protocol{inet.TCP, inet.UDP, inet.UDPLite, inet.ICMP}), Port: Pick(w, append(w.SrcPorts, w.DstPorts...))}
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
		e := ir.Entry{Hook: h, Block: Pick(w, below), Default: Pick(w, []ir.Outcome{ir.Undecided, ir.Pass})}
		if w.IntN(3) == 0 {
			e.Always = Pick(w, below)
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
	return ir.Canonical(p), m.Canonical()
}

// List makes a program of one list of n rules, each of which decides and has an origin of its own.
func (w *World) List(n int) *ir.Program {
	p := &ir.Program{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b"}}, Blocks: []ir.Block{{ID: "b"}}}
	for i := range n {
		p.Origins = append(p.Origins, flow.Origin{Kind: flow.OriginPolicy, Tier: "t", Name: "p", Index: i})
		p.Blocks[0].Steps = append(p.Blocks[0].Steps, ir.Rule{Match: w.match(p, 1+w.IntN(2)), Then: Pick(w, []ir.Outcome{ir.Allow, ir.Deny}), Origin: ir.OriginID(i + 1)})
	}
	return ir.Canonical(p)
}

func (w *World) step(p *ir.Program, below []ir.BlockID) ir.Step {
	resume := ir.OutcomeSet(w.IntN(16))
	origin := func() ir.OriginID { return ir.OriginID(1 + w.IntN(len(p.Origins))) }
	switch k := w.IntN(6); {
	case k <= 1 && len(below) > 0:
		return ir.Call{Match: w.match(p, w.IntN(2)), Block: Pick(w, below), Resume: resume}
	case k == 2:
		sw := ir.Switch{Resume: resume, Key: []ir.Field{Pick(w, []ir.Field{ir.InIface, ir.OutIface, ir.Protocol, ir.SrcAddr, ir.DstPort, ir.State})}}
		for range w.IntN(3) {
			c := ir.Case{Key: []ir.Interval{w.interval(sw.Key[0])}}
			if slices.ContainsFunc(sw.Cases, func(o ir.Case) bool {
				return o.Key[0].Lo.Compare(c.Key[0].Hi) <= 0 && c.Key[0].Lo.Compare(o.Key[0].Hi) <= 0
			}) {
				continue
			}
			if len(below) > 0 && w.IntN(2) == 0 {
				c.Then.Block = Pick(w, below)
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

func (w *World) interval(f ir.Field) ir.Interval {
	switch f {
	case ir.InIface, ir.OutIface:
		s := Pick(w, append(w.In, w.Out...))
		if w.IntN(3) == 0 {
			i, _ := ir.NamePrefix(s)
			return i
		}
		v, _ := ir.Name(s)
		return ir.Exactly(v)
	case ir.Protocol:
		return ir.Exactly(ir.Number(Pick(w, w.Protocols)))
	case ir.SrcAddr:
		return ir.AddrPrefix(w.Prefix())[0]
	case ir.State:
		return ir.Exactly(ir.Number(Pick(w, w.States)))
	}
	a, b := Pick(w, w.DstPorts), Pick(w, w.DstPorts)
	return ir.Interval{Lo: ir.Number(min(a, b)), Hi: ir.Number(max(a, b))}
}

// Prefix returns a prefix that tells some addresses of the world from others.
func (w *World) Prefix() netip.Prefix {
	a := Pick(w, w.Addrs)
	p, _ := ir.PlainPrefix(netip.PrefixFrom(a, Pick(w, []int{0, 1, 8, a.BitLen(), a.BitLen(), a.BitLen()})))
	return p
}

func (w *World) match(p *ir.Program, clauses int) ir.Match {
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

func (w *World) term(p *ir.Program) ir.Term {
	not := w.IntN(3) == 0
	switch k := w.IntN(6); {
	case k == 0 && len(p.Sets) > 0:
		d := Pick(w, p.Sets)
		fs := Pick(w, [][]ir.Field{{ir.SrcAddr}, {ir.DstAddr}})
		if d.Kind == ir.SetOfEndpoints {
			fs = Pick(w, [][]ir.Field{{ir.SrcAddr, ir.Protocol, ir.SrcPort}, {ir.DstAddr, ir.Protocol, ir.DstPort}})
		}
		return ir.InSet{Fields: fs, Set: d.ID, Not: not}
	case k == 1 || k == 0:
		return ir.InPrefixes{Field: Pick(w, []ir.Field{ir.SrcAddr, ir.DstAddr}), Prefixes: []netip.Prefix{w.Prefix()}, Not: not}
	case k == 2:
		return ir.InNames{Field: Pick(w, []ir.Field{ir.InIface, ir.OutIface}), Names: []ir.NamePattern{{Name: Pick(w, append(w.In, w.Out...)), Prefix: w.IntN(2) == 0}}, Not: not}
	case k == 3:
		f, of := ir.SrcPort, w.SrcPorts
		if w.IntN(2) == 0 {
			f, of = ir.DstPort, w.DstPorts
		}
		a, b := Pick(w, of), Pick(w, of)
		return ir.InPorts{Field: f, Ranges: []inet.PortRange{{Min: min(a, b), Max: max(a, b)}}, Not: not}
	}
	switch w.IntN(5) {
	case 0:
		return ir.InMask{Field: ir.Family, Mask: ir.MaskOf(Pick(w, []uint8{4, 6})), Not: not}
	case 1:
		return ir.InMask{Field: ir.State, Mask: ir.MaskOf(Pick(w, w.States)), Not: not}
	case 2:
		return ir.InMask{Field: Pick(w, []ir.Field{ir.ICMPType, ir.ICMPCode}), Mask: ir.MaskOf(Pick(w, w.Codes)), Not: not}
	}
	return ir.InMask{Field: ir.Protocol, Mask: ir.MaskOf(Pick(w, w.Protocols)), Not: not}
}

// Edit returns a program of the world with some steps changed.
func (w *World) Edit(from *ir.Program) *ir.Program {
	p := *from
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
	return ir.Canonical(&p)
}
