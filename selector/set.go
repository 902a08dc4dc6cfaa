// SPDX-License-Identifier: Apache-2.0

package selector

import "slices"

// valueSet is the set of values of "in" and "not in". Immutable.
type valueSet struct {
	sorted []string            // without duplicates, in the order of bytes, as the canonical text has them
	index  map[string]struct{} // of large sets
	table  []string            // of small sets: open addressing; "" is free, and in no table
	shift  uint8               // from a hash to an index into table
}

// Sets up to minTable are searched one by one; from maxTable on a map is faster to search than to avoid.
const (
	minTable = 3
	maxTable = 64
	maxProbe = 4
)

// newValueSet sorts vals in place and keeps it.
func newValueSet(vals []string) valueSet {
	slices.Sort(vals)
	s := valueSet{sorted: slices.Compact(vals)}
	switch n := len(s.sorted); {
	case n <= minTable:
	case n > maxTable:
		s.index = make(map[string]struct{}, n)
		for _, v := range s.sorted {
			s.index[v] = struct{}{}
		}
	default:
		s.fill()
	}
	return s
}

// fill makes the table. If values collide too much (their author may want them to), it leaves none, and has searches
// by halves.
func (s *valueSet) fill() {
	bits := 3
	for 1<<bits < 2*len(s.sorted) {
		bits++
	}
	s.shift = uint8(32 - bits)
	t := make([]string, 1<<bits)
	for _, v := range s.sorted {
		if v == "" {
			continue
		}
		h := weakHash(v) >> s.shift
		for probe := 0; t[h] != ""; probe++ {
			if probe == maxProbe {
				return
			}
			h = (h + 1) & uint32(len(t)-1)
		}
		t[h] = v
	}
	s.table = t
}

// weakHash looks at four things at which values that belong together differ. The upper bits are the good ones. V must
// not be empty.
func weakHash(v string) uint32 {
	n := uint(len(v))
	return (uint32(n)<<24 ^ uint32(v[0])<<16 ^ uint32(v[n/2])<<8 ^ uint32(v[n-1])) * 0x9E3779B1 // 2^32 / golden ratio
}

func (s *valueSet) has(v string) bool {
	if len(s.table) > 0 {
		if v == "" {
			return s.sorted[0] == ""
		}
		// At most half of the table is in use, so that this ends.
		for h := weakHash(v) >> (s.shift & 31); ; h++ {
			switch s.table[h&uint32(len(s.table)-1)] {
			case v:
				return true
			case "":
				return false
			}
		}
	}
	if s.index != nil {
		_, ok := s.index[v]
		return ok
	}
	if len(s.sorted) <= minTable {
		for _, x := range s.sorted {
			if x == v {
				return true
			}
		}
		return false
	}
	_, ok := slices.BinarySearch(s.sorted, v)
	return ok
}
