// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/hostpolicy/hostpolicy/render"
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

// ElementSum is the part of the elements.
type ElementSum = render.ElementSum

// Fingerprint puts the parts of Ruleset.Fingerprint together.
func Fingerprint(structure [32]byte, sum ElementSum) string {
	f := sha256.Sum256(sum.AppendTo(structure[:]))
	return hex.EncodeToString(f[:])
}
