// SPDX-License-Identifier: Apache-2.0

package pass

import (
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
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
func (d dim) top() span.Key {
	switch d {
	case dimSrc, dimDst:
		return span.Last()
	case dimProtocol:
		return span.Key{Lo: 255}
	}
	return span.Key{Lo: 65535}
}

// optional reports whether there are packets without the field.
func (d dim) optional() bool { return d == dimDstPort || d == dimSrcPort }

// valueSet is a set of values of one field. The zero value is empty.
type valueSet struct {
	spans  []span.Span // sorted, disjoint, not adjacent
	absent bool        // packets without the field belong to it
}

func everything(d dim) valueSet {
	return valueSet{[]span.Span{{Hi: d.top()}}, d.optional()}
}

func (s *valueSet) empty() bool { return len(s.spans) == 0 && !s.absent }

func (s valueSet) union(t valueSet) valueSet {
	return valueSet{span.Union(slices.Concat(s.spans, t.spans)), s.absent || t.absent}
}

func (s valueSet) complement(d dim) valueSet {
	return valueSet{span.Complement(s.spans, d.top()), d.optional() && !s.absent}
}

func (s valueSet) intersect(t valueSet) valueSet {
	return valueSet{span.Intersect(s.spans, t.spans), s.absent && t.absent}
}

// relation of a set to a cell of values.
type relation uint8

const (
	disjoint relation = iota
	partial
	covers
)

func (s *valueSet) relate(c span.Span) relation {
	i := span.Find(s.spans, c.Lo)
	switch {
	case i == len(s.spans) || c.Hi.Less(s.spans[i].Lo):
		return disjoint
	case !c.Lo.Less(s.spans[i].Lo) && !s.spans[i].Hi.Less(c.Hi):
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
	mappedSpan = span.Span{Lo: span.Key{Lo: 0xffff_0000_0000}, Hi: span.Key{Lo: 0xffff_ffff_ffff}} // where the IR keeps IPv4 addresses

	// ported is the protocols that have ports, unported the others.
	ported   = valueSet{spans: []span.Span{exactly(inet.TCP), exactly(inet.UDP), exactly(inet.SCTP), exactly(inet.UDPLite)}}
	unported = ported.complement(dimProtocol)
)

func exactly(p inet.Protocol) span.Span { return span.Numbers(uint32(p), uint32(p)) }

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
			s.spans = append(s.spans, span.Numbers(uint32(r.Min), uint32(r.Max)))
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
				s.spans = append(s.spans, span.Of(i))
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
			four := valueSet{spans: []span.Span{mappedSpan}}
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
	s.spans = span.Union(s.spans)
	if not {
		s = s.complement(d)
	}
	return d, s, true
}

func maskSpans(m ir.Mask) []span.Span {
	var s []span.Span
	for n := uint32(0); n < 256; n++ {
		if !m.Has(uint8(n)) {
			continue
		}
		lo := n
		for n < 255 && m.Has(uint8(n+1)) {
			n++
		}
		s = append(s, span.Numbers(lo, n))
	}
	return s
}
