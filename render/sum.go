// SPDX-License-Identifier: Apache-2.0

package render

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// ElementSum is the sum of the hashes of elements, which does not depend on their order. The zero value is that of no
// elements. Comparable.
type ElementSum [4]uint64

// Add adds an element of the named set.
func (s *ElementSum) Add(set string, e ir.Element) {
	h := elementHash(set, e)
	for i := range s {
		s[i] += h[i]
	}
}

// Remove takes back an Add.
func (s *ElementSum) Remove(set string, e ir.Element) {
	h := elementHash(set, e)
	for i := range s {
		s[i] -= h[i]
	}
}

func elementHash(set string, e ir.Element) [4]uint64 {
	var buf [256]byte
	b := append(buf[:0], set...)
	b = append(b, 0)
	b = e.Prefix.AppendTo(b)
	b = append(b, byte(e.Protocol), byte(e.Port>>8), byte(e.Port))
	sum := sha256.Sum256(b)
	var h [4]uint64
	for i := range sum {
		h[i/8] = h[i/8]<<8 | uint64(sum[i])
	}
	return h
}

// AppendTo appends the bytes of the sum.
func (s ElementSum) AppendTo(b []byte) []byte {
	for _, n := range s {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}
