// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// key is an ir.Value as two numbers.
type key struct{ hi, lo uint64 }

func keyOf(v ir.Value) key {
	return key{binary.BigEndian.Uint64(v[:8]), binary.BigEndian.Uint64(v[8:])}
}

func (k key) value() ir.Value {
	var v ir.Value
	binary.BigEndian.PutUint64(v[:8], k.hi)
	binary.BigEndian.PutUint64(v[8:], k.lo)
	return v
}

func (k key) compare(l key) int {
	if c := cmp.Compare(k.hi, l.hi); c != 0 {
		return c
	}
	return cmp.Compare(k.lo, l.lo)
}

// next returns the key behind k; zero behind the last one.
func (k key) next() key {
	k.lo++
	if k.lo == 0 {
		k.hi++
	}
	return k
}

func (k key) prev() key {
	if k.lo == 0 {
		k.hi--
	}
	k.lo--
	return k
}

var lastKey = key{^uint64(0), ^uint64(0)}

// span is a closed range of keys. Lists of spans are sorted, disjoint and not adjacent.
type span struct{ lo, hi key }

func numbers(lo, hi uint32) span { return span{key{lo: uint64(lo)}, key{lo: uint64(hi)}} }

// size returns the number of keys.
func (s span) size() float64 {
	const word = 1 << 64
	hi, lo := s.hi.hi-s.lo.hi, s.hi.lo-s.lo.lo
	if s.hi.lo < s.lo.lo {
		hi--
	}
	return float64(hi)*word + float64(lo) + 1
}

// union sorts spans and joins those that overlap or touch. It may reuse s.
func union(s []span) []span {
	slices.SortFunc(s, func(a, b span) int { return a.lo.compare(b.lo) })
	out := s[:0]
	for _, x := range s {
		if n := len(out); n > 0 && (out[n-1].hi == lastKey || out[n-1].hi.next().compare(x.lo) >= 0) {
			if out[n-1].hi.compare(x.hi) < 0 {
				out[n-1].hi = x.hi
			}
			continue
		}
		out = append(out, x)
	}
	return out
}

// intersect returns the keys that are in both.
func intersect(a, b []span) []span {
	var out []span
	for i, j := 0, 0; i < len(a) && j < len(b); {
		lo, hi := a[i].lo, a[i].hi
		if lo.compare(b[j].lo) < 0 {
			lo = b[j].lo
		}
		if b[j].hi.compare(hi) < 0 {
			hi = b[j].hi
		}
		if lo.compare(hi) <= 0 {
			out = append(out, span{lo, hi})
		}
		if a[i].hi.compare(b[j].hi) < 0 {
			i++
		} else {
			j++
		}
	}
	return out
}

// minus returns the keys of a that are not in b.
func minus(a, b []span) []span {
	var out []span
	j := 0
	for _, x := range a {
		lo, done := x.lo, false
		for j < len(b) && b[j].hi.compare(lo) < 0 {
			j++
		}
		for i := j; i < len(b) && b[i].lo.compare(x.hi) <= 0; i++ {
			if lo.compare(b[i].lo) < 0 {
				out = append(out, span{lo, b[i].lo.prev()})
			}
			if b[i].hi.compare(x.hi) >= 0 {
				done = true
				break
			}
			lo = b[i].hi.next()
		}
		if !done {
			out = append(out, span{lo, x.hi})
		}
	}
	return out
}

// spanSets numbers lists of spans: equal ones have the same number. 0 is the whole of a field, whichever it is.
type spanSets struct {
	list  [][]span
	known map[string]int32
	buf   []byte
}

func newSpanSets() *spanSets { return &spanSets{list: make([][]span, 1), known: map[string]int32{}} }

// id returns the number of s, which must not change any more.
func (ss *spanSets) id(s []span) int32 {
	ss.buf = ss.buf[:0]
	for _, x := range s {
		for _, n := range [...]uint64{x.lo.hi, x.lo.lo, x.hi.hi, x.hi.lo} {
			ss.buf = binary.LittleEndian.AppendUint64(ss.buf, n)
		}
	}
	id, ok := ss.known[string(ss.buf)]
	if !ok {
		id = int32(len(ss.list))
		ss.known[string(ss.buf)] = id
		ss.list = append(ss.list, s)
	}
	return id
}
