// SPDX-License-Identifier: Apache-2.0

// Package span is arithmetic with values of the IR: as numbers of 128 bits, and as sets of them.
//
// A set is a list of closed spans that is sorted, and in which no two spans overlap or touch: equal sets are equal
// lists, and the empty set is the empty list. Union makes a set of any spans; what else takes lists wants sets, and
// returns sets. No function keeps or changes a list that it is given, but for Union.
//
// Everything here is pure, allocates nothing but results, and never panics.
package span

import (
	"math/bits"
	"slices"
	"sort"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Span is the keys from Lo to Hi, both of which belong to it; none if Hi is before Lo. The zero value is the first key.
type Span struct{ Lo, Hi Key }

// Of returns the keys of an interval.
func Of(i ir.Interval) Span { return Span{KeyOf(i.Lo), KeyOf(i.Hi)} }

// Numbers returns the keys of the numbers from lo to hi, such as those of protocols and ports.
func Numbers(lo, hi uint32) Span { return Span{Key{Lo: uint64(lo)}, Key{Lo: uint64(hi)}} }

// Interval is the inverse of Of.
func (s Span) Interval() ir.Interval { return ir.Interval{Lo: s.Lo.Value(), Hi: s.Hi.Value()} }

// Empty reports whether there is no key in s.
func (s Span) Empty() bool { return s.Hi.Less(s.Lo) }

// Contains reports whether k is in s.
func (s Span) Contains(k Key) bool { return !k.Less(s.Lo) && !s.Hi.Less(k) }

// Intersect returns the keys that are in both; check whether that is Empty.
func (s Span) Intersect(t Span) Span {
	if s.Lo.Less(t.Lo) {
		s.Lo = t.Lo
	}
	if t.Hi.Less(s.Hi) {
		s.Hi = t.Hi
	}
	return s
}

// Size returns the number of keys in s, which must not be empty, to the precision of a float64: all keys are 1<<128.
func (s Span) Size() float64 {
	const word = 1 << 64
	hi, lo := s.Hi.Hi-s.Lo.Hi, s.Hi.Lo-s.Lo.Lo
	if s.Hi.Lo < s.Lo.Lo {
		hi--
	}
	return float64(hi)*word + float64(lo) + 1
}

// Prefixes returns the least number of prefixes that s is the union of; 0 if it is empty.
func (s Span) Prefixes() int {
	if s.Empty() {
		return 0
	}
	differ := Key{s.Lo.Hi ^ s.Hi.Hi, s.Lo.Lo ^ s.Hi.Lo}
	first := bits.LeadingZeros64(differ.Hi) // bit that is not the same for all keys
	if differ.Hi == 0 {
		first += bits.LeadingZeros64(differ.Lo)
	}
	free := Mask(first).Not()
	if s.Lo.And(free) == (Key{}) && s.Hi.And(free) == free {
		return 1
	}
	// In each half of what is below that bit, prefixes are as many as bits of the number of its keys.
	half := Mask(first + 1).Not()
	ones := func(k Key) int { return bits.OnesCount64(k.Hi) + bits.OnesCount64(k.Lo) }
	return ones(s.Lo.Not().And(half).Next()) + ones(s.Hi.And(half).Next())
}

// Union returns the set of all keys in s, of which no span may be empty; there are no other conditions. What it returns
// is in the memory of s.
func Union(s []Span) []Span {
	order := func(a, b Span) int { return a.Lo.Compare(b.Lo) }
	if !slices.IsSortedFunc(s, order) {
		slices.SortFunc(s, order)
	}
	out := s[:0]
	for _, x := range s {
		if n := len(out); n > 0 && (out[n-1].Hi == Last() || !out[n-1].Hi.Next().Less(x.Lo)) {
			if out[n-1].Hi.Less(x.Hi) {
				out[n-1].Hi = x.Hi
			}
			continue
		}
		out = append(out, x)
	}
	return out
}

// Intersect returns the keys that are in both.
func Intersect(a, b []Span) []Span {
	var out []Span
	for i, j := 0, 0; i < len(a) && j < len(b); {
		if x := a[i].Intersect(b[j]); !x.Empty() {
			out = append(out, x)
		}
		if a[i].Hi.Less(b[j].Hi) {
			i++
		} else {
			j++
		}
	}
	return out
}

// Overlap reports whether there is a key that is in both.
func Overlap(a, b []Span) bool {
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i].Hi.Less(b[j].Lo):
			i++
		case b[j].Hi.Less(a[i].Lo):
			j++
		default:
			return true
		}
	}
	return false
}

// Minus returns the keys of a that are not in b.
func Minus(a, b []Span) []Span {
	var out []Span
	j := 0
	for _, x := range a {
		lo, done := x.Lo, false
		for j < len(b) && b[j].Hi.Less(lo) {
			j++
		}
		for i := j; i < len(b) && !x.Hi.Less(b[i].Lo); i++ {
			if lo.Less(b[i].Lo) {
				out = append(out, Span{lo, b[i].Lo.Prev()})
			}
			if !b[i].Hi.Less(x.Hi) {
				done = true
				break
			}
			lo = b[i].Hi.Next()
		}
		if !done {
			out = append(out, Span{lo, x.Hi})
		}
	}
	return out
}

// Complement returns the keys up to top that are not in s.
func Complement(s []Span, top Key) []Span {
	if len(s) > 0 && s[0].Lo == (Key{}) && !s[0].Hi.Less(top) {
		return nil
	}
	out := make([]Span, 0, len(s)+1)
	var from Key
	for _, x := range s {
		if top.Less(x.Lo) {
			break
		}
		if from.Less(x.Lo) {
			out = append(out, Span{from, x.Lo.Prev()})
		}
		if !x.Hi.Less(top) {
			return out
		}
		from = x.Hi.Next()
	}
	return append(out, Span{from, top})
}

// Find returns the index of the first span that does not end before k; len(s) if all do. The set has k if that span
// begins at or before it.
func Find(s []Span, k Key) int {
	return sort.Search(len(s), func(i int) bool { return !s[i].Hi.Less(k) })
}

// Contains reports whether k is in s.
func Contains(s []Span, k Key) bool {
	i := Find(s, k)
	return i < len(s) && !k.Less(s[i].Lo)
}
