// SPDX-License-Identifier: Apache-2.0

package ir

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// MergePorts returns the canonical form of a list of ports: sorted, disjoint and not adjacent. Ranges with Min above Max
// hold nothing.
func MergePorts(rs []inet.PortRange) []inet.PortRange {
	s := slices.DeleteFunc(slices.Clone(rs), func(r inet.PortRange) bool { return r.Min > r.Max })
	slices.SortFunc(s, func(a, b inet.PortRange) int { return cmp.Compare(a.Min, b.Min) })
	out := s[:0]
	for _, r := range s {
		if n := len(out); n > 0 && int(r.Min) <= int(out[n-1].Max)+1 {
			out[n-1].Max = max(out[n-1].Max, r.Max)
			continue
		}
		out = append(out, r)
	}
	return out
}

// MergePrefixes returns the canonical form of a list of prefixes: masked, IPv4-mapped ones as IPv4, sorted with IPv4 first,
// and as few as possible. Invalid prefixes are left out.
func MergePrefixes(ps []netip.Prefix) []netip.Prefix {
	s := make([]netip.Prefix, 0, len(ps))
	for _, p := range ps {
		if q, ok := PlainPrefix(p); ok {
			s = append(s, q)
		}
	}
	slices.SortFunc(s, ComparePrefixes)
	out := s[:0]
	for _, p := range s {
		if n := len(out); n > 0 && out[n-1].Overlaps(p) {
			continue // sorted by address and then by length: the earlier one holds the later one
		}
		out = append(out, p)
		for n := len(out); n > 1; n = len(out) { // two halves become their parent, which may be a half again
			a, b := out[n-2], out[n-1]
			if a.Bits() != b.Bits() || a.Bits() == 0 || a.Addr().BitLen() != b.Addr().BitLen() {
				break
			}
			parent := netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked()
			if parent.Addr() != a.Addr() || !parent.Contains(b.Addr()) {
				break
			}
			out[n-2], out = parent, out[:n-1]
		}
	}
	return out
}

// PlainPrefix returns p masked, and an IPv4-mapped prefix of 96 bits and more as IPv4; false if p is invalid.
func PlainPrefix(p netip.Prefix) (netip.Prefix, bool) {
	if !p.IsValid() {
		return p, false
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), true
}

// ComparePrefixes orders prefixes: IPv4 first, then by address, then by length.
func ComparePrefixes(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 { // which compares families first
		return c
	}
	return cmp.Compare(a.Bits(), b.Bits())
}

// CompareElements orders elements by prefix, protocol and port.
func CompareElements(a, b Element) int {
	if c := ComparePrefixes(a.Prefix, b.Prefix); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
}

// CompareNames orders name patterns by name; the exact name comes before the prefix.
func CompareNames(a, b NamePattern) int {
	if c := cmp.Compare(a.Name, b.Name); c != 0 || a.Prefix == b.Prefix {
		return c
	}
	if a.Prefix {
		return 1
	}
	return -1
}

// CompareCases orders the cases of a Switch by their keys.
func CompareCases(a, b Case) int { return slices.CompareFunc(a.Key, b.Key, Interval.Compare) }

// Canonical returns a copy of p in which entries, blocks, sets and cases are sorted, and in which Origins holds each
// origin that a step names exactly once, sorted by CompareOrigins. Two programs with the same text have the same
// canonical form, but for the positions of origins. Steps that name an origin which does not exist keep a name that
// does not exist. Canonical does not mend anything else; Validate says what is wrong.
func Canonical(p *Program) *Program {
	q := &Program{Entries: slices.Clone(p.Entries), Sets: slices.Clone(p.Sets)}
	slices.SortStableFunc(q.Entries, func(a, b Entry) int { return cmp.Compare(a.Hook, b.Hook) })
	slices.SortStableFunc(q.Sets, func(a, b SetDecl) int { return cmp.Compare(a.ID, b.ID) })

	used := make([]bool, len(p.Origins)+1)
	for _, b := range p.Blocks {
		for _, s := range b.Steps {
			for _, o := range originsOf(s) {
				if int(o) < len(used) {
					used[o] = true
				}
			}
		}
	}
	order := make([]OriginID, 0, len(p.Origins))
	for i := range p.Origins {
		if used[i+1] {
			order = append(order, OriginID(i+1))
		}
	}
	slices.SortStableFunc(order, func(a, b OriginID) int { return CompareOrigins(p.Origins[a-1], p.Origins[b-1]) })
	renumbered := make([]OriginID, len(p.Origins)+1)
	for _, id := range order {
		o := p.Origins[id-1]
		if n := len(q.Origins); n == 0 || q.Origins[n-1].ID() != o.ID() {
			q.Origins = append(q.Origins, o)
		}
		renumbered[id] = OriginID(len(q.Origins))
	}
	rename := func(o OriginID) OriginID {
		if int(o) < len(renumbered) {
			return renumbered[o]
		}
		return o
	}

	q.Blocks = make([]Block, len(p.Blocks))
	for i, b := range p.Blocks {
		steps := make([]Step, len(b.Steps))
		for j, s := range b.Steps {
			steps[j] = renameOrigins(s, rename)
			if sw, ok := steps[j].(Switch); ok {
				slices.SortStableFunc(sw.Cases, CompareCases) // renameOrigins made a copy
			}
		}
		q.Blocks[i] = Block{ID: b.ID, Steps: steps}
	}
	slices.SortStableFunc(q.Blocks, func(a, b Block) int { return cmp.Compare(a.ID, b.ID) })
	return q
}

func originsOf(s Step) []OriginID {
	switch s := s.(type) {
	case Rule:
		return []OriginID{s.Origin}
	case Call:
		return []OriginID{s.Origin}
	case Switch:
		ids := make([]OriginID, len(s.Cases))
		for i, c := range s.Cases {
			ids[i] = c.Origin
		}
		return ids
	}
	return nil
}

func renameOrigins(s Step, rename func(OriginID) OriginID) Step {
	switch s := s.(type) {
	case Rule:
		s.Origin = rename(s.Origin)
		return s
	case Call:
		s.Origin = rename(s.Origin)
		return s
	case Switch:
		s.Cases = slices.Clone(s.Cases)
		for i := range s.Cases {
			s.Cases[i].Origin = rename(s.Cases[i].Origin)
		}
		return s
	}
	return s
}

// CompareOrigins orders origins by their fields in the order of their declaration, without regard to Pos.
func CompareOrigins(a, b flow.Origin) int {
	return cmp.Or(
		cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Name, b.Name),
		cmp.Compare(a.Dir, b.Dir), cmp.Compare(a.Index, b.Index), cmp.Compare(a.Protocol, b.Protocol),
		cmp.Compare(a.Port, b.Port), cmp.Compare(a.Stage, b.Stage))
}

// Canonical returns a copy of m with sets and elements sorted and without duplicates.
func (m Members) Canonical() Members {
	sets := make([]SetMembers, len(m.Sets))
	for i, s := range m.Sets {
		es := slices.Clone(s.Elements)
		slices.SortFunc(es, CompareElements)
		sets[i] = SetMembers{ID: s.ID, Elements: slices.Compact(es)}
	}
	slices.SortStableFunc(sets, func(a, b SetMembers) int { return cmp.Compare(a.ID, b.ID) })
	return Members{Sets: sets}
}

// Origin returns the origin that id names; the zero value if there is none.
func (p *Program) Origin(id OriginID) flow.Origin {
	if id == 0 || int64(id) > int64(len(p.Origins)) {
		return flow.Origin{}
	}
	return p.Origins[id-1]
}

// Block returns the block with the given ID. Blocks must be sorted.
func (p *Program) Block(id BlockID) (Block, bool) {
	i, ok := slices.BinarySearchFunc(p.Blocks, id, func(b Block, id BlockID) int { return cmp.Compare(b.ID, id) })
	if !ok {
		return Block{}, false
	}
	return p.Blocks[i], true
}

// Entry returns the entry of a hook.
func (p *Program) Entry(h flow.Hook) (Entry, bool) {
	for _, e := range p.Entries {
		if e.Hook == h {
			return e, true
		}
	}
	return Entry{}, false
}

// Set returns the elements of a set, which must not be changed; nil if m has none. Sets must be sorted.
func (m Members) Set(id SetID) []Element {
	i, ok := slices.BinarySearchFunc(m.Sets, id, func(s SetMembers, id SetID) int { return cmp.Compare(s.ID, id) })
	if !ok {
		return nil
	}
	return m.Sets[i].Elements
}
