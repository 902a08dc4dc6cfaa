// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"fmt"
	"math/bits"

	"github.com/hostpolicy/hostpolicy/render"
	"github.com/hostpolicy/hostpolicy/render/pass"
)

// The defaults of Options.
const (
	DefaultTable = "hostpolicy"
	DefaultMark  = 0x10000000
)

// Options say how to render. The zero value is useful. Comparable.
type Options struct {
	// Table is the name of the one table of family inet that holds everything; several instances live side by side
	// under different names. "" is DefaultTable.
	Table string
	// Mark is the single bit of the packet mark that carries an early Allow from hook to hook; 0 is DefaultMark. It is
	// used only by programs in which an Allow settles later hooks. The bit is cleared at the first hook of the path,
	// so that what a socket or a tunnel put there has no effect.
	Mark uint32
	// DenyAction says what denied packets meet. Reject drops where the kernel refuses to answer: before routing and
	// after it.
	DenyAction render.DenyAction
	// Events says which decisions are reported to Group, besides Log rules, which always are.
	Events Events
	// LogGroup is the NFLOG group of all events. Ref: linux/netfilter/nfnetlink_log.h.
	LogGroup uint16
	// SnapLen is how many bytes of a packet an event carries; 0 is all.
	SnapLen uint32
	// Counters makes every deciding rule count packets and bytes.
	Counters bool
	// Linear renders the program as it is, rule by rule. By default pass.Lower makes trees of long lists first, which
	// changes no verdict, no event and no comment, but the number of rules that a packet meets.
	Linear bool
	// Lowering is passed to pass.Lower.
	Lowering pass.Options
	// Caps is what the kernel can do.
	Caps render.Caps
}

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
	if o.Table == "" {
		o.Table = DefaultTable
	}
	if !plainName(o.Table) || len(o.Table) > maxNameLen {
		return o, fmt.Errorf("nftables: %q is not a table name: want up to %d letters, digits, '_', '-', '.', beginning with a letter", o.Table, maxNameLen)
	}
	if o.Mark == 0 {
		o.Mark = DefaultMark
	}
	if bits.OnesCount32(o.Mark) != 1 {
		return o, fmt.Errorf("nftables: mark %#x is not a single bit", o.Mark)
	}
	if o.DenyAction > render.Reject {
		return o, fmt.Errorf("nftables: unknown deny action %d", o.DenyAction)
	}
	if o.Events > AllEvents {
		return o, fmt.Errorf("nftables: unknown selection of events %d", o.Events)
	}
	return o, nil
}
