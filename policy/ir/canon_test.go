// SPDX-License-Identifier: Apache-2.0

package ir_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

func TestMergePorts(t *testing.T) {
	r := func(lo, hi uint16) inet.PortRange { return inet.PortRange{Min: lo, Max: hi} }
	require.Equal(t, []inet.PortRange{r(1, 9), r(20, 30), r(65535, 65535)},
		ir.MergePorts([]inet.PortRange{r(20, 25), r(5, 9), r(65535, 65535), r(1, 4), r(22, 30), r(7, 3)}))
	require.Equal(t, []inet.PortRange{r(0, 65535)}, ir.MergePorts([]inet.PortRange{r(100, 65535), r(0, 99)}))
	require.Empty(t, ir.MergePorts(nil))
}

func TestMergePrefixes(t *testing.T) {
	tests := map[string]struct{ in, want []string }{
		"nothing":                          {nil, nil},
		"IPv4 comes first":                 {[]string{"fd00::/8", "10.0.0.0/8"}, []string{"10.0.0.0/8", "fd00::/8"}},
		"host bits are cut off":            {[]string{"10.1.2.3/8"}, []string{"10.0.0.0/8"}},
		"covered prefixes go":              {[]string{"10.1.0.0/16", "10.0.0.0/8", "10.0.0.0/8"}, []string{"10.0.0.0/8"}},
		"halves become the whole":          {[]string{"10.0.0.0/9", "10.128.0.0/9"}, []string{"10.0.0.0/8"}},
		"neighbours that are not halves":   {[]string{"10.0.1.0/24", "10.0.2.0/24"}, []string{"10.0.1.0/24", "10.0.2.0/24"}},
		"halves of halves":                 {[]string{"0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/1"}, []string{"0.0.0.0/0"}},
		"the families are apart":           {[]string{"0.0.0.0/0", "::/0"}, []string{"0.0.0.0/0", "::/0"}},
		"an IPv4-mapped prefix is IPv4":    {[]string{"::ffff:10.0.0.0/104"}, []string{"10.0.0.0/8"}},
		"the end of the space":             {[]string{"255.255.255.255/32", "255.255.255.254/32"}, []string{"255.255.255.254/31"}},
		"a covered one between two halves": {[]string{"10.0.0.0/9", "10.64.0.0/10", "10.128.0.0/9"}, []string{"10.0.0.0/8"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var in []netip.Prefix
			for _, s := range tt.in {
				in = append(in, netip.MustParsePrefix(s))
			}
			var got []string
			for _, p := range ir.MergePrefixes(in) {
				got = append(got, p.String())
			}
			require.Equal(t, tt.want, got)
		})
	}
}

// The last byte of an address is a universe small enough to look at all of it.
func TestMergePrefixesHoldsTheSameAddresses(t *testing.T) {
	gen := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "b")}), rapid.IntRange(24, 32).Draw(t, "bits"))
	}), 0, 12)
	rapid.Check(t, func(t *rapid.T) {
		in := gen.Draw(t, "prefixes")
		out := ir.MergePrefixes(in)
		for b := range 256 {
			a := netip.AddrFrom4([4]byte{10, 0, 0, byte(b)})
			holds := func(p netip.Prefix) bool { return p.Contains(a) }
			if slices.ContainsFunc(in, holds) != slices.ContainsFunc(out, holds) {
				t.Fatalf("%v became %v: %v differs", in, out, a)
			}
		}
		for i, p := range out {
			for _, q := range out[i+1:] {
				if p.Overlaps(q) || p.Bits() == q.Bits() && netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked() == netip.PrefixFrom(q.Addr(), q.Bits()-1).Masked() {
					t.Fatalf("%v became %v: %v and %v could be one", in, out, p, q)
				}
			}
		}
		if !slices.Equal(out, ir.MergePrefixes(out)) {
			t.Fatalf("%v is not stable", out)
		}
	})
}

func TestValuesKeepTheirMeaning(t *testing.T) {
	v, ok := ir.Name("eth0")
	require.True(t, ok)
	name, ok := v.Name()
	require.True(t, ok)
	require.Equal(t, "eth0", name)
	_, ok = ir.Name("")
	require.False(t, ok, "no name")
	_, ok = ir.Name("abcdefghijklmnop")
	require.False(t, ok, "16 bytes")
	_, ok = (ir.Value{}).Name()
	require.False(t, ok)
	_, ok = ir.Value{0: 'a', 2: 'b'}.Name()
	require.False(t, ok, "a name with a hole")

	p, ok := ir.NamePrefix("cali")
	require.True(t, ok)
	for s, want := range map[string]bool{"cali": true, "cali1": true, "calj": false, "cal": false} {
		v, _ := ir.Name(s)
		require.Equal(t, want, p.Contains(v), s)
	}

	n, ok := ir.Number(uint16(8080)).Number()
	require.True(t, ok)
	require.Equal(t, uint16(8080), n)
	require.Equal(t, netip.MustParseAddr("10.0.0.1"), ir.Addr(netip.MustParseAddr("10.0.0.1")).Addr())
	require.Equal(t, ir.Addr(netip.MustParseAddr("::ffff:10.0.0.1")), ir.Addr(netip.MustParseAddr("10.0.0.1")))
	require.Equal(t, ir.Value{}, ir.Addr(netip.Addr{}))
}

// An IPv6 prefix must not hold the values of IPv4 addresses, which lie in the middle of its own.
func TestIPv6PrefixesHoldNoIPv4Address(t *testing.T) {
	four := ir.Addr(netip.MustParseAddr("10.0.0.1"))
	contains := func(is []ir.Interval, a string) bool {
		v := ir.Addr(netip.MustParseAddr(a))
		return slices.ContainsFunc(is, func(i ir.Interval) bool { return i.Contains(v) })
	}
	for _, s := range []string{"::/0", "::/80", "::ffff:0:0/90"} {
		is := ir.AddrPrefix(netip.MustParsePrefix(s).Masked())
		require.False(t, slices.ContainsFunc(is, func(i ir.Interval) bool { return i.Contains(four) }), s)
	}
	all := ir.AddrPrefix(netip.MustParsePrefix("::/0"))
	require.Len(t, all, 2)
	for _, a := range []string{"::", "::1", "::fffe:ffff:ffff", "::1:0:0:0", "fd00::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"} {
		require.True(t, contains(all, a), a)
	}
	require.Len(t, ir.AddrPrefix(netip.MustParsePrefix("0.0.0.0/0")), 1)
	require.True(t, contains(ir.AddrPrefix(netip.MustParsePrefix("10.0.0.0/8")), "10.255.255.255"))
	require.False(t, contains(ir.AddrPrefix(netip.MustParsePrefix("10.0.0.0/8")), "11.0.0.0"))
}

func TestCanonicalIsStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := programGen().Draw(t, "program")
		shuffled := &ir.Program{
			Entries: rapid.Permutation(p.Entries).Draw(t, "entries"),
			Sets:    rapid.Permutation(p.Sets).Draw(t, "sets"),
			Origins: p.Origins,
		}
		for _, b := range rapid.Permutation(p.Blocks).Draw(t, "blocks") {
			steps := slices.Clone(b.Steps)
			for i, s := range steps {
				if sw, ok := s.(ir.Switch); ok {
					sw.Cases = rapid.Permutation(sw.Cases).Draw(t, "cases")
					steps[i] = sw
				}
			}
			shuffled.Blocks = append(shuffled.Blocks, ir.Block{ID: b.ID, Steps: steps})
		}
		if got := ir.Canonical(shuffled).String(); got != p.String() {
			t.Fatalf("%s\n%s", got, p)
		}
	})
}
