// SPDX-License-Identifier: Apache-2.0

package inet_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

func ExamplePrefixSet() {
	s, err := inet.NewPrefixSet(
		netip.MustParsePrefix("10.0.1.0/24"), netip.MustParsePrefix("::ffff:10.0.0.0/120"), netip.MustParsePrefix("fd00::/8"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(s, s.Contains(netip.MustParseAddr("::ffff:10.0.1.9")))
	// Output: 10.0.0.0/23,fd00::/8 true
}

// drawPrefixes draws a set from the last three bits of 10.0.0.0/24 and of fd00::/120, and the same set as a table.
func drawPrefixes(t *rapid.T, name string) (inet.PrefixSet, map[netip.Addr]bool) {
	var ps []netip.Prefix
	in := map[netip.Addr]bool{}
	for range rapid.IntRange(0, 4).Draw(t, name) {
		a := rapid.SampledFrom(universe()).Draw(t, "addr")
		p := netip.PrefixFrom(a, a.BitLen()-rapid.IntRange(0, 3).Draw(t, "free bits"))
		ps = append(ps, p)
		for _, x := range universe() {
			if p.Contains(x) {
				in[x] = true
			}
		}
	}
	s, err := inet.NewPrefixSet(ps...)
	require.NoError(t, err)
	return s, in
}

func universe() []netip.Addr {
	var out []netip.Addr
	for i := range byte(8) {
		out = append(out, netip.AddrFrom4([4]byte{10, 0, 0, i}), netip.AddrFrom16([16]byte{0: 0xfd, 15: i}))
	}
	return out
}

func TestPrefixSetAgainstTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, inA := drawPrefixes(t, "A")
		b, inB := drawPrefixes(t, "B")
		for _, x := range universe() {
			require.Equal(t, inA[x], a.Contains(x))
			require.Equal(t, inA[x] || inB[x], a.Union(b).Contains(x))
			require.Equal(t, inA[x] && inB[x], a.Intersect(b).Contains(x))
			require.Equal(t, inA[x] && !inB[x], a.Minus(b).Contains(x))
			require.Equal(t, inA[x] && x.Is4(), a.Family(inet.IPv4).Contains(x))
			require.Equal(t, inA[x] && x.Is6(), a.Family(inet.IPv6).Contains(x))
		}
		require.Equal(t, len(inA) == 0, a.IsEmpty())
		again, err := inet.NewPrefixSet(a.Prefixes()...)
		require.NoError(t, err)
		require.True(t, again.Equal(a))
		require.Equal(t, a.Prefixes(), again.Prefixes())
		require.Equal(t, a.Equal(b), a.String() == b.String())
		require.True(t, a.Family(0).Equal(a))
	})
}

func TestPrefixSetZeroValueIsEmpty(t *testing.T) {
	var z inet.PrefixSet
	made, err := inet.NewPrefixSet()
	require.NoError(t, err)
	require.True(t, z.IsEmpty() && made.IsEmpty() && z.Equal(made) && made.Equal(z))
	require.False(t, z.Contains(netip.MustParseAddr("10.0.0.1")))
	require.Nil(t, made.Prefixes())
	require.True(t, z.Union(inet.AllAddrs(inet.IPv4)).Contains(netip.MustParseAddr("10.0.0.1")))
}

func TestPrefixSetRefuses(t *testing.T) {
	_, err := inet.NewPrefixSet(netip.Prefix{})
	require.ErrorIs(t, err, inet.ErrPrefix)
	_, err = inet.NewPrefixSet(netip.MustParsePrefix("::ffff:0.0.0.0/95"))
	require.ErrorIs(t, err, inet.ErrMapped)
}

func TestAllAddrs(t *testing.T) {
	require.Equal(t, "0.0.0.0/0,::/0", inet.AllAddrs(0).String())
	require.Equal(t, []inet.AddrRange{{From: netip.IPv6Unspecified(), To: netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")}},
		inet.AllAddrs(inet.IPv6).Ranges())
}
