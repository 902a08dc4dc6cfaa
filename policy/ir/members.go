// SPDX-License-Identifier: Apache-2.0

package ir

import (
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

// Index answers questions about membership. It is immutable and safe for concurrent use.
type Index struct {
	sets map[SetID]*indexedSet
}

type indexedSet struct {
	elements map[Element]struct{}
	lengths  [2][]int // prefix lengths that occur, for IPv4 and IPv6
}

// NewIndex prepares the members for questions. It copies what it needs.
func NewIndex(m Members) *Index {
	ix := &Index{sets: make(map[SetID]*indexedSet, len(m.Sets))}
	for _, s := range m.Sets {
		set := &indexedSet{elements: make(map[Element]struct{}, len(s.Elements))}
		var seen [2][129]bool
		for _, e := range s.Elements {
			p, ok := PlainPrefix(e.Prefix)
			if !ok {
				continue
			}
			e.Prefix = p
			set.elements[e] = struct{}{}
			seen[familyIndex(p.Addr())][p.Bits()] = true
		}
		for f := range seen {
			for n, ok := range seen[f] {
				if ok {
					set.lengths[f] = append(set.lengths[f], n)
				}
			}
		}
		ix.sets[s.ID] = set
	}
	return ix
}

func familyIndex(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// Contains reports whether the set holds the address, which must not be IPv4-mapped, with the given protocol and port:
// both 0 for a set of prefixes. A set that does not exist is empty.
func (ix *Index) Contains(id SetID, a netip.Addr, proto inet.Protocol, port uint16) bool {
	s := ix.sets[id]
	if s == nil || !a.IsValid() {
		return false
	}
	for _, n := range s.lengths[familyIndex(a)] {
		p, err := a.Prefix(n)
		if err != nil {
			continue
		}
		if _, ok := s.elements[Element{Prefix: p, Protocol: proto, Port: port}]; ok {
			return true
		}
	}
	return false
}
