// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"fmt"
	"math/bits"

	"github.com/hostpolicy/hostpolicy/render"
)

// The defaults of Options.
const (
	DefaultPrefix   = "hp-"
	DefaultMarkMask = 0xff000000
	DefaultMaxSet   = 1 << 20
)

// Options say how to render. The zero value is useful. Comparable.
type Options struct {
	// Prefix begins the names of all chains and sets; instances with different prefixes live side by side. It is a
	// lower-case letter, up to five more and digits, and '-'. "" is DefaultPrefix.
	Prefix string
	// MarkMask holds the bits of the packet mark that belong to this instance; 0 is DefaultMarkMask. They are given out
	// from the lowest on, always for the same purposes; see Marks. Compiled policy needs the first four, and Scratch for a Pass rule of several lines. Bits are cleared
	// before they are read, so that what a socket or a tunnel put there has no effect.
	MarkMask uint32
	// AllowAction says what an allowed packet does. A failsafe accepts in either case.
	AllowAction AllowAction
	// DenyAction says what denied packets meet. Reject drops in all tables but filter, where the kernel refuses it.
	DenyAction render.DenyAction
	// Insert says where among the rules of the kernel's chains the jump to ours stands.
	Insert InsertMode
	// Events says which decisions are reported to LogGroup, besides Log rules, which always are.
	Events Events
	// LogGroup is the NFLOG group of all events. Ref: linux/netfilter/xt_NFLOG.h.
	LogGroup uint16
	// SnapLen is how many bytes of a packet an event carries; 0 is all.
	SnapLen uint32
	// MaxSet is the largest number of elements of a set; 0 is DefaultMaxSet.
	MaxSet int
}

// AllowAction says what an allowed packet does. The zero value is AllowAccept.
type AllowAction uint8

// The allow actions.
const (
	AllowAccept AllowAction = iota // skips the later rules of the table
	AllowReturn                    // goes on with them
)

// InsertMode says where the jump to our chains stands. The zero value is Insert.
type InsertMode uint8

// The modes.
const (
	Insert InsertMode = iota // before all custom rules
	Append                   // behind them
)

// Events is a selection of events. The zero value is NoEvents.
type Events uint8

// The selections.
const (
	NoEvents  Events = iota
	Denies           // denied packets
	AllEvents        // what every hook says of a packet, Allow, Deny or no verdict
)

// withDefaults returns o with defaults filled in, or what is wrong with it.
func (o Options) withDefaults() (Options, error) {
	if o.Prefix == "" {
		o.Prefix = DefaultPrefix
	}
	if !validPrefix(o.Prefix) {
		return o, fmt.Errorf("iptables: %q is not a prefix: want a lower-case letter, up to five more and digits, and '-'", o.Prefix)
	}
	if o.MarkMask == 0 {
		o.MarkMask = DefaultMarkMask
	}
	if o.MaxSet == 0 {
		o.MaxSet = DefaultMaxSet
	}
	if o.MaxSet < 0 || o.MaxSet > 1<<31-1 {
		return o, fmt.Errorf("iptables: a set of at most %d elements", o.MaxSet)
	}
	for _, e := range []struct {
		name  string
		v, hi uint8
	}{
		{"allow action", uint8(o.AllowAction), uint8(AllowReturn)},
		{"deny action", uint8(o.DenyAction), uint8(render.Reject)},
		{"insert mode", uint8(o.Insert), uint8(Append)},
		{"selection of events", uint8(o.Events), uint8(AllEvents)},
	} {
		if e.v > e.hi {
			return o, fmt.Errorf("iptables: unknown %s %d", e.name, e.v)
		}
	}
	return o, nil
}

func validPrefix(s string) bool {
	if len(s) < 2 || len(s) > 7 || s[len(s)-1] != '-' || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for _, c := range []byte(s[:len(s)-1]) {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9') {
			return false
		}
	}
	return true
}

// marks gives out the bits of the mask. Bits that the mask does not have are 0.
func (o Options) marks() Marks {
	var m Marks
	mask := o.MarkMask
	for _, b := range []*uint32{&m.Allow, &m.Generation, &m.Translated, &m.ResultA, &m.ResultP, &m.Scratch, &m.ResultD, &m.Settled} {
		if mask != 0 {
			*b = 1 << bits.TrailingZeros32(mask)
			mask &^= *b
		}
	}
	return m
}
