// SPDX-License-Identifier: Apache-2.0

// Package flow holds the words that evaluator, IR, logs and counters share: packets and the paths they take through a
// host, the hooks on those paths, verdicts, and the origin of a verdict.
package flow

import (
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

// Path is the way a packet takes through the host. The zero value is invalid.
type Path uint8

// The paths.
const (
	Input   Path = iota + 1 // from the network to a process of this host
	Output                  // from a process of this host to the network, or to a workload of this host
	Forward                 // through this host
	Local                   // from a workload of this host to a process of this host
)

// Hook is a place where policy is asked, in the order of the kernel. The zero value is invalid.
type Hook uint8

// The hooks. In and Out name the direction of the rules that apply: ingress or egress of the endpoint.
const (
	UntrackedIn  Hook = iota + 1 // before connection tracking, arriving (raw PREROUTING)
	PreDNAT                      // after connection tracking and before NAT, arriving (mangle PREROUTING)
	NormalIn                     // to a process of this host (filter INPUT)
	ForwardIn                    // forwarded, the interface it came from (filter FORWARD)
	ForwardOut                   // forwarded, the interface it leaves by (filter FORWARD)
	UntrackedOut                 // before connection tracking, locally generated (raw OUTPUT)
	NormalOut                    // locally generated; exactly once, with the address and interface after NAT
)

// Hooks are all hooks, in order.
var Hooks = [...]Hook{UntrackedIn, PreDNAT, NormalIn, ForwardIn, ForwardOut, UntrackedOut, NormalOut}

// HookSet is a set of hooks; bit 1<<h stands for h.
type HookSet uint16

// HooksOf returns the set of the given hooks.
func HooksOf(hs ...Hook) HookSet {
	var s HookSet
	for _, h := range hs {
		s |= 1 << h
	}
	return s
}

// Has reports whether h is in s.
func (s HookSet) Has(h Hook) bool { return s&(1<<h) != 0 }

// Hooks returns the hooks that a packet on path p meets, in order; nil for an invalid path.
// Ref: felix/rules/static.go.
func (p Path) Hooks() []Hook {
	switch p {
	case Input, Local:
		return []Hook{UntrackedIn, PreDNAT, NormalIn}
	case Forward:
		return []Hook{UntrackedIn, PreDNAT, ForwardIn, ForwardOut}
	case Output:
		return []Hook{UntrackedOut, NormalOut}
	}
	return nil
}

// Stage is one of the four lists of policy. The zero value is Normal.
type Stage uint8

// The stages.
const (
	StageNormal Stage = iota
	StageUntracked
	StagePreDNAT
	StageForward
)

// Stage returns the list of policy that hook h asks.
func (h Hook) Stage() Stage {
	switch h {
	case UntrackedIn, UntrackedOut:
		return StageUntracked
	case PreDNAT:
		return StagePreDNAT
	case ForwardIn, ForwardOut:
		return StageForward
	}
	return StageNormal
}

// Direction returns the direction of the rules that hook h asks.
func (h Hook) Direction() Direction {
	switch h {
	case ForwardOut, UntrackedOut, NormalOut:
		return Egress
	}
	return Ingress
}

// Direction is the direction of rules, seen from the endpoint. The zero value is Ingress.
type Direction uint8

// The directions.
const (
	Ingress Direction = iota
	Egress
)

// Verdict is what the host does with a packet. The zero value is Deny.
type Verdict uint8

// The verdicts.
const (
	Deny  Verdict = iota // dropped
	Allow                // accepted by policy
	None                 // no opinion: the packet goes on to the host's own rules
)

// ConnState is the state that connection tracking gives a packet. The zero value is New.
type ConnState uint8

// The states. A packet is Untracked when connection tracking never looks at it (IPv6 neighbour discovery) or was told
// not to.
const (
	New ConnState = iota
	Established
	Related
	Invalid
	Untracked
)

// Packet is one packet on its way through the host. Only the fields that its protocol has are meaningful; the others
// must be zero.
type Packet struct {
	Path Path
	In   string // interface it arrives on; "" on Output
	Out  string // interface it leaves by, after NAT; "" on Input and Local

	Protocol         inet.Protocol
	Src, Dst         netip.Addr // as the sender wrote them; one family, without zone
	SrcPort, DstPort uint16     // TCP, UDP, SCTP, UDPLite; DstPort as the sender wrote it
	ICMPType         uint8      // ICMP and ICMPv6
	ICMPCode         uint8

	State ConnState

	// What the host's own destination NAT makes of Dst and DstPort; the zero value means that it changes nothing.
	// Hooks before NAT see Dst, hooks behind it NATDst. A packet that policy lets in untracked bypasses NAT.
	NATDst netip.AddrPort
	// RouteOut is the interface that the route to the untranslated Dst names, for a locally generated packet that is
	// translated; "" means Out.
	RouteOut string
	// DstLocal says that the untranslated Dst is an address of this host: where a forwarded packet goes if it
	// bypasses NAT.
	DstLocal bool
}

// Family returns the family of the packet's addresses.
func (p *Packet) Family() inet.Family {
	if p.Src.Unmap().Is4() {
		return inet.IPv4
	}
	return inet.IPv6
}
