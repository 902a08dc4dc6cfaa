// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Report is the difference between two programs.
type Report struct {
	Changes []Change // largest first
	Extent
}

// Change is a set of packets on which two programs differ. Each packet that changes is in exactly one box of exactly one
// change, unless the report is partial.
type Change struct {
	Before, After Decision
	Boxes         []Box       // disjoint, largest first
	Witness       flow.Packet // a packet of the first box
	// Share is the part of all packets that changes, if each field has each of its values equally often: between 0 and
	// 1, a measure to sort by. The families count half each.
	Share float64
}
