// SPDX-License-Identifier: Apache-2.0

// Package oracle says what programs of the IR do to packets by binary decision diagrams: another answer to the questions
// of package analyze, on another way, that shares no code with it. It is for tests; it is slow, and has no bounds.
//
// It is a module of its own, so that the library does not depend on the diagrams.
package oracle

import (
	"fmt"
	"net/netip"
	"runtime"

	"github.com/dalzilio/rudd"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Set is a set of packets of one Space.
type Set = rudd.Node

// bits are the variables of one field, the highest first.
type bits struct{ from, n int }

// Space holds the fields of packets of one family that are asked bit by bit. What stands outside of them is a Place. It
// keeps all sets that were ever made of it, so it is for a few questions and not for all of them.
type Space struct {
	*rudd.BDD              // Not, And, Or, Low and High stand below
	family                 inet.Family
	protocol, icmp         bits // type and code are one field
	src, dst, preDst       bits // dst is behind NAT; preDst is empty unless packets are translated
	sport, dport, preDport bits
	// Valid are the packets that there are: without ports for protocols that have none, and so on.
	Valid Set
	ports Set // the packets that have ports
}

// NewSpace makes the space of a family, of packets whose destination is translated or not.
func NewSpace(f inet.Family, translated bool) (*Space, error) {
	s := &Space{family: f}
	n := 0
	take := func(b *bits, width int) { *b = bits{n, width}; n += width }
	width := 32
	if f == inet.IPv6 {
		width = 128
	}
	take(&s.protocol, 8)
	take(&s.icmp, 16)
	take(&s.dport, 16)
	take(&s.sport, 16)
	if translated {
		take(&s.preDport, 16)
		take(&s.preDst, width)
	}
	take(&s.src, width)
	take(&s.dst, width)
	var err error
	if s.BDD, err = rudd.New(n, rudd.Nodesize(1<<14), rudd.Cachesize(1<<14)); err != nil {
		return nil, err
	}
	s.ports = either(s, []inet.Protocol{inet.TCP, inet.UDP, inet.SCTP, inet.UDPLite}, func(p inet.Protocol) Set { return s.number(s.protocol, uint64(p)) })
	s.Valid = s.True()
	for _, b := range []bits{s.sport, s.dport, s.preDport} {
		if b.n > 0 {
			s.Valid = s.And(s.Valid, s.Or(s.ports, s.number(b, 0)))
		}
	}
	own := inet.ICMP
	if f == inet.IPv6 {
		own = inet.ICMPv6
	}
	s.Valid = s.And(s.Valid, s.Or(s.number(s.protocol, uint64(own)), s.number(s.icmp, 0)))
	if f == inet.IPv6 {
		mapped := netip.MustParsePrefix("::ffff:0:0/96")
		for _, b := range []bits{s.src, s.dst, s.preDst} {
			if b.n > 0 {
				s.Valid = s.less(s.Valid, s.prefix(b, mapped))
			}
		}
	}
	if s.Errored() {
		return nil, fmt.Errorf("oracle: %s", s.Error())
	}
	return s, nil
}

// keep keeps a set for as long as its Space. The library counts references down in finalizers, which run beside everything
// else, without a lock on the counts: as of v1.1.0 it now and then throws away what is in use, and answers wrongly.
func keep(a Set) Set {
	if a != nil {
		runtime.SetFinalizer((*int)(a), nil)
	}
	return a
}

// Not returns the packets that are not in a set.
func (s *Space) Not(a Set) Set { return keep(s.BDD.Not(a)) }

// And returns the packets that are in all sets. It makes them two by two, because all sets on the way are to be kept.
func (s *Space) And(first Set, more ...Set) Set {
	for _, a := range more {
		first = keep(s.Apply(first, a, rudd.OPand))
	}
	return first
}

// Or returns the packets that are in one of two sets.
func (s *Space) Or(a, b Set) Set { return keep(s.Apply(a, b, rudd.OPor)) }

// Low returns what is left of a set that is not constant when its first bit is 0.
func (s *Space) Low(a Set) Set { return keep(s.BDD.Low(a)) }

// High is Low for 1.
func (s *Space) High(a Set) Set { return keep(s.BDD.High(a)) }

// less returns the packets of a that are not in b. rudd.OPdiff of nothing and a set is the set in v1.1.0, not nothing.
func (s *Space) less(a, b Set) Set { return s.And(a, s.Not(b)) }

// Empty reports whether a set holds no packet.
func (s *Space) Empty(a Set) bool { return s.Equal(a, s.False()) }

// bit returns the packets in which a bit of a field is v.
func (s *Space) bit(b bits, i int, v bool) Set {
	if v {
		return s.Ithvar(b.from + i)
	}
	return s.NIthvar(b.from + i)
}

// number returns the packets whose field is v.
func (s *Space) number(b bits, v uint64) Set {
	out := s.True()
	for i := b.n - 1; i >= 0; i-- {
		out = s.And(s.bit(b, i, v>>(b.n-1-i)&1 == 1), out)
	}
	return out
}

// between returns the packets whose field is a number of a closed range.
func (s *Space) between(b bits, lo, hi uint64) Set {
	least, most := s.True(), s.True()
	for i := b.n - 1; i >= 0; i-- {
		x := s.Ithvar(b.from + i)
		if lo>>(b.n-1-i)&1 == 1 {
			least = s.And(x, least)
		} else {
			least = s.Or(x, least)
		}
		if hi>>(b.n-1-i)&1 == 1 {
			most = s.Or(s.Not(x), most)
		} else {
			most = s.And(s.Not(x), most)
		}
	}
	return s.And(least, most)
}

// prefix returns the packets whose address is in a prefix; none if that is of the other family.
func (s *Space) prefix(b bits, p netip.Prefix) Set {
	if p.Addr().Is4() != (s.family == inet.IPv4) {
		return s.False()
	}
	a := p.Addr().AsSlice()
	out := s.True()
	for i := p.Bits() - 1; i >= 0; i-- {
		out = s.And(s.bit(b, i, a[i/8]>>(7-i%8)&1 == 1), out)
	}
	return out
}

// either returns the union of what f makes of each value.
func either[T any](s *Space, of []T, f func(T) Set) Set {
	out := s.False()
	for _, v := range of {
		out = s.Or(out, f(v))
	}
	return out
}

// Has reports whether a set holds a packet, whatever its Place.
func (s *Space) Has(set Set, p *flow.Packet) bool {
	v := make([]bool, s.Varnum())
	write := func(b bits, a []byte) {
		for i := range b.n {
			v[b.from+i] = a[i/8]>>(7-i%8)&1 == 1
		}
	}
	port := func(b bits, n uint16) { write(b, []byte{byte(n >> 8), byte(n)}) }
	write(s.protocol, []byte{byte(p.Protocol)})
	write(s.icmp, []byte{p.ICMPType, p.ICMPCode})
	write(s.src, p.Src.AsSlice())
	port(s.sport, p.SrcPort)
	if p.NATDst.IsValid() {
		write(s.preDst, p.Dst.AsSlice())
		port(s.preDport, p.DstPort)
		write(s.dst, p.NATDst.Addr().AsSlice())
		port(s.dport, p.NATDst.Port())
	} else {
		write(s.dst, p.Dst.AsSlice())
		port(s.dport, p.DstPort)
	}
	for !s.Empty(set) && !s.Equal(set, s.True()) {
		if v[s.Label(set)] {
			set = s.High(set)
		} else {
			set = s.Low(set)
		}
	}
	return !s.Empty(set)
}

// Sample returns a packet of a set that is not empty, but for its Place. Free bits are as random says.
func (s *Space) Sample(set Set, random func() bool) flow.Packet {
	v := make([]bool, s.Varnum())
	for i := range v {
		v[i] = random()
	}
	for set = s.And(set, s.Valid); !s.Equal(set, s.True()); {
		i, low, high := s.Label(set), s.Low(set), s.High(set)
		switch {
		case s.Empty(low):
			v[i] = true
		case s.Empty(high):
			v[i] = false
		}
		if set = low; v[i] {
			set = high
		}
	}
	number := func(b bits) (n uint16) {
		for i := range b.n {
			n <<= 1
			if v[b.from+i] {
				n |= 1
			}
		}
		return n
	}
	addr := func(b bits) netip.Addr {
		a := make([]byte, b.n/8)
		for i := range b.n {
			if v[b.from+i] {
				a[i/8] |= 0x80 >> (i % 8)
			}
		}
		out, _ := netip.AddrFromSlice(a)
		return out
	}
	p := flow.Packet{
		Protocol: inet.Protocol(number(s.protocol)), Src: addr(s.src), Dst: addr(s.dst), SrcPort: number(s.sport), DstPort: number(s.dport),
		ICMPType: uint8(number(s.icmp) >> 8), ICMPCode: uint8(number(s.icmp)),
	}
	if s.preDst.n > 0 {
		p.NATDst = netip.AddrPortFrom(p.Dst, p.DstPort)
		p.Dst, p.DstPort = addr(s.preDst), number(s.preDport)
	}
	return p
}

// Box returns the packets of a box at a place.
func (s *Space) Box(b *analyze.Box, pl Place) Set {
	path := pl.Path
	if path == flow.Local {
		path = flow.Input
	}
	translated := s.preDst.n > 0
	switch {
	case b.Path != path, !b.States.Has(pl.State),
		path != flow.Output && !b.In.Contains(pl.In), path != flow.Input && !b.Out.Contains(pl.Out),
		b.NAT == analyze.Untranslated && translated, b.NAT == analyze.Translated && !translated,
		b.NAT == analyze.Translated && (pl.DstLocal && !b.PreLocal || !pl.DstLocal && !b.PreOther),
		b.NAT == analyze.Translated && path == flow.Output && !b.RouteOut.Contains(pl.routeOut()):
		return s.False()
	}
	out := s.Valid
	var protocols []uint64
	for p := range 256 {
		if b.Protocols.Has(uint8(p)) {
			protocols = append(protocols, uint64(p))
		}
	}
	out = s.And(out, either(s, protocols, func(p uint64) Set { return s.number(s.protocol, p) }))
	if b.ICMP != nil {
		out = s.And(out, either(s, b.ICMP, func(r analyze.ICMPRange) Set { return s.between(s.icmp, uint64(r.Min), uint64(r.Max)) }))
		own := inet.ICMP
		if s.family == inet.IPv6 {
			own = inet.ICMPv6
		}
		out = s.And(out, s.number(s.protocol, uint64(own)))
	}
	addrs := func(at bits, set inet.PrefixSet) {
		out = s.And(out, either(s, set.Prefixes(), func(p netip.Prefix) Set { return s.prefix(at, p) }))
	}
	ports := func(at bits, set inet.PortSet) {
		if set.Len() == 1<<16 {
			return
		}
		out = s.And(out, s.ports, either(s, set.Ranges(), func(r inet.PortRange) Set { return s.between(at, uint64(r.Min), uint64(r.Max)) }))
	}
	addrs(s.src, b.Src)
	addrs(s.dst, b.Dst)
	ports(s.sport, b.SrcPorts)
	ports(s.dport, b.DstPorts)
	if b.NAT == analyze.Translated {
		addrs(s.preDst, b.PreDst)
		ports(s.preDport, b.PreDstPorts)
	}
	return out
}
