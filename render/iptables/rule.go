// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Test is one criterion of a rule. Values are immutable; slices may be shared with the program that was rendered.
//
//sumtype:decl
type Test interface{ isTest() }

// Source tests the source address.
type Source struct {
	Prefix netip.Prefix // masked
	Not    bool
}

// Destination tests the destination address.
type Destination struct {
	Prefix netip.Prefix // masked
	Not    bool
}

// InIface tests the interface by which a packet came.
type InIface struct {
	Name   string
	Prefix bool // any name that begins so
	Not    bool
}

// OutIface tests the interface by which a packet leaves.
type OutIface struct {
	Name   string
	Prefix bool
	Not    bool
}

// Protocol tests the protocol, which is not 0.
type Protocol struct {
	Number inet.Protocol
	Not    bool
}

// SourcePort tests the source port of TCP or UDP packets. The rule has a positive Protocol of the same number.
type SourcePort struct {
	Protocol inet.Protocol
	Ports    inet.PortRange
	Not      bool
}

// DestinationPort tests the destination port, under the same condition.
type DestinationPort struct {
	Protocol inet.Protocol
	Ports    inet.PortRange
	Not      bool
}

// MultiPort tests a port of TCP, UDP, SCTP or UDPLite packets. The rule has a positive Protocol. A port takes one slot, a
// range two; there are fifteen. Ref: linux/netfilter/xt_multiport.h, XT_MULTI_PORTS.
type MultiPort struct {
	Source bool
	Ranges []inet.PortRange
	Not    bool
}

// ICMP tests type and code of an ICMP or ICMPv6 message. The rule has a positive Protocol that fits.
type ICMP struct {
	Family  inet.Family
	Type    uint8 // not 255 in IPv4, which there means any
	Code    uint8
	AnyCode bool
	Not     bool
}

// Bytes tests bytes of the packet, in the language of the u32 match.
type Bytes struct{ Expr string }

// State tests the state of the connection for any of some.
type State struct {
	States ir.Mask // of flow.ConnState
}

// Translated tests whether the destination of the connection was translated.
type Translated struct{}

// Mark tests bits of the packet mark.
type Mark struct{ Value, Mask uint32 }

// InSet tests whether the packet is in a set of ipset: by address, or by address, protocol and port.
type InSet struct {
	Set    string
	Source bool
	Port   bool
	Not    bool
}

func (Source) isTest()          {}
func (Destination) isTest()     {}
func (InIface) isTest()         {}
func (OutIface) isTest()        {}
func (Protocol) isTest()        {}
func (SourcePort) isTest()      {}
func (DestinationPort) isTest() {}
func (MultiPort) isTest()       {}
func (ICMP) isTest()            {}
func (Bytes) isTest()           {}
func (State) isTest()           {}
func (Translated) isTest()      {}
func (Mark) isTest()            {}
func (InSet) isTest()           {}

// Target is what a rule does with the packets that match.
//
//sumtype:decl
type Target interface{ isTarget() }

// Verdict ends the way of a packet through the table, or leads it to another chain.
type Verdict struct {
	Op    VerdictOp
	Chain string // for Jump and Goto
}

// VerdictOp is a kind of verdict. The zero value is Drop.
type VerdictOp uint8

// The verdicts.
const (
	Drop VerdictOp = iota
	Accept
	Return
	Jump
	Goto
)

// SetMark sets the bits of Mask to those of Value and goes on with the next rule.
type SetMark struct{ Value, Mask uint32 }

// Log reports the packet to an NFLOG group and goes on with the next rule.
type Log struct {
	Group  uint16
	Size   uint32 // bytes of the packet; 0 is all
	Prefix string // at most 63 bytes
}

// Untrack takes the packet out of connection tracking and goes on with the next rule. Only in the table raw.
type Untrack struct{}

// Reject drops the packet and answers it: with a TCP reset, or with ICMP "administratively prohibited". Only in the
// table filter.
type Reject struct {
	Family inet.Family
	Reset  bool
}

func (Verdict) isTarget() {}
func (SetMark) isTarget() {}
func (Log) isTarget()     {}
func (Untrack) isTarget() {}
func (Reject) isTarget()  {}

// rank is the order in which iptables-save prints tests. Tests of modules keep the order of the rule.
func rank(t Test) int {
	switch t.(type) {
	case Source:
		return 0
	case Destination:
		return 1
	case InIface:
		return 2
	case OutIface:
		return 3
	case Protocol:
		return 4
	case SourcePort:
		return 5
	case DestinationPort:
		return 6
	case MultiPort, ICMP, Bytes:
		return 7
	case State, Translated, Mark:
		return 8
	}
	return 9 // sets cost most
}

// stateNames are the words of the conntrack match, in the order in which iptables-save prints them.
var stateNames = [...]struct {
	state flow.ConnState
	word  string
}{{flow.Invalid, "INVALID"}, {flow.New, "NEW"}, {flow.Related, "RELATED"}, {flow.Established, "ESTABLISHED"}, {flow.Untracked, "UNTRACKED"}}
