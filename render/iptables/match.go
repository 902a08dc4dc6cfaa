// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"math/bits"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// A match of the IR is a conjunction of clauses; a rule of iptables is a conjunction of tests, with room for one of each
// of the basic ones. A clause with one term is mostly one test. What is left are alternatives: of terms in a clause, and
// those that hide in a term, since a rule can name one protocol, fifteen ports and one type of ICMP.

// alt is a conjunction of tests that one rule can hold; an empty one always holds.
type alt []Test

// clause holds if one of pos does, or if it has a negative part and none of neg does.
type clause struct {
	pos    []alt
	hasNeg bool
	neg    []alt
}

// lowered is a match for one hook and family: all tests of base, and all clauses.
type lowered struct {
	base    []Test
	clauses []clause
}

func (m *lowered) always() bool { return len(m.base) == 0 && len(m.clauses) == 0 }

// count returns the number of rules that m is, multiplied out; more than limit if some clause has a negative part.
func (m *lowered) count(limit int) int {
	n := 1
	for i := range m.clauses {
		c := &m.clauses[i]
		if c.hasNeg {
			return limit + 1
		}
		if n *= len(c.pos); n > limit {
			return limit + 1
		}
	}
	return n
}

var (
	allNumbers = ir.Mask{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}
	withPorts  = ir.MaskOf(inet.TCP, inet.UDP, inet.SCTP, inet.UDPLite)
	onlyICMP   = ir.MaskOf(inet.ICMP)
	onlyICMPv6 = ir.MaskOf(inet.ICMPv6)
	allStates  = ir.MaskOf(flow.New, flow.Established, flow.Related, flow.Invalid, flow.Untracked)
	portList   = [...]inet.Protocol{inet.TCP, inet.UDP, inet.SCTP, inet.UDPLite}
)

func and(a, b ir.Mask) ir.Mask { return ir.Mask{a[0] & b[0], a[1] & b[1], a[2] & b[2], a[3] & b[3]} }
func or(a, b ir.Mask) ir.Mask  { return ir.Mask{a[0] | b[0], a[1] | b[1], a[2] | b[2], a[3] | b[3]} }
func not(a ir.Mask) ir.Mask    { return ir.Mask{^a[0], ^a[1], ^a[2], ^a[3]} }
func count(a ir.Mask) int {
	return bits.OnesCount64(a[0]) + bits.OnesCount64(a[1]) + bits.OnesCount64(a[2]) + bits.OnesCount64(a[3])
}

// numbers returns the members of the mask, in order.
func numbers(a ir.Mask) []uint8 {
	out := make([]uint8, 0, count(a))
	for n := 0; n < 256; n++ {
		if a.Has(uint8(n)) {
			out = append(out, uint8(n))
		}
	}
	return out
}

// maskOf returns the values that satisfy the term, if the field is present.
func maskOf(t ir.InMask) ir.Mask {
	if t.Not {
		return not(t.Mask)
	}
	return t.Mask
}

// facts are what is known of every packet that gets as far as a test.
type facts struct {
	hook      flow.Hook
	protocols ir.Mask
}

func (b *builder) icmp() ir.Mask {
	if b.family == inet.IPv4 {
		return onlyICMP
	}
	return onlyICMPv6
}

// lower returns what a match is for packets of the builder's family at the hook; false if none can match. The result is
// valid until the next call.
func (b *builder) lower(h flow.Hook, m ir.Match) (*lowered, bool, error) {
	out := &b.scr.low
	out.base, out.clauses = b.scr.base[:0], out.clauses[:0]
	k := facts{hook: h, protocols: allNumbers}
	messages := icmpMessages{}
	for _, c := range m {
		if len(c) != 1 {
			continue
		}
		switch t := c[0].(type) {
		case ir.InMask:
			switch t.Field {
			case ir.Family:
				if !maskOf(t).Has(uint8(b.family)) {
					return nil, false, nil
				}
			case ir.Protocol:
				k.protocols = and(k.protocols, maskOf(t))
			case ir.ICMPType, ir.ICMPCode:
				messages.add(t)
			}
		}
		k.protocols = and(k.protocols, b.demand(c[0]))
	}
	if k.protocols == (ir.Mask{}) {
		return nil, false, nil
	}
	for _, c := range m {
		if len(c) == 1 && messages.takes(c[0]) {
			continue
		}
		x, always, err := b.clause(c, k)
		if err != nil {
			return nil, false, err
		}
		if !always && !b.and(out, x, k) {
			return nil, false, nil
		}
	}
	if messages.any {
		if !b.and(out, clause{pos: messages.alts(b.family)}, k) {
			return nil, false, nil
		}
	}
	if !b.protocolTests(out, k.protocols) {
		return nil, false, nil
	}
	sortTests(out.base)
	b.scr.base = out.base
	out.base = b.testA.copy(out.base)
	return out, true, nil
}

// demand returns the protocols of the packets that can satisfy t.
func (b *builder) demand(t ir.Term) ir.Mask {
	switch t := t.(type) {
	case ir.InPorts:
		if !t.Not {
			return withPorts
		}
	case ir.InMask:
		if (t.Field == ir.ICMPType || t.Field == ir.ICMPCode) && !t.Not {
			return b.icmp()
		}
	}
	return allNumbers
}

// and adds a clause to a match. It reports false if the clause cannot hold.
func (b *builder) and(m *lowered, c clause, k facts) bool {
	if !c.hasNeg {
		switch len(c.pos) {
		case 0:
			return false
		case 1:
			if base, ok := join(m.base, c.pos[0]); ok {
				m.base = base
				return true
			}
			if base, ok := join(m.base, b.bySets(c.pos[0])); ok {
				m.base = base
				return true
			}
		}
		if p, ok := commonProtocol(c.pos); ok { // packets of other protocols should not get as far as the alternatives
			if base, ok := join(m.base, alt{p}); ok {
				m.base = base
			}
		}
		c.pos = slices.Clone(c.pos)
		m.clauses = append(m.clauses, c)
		return true
	}
	if len(c.pos) == 0 {
		// What one negated test says needs no clause.
		rest := c.neg[:0:0]
		for _, a := range c.neg {
			if len(a) == 0 {
				return false
			}
			if t, ok := negated(a, k.protocols); ok {
				if base, ok := join(m.base, t); ok {
					m.base = base
					continue
				}
				if base, ok := join(m.base, b.bySets(t)); ok {
					m.base = base
					continue
				}
			}
			rest = append(rest, a)
		}
		if c.neg = rest; len(rest) == 0 {
			return true
		}
	}
	c.pos = slices.Clone(c.pos)
	m.clauses = append(m.clauses, c)
	return true
}

// commonProtocol returns the test for a protocol that is part of all alternatives.
func commonProtocol(as []alt) (Test, bool) {
	for i, a := range as {
		if len(a) == 0 {
			return nil, false
		}
		if p, ok := a[0].(Protocol); !ok || p.Not || i > 0 && a[0] != as[0][0] {
			return nil, false
		}
	}
	return as[0][0], true
}

// negated returns the tests that hold where a does not, for packets of the given protocols.
func negated(a alt, protocols ir.Mask) (alt, bool) {
	var last Test
	var proto *Protocol
	for _, t := range a {
		if p, ok := t.(Protocol); ok && !p.Not && len(a) > 1 {
			if protocols != ir.MaskOf(p.Number) {
				return nil, false
			}
			proto = &p
			continue
		}
		if last != nil {
			return nil, false
		}
		last = t
	}
	switch t := last.(type) {
	case Source:
		t.Not = !t.Not
		last = t
	case Destination:
		t.Not = !t.Not
		last = t
	case InIface:
		t.Not = !t.Not
		last = t
	case OutIface:
		t.Not = !t.Not
		last = t
	case Protocol:
		t.Not = !t.Not
		last = t
	case SourcePort:
		t.Ports, t.Not = complement(t.Ports, t.Not)
		last = t
	case DestinationPort:
		t.Ports, t.Not = complement(t.Ports, t.Not)
		last = t
	case MultiPort:
		t.Not = !t.Not
		last = t
	case ICMP:
		t.Not = !t.Not
		last = t
	case State:
		t.States = and(not(t.States), allStates)
		last = t
	case InSet:
		t.Not = !t.Not
		last = t
	default:
		return nil, false
	}
	if proto != nil {
		return alt{*proto, last}, true
	}
	return alt{last}, true
}

// complement returns the test for the other ports, without negation if they are one range, as iptables-save of the
// variant nft prints it.
func complement(r inet.PortRange, not bool) (inet.PortRange, bool) {
	switch {
	case not:
		return r, false
	case r.Min == 0 && r.Max < 65535:
		return inet.PortRange{Min: r.Max + 1, Max: 65535}, false
	case r.Max == 65535 && r.Min > 0:
		return inet.PortRange{Max: r.Min - 1}, false
	}
	return r, true
}

// protocolTests adds the test for the protocols, unless other tests imply it. It reports false if nothing is left.
func (b *builder) protocolTests(m *lowered, protocols ir.Mask) bool {
	if protocols == allNumbers {
		return true
	}
	for _, t := range m.base {
		if p, ok := t.(Protocol); ok && !p.Not {
			return protocols.Has(uint8(p.Number))
		}
	}
	for i := range m.clauses {
		if c := &m.clauses[i]; !c.hasNeg && allNameProtocol(c.pos) {
			kept := c.pos[:0:0]
			for _, a := range c.pos {
				if hasProtocolOf(a, protocols) {
					kept = append(kept, a)
				}
			}
			c.pos = kept
			return len(kept) > 0
		}
	}
	return b.and(m, b.protocolClause(protocols), facts{protocols: protocols})
}

func allNameProtocol(as []alt) bool {
	for _, a := range as {
		if !hasProtocolOf(a, allNumbers) {
			return false
		}
	}
	return true
}

func hasProtocolOf(a alt, protocols ir.Mask) bool {
	for _, t := range a {
		if p, ok := t.(Protocol); ok && !p.Not && protocols.Has(uint8(p.Number)) {
			return true
		}
	}
	return false
}

// protocolClause returns the test for some, but not all protocols.
func (b *builder) protocolClause(m ir.Mask) clause {
	one := func(n uint8) (alt, bool) {
		if n != 0 {
			return alt{Protocol{Number: inet.Protocol(n)}}, true
		}
		// To iptables protocol 0 is any protocol; in IPv6, 0 is an extension header and so never the last one.
		return alt{Bytes{"0x6&0xff=0x0"}}, b.family == inet.IPv4
	}
	list := func(m ir.Mask) (as []alt) {
		for _, n := range numbers(m) {
			if a, ok := one(n); ok {
				as = append(as, a)
			}
		}
		return as
	}
	if count(m) <= 128 {
		return clause{pos: list(m)}
	}
	return clause{hasNeg: true, neg: list(not(m))}
}

// clause returns a clause, or reports that it always holds.
//
// The result is valid until the next call.
func (b *builder) clause(c ir.Clause, k facts) (x clause, always bool, err error) {
	x.pos = b.scr.pos[:0]
	defer func() { b.scr.pos = x.pos[:0] }()
	for _, t := range c {
		if b.isNegative(t) {
			pos, every, err := b.term(nil, positive(t), k)
			switch {
			case err != nil:
				return x, false, err
			case every: // so its negation never holds
				continue
			case len(pos) == 0:
				return x, true, nil
			case !x.hasNeg:
				x.hasNeg, x.neg = true, pos
				continue
			}
			// Not a, or not b: not both.
			var both []alt
			for _, p := range x.neg {
				for _, q := range pos {
					if contradict(p, q) {
						continue
					}
					pq, ok := join(append(alt{}, p...), q)
					if !ok {
						pq, ok = join(append(alt{}, p...), b.bySets(q))
					}
					if !ok {
						return x, false, b.unsupported("several negated terms on one field in one clause")
					}
					pq = mergeICMP(pq)
					sortTests(pq)
					both = append(both, pq)
				}
			}
			if x.neg = both; len(both) == 0 {
				return x, true, nil
			}
			continue
		}
		pos, every, err := b.term(x.pos, t, k)
		if err != nil || every {
			return x, every, err
		}
		x.pos = pos
	}
	return x, false, nil
}

// isNegative reports whether the term is lowered as the negation of a positive one.
func (b *builder) isNegative(t ir.Term) bool {
	switch t := t.(type) {
	case ir.InPorts:
		return t.Not
	case ir.InPrefixes:
		return t.Not
	case ir.InNames:
		return t.Not
	case ir.InMask:
		return t.Not && (t.Field == ir.ICMPType || t.Field == ir.ICMPCode)
	case ir.InSet:
		return t.Not
	}
	return false
}

func positive(t ir.Term) ir.Term {
	switch t := t.(type) {
	case ir.InPorts:
		t.Not = false
		return t
	case ir.InPrefixes:
		t.Not = false
		return t
	case ir.InNames:
		t.Not = false
		return t
	case ir.InMask:
		t.Not = false
		return t
	case ir.InSet:
		t.Not = false
		return t
	}
	return t
}
