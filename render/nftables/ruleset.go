// SPDX-License-Identifier: Apache-2.0

// Package nftables renders rule programs to nftables: one table of family inet with a base chain for every hook, the
// blocks of the program as chains, and the sets.
//
// How an outcome travels: Deny is drop or reject and Allow is accept, both final for the hook, since every hook has a
// base chain of its own. Pass and Undecided, which mean "go on there", are the return from a chain that was jumped to;
// where the two mean different places in the same chain, the callee's rules are written into the caller's chain. No
// packet mark takes part in this. A bit of the mark is used only between hooks, see Options.Mark.
//
// A Ruleset is made of typed expressions; its text and the netlink messages of the backend are two prints of it.
package nftables

import (
	"crypto/sha256"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
)

// Ruleset is a table of family inet. It is immutable and safe for concurrent use. The zero value is a table without
// name, which nothing accepts.
type Ruleset struct {
	Table  string
	Sets   []Set   // sorted by Name
	Chains []Chain // base chains in the order of hooks, then the others sorted by Name
}

// Chain is a list of rules.
type Chain struct {
	Name    string
	Base    Base   // the zero value if the chain is no base chain
	Comment string // for people; at most 127 bytes
	Rules   []Rule

	digest [sha256.Size]byte // of the text; zero if nobody has looked
}

// Base attaches a chain to a hook of the kernel. All base chains are of type filter and accept by default. Comparable.
type Base struct {
	Hook     NetfilterHook
	Priority int32
}

// NetfilterHook is a hook of the family inet. The zero value is none.
type NetfilterHook uint8

// The hooks. Their numbers less one are those of the kernel. Ref: linux/netfilter.h, enum nf_inet_hooks.
const (
	Prerouting NetfilterHook = iota + 1
	Input
	Forward
	Output
	Postrouting
)

// Rule is one rule of a chain.
type Rule struct {
	Exprs   []Expr
	Comment string       // RuleKey, Origin and position, or what the rule is for; at most 127 bytes
	Origin  *flow.Origin // what decides by this rule; nil if nothing does
}

// Set is a named set: the members of a set of the program for one family, or a constant list that rules share.
type Set struct {
	Name string

	// Of a set of the program.
	ID       ir.SetID
	Kind     ir.SetKind
	Family   inet.Family
	Exact    bool         // of prefixes, and all of them are single addresses: the set is a hash and not intervals
	Comment  string       // ID and selector, for people; at most 127 bytes
	Elements []ir.Element // of the family, sorted; prefixes do not overlap

	// Values is the constant list: InNumbers, InPorts, InPrefixes or InNames, not negated; nil for a set of the program.
	Values Expr
}

// Chain returns the chain with the given name; false if there is none.
func (r *Ruleset) Chain(name string) (*Chain, bool) {
	for i := range r.Chains {
		if r.Chains[i].Name == name {
			return &r.Chains[i], true
		}
	}
	return nil, false
}

var _ render.Artifact = (*Ruleset)(nil)
