// SPDX-License-Identifier: Apache-2.0

package span_test

import (
	"math/big"
	"math/bits"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// universe is width keys in a row, the first of which is given. Its sets are the bits of a word.
type universe struct{ first span.Key }

const width = 8

// universes are where the first and the last key are, where the halves of keys meet, and somewhere.
func universes() []universe {
	last := span.Last()
	last.Lo -= width - 1
	return []universe{{}, {last}, {span.Key{Hi: 4, Lo: ^uint64(0) - 3}}, {span.Key{Lo: 0xffff_0a00_0000}}}
}

func (u universe) key(i int) span.Key {
	k := u.first
	for range i {
		k = k.Next()
	}
	return k
}

func (u universe) span(lo, hi int) span.Span { return span.Span{Lo: u.key(lo), Hi: u.key(hi)} }

// set returns the only list that stands for a word.
func (u universe) set(word uint) []span.Span {
	var out []span.Span
	for i := 0; i < width; i++ {
		if word>>i&1 == 0 {
			continue
		}
		n := bits.TrailingZeros(^(word >> i))
		out = append(out, u.span(i, i+n-1))
		i += n
	}
	return out
}

// same compares lists; it does not tell nil from empty.
func same(t require.TestingT, want, got []span.Span, of ...any) {
	if !slices.Equal(want, got) {
		require.Equal(t, want, got, of...)
	}
}

// All pairs of sets there are.
func TestSets(t *testing.T) {
	const all = 1<<width - 1
	for _, u := range universes() {
		sets := make([][]span.Span, all+1)
		for w := range sets {
			sets[w] = u.set(uint(w))
		}
		for a, as := range sets {
			for b, bs := range sets {
				same(t, sets[a&b], span.Intersect(as, bs), "%v and %v", as, bs)
				same(t, sets[a&^b], span.Minus(as, bs), "%v without %v", as, bs)
				if span.Overlap(as, bs) != (a&b != 0) {
					t.Errorf("overlap of %v and %v", as, bs)
				}
				same(t, sets[a|b], span.Union(slices.Concat(as, bs)), "%v or %v", as, bs)
			}
			var size float64
			for _, s := range as {
				require.False(t, s.Empty())
				size += s.Size()
			}
			require.Equal(t, float64(bits.OnesCount(uint(a))), size)
			for i := range width {
				k := u.key(i)
				at := span.Find(as, k)
				require.Equal(t, a>>i&1 == 1, span.Contains(as, k), "%v in %v", k, as)
				require.Equal(t, a>>i&1 == 1, at < len(as) && as[at].Contains(k), "%v in %v", k, as)
				require.True(t, at == 0 || as[at-1].Hi.Less(k))
				require.True(t, at == len(as) || !as[at].Hi.Less(k))

				// The complement holds all that is before the universe as well.
				want := sets[(1<<(i+1)-1)&^a]
				if u.first != (span.Key{}) {
					want = span.Union(append(slices.Clone(want), span.Span{Hi: u.first.Prev()}))
				}
				same(t, want, span.Complement(as, k), "what %v lacks up to %v", as, k)
			}
		}
	}
}

func TestUnion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := rapid.SampledFrom(universes()).Draw(t, "universe")
		var spans []span.Span
		word := uint(0)
		for _, end := range rapid.SliceOf(rapid.Custom(func(t *rapid.T) [2]int {
			lo := rapid.IntRange(0, width-1).Draw(t, "lo")
			return [2]int{lo, rapid.IntRange(lo, width-1).Draw(t, "hi")}
		})).Draw(t, "spans") {
			spans = append(spans, u.span(end[0], end[1]))
			word |= (1<<(end[1]-end[0]+1) - 1) << end[0]
		}
		same(t, u.set(word), span.Union(slices.Clone(spans)), "union of %v", spans)
	})
}

func TestSpan(t *testing.T) {
	for _, u := range universes() {
		for code := range width * width * width * width {
			a, b := u.span(code%width, code/width%width), u.span(code/width/width%width, code/width/width/width)
			both := a.Intersect(b)
			none := true
			for i := range width {
				k := u.key(i)
				in := a.Contains(k) && b.Contains(k)
				none = none && !in
				if both.Contains(k) != in {
					t.Errorf("%v in %v and %v", k, a, b)
				}
			}
			if both.Empty() != none {
				t.Errorf("%v and %v is empty: %v", a, b, !none)
			}
		}
	}
	require.Equal(t, 0x1p128, span.Span{Hi: span.Last()}.Size())
	require.Equal(t, 0x1p64, span.Span{Lo: span.Key{Lo: 1}, Hi: span.Key{Hi: 1}}.Size())
	require.Equal(t, span.Span{Lo: span.Key{Lo: 80}, Hi: span.Key{Lo: 443}}, span.Numbers(80, 443))
	i := ir.Interval{Lo: ir.Number(uint16(80)), Hi: ir.Number(uint16(443))}
	require.Equal(t, span.Numbers(80, 443), span.Of(i))
	require.Equal(t, i, span.Of(i).Interval())
}

func TestKeys(t *testing.T) {
	mod := new(big.Int).Lsh(big.NewInt(1), 128)
	number := func(k span.Key) *big.Int {
		v := k.Value()
		return new(big.Int).SetBytes(v[:])
	}
	half := rapid.OneOf(rapid.Uint64(), rapid.SampledFrom([]uint64{0, 1, ^uint64(0), ^uint64(0) - 1}))
	key := rapid.Custom(func(t *rapid.T) span.Key { return span.Key{Hi: half.Draw(t, "hi"), Lo: half.Draw(t, "lo")} })
	rapid.Check(t, func(t *rapid.T) {
		k, l := key.Draw(t, "k"), key.Draw(t, "l")
		v := k.Value()
		require.Equal(t, k, span.KeyOf(v))
		require.Equal(t, v.Next(), k.Next().Value())
		require.Equal(t, v.Prev(), k.Prev().Value())
		require.Equal(t, v.Compare(l.Value()), k.Compare(l))
		require.Equal(t, k.Compare(l) < 0, k.Less(l))

		n := new(big.Int)
		require.Equal(t, n.Mod(n.Add(number(k), big.NewInt(1)), mod).String(), number(k.Next()).String())
		require.Equal(t, new(big.Int).And(number(k), number(l)).String(), number(k.And(l)).String())
		require.Equal(t, new(big.Int).Or(number(k), number(l)).String(), number(k.Or(l)).String())
		require.Equal(t, new(big.Int).Xor(number(k), number(span.Last())).String(), number(k.Not()).String())

		if l.Less(k) {
			k, l = l, k
		}
		n.Add(n.Sub(number(l), number(k)), big.NewInt(1))
		want, _ := new(big.Float).SetInt(n).Float64()
		require.InEpsilon(t, want, span.Span{Lo: k, Hi: l}.Size(), 1e-15)
	})
	require.Equal(t, span.Key{}, span.Last().Next())
	require.Equal(t, span.Last(), span.Key{}.Prev())
}

func TestBytesAndMasks(t *testing.T) {
	v := ir.Value{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	k := span.KeyOf(v)
	var made span.Key
	for i, b := range v {
		require.Equal(t, b, k.Byte(i))
		made = made.WithByte(i, b)
	}
	require.Equal(t, k, made)
	require.Zero(t, k.Byte(16))
	require.Zero(t, k.Byte(-1))
	for n := range 129 {
		var mask ir.Value
		for i := range n {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		require.Equal(t, mask, span.Mask(n).Value(), "%d bits", n)
		if n%8 == 0 {
			require.Equal(t, span.Mask(n), span.ByteMask(n/8))
		}
	}
}

// What is asked on the way of packets, and of each pair of rules, must not allocate.
func TestNothingIsAllocated(t *testing.T) {
	a := []span.Span{span.Numbers(1, 2), span.Numbers(5, 7)}
	b := []span.Span{span.Numbers(3, 4)}
	v := ir.Number(uint16(6))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		k := span.KeyOf(v)
		if !span.Contains(a, k.And(span.Mask(127)).WithByte(15, 6)) || span.Overlap(a, b) || span.Intersect(a, b) != nil ||
			span.Minus(b, b) != nil || span.Complement([]span.Span{{Hi: span.Last()}}, span.Last()) != nil {
			t.Error("wrong")
		}
	}))
}

// Prefixes are counted one by one, each as long as it can be.
func TestPrefixes(t *testing.T) {
	require.Zero(t, span.Span{Lo: span.Key{Lo: 1}}.Prefixes())
	require.Equal(t, 1, span.Span{Hi: span.Last()}.Prefixes())
	require.Equal(t, 2, span.Span{Hi: span.Key{Lo: 2}}.Prefixes())
	require.Equal(t, 128, span.Span{Lo: span.Key{Lo: 1}, Hi: span.Last()}.Prefixes())
	for _, u := range universes() {
		for lo := range width {
			for hi := lo; hi < width; hi++ {
				n := 0
				for at := lo; at <= hi; n++ {
					size := 1
					for low := u.key(at).Lo; at+2*size-1 <= hi && low&uint64(2*size-1) == 0; {
						size *= 2
					}
					at += size
				}
				require.Equal(t, n, u.span(lo, hi).Prefixes(), "%v %d %d", u, lo, hi)
			}
		}
	}
}
