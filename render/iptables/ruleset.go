// SPDX-License-Identifier: Apache-2.0

// Package iptables renders rule programs to iptables, ip6tables and ipset: the tables raw, mangle and filter of both
// families, and the sets. Both variants of iptables, nft and legacy, take the same text.
//
// How an outcome travels: Deny is DROP (or a chain that rejects), and Allow is ACCEPT where nothing else of the table
// has to be asked, so both need no return. Pass is the return from the chain of a tier, into which its policies are
// written. Where an outcome must cross more than one return, a bit of the packet mark carries it; another bit carries
// an Allow from hook to hook. See Options.MarkMask.
//
// Chains are immutable: the name of a chain holds a hash of its rules and, through their names, of all chains it leads
// to. A changed policy gives new chains beside the old ones, and the kernel changes over in one place, the root of the
// hook; chains that did not change stay, with their counters. Only the chains to which the kernel's own chains jump
// (Prefix+"INPUT" and so on) have fixed names, and one rule each.
//
// Long runs of rules become trees. A rule here cannot carry a verdict map, and a set of ipset cannot say which of its
// entries matched. But a rule that tests one field and goes to another chain is cheap, so that a few of them narrow
// thousands of rules down to a handful, in their order, each with its own counter, comment and log prefix. Rules that
// have the same outcome could instead be entries of one set of the type hash:net,port; measured with 5,000 of them, that
// is as fast as the tree, in either variant, and an entry has no log prefix.
//
// What custom rules in the same table of the kernel see of the packets of a hook:
//
//	                          custom rule before ours   custom rule behind ours
//	Insert, Accept            (none is before ours)     what has no verdict or no endpoint
//	Insert, Return            (none is before ours)     what is not denied, except failsafes
//	Append, Accept or Return  everything                (none is behind ours)
//
// Rules in other tables see every packet that gets there. An allowed packet of mangle POSTROUTING, where the egress of
// translated connections is decided, returns in both cases.
package iptables

import (
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
)

// Ruleset is everything that an instance puts into the kernel. It is immutable and safe for concurrent use.
type Ruleset struct {
	Prefix string
	Insert InsertMode
	Marks  Marks
	Tables []Table // IPv4 first, then raw, mangle, filter; those that hold something
	Sets   []Set   // sorted by Name

	consts  []Set // sorted by Name
	members []Set // without Elements, sorted by Name
	source  ir.Members
}

// Marks are the bits of the packet mark that an instance uses, taken from Options.MarkMask from the lowest on. Comparable.
type Marks struct {
	Allow      uint32 // an Allow that settles later hooks, or that is not final yet; not taken back
	Generation uint32 // for the backend: which of two rulesets decides about a packet while one replaces the other
	Translated uint32 // the egress of a translated connection is to be decided behind routing
	ResultA    uint32 // the result Allow of a chain that was jumped to
	ResultP    uint32 // the result Pass of a chain that was jumped to
	Scratch    uint32 // the criteria of a rule that takes several lines matched
	Settled    uint32 // an Allow settled later hooks, where something can take the Allow back before them
	ResultD    uint32 // the result Deny of a chain that was jumped to, where the jump resumes some denials
}

// TableName names a table of the kernel. The zero value is invalid.
type TableName uint8

// The tables, in the order in which packets meet them.
const (
	Raw TableName = iota + 1
	Mangle
	Filter
)

// Table is what the instance has in one table of one family.
type Table struct {
	Family inet.Family
	Name   TableName
	Hooks  []Hook  // in the order of the kernel's hooks
	Chains []Chain // sorted by Name; without those that Hooks name
}

// Hook is a chain of the kernel from which ours are reached: it jumps to Chain, which goes to Root.
type Hook struct {
	Kernel string // "PREROUTING"
	Chain  string // Prefix + Kernel
	Root   string // the chain that decides
}

// Chain is a list of rules. Its name identifies its content.
type Chain struct {
	Name  string // at most 28 bytes
	Rules []Rule

	text []byte // bodies of the rules, each with its newline
}

// Rule is one rule of a chain: all tests must hold for the target.
type Rule struct {
	Tests   []Test // in the order in which iptables-save prints them
	Target  Target
	Comment string       // RuleKey, Origin and position, or what the rule is for; at most 255 bytes
	Origin  *flow.Origin // what decides or logs by this rule; nil if nothing does
}

// Set is a set of ipset, of one family.
type Set struct {
	Name     string // at most 31 bytes
	ID       ir.SetID
	Kind     ir.SetKind
	Family   inet.Family
	Use      Use
	Max      int          // the largest number of elements
	Elements []ir.Element // of the family, sorted; no prefix of length 0

	sum    render.ElementSum // of the elements; those of constant sets are part of their names
	shared bool              // Elements is a part of the members, which hold nothing that sets do not hold
}

// Use says how the verdict of a packet depends on whether it is in a set. A backend that cannot change several sets at
// once orders the changes by it, so that no packet is let in between that neither the old nor the new sets let in.
type Use uint8

// The uses. Constant sets are never changed.
const (
	Unused    Use = 0         // membership changes no verdict
	Opens     Use = 1         // to be in the set only ever allows
	Closes    Use = 2         // to be in the set only ever denies
	Ambiguous Use = 3         // both
	Constant  Use = 1 << iota // the name holds a hash of the elements
)

// Table returns the table; false if nothing is in it.
func (r *Ruleset) Table(f inet.Family, n TableName) (*Table, bool) {
	for i := range r.Tables {
		if t := &r.Tables[i]; t.Family == f && t.Name == n {
			return t, true
		}
	}
	return nil, false
}

// Chain returns the chain with the given name; false if there is none.
func (t *Table) Chain(name string) (*Chain, bool) {
	for i := range t.Chains {
		if t.Chains[i].Name == name {
			return &t.Chains[i], true
		}
	}
	return nil, false
}

// Set returns the set with the given name; false if there is none.
func (r *Ruleset) Set(name string) (*Set, bool) {
	for i := range r.Sets {
		if r.Sets[i].Name == name {
			return &r.Sets[i], true
		}
	}
	return nil, false
}

var _ render.Artifact = (*Ruleset)(nil)
