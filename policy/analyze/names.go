// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"bytes"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// Names is a set of interface names: intervals of ir.Name values, sorted, disjoint. Nil stands for all.
type Names []ir.Interval

// Contains reports whether the set holds an interface name.
func (n Names) Contains(name string) bool {
	v, ok := ir.Name(name)
	return ok && (n == nil || slices.ContainsFunc(n, func(i ir.Interval) bool { return i.Contains(v) }))
}

// Any returns a name of the set: a usual one if there is one. It is "" if the set holds none.
func (n Names) Any() string {
	usual := [...]string{"eth0", "ens3", "eno1"}
	for _, s := range usual {
		if n.Contains(s) {
			return s
		}
	}
	for _, i := range n {
		if s, ok := nameIn(i); ok {
			return s
		}
	}
	return ""
}

// String returns the names, with a * behind the beginning that all names of a range have in common: "eth0, cali*",
// "not eth0, lo", or "any".
func (n Names) String() string {
	if n == nil {
		return "any"
	}
	in, inOK := patterns(n)
	out, outOK := patterns(n.gaps())
	switch {
	case inOK && (!outOK || len(in) <= len(out)):
		return strings.Join(in, ", ")
	case len(out) == 0 && outOK:
		return "any"
	case outOK:
		return "not " + strings.Join(out, ", ")
	}
	// Names that begin alike, but for some of them.
	if i, ok := commonPrefix(n); ok {
		var gaps Names
		for _, g := range n.gaps() {
			if g.Lo.Compare(i.Lo) >= 0 && g.Hi.Compare(i.Hi) <= 0 {
				gaps = append(gaps, g)
			}
		}
		if out, ok := patterns(gaps); ok {
			if in, ok := patterns(Names{i}); ok {
				return in[0] + " but not " + strings.Join(out, ", ")
			}
		}
	}
	var parts []string
	for _, i := range n {
		if p, ok := pattern(i); ok {
			parts = append(parts, p)
			continue
		}
		lo, _ := nameIn(i)
		parts = append(parts, "some such as "+lo)
	}
	return strings.Join(parts, ", ")
}

// MarshalText returns the set's String.
func (n Names) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// commonPrefix returns the smallest range of names that begin alike and hold n.
func commonPrefix(n Names) (ir.Interval, bool) {
	lo, hi := n[0].Lo, n[len(n)-1].Hi
	k := 0
	for k < len(lo) && lo[k] == hi[k] && lo[k] != 0 {
		k++
	}
	if k == 0 {
		return ir.Interval{}, false
	}
	return ir.NamePrefix(string(lo[:k]))
}

// gaps returns the names between those of n. Values that are no names of interfaces do not count.
func (n Names) gaps() Names {
	spans := make([]span.Span, len(n))
	for k, i := range n {
		spans[k] = span.Of(i)
	}
	var gaps Names
	for _, s := range span.Complement(spans, span.Last()) {
		if i := s.Interval(); hasName(i) {
			gaps = append(gaps, i)
		}
	}
	return gaps
}

// patterns writes each range as a name or as the beginning of names. It reports whether all can be.
func patterns(n Names) ([]string, bool) {
	var out []string
	for _, i := range n {
		p, ok := pattern(i)
		if !ok {
			return nil, false
		}
		out = append(out, p)
	}
	return out, true
}

func pattern(i ir.Interval) (string, bool) {
	if s, ok := i.Lo.Name(); ok {
		if one, ok := onlyName(i, s); ok {
			return one, true
		}
		if p, ok := ir.NamePrefix(s); ok && sameNames(p, i) {
			return s + "*", true
		}
	}
	// The names that begin with s but for s itself.
	k := bytes.IndexByte(i.Lo[:], 0)
	if k > 0 {
		s := string(i.Lo[:k])
		if p, ok := ir.NamePrefix(s); ok && p.Hi == i.Hi {
			if v, ok := ir.Name(s); ok && i.Lo.Compare(v) > 0 && !hasName(ir.Interval{Lo: span.KeyOf(v).Next().Value(), Hi: span.KeyOf(i.Lo).Prev().Value()}) {
				return s + "?*", true
			}
		}
	}
	return "", false
}

// onlyName reports whether s is the only name of the range.
func onlyName(i ir.Interval, s string) (string, bool) {
	if i.Lo == i.Hi {
		return s, true
	}
	v := span.KeyOf(i.Lo)
	return s, !hasName(ir.Interval{Lo: v.Next().Value(), Hi: i.Hi})
}

// sameNames reports whether two ranges that begin alike hold the same names.
func sameNames(a, b ir.Interval) bool {
	if a.Lo != b.Lo {
		return false
	}
	lo, hi := span.KeyOf(a.Hi), span.KeyOf(b.Hi)
	if lo == hi {
		return true
	}
	if hi.Compare(lo) < 0 {
		lo, hi = hi, lo
	}
	return !hasName(ir.Interval{Lo: lo.Next().Value(), Hi: hi.Value()})
}

// hasName reports whether some interface could have a name in the range: whether the first name at or above Lo is in it.
func hasName(i ir.Interval) bool {
	if _, ok := i.Lo.Name(); ok {
		return i.Lo.Compare(i.Hi) <= 0
	}
	v := i.Lo
	k := bytes.IndexByte(v[:], 0)
	if k >= 0 && k < ir.MaxNameLen {
		v[k] = 1
	} else {
		for k = ir.MaxNameLen - 1; k >= 0 && v[k] == 255; k-- {
		}
		if k < 0 {
			return false
		}
		v[k]++
	}
	clear(v[k+1:])
	return v.Compare(i.Hi) <= 0
}

// nameIn returns a name in a range; a readable one if there is one.
func nameIn(i ir.Interval) (string, bool) {
	if !hasName(i) {
		return "", false
	}
	if s, ok := i.Lo.Name(); ok && readable(s) {
		return s, true
	}
	const nice = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_."
	for _, all := range [...]bool{false, true} {
		// A name in the range begins like Lo up to some place and goes on above it.
		for k := ir.MaxNameLen - 1; k >= 0; k-- {
			if bytes.IndexByte(i.Lo[:k], 0) >= 0 {
				continue
			}
			try := func(c byte) (string, bool) {
				s := string(i.Lo[:k]) + string([]byte{c})
				v, ok := ir.Name(s)
				return s, ok && i.Contains(v)
			}
			for c := 0; !all && c < len(nice); c++ {
				if s, ok := try(nice[c]); ok && readable(s) {
					return s, true
				}
			}
			for c := 1; all && c < 256; c++ {
				if s, ok := try(byte(c)); ok {
					return s, true
				}
			}
		}
		if s, ok := i.Lo.Name(); ok {
			return s, true
		}
	}
	return "", false
}

func readable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// region is a range of names that no rule tells apart.
type region struct {
	ir.Interval
	class kindClass
}

// regions divides all names.
func regions(sides []*side) []region {
	var cuts [2][]classify.NameCut
	var all []key
	for n, s := range sides {
		cuts[n] = s.plain.NameCuts()
		for _, c := range cuts[n] {
			all = append(all, span.KeyOf(c.First))
		}
	}
	slices.SortFunc(all, key.Compare)
	all = slices.Compact(all)
	var out []region
	var at [2]int
	for i, lo := range all {
		hi := span.Last()
		if i+1 < len(all) {
			hi = all[i+1].Prev()
		}
		r := region{Interval: ir.Interval{Lo: lo.Value(), Hi: hi.Value()}}
		for n := range sides {
			for at[n]+1 < len(cuts[n]) && span.KeyOf(cuts[n][at[n]+1].First).Compare(lo) <= 0 {
				at[n]++
			}
			r.class[n] = int(cuts[n][at[n]].Class)
		}
		if hasName(r.Interval) {
			out = append(out, r)
		}
	}
	return out
}

// kind are regions that are all treated alike in one role: as In or as Out.
type kind struct {
	class kindClass // of one of them
	names Names     // nil if the kind is all there is
	part  float64   // of all regions
}

// kinds puts the regions together that have the same signature.
func kinds(rs []region, signature func(kindClass) string) []kind {
	index := map[string]int{}
	var out []kind
	for _, r := range rs {
		sig := signature(r.class)
		k, ok := index[sig]
		if !ok {
			k = len(out)
			index[sig] = k
			out = append(out, kind{class: r.class})
		}
		out[k].names = out[k].names.add(r.Interval)
		out[k].part += 1 / float64(len(rs))
	}
	if len(out) == 1 {
		out[0].names = nil
	}
	return out
}

// add appends a range behind all others. Values between that are no names do not keep ranges apart.
func (n Names) add(i ir.Interval) Names {
	if k := len(n); k > 0 {
		next := span.KeyOf(n[k-1].Hi).Next()
		if next.Compare(span.KeyOf(i.Lo)) >= 0 || !hasName(ir.Interval{Lo: next.Value(), Hi: span.KeyOf(i.Lo).Prev().Value()}) {
			n[k-1].Hi = i.Hi
			return n
		}
	}
	return append(n, i)
}

// join returns the names of both.
func (n Names) join(o Names) Names {
	if n == nil || o == nil {
		return nil
	}
	all := slices.Concat(n, o)
	slices.SortFunc(all, func(a, b ir.Interval) int { return a.Compare(b) })
	var out Names
	for _, i := range all {
		out = out.add(i)
	}
	if len(out.gaps()) == 0 {
		return nil
	}
	return out
}
