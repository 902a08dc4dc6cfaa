// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// sets returns the sets that rules use, filled with members.
func (b *builder) sets(m ir.Members) []Set {
	sets := make([]Set, 0, len(b.used))
	notes := make(map[ir.SetID]string, len(b.p.Sets))
	for _, s := range b.p.Sets {
		notes[s.ID] = strings.TrimRight(quotable(string(s.ID)+" "+s.Note, maxComment), " ")
	}
	for name, u := range b.used {
		sets = append(sets, Set{
			Name: name, ID: u.id, Kind: b.kinds[u.id], Family: u.family, Comment: notes[u.id],
			Elements: Elements(m.Set(u.id), b.kinds[u.id], u.family),
		})
	}
	slices.SortFunc(sets, func(a, c Set) int { return strings.Compare(a.Name, c.Name) })
	return sets
}

// Elements returns what a set of the given kind and family holds if its members are in: only what can match a packet,
// and no prefix inside another one, which the kernel refuses. In must be sorted as ir.CompareElements does.
func Elements(in []ir.Element, kind ir.SetKind, f inet.Family) []ir.Element {
	out := make([]ir.Element, 0, len(in))
	ordered := true
	for _, e := range in {
		e, ok := Normal(e, kind)
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
	if kind != ir.SetOfPrefixes {
		return out
	}
	kept := out[:0]
	for _, e := range out { // sorted by address and then by length: the wider prefix comes first
		if n := len(kept); n == 0 || !kept[n-1].Prefix.Contains(e.Prefix.Addr()) {
			kept = append(kept, e)
		}
	}
	return kept
}

// Normal returns the member in the form that sets hold; false if it cannot match any packet.
func Normal(e ir.Element, kind ir.SetKind) (ir.Element, bool) {
	p := e.Prefix
	if !p.IsValid() || p.Addr().Zone() != "" {
		return e, false
	}
	if p.Addr().Is4In6() {
		if p.Bits() < 96 {
			return e, false
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	p = p.Masked()
	if kind == ir.SetOfPrefixes {
		return ir.Element{Prefix: p}, true
	}
	return ir.Element{Prefix: p, Protocol: e.Protocol, Port: e.Port}, p.IsSingleIP() && withPorts.Has(uint8(e.Protocol))
}
