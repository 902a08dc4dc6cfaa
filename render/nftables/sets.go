// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// usedSet is a set of the program for one family.
type usedSet struct {
	id     ir.SetID
	family inet.Family
}

// useSet returns the name of a set for one family and makes it part of the ruleset.
//
// A set of prefixes that are all single addresses is a hash, which the kernel asks and changes in constant time: sets
// of intervals are as slow to change as they are large. Ref: linux net/netfilter/nft_set_rbtree.c, nft_rbtree_commit.
func (b *builder) useSet(id ir.SetID, f inet.Family) string {
	u := usedSet{id, f}
	i, ok := b.used[u]
	if !ok {
		i = len(b.sets)
		b.used[u] = i
		s := Set{ID: id, Kind: b.kinds[id], Family: f}
		s.Elements = Elements(b.m.Set(id), s.Kind, f)
		s.Exact = s.Kind == ir.SetOfPrefixes && !slices.ContainsFunc(s.Elements, func(e ir.Element) bool { return !e.Prefix.IsSingleIP() })
		s.Name = setName(id, f, s.Exact)
		n, _ := slices.BinarySearchFunc(b.p.Sets, id, func(d ir.SetDecl, id ir.SetID) int { return strings.Compare(string(d.ID), string(id)) })
		text := string(id)
		if n < len(b.p.Sets) && b.p.Sets[n].ID == id && b.p.Sets[n].Note != "" {
			text += " " + b.p.Sets[n].Note
		}
		s.Comment = quotable(text, maxComment)
		b.sets = append(b.sets, s)
	}
	return b.sets[i].Name
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
