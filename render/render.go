// SPDX-License-Identifier: Apache-2.0

// Package render holds what the renderers have in common. A renderer turns a rule program and its members into an
// artifact: a value that says completely what a dataplane will hold, before anything touches a kernel.
//
// Renderers are pure. What the dataplane cannot express is an *UnsupportedError that names the rule, never an
// approximation and never a part of an artifact.
package render

import (
	"strings"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Artifact is what every renderer returns, in a type of its own. Artifacts are immutable and safe for concurrent use.
type Artifact interface {
	// String returns the canonical text, in the language of the dataplane's own tool where it has one. Equal
	// artifacts have equal text.
	String() string
	// Fingerprint identifies the content; artifacts that mean the same to the kernel and are built alike share it.
	Fingerprint() string
}

// Caps says what the kernel of a host can do beyond the least that a renderer demands. The zero value promises
// nothing; a renderer that would need more returns an UnsupportedError. Comparable.
type Caps struct {
	// ConcatRanges says that nftables sets over several fields may hold ranges. Ref: linux 5.6, net/netfilter/
	// nft_set_pipapo.c.
	ConcatRanges bool
}

// DenyAction says what a denied packet meets. The values are those of policy.DenyAction; renderers know nothing of that
// package but its programs. The zero value is Drop.
type DenyAction uint8

// The deny actions.
const (
	Drop   DenyAction = iota
	Reject            // answers with an error where the kernel can, drops elsewhere
)

// UnsupportedError says that a dataplane cannot express a rule. Use errors.As.
type UnsupportedError struct {
	Backend string      // "nftables", "iptables", "ebpf"
	Origin  flow.Origin // of the rule; the zero value if what is missing belongs to no rule
	What    string      // what is missing, and which limit or capability would be needed
}

// Error implements error.
func (e *UnsupportedError) Error() string {
	var b strings.Builder
	b.WriteString(e.Backend)
	b.WriteString(": ")
	if e.Origin.Kind != 0 {
		if p := e.Origin.Pos.String(); p != "" {
			b.WriteString(p)
			b.WriteString(": ")
		}
		b.WriteString(e.Origin.String())
		b.WriteString(": ")
	}
	b.WriteString(e.What)
	return b.String()
}
