// SPDX-License-Identifier: Apache-2.0

package inet

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// PortSet is an immutable set of ports. The zero value is the empty set. Its ranges are sorted, disjoint and as few as
// possible, so that equal sets have equal ranges.
type PortSet struct{ ranges []PortRange }

// NewPortSet returns the union of the ranges; it does not keep the slice. The error wraps ErrPort and names the first
// range whose Min is greater than its Max.
func NewPortSet(ranges ...PortRange) (PortSet, error) {
	for _, r := range ranges {
		if r.Min > r.Max {
			return PortSet{}, fmt.Errorf("%w: %d:%d", ErrPort, r.Min, r.Max)
		}
	}
	return PortSet{merge(slices.Clone(ranges))}, nil
}

// merge sorts rs and joins ranges that overlap or touch, in place.
func merge(rs []PortRange) []PortRange {
	slices.SortFunc(rs, func(a, b PortRange) int { return cmp.Or(cmp.Compare(a.Min, b.Min), cmp.Compare(a.Max, b.Max)) })
	out := rs[:0]
	for _, r := range rs {
		// int, since Max+1 of 65535 is no port.
		if n := len(out); n > 0 && int(r.Min) <= int(out[n-1].Max)+1 {
			out[n-1].Max = max(out[n-1].Max, r.Max)
			continue
		}
		out = append(out, r)
	}
	return slices.Clip(out)
}

// Ranges returns a copy of the ranges, in order; nil for the empty set.
func (s PortSet) Ranges() []PortRange { return slices.Clone(s.ranges) }

// IsEmpty reports whether s holds no port.
func (s PortSet) IsEmpty() bool { return len(s.ranges) == 0 }

// Len returns the number of ports, from 0 to 65536.
func (s PortSet) Len() int {
	n := 0
	for _, r := range s.ranges {
		n += int(r.Max) - int(r.Min) + 1
	}
	return n
}

// Contains reports whether s holds p.
func (s PortSet) Contains(p uint16) bool {
	_, ok := slices.BinarySearchFunc(s.ranges, p, func(r PortRange, p uint16) int {
		switch {
		case r.Max < p:
			return -1
		case r.Min > p:
			return 1
		}
		return 0
	})
	return ok
}

// Equal reports whether s and o hold the same ports.
func (s PortSet) Equal(o PortSet) bool { return slices.Equal(s.ranges, o.ranges) }

// Union returns the ports of s and of o.
func (s PortSet) Union(o PortSet) PortSet { return PortSet{merge(slices.Concat(s.ranges, o.ranges))} }

// Complement returns all ports, 0 among them, that are not in s.
func (s PortSet) Complement() PortSet {
	var out []PortRange
	next := 0
	for _, r := range s.ranges {
		if next < int(r.Min) {
			out = append(out, PortRange{Min: uint16(next), Max: r.Min - 1})
		}
		next = int(r.Max) + 1
	}
	if next <= 65535 {
		out = append(out, PortRange{Min: uint16(next), Max: 65535})
	}
	return PortSet{out}
}

// Intersect returns the ports that are in both s and o.
func (s PortSet) Intersect(o PortSet) PortSet {
	var out []PortRange
	for a, b := s.ranges, o.ranges; len(a) > 0 && len(b) > 0; {
		r := PortRange{Min: max(a[0].Min, b[0].Min), Max: min(a[0].Max, b[0].Max)}
		if r.Min <= r.Max {
			out = append(out, r)
		}
		if a[0].Max < b[0].Max {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return PortSet{out}
}

// String returns the ranges with commas: "22,80:90".
func (s PortSet) String() string {
	var b strings.Builder
	for i, r := range s.ranges {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(r.String())
	}
	return b.String()
}
