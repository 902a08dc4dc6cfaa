// SPDX-License-Identifier: Apache-2.0

package pass

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// dim is a field that the tree can switch on.
type dim uint8

const (
	dimSrc dim = iota
	dimDst
	dimDstPort
	dimSrcPort
	dimProtocol
	numDims
)

// fieldOf is ordered by how selective the fields of real rules are; ties are broken by this order.
var fieldOf = [numDims]ir.Field{ir.SrcAddr, ir.DstAddr, ir.DstPort, ir.SrcPort, ir.Protocol}

func dimOf(f ir.Field) (dim, bool) {
	for d, g := range fieldOf {
		if f == g {
			return dim(d), true
		}
	}
	return 0, false
}

// top is the largest value of a dimension; the smallest is 0.
func (d dim) top() num {
	switch d {
	case dimSrc, dimDst:
		return num{^uint64(0), ^uint64(0)}
	case dimProtocol:
		return num{0, 255}
	}
	return num{0, 65535}
}

// optional reports whether there are packets without the field.
func (d dim) optional() bool { return d == dimDstPort || d == dimSrcPort }

// num is an ir.Value in two halves.
type num struct{ hi, lo uint64 }

func numOf(v ir.Value) num {
	return num{binary.BigEndian.Uint64(v[:8]), binary.BigEndian.Uint64(v[8:])}
}

func (n num) value() (v ir.Value) {
	binary.BigEndian.PutUint64(v[:8], n.hi)
	binary.BigEndian.PutUint64(v[8:], n.lo)
	return v
}

func (n num) compare(m num) int {
	if c := cmp.Compare(n.hi, m.hi); c != 0 {
		return c
	}
	return cmp.Compare(n.lo, m.lo)
}

func (n num) less(m num) bool { return n.hi < m.hi || n.hi == m.hi && n.lo < m.lo }

func (n num) next() num {
	lo, carry := bits.Add64(n.lo, 1, 0)
	return num{n.hi + carry, lo}
}

func (n num) prev() num {
	lo, borrow := bits.Sub64(n.lo, 1, 0)
	return num{n.hi - borrow, lo}
}

// span is a closed range.
type span struct{ lo, hi num }

// valueSet is a set of values of one field. The zero value is empty.
type valueSet struct {
	spans  []span // sorted, disjoint, not adjacent
	absent bool   // packets without the field belong to it
}

func everything(d dim) valueSet {
	return valueSet{[]span{{hi: d.top()}}, d.optional()}
}

func (s *valueSet) empty() bool { return len(s.spans) == 0 && !s.absent }

// normalize sorts and joins spans.
func normalize(s []span) []span {
	slices.SortFunc(s, func(a, b span) int { return a.lo.compare(b.lo) })
	out := s[:0]
	for _, x := range s {
		if n := len(out); n > 0 && !out[n-1].hi.less(x.lo) || n > 0 && out[n-1].hi.next() == x.lo {
			if out[n-1].hi.less(x.hi) {
				out[n-1].hi = x.hi
			}
			continue
		}
		out = append(out, x)
	}
	return out
}

func (s valueSet) union(t valueSet) valueSet {
	return valueSet{normalize(slices.Concat(s.spans, t.spans)), s.absent || t.absent}
}

func (s valueSet) complement(d dim) valueSet {
	out := valueSet{absent: d.optional() && !s.absent}
	var from num
	for _, x := range s.spans {
		if from.less(x.lo) {
			out.spans = append(out.spans, span{from, x.lo.prev()})
		}
		if x.hi == d.top() {
			return out
		}
		from = x.hi.next()
	}
	out.spans = append(out.spans, span{from, d.top()})
	return out
}

func (s valueSet) intersect(t valueSet) valueSet {
	out := valueSet{absent: s.absent && t.absent}
	for i, j := 0, 0; i < len(s.spans) && j < len(t.spans); {
		a, b := s.spans[i], t.spans[j]
		lo, hi := a.lo, a.hi
		if lo.less(b.lo) {
			lo = b.lo
		}
		if b.hi.less(hi) {
			hi = b.hi
		}
		if !hi.less(lo) {
			out.spans = append(out.spans, span{lo, hi})
		}
		if a.hi.less(b.hi) {
			i++
		} else {
			j++
		}
	}
	return out
}

// relation of a set to a cell of values.
type relation uint8

const (
	disjoint relation = iota
	partial
	covers
)

func (s *valueSet) relate(c span) relation {
	i, _ := slices.BinarySearchFunc(s.spans, c.lo, func(x span, lo num) int { return x.hi.compare(lo) })
	switch {
	case i == len(s.spans) || c.hi.less(s.spans[i].lo):
		return disjoint
	case !c.lo.less(s.spans[i].lo) && !s.spans[i].hi.less(c.hi):
		return covers
	}
	return partial
}

// contains reports whether every value of t is in s.
func (s *valueSet) contains(t *valueSet) bool {
	if t.absent && !s.absent {
		return false
	}
	for _, x := range t.spans {
		if s.relate(x) != covers {
			return false
		}
	}
	return true
}

var (
	mappedSpan = span{num{0, 0xffff_0000_0000}, num{0, 0xffff_ffff_ffff}} // where the IR keeps IPv4 addresses

	// ported is the protocols that have ports, unported the others.
	ported = valueSet{spans: []span{
		{num{0, uint64(inet.TCP)}, num{0, uint64(inet.TCP)}}, {num{0, uint64(inet.UDP)}, num{0, uint64(inet.UDP)}},
		{num{0, uint64(inet.SCTP)}, num{0, uint64(inet.SCTP)}}, {num{0, uint64(inet.UDPLite)}, num{0, uint64(inet.UDPLite)}},
	}}
	unported = ported.complement(dimProtocol)
)

// constant returns the dimension and the values for which t holds; false if that depends on anything else, such as the
// members of a set.
func constant(t ir.Term) (dim, valueSet, bool) {
	var d dim
	var s valueSet
	not := false
	switch t := t.(type) {
	case ir.InPorts:
		var ok bool
		if d, ok = dimOf(t.Field); !ok {
			return 0, s, false
		}
		for _, r := range t.Ranges {
			s.spans = append(s.spans, span{num{0, uint64(r.Min)}, num{0, uint64(r.Max)}})
		}
		not = t.Not
	case ir.InPrefixes:
		var ok bool
		if d, ok = dimOf(t.Field); !ok {
			return 0, s, false
		}
		for _, p := range t.Prefixes {
			if !p.IsValid() {
				return 0, s, false
			}
			for _, i := range ir.AddrPrefix(p.Masked()) {
				s.spans = append(s.spans, span{numOf(i.Lo), numOf(i.Hi)})
			}
		}
		not = t.Not
	case ir.InMask:
		switch t.Field {
		case ir.Protocol:
			d = dimProtocol
			s.spans = maskSpans(t.Mask)
		case ir.Family: // the family of a packet is that of its source
			d = dimSrc
			four := valueSet{spans: []span{mappedSpan}}
			if t.Mask.Has(uint8(inet.IPv4)) {
				s = four
			}
			if t.Mask.Has(uint8(inet.IPv6)) {
				s = s.union(four.complement(dimSrc))
			}
		default:
			return 0, s, false
		}
		not = t.Not
	default:
		return 0, s, false
	}
	s.spans = normalize(s.spans)
	if not {
		s = s.complement(d)
	}
	return d, s, true
}

func maskSpans(m ir.Mask) []span {
	var s []span
	for n := uint64(0); n < 256; n++ {
		if !m.Has(uint8(n)) {
			continue
		}
		lo := n
		for n < 255 && m.Has(uint8(n+1)) {
			n++
		}
		s = append(s, span{num{0, lo}, num{0, n}})
	}
	return s
}
