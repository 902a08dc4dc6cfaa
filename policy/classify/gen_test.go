// SPDX-License-Identifier: Apache-2.0

package classify_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// The universe is small, so that rules meet the same packets, and lies across the places where lookup structures could
// go wrong: both ends of the address spaces, blocks of 8 and 16 bits, the IPv4 addresses among those of IPv6.
var (
	addrs4 = addrsOf("0.0.0.0", "10.0.0.0", "10.0.0.1", "10.0.0.255", "10.0.1.0", "10.1.0.0", "11.0.0.0", "255.255.255.255")
	addrs6 = addrsOf("::", "::1", "::fffe:ffff:ffff", "::1:0:0:0", "fd00::", "fd00::1", "fd00:0:0:1::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
	ports  = []uint16{0, 1, 63, 64, 80, 443, 32767, 65535}
	names  = []string{"eth0", "eth1", "eth", "e", "lo", "cali123", "calj", "fifteen-letters", "\xff"}
	odd    = []string{"", "cali\x00", "cali-and-more-than-fifteen", "eth0\x00", "\x00", "fifteen-letters-and-more"}
	protos = []inet.Protocol{inet.TCP, inet.UDP, inet.UDPLite, inet.ICMP, inet.ICMPv6, 0, 253, 255}
	codes  = []uint8{0, 1, 8, 128, 255}
)

func addrsOf(ss ...string) []netip.Addr {
	var as []netip.Addr
	for _, s := range ss {
		as = append(as, netip.MustParseAddr(s))
	}
	return as
}

// source draws what generators need: from rapid, which makes a failure small, or from random numbers, which is fast.
type source struct {
	upTo func(n int) int // a number from 0 to n
	p    *ir.Program
	long bool // lists are to be long: rules are picky, and ask about nothing that makes several lists
}

func rapidly(t *rapid.T) source {
	return source{upTo: func(n int) int { return rapid.IntRange(0, n).Draw(t, "") }}
}

func randomly(seed uint64) source {
	r := rand.New(rand.NewPCG(seed, 0))
	return source{upTo: func(n int) int { return r.IntN(n + 1) }}
}

func pick[T any](s source, vs []T) T { return vs[s.upTo(len(vs)-1)] }

func (s source) bool() bool { return s.upTo(1) == 1 }

func (s source) prefix() netip.Prefix {
	a := pick(s, slices.Concat(addrs4, addrs6))
	bits := pick(s, []int{0, 1, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32, 48, 64, 79, 80, 81, 95, 96, 97, 127, 128})
	p, _ := ir.PlainPrefix(netip.PrefixFrom(a, min(bits, a.BitLen())))
	return p
}

func (s source) origin() ir.OriginID { return ir.OriginID(1 + s.upTo(len(s.p.Origins)-1)) }

// program makes valid canonical programs of some blocks with up to some steps each. They hold no block of an endpoint.
func program(s source, blocks, steps int) (*ir.Program, ir.Members) {
	s.p = &ir.Program{}
	p := s.p
	var m ir.Members
	for i := range s.upTo(3) {
		d := ir.SetDecl{ID: ir.SetID(fmt.Sprintf("s:%d", i)), Kind: pick(s, []ir.SetKind{ir.SetOfPrefixes, ir.SetOfEndpoints})}
		p.Sets = append(p.Sets, d)
		members := ir.SetMembers{ID: d.ID}
		for range s.upTo(5) {
			e := ir.Element{Prefix: s.prefix()}
			if d.Kind == ir.SetOfEndpoints {
				a := pick(s, slices.Concat(addrs4, addrs6))
				e = ir.Element{Prefix: netip.PrefixFrom(a, a.BitLen()), Protocol: pick(s, protos), Port: pick(s, ports)}
				if e.Protocol == 0 {
					e.Protocol = inet.TCP
				}
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
		for range s.upTo(steps) {
			b.Steps = append(b.Steps, s.step(below))
		}
		p.Blocks = append(p.Blocks, b)
		below = append(below, b.ID)
	}
	for _, h := range flow.Hooks {
		if s.upTo(3) == 0 {
			continue
		}
		e := ir.Entry{Hook: h, Block: pick(s, below)}
		if s.bool() {
			e.Always = pick(s, below)
		}
		if s.bool() {
			e.Default = ir.Pass
		}
		e.NoTrack = h.Stage() == flow.StageUntracked && s.bool()
		if s.bool() {
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

func (s source) step(below []ir.BlockID) ir.Step {
	resume := ir.OutcomeSet(s.upTo(15))
	switch k := s.upTo(5); {
	case k <= 1 && len(below) > 0:
		return ir.Call{Match: s.match(0, 1), Block: pick(s, below), Resume: resume}
	case k == 2 && !s.long:
		return s.swtch(below, resume)
	}
	least := 0
	if s.long {
		least = 3
	}
	r := ir.Rule{Match: s.match(least, 3), Then: ir.Outcome(s.upTo(3)), Origin: s.origin()}
	if s.upTo(3) == 0 {
		r.Do = []ir.Effect{ir.Log}
	}
	return r
}

var fields = []ir.Field{
	ir.InIface, ir.OutIface, ir.Family, ir.Protocol, ir.SrcAddr, ir.DstAddr, ir.SrcPort, ir.DstPort, ir.ICMPType, ir.ICMPCode, ir.State,
}

func (s source) swtch(below []ir.BlockID, resume ir.OutcomeSet) ir.Step {
	sw := ir.Switch{Resume: resume, Key: []ir.Field{pick(s, fields)}}
	if f := pick(s, fields); f != sw.Key[0] {
		sw.Key = append(sw.Key, f)
	}
	for range s.upTo(5) {
		c := ir.Case{}
		for _, f := range sw.Key {
			c.Key = append(c.Key, s.interval(f))
		}
		if slices.ContainsFunc(sw.Cases, func(o ir.Case) bool {
			return !slices.ContainsFunc([]int{0, len(c.Key) - 1}, func(i int) bool {
				return o.Key[i].Lo.Compare(c.Key[i].Hi) > 0 || c.Key[i].Lo.Compare(o.Key[i].Hi) > 0
			})
		}) {
			continue
		}
		if len(below) > 0 && s.bool() {
			c.Then.Block = pick(s, below)
		} else {
			c.Then.Outcome, c.Origin = ir.Outcome(1+s.upTo(2)), s.origin()
		}
		sw.Cases = append(sw.Cases, c)
	}
	return sw
}

func (s source) interval(f ir.Field) ir.Interval {
	if s.upTo(7) == 0 {
		return f.Domain()
	}
	between := func(a, b ir.Value) ir.Interval {
		if a.Compare(b) > 0 {
			a, b = b, a
		}
		return ir.Interval{Lo: a, Hi: b}
	}
	switch f {
	case ir.InIface, ir.OutIface:
		a := pick(s, names)
		v, _ := ir.Name(a)
		switch s.upTo(3) {
		case 0:
			i, _ := ir.NamePrefix(a)
			return i
		case 1:
			w, _ := ir.Name(pick(s, names))
			return between(v, w)
		}
		return ir.Exactly(v)
	case ir.SrcAddr, ir.DstAddr:
		if s.bool() {
			return between(ir.Addr(pick(s, slices.Concat(addrs4, addrs6))), ir.Addr(pick(s, slices.Concat(addrs4, addrs6))))
		}
		return pick(s, append(ir.AddrPrefix(s.prefix()), ir.Exactly(ir.Addr(pick(s, addrs4)))))
	case ir.Family:
		return ir.Exactly(ir.Number(pick(s, []inet.Family{inet.IPv4, inet.IPv6})))
	case ir.Protocol:
		return between(ir.Number(pick(s, protos)), ir.Number(pick(s, protos)))
	case ir.ICMPType, ir.ICMPCode:
		return between(ir.Number(pick(s, codes)), ir.Number(pick(s, codes)))
	case ir.State:
		return between(ir.Number(uint8(s.upTo(4))), ir.Number(uint8(s.upTo(4))))
	}
	return between(ir.Number(pick(s, ports)), ir.Number(pick(s, ports)))
}

func (s source) match(least, most int) ir.Match {
	var m ir.Match
	for range least + s.upTo(most-least) {
		c := ir.Clause{}
		for range s.upTo(5) - 2 {
			c = append(c, s.term())
		}
		if len(c) == 0 && s.upTo(9) > 0 {
			c = append(c, s.term())
		}
		m = append(m, c)
	}
	return m
}

func (s source) term() ir.Term {
	not := s.bool()
	switch k := s.upTo(5); {
	case k == 0 && len(s.p.Sets) > 0:
		d := pick(s, s.p.Sets)
		fs := pick(s, [][]ir.Field{{ir.SrcAddr}, {ir.DstAddr}})
		if d.Kind == ir.SetOfEndpoints {
			fs = pick(s, [][]ir.Field{{ir.SrcAddr, ir.Protocol, ir.SrcPort}, {ir.DstAddr, ir.Protocol, ir.DstPort}})
		}
		return ir.InSet{Fields: fs, Set: d.ID, Not: not}
	case k == 1:
		var ps []netip.Prefix
		for range 1 + s.upTo(2) {
			ps = append(ps, s.prefix())
		}
		return ir.InPrefixes{Field: pick(s, []ir.Field{ir.SrcAddr, ir.DstAddr}), Prefixes: ir.MergePrefixes(ps), Not: not}
	case k == 2 && !s.long:
		var ns []ir.NamePattern
		for range 1 + s.upTo(1) {
			ns = append(ns, ir.NamePattern{Name: pick(s, names), Prefix: s.bool()})
		}
		slices.SortFunc(ns, ir.CompareNames)
		return ir.InNames{Field: pick(s, []ir.Field{ir.InIface, ir.OutIface}), Names: slices.Compact(ns), Not: not}
	case k == 3:
		var rs []inet.PortRange
		for range 1 + s.upTo(1) {
			a, b := pick(s, ports), pick(s, ports)
			rs = append(rs, inet.PortRange{Min: min(a, b), Max: max(a, b)})
		}
		return ir.InPorts{Field: pick(s, []ir.Field{ir.SrcPort, ir.DstPort}), Ranges: ir.MergePorts(rs), Not: not}
	}
	f := pick(s, []ir.Field{ir.Family, ir.Protocol, ir.ICMPType, ir.ICMPCode, ir.State})
	if s.long && f == ir.State {
		f = ir.Family
	}
	var vs []uint8
	for range 1 + s.upTo(1) {
		switch f {
		case ir.Family:
			vs = append(vs, pick(s, []uint8{4, 6}))
		case ir.Protocol:
			vs = append(vs, uint8(pick(s, protos)))
		case ir.State:
			vs = append(vs, uint8(s.upTo(4)))
		default:
			vs = append(vs, pick(s, codes))
		}
	}
	return ir.InMask{Field: f, Mask: ir.MaskOf(vs...), Not: not}
}

// packet makes packets of the universe, among them such as no kernel would show.
func packet(s source) *flow.Packet {
	p := &flow.Packet{
		Path:     flow.Path(1 + s.upTo(3)),
		Protocol: pick(s, protos),
		State:    flow.ConnState(s.upTo(4)),
		In:       pick(s, names),
		Out:      pick(s, names),
		SrcPort:  pick(s, ports),
		DstPort:  pick(s, ports),
		ICMPType: pick(s, codes),
		ICMPCode: pick(s, codes),
	}
	as := addrs4
	if s.bool() {
		as = addrs6
	}
	p.Src, p.Dst = pick(s, as), pick(s, as)
	if s.upTo(2) == 0 {
		p.NATDst = netip.AddrPortFrom(pick(s, as), pick(s, ports))
		p.DstLocal = s.bool()
		p.RouteOut = pick(s, append([]string{""}, names...))
	}
	switch s.upTo(15) {
	case 0:
		p.Path = flow.Path(s.upTo(9))
	case 1:
		p.In = pick(s, odd)
	case 2:
		p.Out = pick(s, odd)
	case 3:
		p.State = flow.ConnState(5 + s.upTo(250))
	case 4:
		p.Src = pick(s, []netip.Addr{{}, netip.MustParseAddr("::ffff:10.0.0.1"), netip.MustParseAddr("fe80::1%eth0")})
	case 5:
		p.Dst = pick(s, append([]netip.Addr{{}, netip.MustParseAddr("::ffff:10.0.0.1"), netip.MustParseAddr("::1%lo")}, addrs6...))
	}
	return p
}
