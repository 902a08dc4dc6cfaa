// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/hostpolicy/hostpolicy/render"
)

// Fingerprint identifies the content of the ruleset, comments and members included. The names of roots stand for all
// chains below them, and members enter as a sum of hashes, so it costs little. It tells contents
// apart; it does not withstand an adversary who chooses the members.
func (r *Ruleset) Fingerprint() string {
	var sum render.ElementSum
	for i := range r.Sets {
		for j, n := range r.Sets[i].sum {
			sum[j] += n
		}
	}
	structure := r.StructureHash()
	f := sha256.Sum256(sum.AppendTo(structure[:]))
	return hex.EncodeToString(f[:])
}

// StructureHash identifies everything but the elements of sets.
func (r *Ruleset) StructureHash() [sha256.Size]byte {
	b := append([]byte(r.Prefix), byte(r.Insert), '\n')
	for i := range r.Sets {
		b = r.Sets[i].AppendCreate(b, r.Sets[i].Name)
	}
	for i := range r.Tables {
		t := &r.Tables[i]
		b = append(append(b, t.Family.String()...), t.Name.String()...)
		for _, h := range t.Hooks {
			b = append(append(append(append(b, ' '), h.Kernel...), ' '), h.Root...)
		}
		b = append(b, '\n')
	}
	return sha256.Sum256(b)
}
