// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

// store holds the members of one set of the kernel, among them prefixes that others cover and that the kernel therefore
// must not have. It follows changes in time that does not depend on the number of members, but for moving memory.
type store struct {
	kind    ir.SetKind
	all     []ir.Element // sorted, unique, normal
	lengths [129]int     // how many prefixes have which length
	full    int          // the length of a single address
}

func newStore(set *render.Set, all []ir.Element) *store {
	s := &store{kind: set.Kind, all: all, full: 32}
	if set.Family == inet.IPv6 {
		s.full = 128
	}
	for _, e := range all {
		s.lengths[e.Prefix.Bits()]++
	}
	return s
}

func (s *store) find(e ir.Element) (int, bool) {
	return slices.BinarySearchFunc(s.all, e, ir.CompareElements)
}

// covered reports whether a wider prefix holds p.
func (s *store) covered(p netip.Prefix) bool {
	for n := range p.Bits() {
		if s.lengths[n] == 0 {
			continue
		}
		wide, err := p.Addr().Prefix(n)
		if err != nil {
			continue
		}
		if _, ok := s.find(ir.Element{Prefix: wide}); ok {
			return true
		}
	}
	return false
}

// below calls f with the widest prefixes inside p, p itself apart. At is where they would begin.
func (s *store) below(at int, p netip.Prefix, f func(ir.Element)) {
	var last netip.Prefix
	for ; at < len(s.all) && p.Contains(s.all[at].Prefix.Addr()); at++ {
		e := s.all[at]
		if e.Prefix == p || last.IsValid() && last.Contains(e.Prefix.Addr()) {
			continue
		}
		last = e.Prefix
		f(e)
	}
}

// delta counts what comes and goes, so that what comes and goes again is nothing.
type delta map[ir.Element]int

func (d delta) sorted() (added, removed []ir.Element) {
	for e, n := range d {
		switch {
		case n > 0:
			added = append(added, e)
		case n < 0:
			removed = append(removed, e)
		}
	}
	slices.SortFunc(added, ir.CompareElements)
	slices.SortFunc(removed, ir.CompareElements)
	return added, removed
}

// add adds a member and notes in d what it means for the kernel. It reports false if the member was there.
func (s *store) add(e ir.Element, d delta) bool {
	i, ok := s.find(e)
	if ok {
		return false
	}
	if s.kind != ir.SetOfPrefixes {
		d[e]++
	} else if !s.covered(e.Prefix) {
		s.below(i, e.Prefix, func(inside ir.Element) { d[inside]-- })
		d[e]++
	}
	s.all = slices.Insert(s.all, i, e)
	s.lengths[e.Prefix.Bits()]++
	return true
}

// remove takes a member out and notes in d what it means for the kernel. It reports false if the member was not there.
func (s *store) remove(e ir.Element, d delta) bool {
	i, ok := s.find(e)
	if !ok {
		return false
	}
	s.all = slices.Delete(s.all, i, i+1)
	s.lengths[e.Prefix.Bits()]--
	if s.kind != ir.SetOfPrefixes {
		d[e]--
	} else if !s.covered(e.Prefix) {
		d[e]--
		s.below(i, e.Prefix, func(inside ir.Element) { d[inside]++ })
	}
	return true
}

// exact reports whether all prefixes are single addresses.
func (s *store) exact() bool { return s.lengths[s.full] == len(s.all) }

// apart reports whether no member covers another one.
func (s *store) apart() bool {
	if s.kind != ir.SetOfPrefixes {
		return true
	}
	last := netip.Prefix{} // a prefix stands before all that it covers
	for i, e := range s.all {
		if i > 0 && last.Contains(e.Prefix.Addr()) {
			return false
		}
		last = e.Prefix
	}
	return true
}

// elements returns what the kernel has.
func (s *store) elements() []ir.Element {
	if s.kind != ir.SetOfPrefixes {
		return slices.Clone(s.all)
	}
	out := make([]ir.Element, 0, len(s.all))
	for _, e := range s.all {
		if n := len(out); n == 0 || !out[n-1].Prefix.Contains(e.Prefix.Addr()) {
			out = append(out, e)
		}
	}
	return out
}

// normal returns the members of one set in normal form and sorted, those that set of the kernel can hold.
func normal(in []ir.Element, s *render.Set) []ir.Element {
	out := make([]ir.Element, 0, len(in))
	ordered := true
	for _, e := range in {
		e, ok := render.Normal(e, s.Kind)
		if !ok || e.Prefix.Addr().Is4() != (s.Family == inet.IPv4) {
			continue
		}
		if n := len(out); n > 0 && ir.CompareElements(out[n-1], e) >= 0 {
			ordered = false
		}
		out = append(out, e)
	}
	if !ordered {
		slices.SortFunc(out, ir.CompareElements)
		out = slices.Compact(out)
	}
	return out
}
