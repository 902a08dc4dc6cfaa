// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"sort"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
)

// usedSet is an IR set in one family.
type usedSet struct {
	id     ir.SetID
	family inet.Family
}

type setUse struct {
	name  string
	tests [2]Test // for the destination and the source, once made
}

// useSet makes a set part of the ruleset.
func (b *builder) useSet(id ir.SetID) *setUse {
	u := usedSet{id, b.family}
	s, ok := b.used[u]
	if !ok {
		s = &setUse{name: setName(b.o.Prefix, id, b.family)}
		b.used[u] = s
	}
	return s
}

// constSet makes the set that holds the prefixes part of the ruleset.
func (b *builder) constSet(ps []netip.Prefix) *setUse {
	text := b.scr.text[:0]
	for _, p := range ps {
		text = append(p.AppendTo(text), '\n')
	}
	b.scr.text = text
	if u, ok := b.consts[string(text)]; ok {
		return u
	}
	u := &setUse{name: b.o.Prefix + b.family.String() + "=" + hashText(sha256.Sum256(text))}
	b.consts[string(text)] = u
	b.constOf[u.name] = slices.Clone(ps)
	es := make([]ir.Element, 0, len(ps)+1)
	for _, p := range ps {
		es = append(es, ir.Element{Prefix: p})
	}
	b.constSets = append(b.constSets, Set{
		Name: u.name, Kind: ir.SetOfPrefixes, Family: b.family, Use: Constant,
		Max: max(len(es)+1, 16), Elements: splitDefault(es),
	})
	return u
}

// constTest returns the test for a constant set.
func (b *builder) constTest(ps []netip.Prefix, source bool) Test {
	u := b.constSet(ps)
	i := 0
	if source {
		i = 1
	}
	if u.tests[i] == nil {
		u.tests[i] = InSet{Set: u.name, Source: source}
	}
	return u.tests[i]
}

// fill adds the sets to a ruleset.
func (g *program) fill(r *Ruleset, m ir.Members) error {
	r.consts = slices.DeleteFunc(g.constSets, func(s Set) bool { return !g.inUse[s.Name] })
	slices.SortFunc(r.consts, func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	uses := g.uses()
	for u, s := range g.used {
		if !g.inUse[s.name] {
			continue
		}
		r.members = append(r.members, Set{Name: s.name, ID: u.id, Kind: g.kinds[u.id], Family: u.family, Use: uses[u.id], Max: g.o.MaxSet})
	}
	slices.SortFunc(r.members, func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	sets, err := r.fill(m)
	r.Sets, r.source = sets, m
	return err
}

// fill returns the sets with members m. Sets whose members are the very ones that r was filled with are not looked at.
func (r *Ruleset) fill(m ir.Members) ([]Set, error) {
	sets := make([]Set, 0, len(r.consts)+len(r.members))
	sets = append(sets, r.consts...)
	for _, s := range r.members {
		in := m.Set(s.ID)
		old, ok := r.Set(s.Name)
		if ok && same(in, r.source.Set(s.ID)) {
			sets = append(sets, *old)
			continue
		}
		var added, removed []ir.Element
		if ok {
			s.Elements, s.shared, added, removed = refilled(old.Elements, r.source.Set(s.ID), in, old.shared, s.Kind, s.Family)
		} else {
			s.Elements, s.shared = elements(in, s.Kind, s.Family)
		}
		if len(s.Elements) > s.Max {
			return nil, &render.UnsupportedError{Backend: Backend, What: fmt.Sprintf("set %s has %d elements; the limit is %d", s.ID, len(s.Elements), s.Max)}
		}
		if ok {
			s.sum = old.sum
			for _, e := range removed {
				s.sum.Remove(s.Name, e)
			}
			for _, e := range added {
				s.sum.Add(s.Name, e)
			}
		} else {
			for _, e := range s.Elements {
				s.sum.Add(s.Name, e)
			}
		}
		sets = append(sets, s)
	}
	slices.SortFunc(sets, func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	return sets, nil
}

// refilled returns what elements returns for the members in, given that it returned have and shared for other ones, and
// the difference: with little work where the members differ little.
func refilled(have, before, in []ir.Element, shared bool, kind ir.SetKind, f inet.Family) (out []ir.Element, still bool, added, removed []ir.Element) {
	x, y := trim(before, in)
	// The halves of a prefix of length 0 may be members as well.
	if !asHeld(x, kind) || !asHeld(y, kind) || hasDefault(before) || hasDefault(in) {
		out, still = elements(in, kind, f)
		added, removed = ir.DiffElements(have, out)
		return out, still, added, removed
	}
	x, y = elementsOf(x, f), elementsOf(y, f)
	added, removed = ir.DiffElements(x, y)
	if shared {
		return elementsOf(in, f), true, added, removed
	}
	out = make([]ir.Element, 0, len(have)+len(y))
	for _, e := range x { // all of them are in have
		i, _ := slices.BinarySearchFunc(have, e, ir.CompareElements)
		for len(y) > 0 && ir.CompareElements(y[0], e) <= 0 {
			j, _ := slices.BinarySearchFunc(have[:i], y[0], ir.CompareElements)
			out = append(append(out, have[:j]...), y[0])
			have, i, y = have[j:], i-j, y[1:]
		}
		out = append(out, have[:i]...)
		if have = have[i:]; len(have) > 0 && have[0] == e {
			have = have[1:]
		}
	}
	for _, e := range y {
		i, _ := slices.BinarySearchFunc(have, e, ir.CompareElements)
		out = append(append(out, have[:i]...), e)
		have = have[i:]
	}
	return append(out, have...), false, added, removed
}

// asHeld reports whether every element is in the form that sets hold, and all are in order.
func asHeld(es []ir.Element, kind ir.SetKind) bool {
	for i, e := range es {
		n, ok := normal(e, kind)
		if !ok || n != e || e.Prefix.Bits() == 0 || i > 0 && ir.CompareElements(es[i-1], e) >= 0 {
			return false
		}
	}
	return true
}

// elementsOf returns the members of a sorted list that are of the family: IPv4 comes first.
func elementsOf(es []ir.Element, f inet.Family) []ir.Element {
	n := sort.Search(len(es), func(i int) bool { return !es[i].Prefix.Addr().Is4() })
	if f == inet.IPv4 {
		return es[:n:n]
	}
	return es[n:]
}

// hasDefault reports whether a sorted list has a prefix of length 0.
func hasDefault(es []ir.Element) bool {
	for _, p := range [...]netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
		if _, ok := slices.BinarySearchFunc(es, ir.Element{Prefix: p}, ir.CompareElements); ok {
			return true
		}
	}
	return false
}

// trim returns two lists without what they have in common at both ends.
func trim(x, y []ir.Element) (_, _ []ir.Element) {
	for len(x) > 0 && len(y) > 0 && x[0] == y[0] {
		x, y = x[1:], y[1:]
	}
	for len(x) > 0 && len(y) > 0 && x[len(x)-1] == y[len(y)-1] {
		x, y = x[:len(x)-1], y[:len(y)-1]
	}
	return x, y
}

// same reports whether two slices are one.
func same(a, b []ir.Element) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

// Refill returns the ruleset with other members, under the conditions of Render. It looks closely only at sets whose
// slice of elements is another one than before.
func (r *Ruleset) Refill(m ir.Members) (*Ruleset, error) {
	q := *r
	sets, err := r.fill(m)
	if err != nil {
		return nil, err
	}
	q.Sets, q.source = sets, m
	return &q, nil
}

// Elements returns what a set of the given kind and family holds if its members are in: only what can match a packet. In
// must be sorted as ir.CompareElements does; the result may share its memory.
func Elements(in []ir.Element, kind ir.SetKind, f inet.Family) []ir.Element {
	out, _ := elements(in, kind, f)
	return out
}

// elements is Elements, and reports whether the result is a part of in, which then holds nothing that sets do not hold.
func elements(in []ir.Element, kind ir.SetKind, f inet.Family) ([]ir.Element, bool) {
	if asHeld(in, kind) {
		return elementsOf(in, f), true
	}
	out := make([]ir.Element, 0, len(in)+1)
	ordered := true
	for _, e := range in {
		e, ok := normal(e, kind)
		if !ok || (f == inet.IPv4) != e.Prefix.Addr().Is4() {
			continue
		}
		if n := len(out); n > 0 && ir.CompareElements(out[n-1], e) >= 0 {
			ordered = false
		}
		out = append(out, e)
	}
	if !ordered { // IPv4-mapped prefixes moved, or the caller broke the rule
		slices.SortFunc(out, ir.CompareElements)
		out = slices.Compact(out)
	}
	if kind == ir.SetOfPrefixes {
		return splitDefault(out), false
	}
	return out, false
}

// normal returns the member in the form that sets hold; false if it cannot match any packet. An ICMP message would have
// its type and code as port.
func normal(e ir.Element, kind ir.SetKind) (ir.Element, bool) {
	p, ok := ir.PlainPrefix(e.Prefix)
	if !ok || p.Addr().Zone() != "" || p.Addr().Is4In6() {
		return e, false
	}
	if kind == ir.SetOfPrefixes {
		return ir.Element{Prefix: p}, true
	}
	return ir.Element{Prefix: p, Protocol: e.Protocol, Port: e.Port}, p.IsSingleIP() && withPorts.Has(uint8(e.Protocol))
}

// splitDefault replaces a prefix of length 0, which ipset does not take, by its halves. Es is sorted and may be changed.
// Ref: net/netfilter/ipset/ip_set_hash_net.c.
func splitDefault(es []ir.Element) []ir.Element {
	i := slices.IndexFunc(es, func(e ir.Element) bool { return e.Prefix.Bits() == 0 })
	if i < 0 {
		return es
	}
	lo := es[i].Prefix.Addr()
	hi := netip.IPv6Unspecified().As16()
	hi[0] = 0x80
	upper := netip.AddrFrom16(hi)
	if lo.Is4() {
		upper = netip.AddrFrom4([4]byte{0x80})
	}
	out := append(slices.Delete(es, i, i+1), ir.Element{Prefix: netip.PrefixFrom(lo, 1)}, ir.Element{Prefix: netip.PrefixFrom(upper, 1)})
	slices.SortFunc(out, ir.CompareElements)
	return slices.Compact(out)
}

// uses finds out what it means to be in a set. A test that a Pass or a call depends on may mean anything.
func (g *program) uses() map[ir.SetID]Use {
	uses := map[ir.SetID]Use{}
	for _, blk := range g.p.Blocks {
		for _, s := range blk.Steps {
			switch s := s.(type) {
			case ir.Rule:
				in := Ambiguous
				switch {
				case s.Then == ir.Undecided:
					in = Unused
				case s.Then == ir.Allow:
					in = Opens
				case s.Then == ir.Deny:
					in = Closes
				}
				addUses(uses, s.Match, in)
			case ir.Call:
				addUses(uses, s.Match, Ambiguous)
			}
		}
	}
	return uses
}

func addUses(uses map[ir.SetID]Use, m ir.Match, in Use) {
	for _, c := range m {
		for _, t := range c {
			if t, ok := t.(ir.InSet); ok {
				use := in
				if t.Not && (in == Opens || in == Closes) {
					use = Ambiguous &^ in
				}
				uses[t.Set] |= use
			}
		}
	}
}
