// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

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

// join returns the tests of both; false if one rule cannot hold them. It may write behind the end of a.
func join(a []Test, c alt) ([]Test, bool) {
	n := len(a)
next:
	for _, t := range c {
		r := rank(t)
		for i, u := range a {
			if rank(u) != r || r >= 7 { // modules may occur more than once
				if hasEqual(u) && u == t {
					continue next
				}
				continue
			}
			if u == t {
				continue next
			}
			switch t := t.(type) {
			case Protocol:
				u := u.(Protocol)
				switch {
				case t.Not && !u.Not && t.Number != u.Number:
					continue next // u says more
				case !t.Not && u.Not && t.Number != u.Number:
					a = append(a[:i:i], a[i+1:]...)
					a = append(a, t)
					continue next
				}
			case InIface:
				if u := u.(InIface); within(t.Name, t.Prefix, t.Not, u.Name, u.Prefix, u.Not) {
					a = append(append(a[:i:i], a[i+1:]...), t)
					continue next
				} else if within(u.Name, u.Prefix, u.Not, t.Name, t.Prefix, t.Not) {
					continue next
				}
			case OutIface:
				if u := u.(OutIface); within(t.Name, t.Prefix, t.Not, u.Name, u.Prefix, u.Not) {
					a = append(append(a[:i:i], a[i+1:]...), t)
					continue next
				} else if within(u.Name, u.Prefix, u.Not, t.Name, t.Prefix, t.Not) {
					continue next
				}
			case SourcePort:
				t2 := MultiPort{Source: true, Ranges: []inet.PortRange{t.Ports}, Not: t.Not}
				a = append(a, t2)
				continue next
			case DestinationPort:
				t2 := MultiPort{Ranges: []inet.PortRange{t.Ports}, Not: t.Not}
				a = append(a, t2)
				continue next
			}
			return a[:n:n], false
		}
		a = append(a, t)
	}
	return a, true
}

// within reports whether all names of the first pattern are names of the second; false if a negation is in it.
func within(name string, prefix, not bool, of string, ofPrefix, ofNot bool) bool {
	if not || ofNot {
		return false
	}
	return name == of && !(prefix && !ofPrefix) || ofPrefix && strings.HasPrefix(name, of)
}

// hasEqual reports whether == works on the test.
func hasEqual(t Test) bool {
	_, ok := t.(MultiPort)
	return !ok
}

// bySets returns a with the tests for addresses replaced by tests for sets, of which a rule can hold many.
func (b *builder) bySets(a alt) alt {
	out := slices.Clone(a)
	for i, t := range out {
		switch t := t.(type) {
		case Source:
			out[i] = InSet{Set: b.constSet([]netip.Prefix{t.Prefix}).name, Source: true, Not: t.Not}
		case Destination:
			out[i] = InSet{Set: b.constSet([]netip.Prefix{t.Prefix}).name, Not: t.Not}
		}
	}
	return out
}

// contradict reports whether no packet satisfies both, if that is easy to see: they name two protocols or two messages.
func contradict(a, c []Test) bool {
	for _, t := range a {
		for _, u := range c {
			switch p := t.(type) {
			case Protocol:
				q, ok := u.(Protocol)
				if ok && (!p.Not && !q.Not && p.Number != q.Number || p.Not != q.Not && p.Number == q.Number) {
					return true
				}
			case ICMP:
				switch q := u.(type) {
				case ICMP:
					if !p.Not && !q.Not && (p.Type != q.Type || !p.AnyCode && !q.AnyCode && p.Code != q.Code) {
						return true
					}
				case Bytes: // of another type
					return true
				}
			case Bytes:
				if _, ok := u.(ICMP); ok {
					return true
				}
			case InIface:
				if q, ok := u.(InIface); ok && apart(p.Name, p.Prefix, p.Not, q.Name, q.Prefix, q.Not) {
					return true
				}
			case OutIface:
				if q, ok := u.(OutIface); ok && apart(p.Name, p.Prefix, p.Not, q.Name, q.Prefix, q.Not) {
					return true
				}
			}
		}
	}
	return false
}

// apart reports whether no name is in both patterns.
func apart(n string, prefix, not bool, m string, mPrefix, mNot bool) bool {
	switch {
	case not && mNot:
		return false
	case not:
		return within(m, mPrefix, false, n, prefix, false)
	case mNot:
		return within(n, prefix, false, m, mPrefix, false)
	}
	return !within(n, prefix, false, m, mPrefix, false) && !within(m, mPrefix, false, n, prefix, false)
}

// sortTests sorts tests as iptables-save prints them; few tests, nearly sorted.
func sortTests(ts []Test) {
	for i := 1; i < len(ts); i++ {
		for j := i; j > 0 && rank(ts[j]) < rank(ts[j-1]); j-- {
			ts[j], ts[j-1] = ts[j-1], ts[j]
		}
	}
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

// term appends the alternatives of a term; none if it cannot hold. It reports true if it always holds.
func (b *builder) term(as []alt, t ir.Term, k facts) (_ []alt, always bool, err error) {
	switch t := t.(type) {
	case ir.InPorts:
		return b.ports(as, t, k)
	case ir.InPrefixes:
		return b.prefixes(as, t)
	case ir.InNames:
		return b.nameTerm(as, t, k)
	case ir.InMask:
		return b.maskTerm(as, t, k)
	case ir.InSet:
		test, err := b.setTest(t)
		return append(as, b.alt1(test)), false, err
	}
	return nil, false, fmt.Errorf("iptables: unknown term %T", t)
}

// slots is how many ports the multiport match holds.
const slots = 15

func (b *builder) ports(as []alt, t ir.InPorts, k facts) (_ []alt, always bool, err error) {
	if t.Field != ir.SrcPort && t.Field != ir.DstPort {
		return nil, false, fmt.Errorf("iptables: %s has no ports", t.Field)
	}
	if len(t.Ranges) == 0 {
		return as, false, nil
	}
	every := len(t.Ranges) == 1 && t.Ranges[0] == (inet.PortRange{Max: 65535})
	if every && and(k.protocols, not(withPorts)) == (ir.Mask{}) {
		return nil, true, nil
	}
	for _, p := range portList {
		if !k.protocols.Has(uint8(p)) {
			continue
		}
		proto := protocolTest(p)
		switch {
		case every:
			as = append(as, b.alt1(proto))
		case len(t.Ranges) == 1 && (p == inet.TCP || p == inet.UDP) && t.Field == ir.SrcPort:
			as = append(as, b.alt2(proto, SourcePort{p, t.Ranges[0], false}))
		case len(t.Ranges) == 1 && (p == inet.TCP || p == inet.UDP):
			as = append(as, b.alt2(proto, DestinationPort{p, t.Ranges[0], false}))
		default:
			for from := 0; from < len(t.Ranges); {
				n, room := from, slots
				for n < len(t.Ranges) && room >= slotsOf(t.Ranges[n]) {
					room -= slotsOf(t.Ranges[n])
					n++
				}
				as = append(as, b.alt2(proto, MultiPort{Source: t.Field == ir.SrcPort, Ranges: t.Ranges[from:n:n]}))
				from = n
			}
		}
	}
	return as, false, nil
}

func slotsOf(r inet.PortRange) int {
	if r.Min == r.Max {
		return 1
	}
	return 2
}

func (b *builder) alt1(t Test) alt {
	a := b.testA.room(1)
	a[0] = t
	return a
}

func (b *builder) alt2(t, u Test) alt {
	a := b.testA.room(2)
	a[0], a[1] = t, u
	return a
}

// protocolTest returns the test without allocating it for the common protocols.
func protocolTest(n inet.Protocol) Test {
	switch n {
	case inet.TCP:
		return Protocol{Number: inet.TCP}
	case inet.UDP:
		return Protocol{Number: inet.UDP}
	}
	return Protocol{Number: n}
}

func (b *builder) prefixes(as []alt, t ir.InPrefixes) (_ []alt, always bool, err error) {
	if t.Field != ir.SrcAddr && t.Field != ir.DstAddr {
		return nil, false, fmt.Errorf("iptables: %s has no prefixes", t.Field)
	}
	ps := ofFamily(t.Prefixes, b.family)
	switch {
	case len(ps) == 0:
		return as, false, nil
	case len(ps) == 1 && ps[0].Bits() == 0:
		return nil, true, nil
	case len(ps) > 1:
		return append(as, b.alt1(b.constTest(ps, t.Field == ir.SrcAddr))), false, nil
	case t.Field == ir.SrcAddr:
		return append(as, b.alt1(Source{Prefix: ps[0]})), false, nil
	}
	return append(as, b.alt1(Destination{Prefix: ps[0]})), false, nil
}

// ofFamily returns the part of a sorted list that is of the family.
func ofFamily(ps []netip.Prefix, f inet.Family) []netip.Prefix {
	n := 0
	for n < len(ps) && ps[n].Addr().Is4() {
		n++
	}
	if f == inet.IPv4 {
		return ps[:n:n]
	}
	return ps[n:]
}

func (b *builder) nameTerm(as []alt, t ir.InNames, k facts) (_ []alt, always bool, err error) {
	present, err := hasIface(t.Field, k.hook)
	if err != nil || !present {
		return as, false, err
	}
	for _, n := range t.Names {
		if _, ok := ir.Name(n.Name); !ok && !(n.Prefix && n.Name == "") {
			return nil, false, fmt.Errorf("iptables: %q is not the name of an interface", n.Name)
		}
		if !plainIface(n) {
			return nil, false, b.unsupported("the interface name %q, which iptables cannot write", n.Name)
		}
		name, prefix := n.Name, n.Prefix && len(n.Name) < ir.MaxNameLen
		if prefix && name == "" {
			return nil, true, nil
		}
		if t.Field == ir.InIface {
			as = append(as, alt{InIface{Name: name, Prefix: prefix}})
		} else {
			as = append(as, alt{OutIface{Name: name, Prefix: prefix}})
		}
	}
	return as, false, nil
}

// plainIface reports whether iptables can write the name: a '+' at its end would mean any name that begins so.
func plainIface(n ir.NamePattern) bool {
	for i, c := range []byte(n.Name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.', c == ':', c == '@', c == '%':
		case (c == '-' || c == '+') && i > 0 && !(c == '+' && i == len(n.Name)-1 && !n.Prefix):
		default:
			return false
		}
	}
	return true
}

// hasIface reports whether packets at the hook have the interface: packets generated here came by none, and before
// routing and on the way to a process there is none to leave by.
func hasIface(f ir.Field, h flow.Hook) (bool, error) {
	switch f {
	case ir.InIface:
		return h != flow.UntrackedOut && h != flow.NormalOut, nil
	case ir.OutIface:
		return h != flow.UntrackedIn && h != flow.PreDNAT && h != flow.NormalIn, nil
	}
	return false, fmt.Errorf("iptables: %s has no names", f)
}

func (b *builder) maskTerm(as []alt, t ir.InMask, k facts) (_ []alt, always bool, err error) {
	switch t.Field {
	case ir.Family:
		return as, maskOf(t).Has(uint8(b.family)), nil
	case ir.Protocol:
		want := and(k.protocols, maskOf(t))
		if want == k.protocols {
			return nil, true, nil
		}
		c := b.protocolClause(want)
		if c.hasNeg { // only in a clause of several terms
			c.pos = nil
			for _, n := range numbers(want) {
				if n != 0 {
					c.pos = append(c.pos, alt{Protocol{Number: inet.Protocol(n)}})
				}
			}
		}
		return append(as, c.pos...), false, nil
	case ir.ICMPType, ir.ICMPCode:
		if and(k.protocols, b.icmp()) == (ir.Mask{}) {
			return as, false, nil
		}
		var m icmpMessages
		m.add(t)
		return append(as, m.alts(b.family)...), false, nil
	case ir.State:
		if k.hook.Stage() == flow.StageUntracked {
			return as, t.Not, nil
		}
		want := and(allStates, maskOf(t))
		switch want {
		case ir.Mask{}:
			return as, false, nil
		case allStates:
			return nil, true, nil
		}
		return append(as, alt{State{want}}), false, nil
	}
	return nil, false, fmt.Errorf("iptables: %s has no small numbers", t.Field)
}

func (b *builder) setTest(t ir.InSet) (Test, error) {
	kind, ok := b.kinds[t.Set]
	if !ok {
		return nil, fmt.Errorf("iptables: set %q is not declared", t.Set)
	}
	ok = false
	if len(t.Fields) > 0 {
		port := ir.DstPort
		if t.Fields[0] == ir.SrcAddr {
			port = ir.SrcPort
		}
		addr := t.Fields[0] == ir.SrcAddr || t.Fields[0] == ir.DstAddr
		switch kind {
		case ir.SetOfPrefixes:
			ok = addr && len(t.Fields) == 1
		case ir.SetOfEndpoints:
			ok = addr && len(t.Fields) == 3 && t.Fields[1] == ir.Protocol && t.Fields[2] == port
		}
	}
	if !ok {
		return nil, fmt.Errorf("iptables: set %q of %s cannot be asked for %v", t.Set, kind, t.Fields)
	}
	u := b.useSet(t.Set)
	i := 0
	if t.Fields[0] == ir.SrcAddr {
		i = 1
	}
	if u.tests[i] == nil {
		u.tests[i] = InSet{Set: u.name, Source: i == 1, Port: kind == ir.SetOfEndpoints}
	}
	return u.tests[i], nil
}
