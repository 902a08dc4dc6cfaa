// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Fingerprint identifies the content of the ruleset, comments included: a SHA-256 over its text, but for the elements
// of sets, which enter as a sum of hashes, so that the backend can follow changes of members at their own cost. It tells
// contents apart; it does not withstand an adversary who chooses the members.
func (r *Ruleset) Fingerprint() string {
	var sum ElementSum
	for i := range r.Sets {
		for _, e := range r.Sets[i].Elements {
			sum.Add(r.Sets[i].Name, e)
		}
	}
	return Fingerprint(r.StructureHash(), sum)
}

// StructureHash identifies everything but the elements of sets.
func (r *Ruleset) StructureHash() [32]byte {
	b := make([]byte, 0, 4096)
	b = append(b, r.Table...)
	b = append(b, '\n')
	for i := range r.Sets {
		b = r.Sets[i].appendText(b, false)
	}
	h := sha256.New()
	for i := range r.Chains {
		c := &r.Chains[i]
		d := c.digest
		if d == [sha256.Size]byte{} {
			d = sha256.Sum256(c.appendText(nil))
		}
		h.Write(d[:])
	}
	h.Write(b)
	return [32]byte(h.Sum(nil))
}

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

// Fingerprint puts the parts of Ruleset.Fingerprint together.
func Fingerprint(structure [32]byte, sum ElementSum) string {
	b := structure[:]
	for _, n := range sum {
		for i := 56; i >= 0; i -= 8 {
			b = append(b, byte(n>>i))
		}
	}
	f := sha256.Sum256(b)
	return hex.EncodeToString(f[:])
}
