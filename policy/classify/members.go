// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// member is an element of a set: of prefixes, whose bits count from the beginning of the key, or of endpoints.
type member struct {
	key      key
	bits     uint8
	protocol uint8
	port     uint16
}

func memberOf(e ir.Element) member {
	m := member{key: span.KeyOf(ir.Addr(e.Prefix.Addr())), bits: uint8(e.Prefix.Bits()), protocol: uint8(e.Protocol), port: e.Port}
	if e.Prefix.Addr().Is4() {
		m.bits += 96
	}
	return m
}

func (m member) element() ir.Element {
	a := m.key.Value().Addr()
	bits := int(m.bits)
	if a.Is4() {
		bits -= 96
	}
	return ir.Element{Prefix: netip.PrefixFrom(a, bits), Protocol: inet.Protocol(m.protocol), Port: m.port}
}

func (m member) compare(n member) int {
	return cmp.Or(m.key.Compare(n.key), cmp.Compare(m.bits, n.bits), cmp.Compare(m.protocol, n.protocol), cmp.Compare(m.port, n.port))
}

// span returns the keys of a prefix.
func (m member) span() span.Span {
	return span.Span{Lo: m.key, Hi: m.key.Or(span.Mask(int(m.bits)).Not())}
}

// memberSet holds members in order, in blocks, so that one comes or goes at the cost of a block.
type memberSet struct {
	blocks  [][]member
	lengths [129]int // how many have so many bits
}

// blockSize is what blocks are cut to; they grow to twice as much.
const blockSize = 256

func newMemberSet(es []ir.Element) *memberSet {
	s := &memberSet{}
	all := make([]member, len(es))
	for i, e := range es {
		all[i] = memberOf(e)
		s.lengths[all[i].bits]++
	}
	slices.SortFunc(all, member.compare)
	for len(all) > 0 {
		n := min(blockSize, len(all))
		s.blocks = append(s.blocks, slices.Clone(all[:n]))
		all = all[n:]
	}
	return s
}

// find returns where m is, or would be.
func (s *memberSet) find(m member) (block, at int, found bool) {
	block, found = slices.BinarySearchFunc(s.blocks, m, func(b []member, m member) int { return b[0].compare(m) })
	if found {
		return block, 0, true
	}
	if block--; block < 0 {
		return 0, 0, false
	}
	at, found = slices.BinarySearchFunc(s.blocks[block], m, member.compare)
	return block, at, found
}

// add reports whether m was not there.
func (s *memberSet) add(m member) bool {
	b, i, found := s.find(m)
	if found {
		return false
	}
	s.lengths[m.bits]++
	if len(s.blocks) == 0 {
		s.blocks = append(s.blocks, []member{m})
		return true
	}
	s.blocks[b] = slices.Insert(s.blocks[b], i, m)
	if x := s.blocks[b]; len(x) >= 2*blockSize {
		s.blocks[b] = x[:blockSize:blockSize]
		s.blocks = slices.Insert(s.blocks, b+1, slices.Clone(x[blockSize:]))
	}
	return true
}

// remove reports whether m was there.
func (s *memberSet) remove(m member) bool {
	b, i, found := s.find(m)
	if !found {
		return false
	}
	s.lengths[m.bits]--
	if s.blocks[b] = slices.Delete(s.blocks[b], i, i+1); len(s.blocks[b]) == 0 {
		s.blocks = slices.Delete(s.blocks, b, b+1)
	}
	return true
}

// holds reports whether a prefix of the set holds an address. Those of IPv6 never hold one of IPv4.
func (s *memberSet) holds(k key) bool {
	first := 0
	if k.Hi == 0 && k.Lo>>32 == mapped {
		first = 96
	}
	for n := first; n <= 128; n++ {
		if s.lengths[n] == 0 {
			continue
		}
		if _, _, found := s.find(member{key: k.And(span.Mask(n)), bits: uint8(n)}); found {
			return true
		}
	}
	return false
}

// within calls f for all members whose keys are from lo to hi, until it returns false.
func (s *memberSet) within(lo, hi key, f func(member) bool) {
	b, i, _ := s.find(member{key: lo})
	for ; b < len(s.blocks); b, i = b+1, 0 {
		for _, m := range s.blocks[b][i:] {
			if hi.Less(m.key) || !f(m) {
				return
			}
		}
	}
}

// elements returns all members as the IR sorts them.
func (s *memberSet) elements() []ir.Element {
	var es []ir.Element
	for _, b := range s.blocks {
		for _, m := range b {
			es = append(es, m.element())
		}
	}
	slices.SortFunc(es, ir.CompareElements)
	return es
}
