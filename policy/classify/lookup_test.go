// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// edges are values at which lookup structures change their ways, and their neighbours.
func edges() []key {
	ks := []key{{}, span.Last(), {Lo: mapped << 32}, {Lo: mapped<<32 | 0xffffffff}, {Lo: mapped<<32 | 0x0a010000}, {Lo: mapped<<32 | 0x0a010200}, {Hi: 1}, {Lo: ^uint64(0)}, {Hi: 0xfd << 56}}
	for _, n := range []int{8, 16, 24, 40, 56, 63} {
		ks = append(ks, key{Lo: 1 << n}, key{Hi: 1 << n})
	}
	for _, k := range slices.Clone(ks) {
		ks = append(ks, k.Next(), k.Prev())
	}
	return ks
}

func cutsOf(t *rapid.T, among []key, classes uint32) []cut {
	ks := append(rapid.SliceOfN(rapid.SampledFrom(among), 0, 12).Draw(t, "cuts"), key{})
	slices.SortFunc(ks, key.Compare)
	var cuts []cut
	for i, k := range slices.Compact(ks) {
		c := rapid.Uint32Range(0, classes).Draw(t, "class")
		if i > 0 && c == cuts[i-1].class {
			c = (c + 1) % (classes + 1)
		}
		cuts = append(cuts, cut{k, c})
	}
	return cuts
}

func TestAddrLookupFindsTheLastCut(t *testing.T) {
	all := edges()
	rapid.Check(t, func(t *rapid.T) {
		cuts := cutsOf(t, all, 3)
		l := newAddrLookup(cuts)
		for _, k := range all {
			require.Equal(t, classAt(cuts, k), l.get(k), "%x of %x", k, cuts)
		}
	})
}

func TestAddrLookupOfManyPrefixes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, v4 := range []bool{true, false} {
		random := func() key {
			if v4 {
				return key{Lo: mapped<<32 | uint64(10<<24|r.Uint32()&0x3ffff)}
			}
			return key{Hi: 0xfd<<56 | r.Uint64N(3), Lo: r.Uint64() >> r.IntN(64)}
		}
		ks := []key{{}}
		for range 5000 {
			ks = append(ks, random())
		}
		slices.SortFunc(ks, key.Compare)
		var cuts []cut
		for i, k := range slices.Compact(ks) {
			cuts = append(cuts, cut{k, uint32(i)})
		}
		l := newAddrLookup(cuts)
		for i := range 20000 {
			k := random()
			if i < len(ks) {
				k = ks[i].Prev()
			}
			require.Equal(t, classAt(cuts, k), l.get(k))
		}
	}
}

func TestL4Lookup(t *testing.T) {
	var among []key
	for _, n := range []uint64{0, 1, 2, 63, 64, 65, 127, 128, 4095, 4096, 32768, 65534, 65535} {
		for _, protocol := range []uint64{0x0401, 0x0406, 0x0411, 0x0606, 0x063a} {
			among = append(among, key{Lo: n}, key{Lo: protocol<<16 + n})
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		cuts := cutsOf(t, among, 3)
		l := newL4Lookup(cuts)
		if n := newNumberRuns(cuts); n.get(4096) != classAt(cuts, key{Lo: 4096}) {
			t.Fatalf("number 4096: got %d", n.get(4096))
		}
		for f, family := range []inet.Family{inet.IPv4, inet.IPv6} {
			for p := range 256 {
				step := 1 << 12
				if p == int(inet.ICMP) || p == int(inet.UDP) {
					step = 1
				}
				for n := 0; n < 1<<16; n += step {
					k := uint64(family)<<24 | uint64(p)<<16 | uint64(n)
					v := view{family: uint8(f), protocol: uint8(p), low: uint16(n)}
					if want := classAt(cuts, key{Lo: k}); l.get(&v) != want {
						t.Fatalf("%x: got %d, want %d", k, l.get(&v), want)
					}
				}
			}
		}
	})
}

func TestPointLookup(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	d := Dimension{Absent: 9}
	want := map[ir.Element]uint32{}
	draw := func() ir.Element {
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(r.UintN(20))})
		if r.UintN(2) == 0 {
			a = netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(r.UintN(20))})
		}
		return ir.Element{Prefix: netip.PrefixFrom(a, a.BitLen()), Protocol: inet.Protocol(1 + r.UintN(3)), Port: uint16(r.UintN(20))}
	}
	for range 1000 {
		e := draw()
		if _, ok := want[e]; !ok {
			want[e] = r.Uint32N(9)
			d.Points = append(d.Points, Point{e.Prefix.Addr(), e.Protocol, e.Port, want[e]})
		}
	}
	l := newPointLookup(&d)
	require.LessOrEqual(t, 2*len(d.Points), len(l.slots), "a lookup must meet an empty slot soon")
	for range 5000 {
		e := draw()
		class, ok := want[e]
		if !ok {
			class = d.Absent
		}
		require.Equal(t, class, l.get(addrKey(e.Prefix.Addr()), uint32(e.Protocol)<<16|uint32(e.Port)))
	}
	require.Equal(t, uint32(5), newPointLookup(&Dimension{Absent: 5}).get(key{}, 1))
}

func TestRowWriterFilesEqualRowsOnce(t *testing.T) {
	for _, rules := range []int{1, 64, 65, 512, 513, 5000} {
		w := newRowWriter(rules)
		empty := w.row()
		words := (rules + 63) / 64
		w.set(words-1, 5)
		some := w.row()
		require.NotEqual(t, empty, some)
		w.set(words-1, 0)
		require.Equal(t, empty, w.row())
		w.set(0, 1)
		w.set(words-1, 5)
		if words > 1 {
			require.NotContains(t, []uint32{empty, some}, w.row())
		}
		rows := w.finish()
		want := make([]uint64, words)
		require.Equal(t, want, rows.Row(empty))
		want[words-1] = 5
		require.Equal(t, want, rows.Row(some))
		sum := rows.Summary(some)
		require.Len(t, sum, (words+63)/64)
		require.Equal(t, uint64(1)<<((words-1)&63), sum[len(sum)-1])
	}
}
