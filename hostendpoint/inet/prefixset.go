// SPDX-License-Identifier: Apache-2.0

package inet

import (
	"fmt"
	"net/netip"
	"strings"

	"go4.org/netipx"
)

// PrefixSet is an immutable set of addresses of both families. The zero value is the empty set. IPv4-mapped IPv6
// addresses and prefixes count as IPv4 throughout.
type PrefixSet struct{ set *netipx.IPSet }

// NewPrefixSet returns the union of the prefixes, host bits ignored. The error wraps ErrPrefix for an invalid prefix and
// ErrMapped for an IPv4-mapped one shorter than /96.
func NewPrefixSet(prefixes ...netip.Prefix) (PrefixSet, error) {
	var b netipx.IPSetBuilder
	for _, p := range prefixes {
		u, err := UnmapPrefix(p)
		if err != nil {
			return PrefixSet{}, err
		}
		b.AddPrefix(u)
	}
	return build(&b), nil
}

// UnmapPrefix masks p, and makes IPv4 of an IPv4-mapped prefix. Errors are those of NewPrefixSet.
func UnmapPrefix(p netip.Prefix) (netip.Prefix, error) {
	switch {
	case !p.IsValid():
		return netip.Prefix{}, fmt.Errorf("%w: %v", ErrPrefix, p)
	case !p.Addr().Is4In6():
		return p.Masked(), nil
	case p.Bits() < 96:
		return netip.Prefix{}, fmt.Errorf("%w: %v", ErrMapped, p)
	}
	return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked(), nil
}

// build finishes b, to which only valid prefixes and sets were added: an error is what the builder reports of others.
func build(b *netipx.IPSetBuilder) PrefixSet {
	s, err := b.IPSet()
	if err != nil {
		return PrefixSet{}
	}
	return PrefixSet{s}
}

// AddrRange is a closed range of addresses of one family.
type AddrRange struct{ From, To netip.Addr }

// Contains reports whether a is in s. No set holds the zero Addr or an address with a zone.
func (s PrefixSet) Contains(a netip.Addr) bool {
	return s.set != nil && s.set.Contains(a.Unmap())
}

// Prefixes returns the smallest list of prefixes that make up s, IPv4 first, each family in order; nil if s is empty.
// The caller owns it.
func (s PrefixSet) Prefixes() []netip.Prefix {
	if s.IsEmpty() {
		return nil
	}
	return s.set.Prefixes()
}

// Ranges returns the smallest list of ranges that make up s, in the order of Prefixes; nil if s is empty. The caller
// owns it.
func (s PrefixSet) Ranges() []AddrRange {
	if s.set == nil {
		return nil
	}
	var out []AddrRange
	for _, r := range s.set.Ranges() {
		out = append(out, AddrRange{From: r.From(), To: r.To()})
	}
	return out
}

// IsEmpty reports whether s holds no address.
func (s PrefixSet) IsEmpty() bool { return s.set == nil || s.set.Equal(&netipx.IPSet{}) }

// Equal reports whether s and o hold the same addresses.
func (s PrefixSet) Equal(o PrefixSet) bool {
	if s.set == nil || o.set == nil {
		return s.IsEmpty() && o.IsEmpty()
	}
	return s.set.Equal(o.set)
}

// Union returns the addresses of s and of o.
func (s PrefixSet) Union(o PrefixSet) PrefixSet {
	var b netipx.IPSetBuilder
	for _, x := range []PrefixSet{s, o} {
		if x.set != nil {
			b.AddSet(x.set)
		}
	}
	return build(&b)
}

// Intersect returns the addresses that are in both s and o.
func (s PrefixSet) Intersect(o PrefixSet) PrefixSet {
	if s.set == nil || o.set == nil {
		return PrefixSet{}
	}
	var b netipx.IPSetBuilder
	b.AddSet(s.set)
	b.Intersect(o.set)
	return build(&b)
}

// Minus returns the addresses of s that are not in o.
func (s PrefixSet) Minus(o PrefixSet) PrefixSet {
	if s.set == nil || o.set == nil {
		return s
	}
	var b netipx.IPSetBuilder
	b.AddSet(s.set)
	b.RemoveSet(o.set)
	return build(&b)
}

// Family returns the addresses of s that belong to f; s itself for the zero Family.
func (s PrefixSet) Family(f Family) PrefixSet {
	if f == 0 {
		return s
	}
	return s.Intersect(AllAddrs(f))
}

// AllAddrs returns all addresses of f, or of both families for the zero Family.
func AllAddrs(f Family) PrefixSet {
	var b netipx.IPSetBuilder
	if f != IPv6 {
		b.AddPrefix(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	}
	if f != IPv4 {
		b.AddPrefix(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	}
	return build(&b)
}

// String returns the prefixes with commas.
func (s PrefixSet) String() string {
	var b strings.Builder
	for i, p := range s.Prefixes() {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(p.String())
	}
	return b.String()
}
