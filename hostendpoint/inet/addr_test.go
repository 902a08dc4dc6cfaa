// SPDX-License-Identifier: Apache-2.0

package inet_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

func TestParseAddr(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1": "10.0.0.1", "2001:DB8::1": "2001:db8::1", "::ffff:10.0.0.1": "10.0.0.1", "fe80::1": "fe80::1",
	} {
		got, err := inet.ParseAddr(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got.String())
	}
	for _, in := range []string{"", "10.0.0.01", "10.0.0.0/8", "10.1", "fe80::1%eth0", "10.0.0.1 ", "[::1]", "0x0a.0.0.1",
		"1:2:3:4:5:6:7:8:9"} {
		_, err := inet.ParseAddr(in)
		require.ErrorIs(t, err, inet.ErrAddr, in)
	}
}

func TestParseNet(t *testing.T) {
	for _, c := range []struct {
		in, prefix             string
		bare, hostBits, mapped bool
	}{
		{"10.0.0.0/8", "10.0.0.0/8", false, false, false},
		{"10.0.0.0/08", "10.0.0.0/8", false, false, false},
		{"10.1.0.0/8", "10.0.0.0/8", false, true, false},
		{"10.0.0.1", "10.0.0.1/32", true, false, false},
		{"2001:db8::1/32", "2001:db8::/32", false, true, false},
		{"::1", "::1/128", true, false, false},
		{"0::/0", "::/0", false, false, false},
		{"::ffff:10.0.0.0/104", "10.0.0.0/8", false, false, true},
		{"::ffff:10.0.0.1/104", "10.0.0.0/8", false, true, true},
		{"::ffff:0:0/96", "0.0.0.0/0", false, false, true},
		{"::ffff:10.0.0.1", "10.0.0.1/32", true, false, true},
		{"::/80", "::/80", false, false, false},
	} {
		t.Run(c.in, func(t *testing.T) {
			n, err := inet.ParseNet(c.in)
			require.NoError(t, err)
			require.Equal(t, netip.MustParsePrefix(c.prefix), n.Prefix)
			require.Equal(t, []bool{c.bare, c.hostBits, c.mapped}, []bool{n.Bare, n.HostBits, n.Mapped})
		})
	}
	for _, in := range []string{"", "/8", "x", "10.0.0.0/", "10.0.0.0/33", "10.0.0/8", "2001:db8::/129", "010.0.0.0/8",
		"10.0.0.0/255.0.0.0", "10.0.0.0/8 ", "10.0.0.0/-1", "10.0.0.0/+8", "fe80::%eth0/64", "10.0.0.0/8/8"} {
		n, err := inet.ParseNet(in)
		require.ErrorIs(t, err, inet.ErrPrefix, in)
		require.Zero(t, n)
	}
	for _, in := range []string{"::ffff:0.0.0.0/95", "::ffff:10.0.0.0/0", "::ffff:1.2.3.4/64"} {
		_, err := inet.ParseNet(in)
		require.ErrorIs(t, err, inet.ErrMapped, in)
	}
}

func TestParsePrefixStrict(t *testing.T) {
	_, err := inet.ParsePrefixStrict("10.1.0.0/8")
	require.ErrorIs(t, err, inet.ErrHostBits)
	require.ErrorContains(t, err, `did you mean "10.0.0.0/8"?`)
	p, err := inet.ParsePrefixStrict("10.0.0.0/8")
	require.NoError(t, err)
	require.Equal(t, "10.0.0.0/8", p.String())
	p, err = inet.ParsePrefix("10.1.0.0/8")
	require.NoError(t, err)
	require.Equal(t, "10.0.0.0/8", p.String())
}

func TestFamilyOf(t *testing.T) {
	require.Equal(t, inet.IPv4, inet.FamilyOf(netip.MustParseAddr("::ffff:1.2.3.4")))
	require.Equal(t, inet.IPv6, inet.FamilyOf(netip.MustParseAddr("::1")))
	require.Zero(t, inet.FamilyOf(netip.Addr{}))
}

// The standard library is the oracle: it is what Calico calls.
func FuzzParseNet(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8", "::/0", "::ffff:1.2.3.4/100", "10.0.0.1", "1.2.3.4/00000000000000000000000032", "::ffff:0:0/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := inet.ParseNet(s)
		ip, ipnet, want := net.ParseCIDR(s)
		if want != nil && !strings.Contains(s, "/") {
			if ip = net.ParseIP(s); ip != nil {
				require.NoError(t, err)
				require.True(t, got.Bare)
				require.True(t, ip.Equal(net.IP(got.Addr.AsSlice())))
				return
			}
		}
		if want != nil {
			require.Error(t, err)
			return
		}
		if ones, size := ipnet.Mask.Size(); size == 128 && ip.To4() != nil && ones < 96 {
			require.ErrorIs(t, err, inet.ErrMapped)
			return
		}
		require.NoError(t, err)
		for _, probe := range []netip.Addr{got.Addr, got.Addr.Next(), got.Prefix.Addr(), netip.MustParseAddr("10.255.0.1")} {
			if probe.IsValid() && probe.Is4() == got.Addr.Is4() {
				require.Equal(t, ipnet.Contains(net.IP(probe.AsSlice())) || got.Mapped && mappedContains(ipnet, probe), got.Prefix.Contains(probe), "%v", probe)
			}
		}
	})
}

// mappedContains works on 16 bytes; net.IPNet.Contains never finds IPv4 in a 16-byte network.
func mappedContains(n *net.IPNet, a netip.Addr) bool {
	b := a.As16()
	return net.IP(b[:]).Mask(n.Mask).Equal(n.IP)
}
