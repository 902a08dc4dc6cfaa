// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// test is what a clause is made of: a term of the IR, or one interval of a key of a Switch if term is nil.
type test struct {
	term     ir.Term
	field    ir.Field
	interval ir.Interval
}

func testOf(t ir.Term) (test, error) {
	switch t := t.(type) {
	case ir.InPorts:
		return test{term: t, field: t.Field}, nil
	case ir.InPrefixes:
		return test{term: t, field: t.Field}, nil
	case ir.InNames:
		return test{term: t, field: t.Field}, nil
	case ir.InMask:
		return test{term: t, field: t.Field}, nil
	case ir.InSet:
		return test{term: t, field: t.Fields[0]}, nil
	}
	return test{}, fmt.Errorf("unknown term %T", t)
}

// axis returns where a test belongs; 0 for the connection state, which is known before any lookup.
func (t test) axis() Axis {
	if s, ok := t.term.(ir.InSet); ok && len(s.Fields) > 1 {
		if t.field == ir.SrcAddr {
			return SrcEndpoint
		}
		return DstEndpoint
	}
	switch t.field {
	case ir.InIface:
		return InIface
	case ir.OutIface:
		return OutIface
	case ir.SrcAddr:
		return SrcAddr
	case ir.DstAddr:
		return DstAddr
	case ir.SrcPort:
		return SrcPort
	case ir.DstPort:
		return DstPort
	case ir.State:
		return 0
	}
	return L4
}

// An atom is a clause that asks about one axis only: what a rule demands there, or part of it.
type atom struct {
	spans  []span.Span // of an ordered axis: where it holds; nil once built if there are refs
	refs   []setTest   // of addresses: the sets that spans come from
	fixed  []span.Span // of addresses, if there are refs: where it holds whatever the members are
	sets   []setTest   // of endpoints: it holds if one of these does
	names  []bool      // of interfaces: whether it holds, by class
	absent bool        // of an ordered axis: whether it holds for a packet without value
}

type setTest struct {
	set int // index into Program.Sets
	not bool
}

// demand is the conjunction of atoms that a rule makes on one axis: an index into atoms.demands. 0 demands nothing.
type demand uint32

// atoms holds all atoms of a program, equal ones once, and the demands that rules make of them. An address set with
// thousands of prefixes, which hundreds of rules name beside other nets, stays one atom.
type atoms struct {
	prog      *ir.Program
	names     nameClasses
	members   [][]ir.Element // by index of the set
	sets      map[ir.SetID]int
	list      []atom
	known     map[string]uint32
	single    map[string]uint32 // atoms of a single InSet, which need not be spelled out to be recognised
	demands   [][]uint32        // atoms, ascending
	demandIDs map[string]demand
	setSpans  [][]span.Span
	declared  []ir.SetID // by index, once built
}

func newAtoms(p *ir.Program, m ir.Members, names nameClasses) *atoms {
	rules := len(p.Origins) // about
	a := &atoms{
		prog: p, names: names, sets: map[ir.SetID]int{}, setSpans: make([][]span.Span, len(p.Sets)),
		known: make(map[string]uint32, rules), single: map[string]uint32{},
		demands: [][]uint32{nil}, demandIDs: make(map[string]demand, rules),
	}
	a.demandIDs[""] = 0
	for i, s := range p.Sets {
		a.sets[s.ID] = i
		a.members = append(a.members, m.Set(s.ID))
	}
	return a
}

// forget lets go of everything that only a build needs: members, and what would keep the program alive.
func (a *atoms) forget() {
	a.members, a.setSpans, a.known, a.single, a.demandIDs = nil, nil, nil, nil, nil
	for i := range a.list {
		if x := &a.list[i]; len(x.refs) > 0 {
			x.spans = nil
		}
	}
	for _, s := range a.prog.Sets {
		a.declared = append(a.declared, s.ID)
	}
	a.prog = nil
}

// demand returns the demand that is made of the given atoms.
func (a *atoms) demand(ids []uint32) demand {
	slices.Sort(ids)
	ids = slices.Compact(ids)
	k := make([]byte, 0, 16)
	for _, id := range ids {
		k = binary.LittleEndian.AppendUint32(k, id)
	}
	d, ok := a.demandIDs[string(k)]
	if !ok {
		d = demand(len(a.demands))
		a.demandIDs[string(k)] = d
		a.demands = append(a.demands, slices.Clone(ids))
	}
	return d
}

// both returns the demand that demands what d and e demand.
func (a *atoms) both(d, e demand) demand {
	switch {
	case d == e || e == 0:
		return d
	case d == 0:
		return e
	}
	return a.demand(slices.Concat(a.demands[d], a.demands[e]))
}

// atom returns the atom that holds if one of the tests does, which are all on the given axis.
func (a *atoms) atom(axis Axis, tests []test) (uint32, error) {
	var single string
	if s, ok := tests[0].term.(ir.InSet); ok && len(tests) == 1 {
		single = fmt.Sprintf("%d %t %s", axis, s.Not, s.Set)
		if id, ok := a.single[single]; ok {
			return id, nil
		}
	}
	var x atom
	var err error
	switch axis {
	case SrcEndpoint, DstEndpoint:
		x, err = a.endpointAtom(tests)
	case InIface, OutIface:
		x, err = a.nameAtom(tests)
	default:
		x, err = a.spanAtom(tests)
	}
	if err != nil {
		return 0, err
	}
	k := x.key(axis)
	id, ok := a.known[k]
	if !ok {
		id = uint32(len(a.list))
		a.known[k] = id
		a.list = append(a.list, x)
	}
	if single != "" {
		a.single[single] = id
	}
	return id, nil
}

// key identifies the content of an atom.
func (x *atom) key(axis Axis) string {
	spans := x.spans
	if len(x.refs) > 0 { // two sets with the same members today are two sets
		spans = x.fixed
	}
	k := make([]byte, 0, 2+32*len(spans)+5*len(x.refs)+5*len(x.sets)+len(x.names))
	k = append(k, byte(axis))
	k = appendBool(k, x.absent)
	for _, s := range spans {
		for _, n := range [...]uint64{s.Lo.Hi, s.Lo.Lo, s.Hi.Hi, s.Hi.Lo} {
			k = binary.LittleEndian.AppendUint64(k, n)
		}
	}
	for _, s := range slices.Concat(x.refs, x.sets) {
		k = appendBool(binary.LittleEndian.AppendUint32(k, uint32(s.set)), s.not)
	}
	for _, n := range x.names {
		k = appendBool(k, n)
	}
	return string(k)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func (a *atoms) endpointAtom(tests []test) (atom, error) {
	var x atom
	for _, t := range tests {
		s, ok := t.term.(ir.InSet)
		if !ok {
			return atom{}, fmt.Errorf("%T among endpoints", t.term)
		}
		x.sets = append(x.sets, setTest{a.sets[s.Set], s.Not})
	}
	return x, nil
}

func (a *atoms) nameAtom(tests []test) (atom, error) {
	x := atom{names: make([]bool, a.names.count())}
	for class := range x.names {
		n := a.names.name(uint32(class))
		for _, t := range tests {
			switch term := t.term.(type) {
			case nil:
				x.names[class] = x.names[class] || n.in(t.interval)
			case ir.InNames:
				x.names[class] = x.names[class] || n.holds(term)
			default:
				return atom{}, fmt.Errorf("%T among interfaces", t.term)
			}
		}
	}
	return x, nil
}

func (a *atoms) spanAtom(tests []test) (atom, error) {
	var x atom
	for _, t := range tests {
		s, not, err := a.spans(t)
		if err != nil {
			return atom{}, err
		}
		s = span.Union(s)
		if not {
			// What a packet does not have is in nothing, and so in the complement of everything.
			s, x.absent = span.Complement(s, span.Last()), true
		}
		if set, ok := t.term.(ir.InSet); ok {
			x.refs = append(x.refs, setTest{a.sets[set.Set], set.Not})
		} else {
			x.fixed = span.Union(slices.Concat(x.fixed, s))
		}
		if x.spans == nil {
			x.spans = s
			continue
		}
		x.spans = span.Union(slices.Concat(x.spans, s))
	}
	if len(x.refs) == 0 {
		x.fixed = nil
	}
	return x, nil
}

// spans returns where a test without its Not holds, and its Not. The result is the caller's.
func (a *atoms) spans(t test) ([]span.Span, bool, error) {
	var s []span.Span
	switch term := t.term.(type) {
	case nil:
		switch t.field {
		case ir.Family, ir.Protocol, ir.ICMPType, ir.ICMPCode:
			lo, _ := t.interval.Lo.Number()
			hi, _ := t.interval.Hi.Number()
			return l4Spans(t.field, uint8(lo), uint8(hi), nil), false, nil
		}
		return []span.Span{span.Of(t.interval)}, false, nil
	case ir.InPorts:
		for _, r := range term.Ranges {
			s = append(s, span.Numbers(uint32(r.Min), uint32(r.Max)))
		}
		return s, term.Not, nil
	case ir.InPrefixes:
		for _, p := range term.Prefixes {
			for _, i := range ir.AddrPrefix(p) {
				s = append(s, span.Of(i))
			}
		}
		return s, term.Not, nil
	case ir.InMask:
		for lo := 0; lo < 256; lo++ {
			if !term.Mask.Has(uint8(lo)) {
				continue
			}
			hi := lo
			for hi < 255 && term.Mask.Has(uint8(hi+1)) {
				hi++
			}
			s = l4Spans(term.Field, uint8(lo), uint8(hi), s)
			lo = hi
		}
		return s, term.Not, nil
	case ir.InSet:
		i := a.sets[term.Set]
		if a.setSpans[i] == nil {
			for _, e := range a.members[i] {
				for _, x := range ir.AddrPrefix(e.Prefix) {
					s = append(s, span.Of(x))
				}
			}
			a.setSpans[i] = span.Union(s)
		}
		return slices.Clone(a.setSpans[i]), term.Not, nil
	}
	return nil, false, fmt.Errorf("%T among numbers", t.term)
}

// l4Key returns the number that Axis L4 describes.
func l4Key(f inet.Family, p inet.Protocol, icmpType, icmpCode uint8) uint32 {
	return uint32(f)<<24 | uint32(p)<<16 | uint32(icmpType)<<8 | uint32(icmpCode)
}

// icmpOf returns the protocol whose types a family has.
func icmpOf(f inet.Family) inet.Protocol {
	if f == inet.IPv4 {
		return inet.ICMP
	}
	return inet.ICMPv6
}

// l4Spans appends where a field of L4 has a value from lo to hi.
func l4Spans(field ir.Field, lo, hi uint8, s []span.Span) []span.Span {
	for _, f := range [...]inet.Family{inet.IPv4, inet.IPv6} {
		icmp := icmpOf(f)
		switch field {
		case ir.Family:
			if lo <= uint8(f) && uint8(f) <= hi {
				s = append(s, span.Numbers(l4Key(f, 0, 0, 0), l4Key(f, 255, 255, 255)))
			}
		case ir.Protocol:
			s = append(s, span.Numbers(l4Key(f, inet.Protocol(lo), 0, 0), l4Key(f, inet.Protocol(hi), 255, 255)))
		case ir.ICMPType:
			s = append(s, span.Numbers(l4Key(f, icmp, lo, 0), l4Key(f, icmp, hi, 255)))
		case ir.ICMPCode:
			for t := range 256 {
				s = append(s, span.Numbers(l4Key(f, icmp, uint8(t), lo), l4Key(f, icmp, uint8(t), hi)))
			}
		}
	}
	return s
}

// bitset is a set of small numbers.
type bitset []uint64

func (b bitset) has(i int) bool { return b[i>>6]&(1<<(i&63)) != 0 }
func (b bitset) add(i int)      { b[i>>6] |= 1 << (i & 63) }
