// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"fmt"
	"maps"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// dim is a field of packets along which boxes extend. The connection state, the interfaces and the family are none: they
// are told apart before.
type dim uint8

const (
	dimL4 dim = iota // protocol<<16 | ICMP type<<8 | ICMP code
	dimSrc
	dimSrcPort
	dimDst
	dimDstPort
	dimPreDst // before NAT
	dimPreDstPort
	numDims
)

var axisOf = [...]classify.Axis{
	dimL4: classify.L4, dimSrc: classify.SrcAddr, dimSrcPort: classify.SrcPort, dimDst: classify.DstAddr, dimDstPort: classify.DstPort,
}

func (d dim) isPort() bool { return d == dimSrcPort || d == dimDstPort || d == dimPreDstPort }

// The values of each kind of field.
var (
	allPorts = []span.Span{span.Numbers(0, 1<<16-1)}
	allL4    = []span.Span{span.Numbers(0, 1<<24-1)}
	all4     = []span.Span{{Lo: key{Lo: mapped << 32}, Hi: key{Lo: mapped<<32 | (1<<32 - 1)}}}
	all6     = []span.Span{{Lo: key{}, Hi: key{Lo: mapped<<32 - 1}}, {Lo: key{Lo: (mapped + 1) << 32}, Hi: span.Last()}}
)

// mapped is the third word of IPv4 addresses among those of IPv6.
const mapped = 0xffff

func (d dim) domain(f inet.Family) []span.Span {
	switch {
	case d == dimL4:
		return allL4
	case d.isPort():
		return allPorts
	case f == inet.IPv4:
		return all4
	}
	return all6
}

// side is one of the programs, flattened.
type side struct {
	plain   *classify.Plain
	origins []flow.Origin
	entries map[flow.Hook]*classify.Entry
	members ir.Members
	sets    *spanSets
	traits  []traits // by list
	atoms   [2]map[uint32]atomSet
	rules   [2]map[uint32][]alternative // by condition
	points  map[uint32]points
}

// traits are what the choice of cases needs to know of a list.
type traits struct {
	dst, in, out bool // some rule asks for the destination, for an interface
	allows       bool // some rule allows
}

// atomSet is an atom of an ordered axis within a family.
type atomSet struct {
	id     int32
	absent bool
}

// alternative is a conjunction without endpoints: a product of sets.
type alternative struct {
	sets    [dimDstPort + 1]int32
	absent  uint8    // bit d: packets without that port fulfil it
	in, out []uint32 // atoms of interfaces
}

func newSide(in Input, sets *spanSets, all bool) (*side, error) {
	p := in.Program
	if p == nil {
		p = &ir.Program{}
	}
	plain, err := classify.Flatten(p, in.Members, all)
	if err != nil {
		return nil, err
	}
	s := &side{
		plain: plain, origins: p.Origins, members: in.Members, sets: sets, entries: map[flow.Hook]*classify.Entry{},
		traits: make([]traits, len(plain.Lists)), points: map[uint32]points{},
	}
	for f := range s.atoms {
		s.atoms[f], s.rules[f] = map[uint32]atomSet{}, map[uint32][]alternative{}
	}
	for i := range plain.Entries {
		s.entries[plain.Entries[i].Hook] = &plain.Entries[i]
	}
	for i, l := range plain.Lists {
		t := &s.traits[i]
		for _, r := range l {
			c := &plain.Conds[r.Cond]
			t.dst = t.dst || c[classify.DstAddr] != nil || c[classify.DstPort] != nil || c[classify.DstEndpoint] != nil
			t.in = t.in || c[classify.InIface] != nil
			t.out = t.out || c[classify.OutIface] != nil
			t.allows = t.allows || r.Outcome == ir.Allow
		}
	}
	return s, nil
}

func familyIndex(f inet.Family) int {
	if f == inet.IPv4 {
		return 0
	}
	return 1
}

// atom returns an atom of an ordered axis as far as the family has it.
func (s *side) atom(id uint32, d dim, f inet.Family) atomSet {
	known := s.atoms[familyIndex(f)]
	if a, ok := known[id]; ok {
		return a
	}
	x := &s.plain.Atoms[id]
	spans := make([]span.Span, 0, len(x.Spans))
	for _, i := range x.Spans {
		spans = append(spans, span.Of(i))
	}
	if d == dimL4 {
		// The family stands above the protocol.
		base := uint64(f) << 24
		spans = span.Intersect(spans, []span.Span{{Lo: key{Lo: base}, Hi: key{Lo: base | 1<<24 - 1}}})
		for i := range spans {
			spans[i].Lo.Lo -= base
			spans[i].Hi.Lo -= base
		}
	}
	a := atomSet{s.setOf(spans, d, f), x.Absent}
	known[id] = a
	return a
}

// setOf returns the number of the values of a field that are in spans.
func (s *side) setOf(spans []span.Span, d dim, f inet.Family) int32 {
	domain := d.domain(f)
	spans = span.Intersect(spans, domain)
	if slices.Equal(spans, domain) {
		return 0
	}
	return s.sets.id(spans)
}

// both returns the number of the intersection.
func (s *side) both(a, b int32, d dim, f inet.Family) int32 {
	switch {
	case a == b || b == 0:
		return a
	case a == 0:
		return b
	}
	return s.setOf(span.Intersect(s.sets.list[a], s.sets.list[b]), d, f)
}

// maxAlternatives bounds what one rule may become.
const maxAlternatives = 1 << 14

// alternatives returns the products whose union is a condition, within a family; none if no packet fulfils it.
func (s *side) alternatives(cond uint32, f inet.Family) ([]alternative, error) {
	known := s.rules[familyIndex(f)]
	if as, ok := known[cond]; ok {
		return as, nil
	}
	c := &s.plain.Conds[cond]
	a := alternative{absent: 0xff, in: c[classify.InIface], out: c[classify.OutIface]}
	as := []alternative{a}
	for d, axis := range axisOf {
		for _, id := range c[axis] {
			x := s.atom(id, dim(d), f)
			as = s.narrow(as, dim(d), x.id, x.absent, f)
		}
	}
	for _, side := range [...]struct {
		axis       classify.Axis
		addr, port dim
	}{{classify.SrcEndpoint, dimSrc, dimSrcPort}, {classify.DstEndpoint, dimDst, dimDstPort}} {
		for _, id := range c[side.axis] {
			var err error
			if as, err = s.endpoints(as, id, side.addr, side.port, f); err != nil {
				return nil, err
			}
		}
	}
	known[cond] = as
	return as, nil
}

// narrow intersects alternatives with a set on one field, and drops those that are empty.
func (s *side) narrow(as []alternative, d dim, id int32, absent bool, f inet.Family) []alternative {
	out := make([]alternative, 0, len(as))
	for _, a := range as {
		a.sets[d] = s.both(a.sets[d], id, d, f)
		if !absent {
			a.absent &^= 1 << d
		}
		empty := a.sets[d] != 0 && len(s.sets.list[a.sets[d]]) == 0
		if empty && (!d.isPort() || a.absent&(1<<d) == 0) {
			continue
		}
		out = append(out, a)
	}
	return out
}

// points are the endpoints of an atom: those that it holds, or (if not is set) those that it does not hold.
type points struct {
	not   bool
	elems []ir.Element
}

// pointsOf returns the endpoints of an atom. Endpoints of protocols without ports are in no packet.
func (s *side) pointsOf(id uint32) points {
	if p, ok := s.points[id]; ok {
		return p
	}
	in, notIn := map[ir.Element]bool{}, map[ir.Element]int{}
	nots := 0
	for _, t := range s.plain.Atoms[id].Sets {
		if t.Not {
			nots++
		}
		for _, e := range s.members.Set(t.Set) {
			if !hasPorts(e.Protocol) {
				continue
			}
			if t.Not {
				notIn[e]++
			} else {
				in[e] = true
			}
		}
	}
	var p points
	if nots == 0 {
		p.elems = slices.Collect(maps.Keys(in))
	} else {
		// In some set, or not in all of the others.
		p.not = true
		for e, n := range notIn {
			if n == nots && !in[e] {
				p.elems = append(p.elems, e)
			}
		}
	}
	slices.SortFunc(p.elems, func(a, b ir.Element) int {
		if a.Protocol != b.Protocol {
			return int(a.Protocol) - int(b.Protocol)
		}
		if a.Port != b.Port {
			return int(a.Port) - int(b.Port)
		}
		return a.Prefix.Addr().Compare(b.Prefix.Addr())
	})
	s.points[id] = p
	return p
}

func hasPorts(p inet.Protocol) bool { return p.HasPorts() || p == inet.UDPLite }

// endpoints intersects alternatives with an atom of endpoints.
func (s *side) endpoints(as []alternative, id uint32, addr, port dim, f inet.Family) ([]alternative, error) {
	p := s.pointsOf(id)
	var out []alternative
	add := func(l4 int32, ports int32, absent bool, addrs int32) error {
		x := s.narrow(as, dimL4, l4, true, f)
		x = s.narrow(x, port, ports, absent, f)
		x = s.narrow(x, addr, addrs, true, f)
		if out = append(out, x...); len(out) > maxAlternatives {
			return fmt.Errorf("%w: a rule becomes more than %d", classify.ErrTooLarge, maxAlternatives)
		}
		return nil
	}
	l4 := func(p inet.Protocol) []span.Span {
		return []span.Span{span.Numbers(uint32(p)<<16, uint32(p)<<16|0xffff)}
	}
	var protos []span.Span
	for i := 0; i < len(p.elems); {
		proto := p.elems[i].Protocol
		protos = append(protos, l4(proto)...)
		// Ports with the same addresses go together.
		byAddrs := map[int32][]span.Span{}
		var order []int32
		var ports []span.Span
		for i < len(p.elems) && p.elems[i].Protocol == proto {
			n := p.elems[i].Port
			ports = append(ports, span.Numbers(uint32(n), uint32(n)))
			var addrs []span.Span
			for ; i < len(p.elems) && p.elems[i].Protocol == proto && p.elems[i].Port == n; i++ {
				k := span.KeyOf(ir.Addr(p.elems[i].Prefix.Addr()))
				addrs = append(addrs, span.Span{Lo: k, Hi: k})
			}
			addrs = span.Intersect(span.Union(addrs), addr.domain(f))
			if p.not {
				addrs = span.Minus(addr.domain(f), addrs)
			}
			if len(addrs) == 0 {
				continue
			}
			set := s.setOf(addrs, addr, f)
			if byAddrs[set] == nil {
				order = append(order, set)
			}
			byAddrs[set] = append(byAddrs[set], span.Numbers(uint32(n), uint32(n)))
		}
		protoSet := s.setOf(l4(proto), dimL4, f)
		for _, set := range order {
			if err := add(protoSet, s.setOf(span.Union(byAddrs[set]), port, f), false, set); err != nil {
				return nil, err
			}
		}
		if p.not {
			if err := add(protoSet, s.setOf(span.Minus(allPorts, span.Union(ports)), port, f), false, 0); err != nil {
				return nil, err
			}
		}
	}
	if p.not {
		if err := add(s.setOf(span.Minus(allL4, span.Union(protos)), dimL4, f), 0, true, 0); err != nil {
			return nil, err
		}
	}
	return out, nil
}
