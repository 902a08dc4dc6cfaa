// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Fingerprint identifies the content of the ruleset, comments and members included. The names of roots stand for all
// chains below them, and members enter as a sum of hashes, so it costs little. It tells contents
// apart; it does not withstand an adversary who chooses the members.
func (r *Ruleset) Fingerprint() string {
	var sum elementSum
	for i := range r.Sets {
		for j, n := range r.Sets[i].sum {
			sum[j] += n
		}
	}
	structure := r.StructureHash()
	b := structure[:]
	for _, n := range sum {
		for i := 56; i >= 0; i -= 8 {
			b = append(b, byte(n>>i))
		}
	}
	f := sha256.Sum256(b)
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

// elementSum is the sum of the hashes of the elements of a set, which does not depend on their order. The elements of
// constant sets are part of their names.
type elementSum [4]uint64

func (s *elementSum) add(set string, e ir.Element) {
	for i, n := range elementHash(set, e) {
		s[i] += n
	}
}

func (s *elementSum) remove(set string, e ir.Element) {
	for i, n := range elementHash(set, e) {
		s[i] -= n
	}
}

func elementHash(set string, e ir.Element) [4]uint64 {
	var buf [128]byte
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
