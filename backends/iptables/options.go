// SPDX-License-Identifier: Apache-2.0

// Package iptables enforces rule programs through iptables, ip6tables and ipset, in either variant: nft or legacy.
//
// A table of one family changes as a whole. Where a change takes several tables, the new rules are put beside the old
// ones first; then one table, raw, where the way of every packet begins, starts to send packets the new way, and marks
// them so that the later tables know. So every packet meets the old rules or the new ones, whenever this process ends.
// IPv4 and IPv6 change over one after the other. The next Apply, by whatever process, finishes what was left undone.
//
// Members of sets change in place, one element after the other: first what can only deny more, last what can only allow
// more. While several elements change, a packet may be denied that the old and the new members allow. Only where it
// depends on the packet whether a set allows or denies (it is used by a Pass rule, or by rules that allow and rules that
// deny) and other sets change in the same Apply is there no safe order; then the change takes as long as ipset takes.
// Up to 256 elements are told to the kernel by netlink, as ipset itself does it, since to start ipset takes longer.
//
// It needs iptables 1.8.4 for the variant nft or 1.6.2 for legacy, ipset 6.38, and CAP_NET_ADMIN; elsewhere New returns
// an error.
package iptables

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	render "github.com/hostpolicy/hostpolicy/render/iptables"
)

// Options say where and how to enforce. The zero value is useful.
type Options struct {
	// Render is passed to the renderer.
	Render render.Options
	// Variant says which iptables to use; Auto finds out.
	Variant Variant
	// NetNS is a file descriptor of the network namespace, which must stay open as long as the Backend is used; 0 is the
	// namespace of the process.
	NetNS int
	// Logger gets what an operator may want to know; nil is silence.
	Logger *slog.Logger
}

// Variant is one of the two implementations of iptables. The zero value is Auto.
type Variant uint8

// The variants. Auto takes the one in which the namespace has rules, else the one that "iptables" is on this system.
const (
	Auto Variant = iota
	NFT
	Legacy
)

var variantNames = [...]string{Auto: "auto", NFT: "nft", Legacy: "legacy"}

// String returns "auto", "nft" or "legacy".
func (v Variant) String() string {
	if int(v) >= len(variantNames) {
		return fmt.Sprintf("variant(%d)", v)
	}
	return variantNames[v]
}

// ErrUnavailable is what errors of New wrap where the tools or the right to use them are missing.
var ErrUnavailable = errors.New("iptables is not available")

// AmbiguousError says that both variants have rules in the namespace, so that Auto cannot choose: packets meet both.
type AmbiguousError struct {
	NFT, Legacy int // rules and chains that exist
}

// Error implements error.
func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("both iptables-nft (%d rules and chains) and iptables-legacy (%d) are in use here: choose a variant, the one that the rest of the system uses", e.NFT, e.Legacy)
}

// ConflictError says that rules with our prefix are in the other variant, too. Both would be enforced.
type ConflictError struct {
	Prefix string
	Other  Variant
}

// Error implements error.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("chains %s* exist in iptables-%s as well: tear them down there first", e.Prefix, e.Other)
}

// VersionError says that a tool is too old or cannot be understood.
type VersionError struct {
	Tool, Have, Need string
}

// Error implements error.
func (e *VersionError) Error() string {
	return fmt.Sprintf("%s is version %s; %s or later is needed", e.Tool, e.Have, e.Need)
}

// Unwrap returns ErrUnavailable.
func (e *VersionError) Unwrap() error { return ErrUnavailable }

// HiddenError says that iptables-nft cannot show a table, because somebody put rules into it that only nftables knows.
// Whatever it holds goes on to be enforced, and cannot be changed safely.
type HiddenError struct {
	Op    string // "apply", "observe", "counters", "teardown"
	Tool  string // "iptables" or "ip6tables"
	Table string // "filter"
}

// Error implements error.
func (e *HiddenError) Error() string {
	family := "ip"
	if e.Tool == "ip6tables" {
		family = "ip6"
	}
	return fmt.Sprintf("iptables: %s: %s-nft cannot show the table %s, which has rules of nftables that iptables does not know: move them to a table of their own (nft list table %s %s)", e.Op, e.Tool, e.Table, family, e.Table)
}

// Error is a command that failed.
type Error struct {
	Op     string      // "apply", "observe", "counters", "teardown", "probe"
	Tool   string      // "ip6tables-nft-restore"
	Line   string      // of its input, if it named one
	Origin flow.Origin // of the rule in that line, if it has one
	Text   string      // what it said
	Err    error       // an *exec.ExitError, mostly
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("iptables: " + e.Op + ": " + e.Tool)
	if e.Line != "" {
		fmt.Fprintf(&b, ": %q", e.Line)
	}
	if e.Origin.Kind != 0 {
		b.WriteString(" (" + e.Origin.String())
		if p := e.Origin.Pos.String(); p != "" {
			b.WriteString(" at " + p)
		}
		b.WriteString(")")
	}
	if e.Text != "" {
		b.WriteString(": " + e.Text)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	return b.String()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }
