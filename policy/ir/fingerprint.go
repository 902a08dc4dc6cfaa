// SPDX-License-Identifier: Apache-2.0

package ir

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Fingerprint identifies content: the SHA-256 of its canonical text. Comparable. Positions of origins are not part of
// it, so that moving a rule in a file changes no fingerprint.
type Fingerprint [sha256.Size]byte

// String returns the fingerprint as 64 hexadecimal digits.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// Fingerprint identifies the program without its members. Programs with the same canonical text have the same.
func (p *Program) Fingerprint() Fingerprint { return sha256.Sum256([]byte(p.String())) }

// BlockFingerprint identifies a block's ID and steps, with their origins; blocks that it calls count by name only.
func (p *Program) BlockFingerprint(b Block) Fingerprint {
	var w strings.Builder
	p.writeBlock(&w, b)
	return sha256.Sum256([]byte(w.String()))
}

// Fingerprint identifies the members of all sets.
func (m Members) Fingerprint() Fingerprint { return sha256.Sum256([]byte(m.String())) }

// Fingerprint identifies the members of one set.
func (s SetMembers) Fingerprint() Fingerprint { return Members{Sets: []SetMembers{s}}.Fingerprint() }
