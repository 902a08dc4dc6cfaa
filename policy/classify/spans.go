// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// key is an ir.Value as two numbers.
type key struct{ hi, lo uint64 }

var lastKey = key{^uint64(0), ^uint64(0)}

func keyOf(v ir.Value) key {
	return key{binary.BigEndian.Uint64(v[:8]), binary.BigEndian.Uint64(v[8:])}
}

func (k key) value() ir.Value {
	var v ir.Value
	binary.BigEndian.PutUint64(v[:8], k.hi)
	binary.BigEndian.PutUint64(v[8:], k.lo)
	return v
}

func (k key) less(l key) bool { return k.hi < l.hi || k.hi == l.hi && k.lo < l.lo }

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

// at returns byte i, the first one being 0.
func (k key) at(i int) byte {
	if i < 8 {
		return byte(k.hi >> (56 - 8*i))
	}
	return byte(k.lo >> (120 - 8*i))
}

// above returns k with the bytes from n on cleared.
func (k key) above(n int) key {
	hi, lo := byteMask(n)
	return key{k.hi & hi, k.lo & lo}
}

// byteMask returns the mask of the first n of 16 bytes.
func byteMask(n int) (hi, lo uint64) {
	return ^(^uint64(0) >> (8 * min(n, 8))), ^(^uint64(0) >> (8 * max(n-8, 0)))
}

// span is a closed range of keys.
type span struct{ lo, hi key }

func spanOf(i ir.Interval) span { return span{keyOf(i.Lo), keyOf(i.Hi)} }

func numbers(lo, hi uint32) span { return span{key{lo: uint64(lo)}, key{lo: uint64(hi)}} }

// union sorts spans and joins those that overlap or touch. It may reuse s.
func union(s []span) []span {
	order := func(a, b span) int { return a.lo.compare(b.lo) }
	if !slices.IsSortedFunc(s, order) {
		slices.SortFunc(s, order)
	}
	out := s[:0]
	for _, x := range s {
		if n := len(out); n > 0 && (out[n-1].hi == lastKey || !out[n-1].hi.next().less(x.lo)) {
			if out[n-1].hi.less(x.hi) {
				out[n-1].hi = x.hi
			}
			continue
		}
		out = append(out, x)
	}
	return out
}

// complement returns the keys that are not in s, which is as union leaves it.
func complement(s []span) []span {
	out := make([]span, 0, len(s)+1)
	var from key
	for _, x := range s {
		if from.less(x.lo) {
			out = append(out, span{from, x.lo.prev()})
		}
		if x.hi == lastKey {
			return out
		}
		from = x.hi.next()
	}
	return append(out, span{from, lastKey})
}
