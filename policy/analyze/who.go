// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Query chooses packets for Who. Every zero field means any; the zero value asks for all packets that are allowed.
type Query struct {
	Path               flow.Path // Local is the same as Input
	In, Out            string    // names of interfaces
	State              *flow.ConnState
	Protocols          ir.Mask
	Src, Dst           inet.PrefixSet
	SrcPorts, DstPorts inet.PortSet   // what is not empty asks for packets that have ports
	Verdicts           []flow.Verdict // nil is flow.Allow alone
}

// Answer is what Who found: all packets of the query, those with the same decision together.
type Answer struct {
	Flows []Flow // largest first
	Extent
}

// Flow is a set of packets with one decision.
type Flow struct {
	Decision
	Boxes   []Box       // disjoint, largest first
	Witness flow.Packet // a packet of the first box
	Share   float64     // as in Change
}
