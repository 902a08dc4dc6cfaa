// SPDX-License-Identifier: Apache-2.0

package inet

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Sentinels of this package; use errors.Is.
var (
	ErrAddr     = errors.New("not an IP address")
	ErrPrefix   = errors.New("not a CIDR")
	ErrHostBits = errors.New("CIDR has host bits set")
	ErrMapped   = errors.New("IPv4-mapped CIDR shorter than /96")
	ErrPort     = errors.New("port range ends before it begins")
)

// ParseAddr reads an address as Go's net.ParseIP does, which is what Calico accepts wherever it asks for an IP: no
// prefix length, no zone, no leading zeros in IPv4. An IPv4-mapped IPv6 address (::ffff:10.0.0.1) is IPv4. The error
// wraps ErrAddr.
func ParseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%w: %q", ErrAddr, s)
	}
	return a.Unmap(), nil
}

// Net is what ParseNet read: a prefix, and how it was written. The zero value is not valid.
type Net struct {
	Prefix   netip.Prefix // masked; of IPv4 if it was written IPv4-mapped
	Addr     netip.Addr   // the address as written, not masked; of the family of Prefix
	Bare     bool         // an address without a prefix length; Prefix holds it alone
	HostBits bool         // Addr is not the first address of Prefix
	Mapped   bool         // written as IPv4-mapped IPv6
}

// ParseNet reads a CIDR or a bare address as Go's net.ParseCIDR and net.ParseIP do: leading zeros in the prefix length
// are accepted ("10.0.0.0/08"), zones are not. IPv4-mapped CIDRs of /96 and longer are IPv4.
//
// Deviation: IPv4-mapped CIDRs shorter than /96 are refused with ErrMapped. They hold IPv4 as well as IPv6 addresses,
// and Calico makes wrong set members of them. All other errors wrap ErrPrefix.
func ParseNet(s string) (Net, error) {
	text, length, isCIDR := strings.Cut(s, "/")
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return Net{}, fmt.Errorf("%w: %q", ErrPrefix, s)
	}
	bits := a.BitLen()
	if isCIDR {
		var ok bool
		if bits, ok = parseLength(length, a.BitLen()); !ok {
			return Net{}, fmt.Errorf("%w: %q", ErrPrefix, s)
		}
	}
	n := Net{Addr: a, Bare: !isCIDR}
	if a.Is4In6() {
		if bits < 96 {
			return Net{}, fmt.Errorf("%w: %q", ErrMapped, s)
		}
		n.Addr, n.Mapped, bits = a.Unmap(), true, bits-96
	}
	n.Prefix = netip.PrefixFrom(n.Addr, bits).Masked()
	n.HostBits = n.Prefix.Addr() != n.Addr
	return n, nil
}

// parseLength reads a prefix length of at most limit: decimal digits, leading zeros allowed.
func parseLength(s string, limit int) (int, bool) {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		if n = n*10 + int(s[i]-'0'); n > limit {
			return 0, false
		}
	}
	return n, s != ""
}

// ParsePrefix reads a CIDR or a bare address and masks it: what Calico accepts in network sets.
func ParsePrefix(s string) (netip.Prefix, error) {
	n, err := ParseNet(s)
	return n.Prefix, err
}

// ParsePrefixStrict is ParsePrefix without host bits; the error for those wraps ErrHostBits.
func ParsePrefixStrict(s string) (netip.Prefix, error) {
	n, err := ParseNet(s)
	if err == nil && n.HostBits {
		return netip.Prefix{}, fmt.Errorf("%w: %q, did you mean %q?", ErrHostBits, s, n.Prefix)
	}
	return n.Prefix, err
}

// FamilyOf returns the family of a; IPv4-mapped IPv6 is IPv4. It is 0 for the zero Addr.
func FamilyOf(a netip.Addr) Family {
	switch {
	case a.Is4() || a.Is4In6():
		return IPv4
	case a.Is6():
		return IPv6
	}
	return 0
}
