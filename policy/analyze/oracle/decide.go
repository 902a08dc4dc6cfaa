// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Place is what is known of packets before any bit is asked.
type Place struct {
	Path     flow.Path
	In, Out  string
	State    flow.ConnState
	DstLocal bool   // of translated packets
	RouteOut string // likewise
}

func (pl Place) routeOut() string {
	if pl.RouteOut == "" {
		return pl.Out
	}
	return pl.RouteOut
}

// Packet adds what the place says.
func (pl Place) Packet(p flow.Packet) flow.Packet {
	p.Path, p.In, p.Out, p.State = pl.Path, pl.In, pl.Out, pl.State
	if p.NATDst.IsValid() {
		p.DstLocal, p.RouteOut = pl.DstLocal, pl.RouteOut
	}
	return p
}

// Decisions says what becomes of each packet of a place: the sets are disjoint, and all packets are in one.
type Decisions map[analyze.Decision]Set

// Decide runs a program on all packets of a place at once.
func Decide(s *Space, in analyze.Input, pl Place) (Decisions, error) {
	x := &run{Space: s, p: in.Program, place: pl, sets: map[ir.SetID][]ir.Element{}, blocks: map[ir.BlockID]*ir.Block{}, out: Decisions{}}
	for _, m := range in.Members.Sets {
		x.sets[m.ID] = m.Elements
	}
	for i := range x.p.Blocks {
		x.blocks[x.p.Blocks[i].ID] = &x.p.Blocks[i]
	}
	x.walk(0, walker{passedBy: flow.Origin{Kind: flow.OriginNoEndpoint}}, map[ir.OriginID]Set{0: s.Valid})
	if x.err == nil && s.Errored() {
		x.err = fmt.Errorf("oracle: %s", s.Error())
	}
	return x.out, x.err
}

type run struct {
	*Space
	p      *ir.Program
	place  Place
	sets   map[ir.SetID][]ir.Element
	blocks map[ir.BlockID]*ir.Block
	out    Decisions
	err    error
}

// walker is what packets carry from hook to hook, but for who allowed them.
type walker struct {
	allowed, untracked, local bool
	settled                   flow.HookSet
	passedBy                  flow.Origin
}

// walk leads packets through the hooks from i on. They are divided by what allowed them.
func (x *run) walk(i int, w walker, parts map[ir.OriginID]Set) {
	all := x.False()
	for _, set := range parts {
		all = x.Or(all, set)
	}
	if x.err != nil || x.Empty(all) {
		return
	}
	hooks := x.place.Path.Hooks()
	if w.local {
		hooks = flow.Input.Hooks()
	}
	if i >= len(hooks) {
		for by, set := range parts {
			if w.allowed {
				x.decide(flow.Allow, x.p.Origin(by), set)
			} else {
				x.decide(flow.None, w.passedBy, set)
			}
		}
		return
	}
	e, ok := x.p.Entry(hooks[i])
	settled := w.settled.Has(hooks[i])
	if !ok || settled && e.Always == "" {
		x.walk(i+1, w, parts)
		return
	}
	v := x.see(hooks[i], w)
	rest := all
	var decided []part
	if e.Always != "" {
		decided = x.block(e.Always, rest, v)
		for _, p := range decided {
			rest = x.less(rest, p.set)
		}
	}
	if !settled {
		more := x.block(e.Block, rest, v)
		for _, p := range more {
			rest = x.less(rest, p.set)
		}
		decided = append(decided, more...)
		if e.Default != ir.Undecided {
			decided = append(decided, part{e.Default, 0, rest})
			rest = x.False()
		}
	}
	allowed, passed := map[ir.OriginID]Set{}, map[flow.Origin]Set{}
	for _, p := range decided {
		switch p.outcome {
		case ir.Deny:
			x.decide(flow.Deny, x.p.Origin(p.by), p.set)
		case ir.Allow:
			if old := allowed[p.by]; old != nil {
				p.set = x.Or(old, p.set)
			}
			allowed[p.by] = p.set
		case ir.Pass:
			by, o := w.passedBy, x.p.Origin(p.by)
			st := hooks[i].Stage()
			if (st == flow.StageNormal || st == flow.StageForward) && (o.Kind == flow.OriginNoVerdict || o.Kind == flow.OriginWorkload) {
				by = o
			}
			if old := passed[by]; old != nil {
				p.set = x.Or(old, p.set)
			}
			passed[by] = p.set
		}
	}
	next := w
	next.allowed, next.settled = true, w.settled|e.Settles
	if e.NoTrack {
		next.untracked = true
		next.local = w.local || x.place.Path == flow.Forward && x.preDst.n > 0 && x.place.DstLocal
	}
	x.walk(i+1, next, allowed)
	next = w
	next.allowed = false
	for by, set := range passed {
		next.passedBy = by
		x.walk(i+1, next, map[ir.OriginID]Set{0: set})
	}
	left := map[ir.OriginID]Set{}
	for by, set := range parts {
		left[by] = x.And(set, rest)
	}
	x.walk(i+1, w, left)
}

func (x *run) decide(v flow.Verdict, by flow.Origin, set Set) {
	if x.Empty(set) {
		return
	}
	d := analyze.Decision{Verdict: v, By: by}
	if old := x.out[d]; old != nil {
		set = x.Or(old, set)
	}
	x.out[d] = set
}

// view is how a hook sees packets.
type view struct {
	in, out  string // "" where there is none
	state    flow.ConnState
	hasState bool
	dst      bits
	dport    bits
}

func (x *run) see(h flow.Hook, w walker) view {
	v := view{in: x.place.In, state: x.place.State, hasState: h.Stage() != flow.StageUntracked, dst: x.dst, dport: x.dport}
	if x.place.Path == flow.Output {
		v.in = ""
	}
	translated := x.preDst.n > 0
	if translated && (w.untracked || h == flow.UntrackedIn || h == flow.PreDNAT || h == flow.UntrackedOut) {
		v.dst, v.dport = x.preDst, x.preDport
	}
	switch h {
	case flow.ForwardIn, flow.ForwardOut:
		v.out = x.place.Out
	case flow.UntrackedOut, flow.NormalOut:
		v.out = x.place.Out
		if translated && (h == flow.UntrackedOut || w.untracked) {
			v.out = x.place.routeOut()
		}
	}
	if w.untracked {
		v.state = flow.Untracked
	}
	return v
}

// part are packets for which a block ends in one outcome by one rule.
type part struct {
	outcome ir.Outcome
	by      ir.OriginID
	set     Set
}

// block returns what a block makes of packets; those that are in no part it leaves undecided.
func (x *run) block(id ir.BlockID, rest Set, v view) []part {
	var out []part
	settle := func(p part, resume ir.OutcomeSet) {
		if p.outcome == ir.Undecided || resume.Has(p.outcome) || x.Empty(p.set) {
			return
		}
		out = append(out, p)
		rest = x.less(rest, p.set)
	}
	for _, step := range x.blocks[id].Steps {
		if x.err != nil || x.Empty(rest) {
			break
		}
		switch st := step.(type) {
		case ir.Rule:
			settle(part{st.Then, st.Origin, x.And(rest, x.match(st.Match, v))}, 0)
		case ir.Call:
			for _, p := range x.block(st.Block, x.And(rest, x.match(st.Match, v)), v) {
				settle(p, st.Resume)
			}
		case ir.Switch:
			before := rest
			for _, c := range st.Cases {
				hit := before
				for i, f := range st.Key {
					hit = x.And(hit, x.interval(f, c.Key[i], v))
				}
				if c.Then.Block == "" {
					settle(part{c.Then.Outcome, c.Origin, hit}, st.Resume)
					continue
				}
				for _, p := range x.block(c.Then.Block, hit, v) {
					settle(p, st.Resume)
				}
			}
		default:
			x.err = fmt.Errorf("oracle: a step of type %T", step)
		}
	}
	return out
}

func (x *run) match(m ir.Match, v view) Set {
	out := x.True()
	for _, c := range m {
		out = x.And(out, either(x.Space, c, func(t ir.Term) Set { return x.term(t, v) }))
	}
	return out
}

func (x *run) term(t ir.Term, v view) Set {
	set, not := x.False(), false
	switch t := t.(type) {
	case ir.InPorts:
		not = t.Not
		at := x.sport
		if t.Field == ir.DstPort {
			at = v.dport
		}
		set = x.And(x.ports, either(x.Space, t.Ranges, func(r inet.PortRange) Set { return x.between(at, uint64(r.Min), uint64(r.Max)) }))
	case ir.InPrefixes:
		not = t.Not
		set = either(x.Space, t.Prefixes, func(p netip.Prefix) Set { return x.prefix(x.addr(t.Field, v), p) })
	case ir.InNames:
		not = t.Not
		name := v.in
		if t.Field == ir.OutIface {
			name = v.out
		}
		for _, n := range t.Names {
			if name != "" && (name == n.Name || n.Prefix && strings.HasPrefix(name, n.Name)) {
				set = x.True()
			}
		}
	case ir.InMask:
		not = t.Not
		var values []uint8
		for n := range 256 {
			if t.Mask.Has(uint8(n)) {
				values = append(values, uint8(n))
			}
		}
		set = either(x.Space, values, func(n uint8) Set { return x.small(t.Field, n, v) })
	case ir.InSet:
		not = t.Not
		at := x.addr(t.Fields[0], v)
		set = either(x.Space, x.sets[t.Set], func(e ir.Element) Set {
			one := x.prefix(at, e.Prefix)
			if len(t.Fields) == 1 {
				return one
			}
			port := x.sport
			if t.Fields[2] == ir.DstPort {
				port = v.dport
			}
			return x.And(one, x.ports, x.number(x.protocol, uint64(e.Protocol)), x.number(port, uint64(e.Port)))
		})
	default:
		x.err = fmt.Errorf("oracle: a term of type %T", t)
	}
	if not {
		return x.Not(set)
	}
	return set
}

func (x *run) addr(f ir.Field, v view) bits {
	if f == ir.SrcAddr {
		return x.src
	}
	return v.dst
}

// small returns the packets in which a field with few values is n.
func (x *run) small(f ir.Field, n uint8, v view) Set {
	switch f {
	case ir.Family:
		return x.From(inet.Family(n) == x.family)
	case ir.Protocol:
		return x.number(x.protocol, uint64(n))
	case ir.State:
		return x.From(v.hasState && flow.ConnState(n) == v.state)
	case ir.ICMPType:
		return x.And(x.isICMP(), x.number(bits{x.icmp.from, 8}, uint64(n)))
	case ir.ICMPCode:
		return x.And(x.isICMP(), x.number(bits{x.icmp.from + 8, 8}, uint64(n)))
	}
	x.err = fmt.Errorf("oracle: a mask on field %d", f)
	return x.False()
}

func (x *run) isICMP() Set {
	if x.family == inet.IPv4 {
		return x.number(x.protocol, uint64(inet.ICMP))
	}
	return x.number(x.protocol, uint64(inet.ICMPv6))
}

// interval returns the packets whose field is in an interval of the key of a Switch.
func (x *run) interval(f ir.Field, i ir.Interval, v view) Set {
	switch f {
	case ir.InIface, ir.OutIface:
		name := v.in
		if f == ir.OutIface {
			name = v.out
		}
		n, ok := ir.Name(name)
		return x.From(ok && i.Contains(n))
	case ir.SrcAddr, ir.DstAddr:
		at := x.addr(f, v)
		if x.family == inet.IPv4 {
			// They stand as ::ffff:a.b.c.d in the values.
			lo, hi := max128(i.Lo, ir.Addr(netip.IPv4Unspecified())), min128(i.Hi, ir.Addr(netip.AddrFrom4([4]byte{255, 255, 255, 255})))
			if lo.Compare(hi) > 0 {
				return x.False()
			}
			return x.And(x.atLeast(at, lo[12:]), x.atMost(at, hi[12:]))
		}
		return x.And(x.atLeast(at, i.Lo[:]), x.atMost(at, i.Hi[:]))
	case ir.SrcPort, ir.DstPort:
		at := x.sport
		if f == ir.DstPort {
			at = v.dport
		}
		lo, ok := i.Lo.Number()
		if !ok {
			return x.False()
		}
		hi, ok := i.Hi.Number()
		if !ok {
			hi = 65535
		}
		return x.And(x.ports, x.between(at, uint64(lo), uint64(hi)))
	}
	out := x.False()
	for n := range 256 {
		if i.Contains(ir.Number(uint8(n))) {
			out = x.Or(out, x.small(f, uint8(n), v))
		}
	}
	return out
}

func max128(a, b ir.Value) ir.Value {
	if a.Compare(b) < 0 {
		return b
	}
	return a
}

func min128(a, b ir.Value) ir.Value {
	if a.Compare(b) < 0 {
		return a
	}
	return b
}

func (s *Space) atLeast(b bits, v []byte) Set {
	out := s.True()
	for i := b.n - 1; i >= 0; i-- {
		if v[i/8]>>(7-i%8)&1 == 1 {
			out = s.And(s.Ithvar(b.from+i), out)
		} else {
			out = s.Or(s.Ithvar(b.from+i), out)
		}
	}
	return out
}

func (s *Space) atMost(b bits, v []byte) Set {
	out := s.True()
	for i := b.n - 1; i >= 0; i-- {
		if v[i/8]>>(7-i%8)&1 == 1 {
			out = s.Or(s.NIthvar(b.from+i), out)
		} else {
			out = s.And(s.NIthvar(b.from+i), out)
		}
	}
	return out
}
