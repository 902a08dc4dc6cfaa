// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Box is a set of packets: all those whose fields are, each by itself, in the box's sets. Where Src and Dst hold
// addresses of both families, packets of either family are meant. The zero value is empty.
type Box struct {
	Path   flow.Path // Input stands for Local too: both meet the same hooks
	In     Names     // the interface packets arrive on; nil if it is any, or if the path has none
	Out    Names     // the interface packets leave by; likewise
	States States

	Protocols          ir.Mask
	ICMP               []ICMPRange // the types and codes; nil means all. Otherwise Protocols is ICMP or ICMPv6 alone
	Src, Dst           inet.PrefixSet
	SrcPorts, DstPorts inet.PortSet // unless these are all ports, packets without ports are not in the box

	// NAT says what the box means where the host translates destinations. Unless it is Translated, the fields below are
	// empty.
	NAT                NAT
	PreDst             inet.PrefixSet // the destination before NAT; Dst and DstPorts are those behind it
	PreDstPorts        inet.PortSet
	PreLocal, PreOther bool  // the destination before NAT may be an address of the host itself; may be any other
	RouteOut           Names // of packets on path output: the interface that leads to PreDst; nil is any
}

// NAT says which packets of a box are translated. The zero value is AnyNAT.
type NAT uint8

// The kinds of translation.
const (
	// AnyNAT: packets to Dst, and those that the host's own destination NAT sends there, whatever they were sent to.
	AnyNAT NAT = iota
	// Untranslated: only packets whose destination the host leaves alone.
	Untranslated
	// Translated: only packets whose destination was PreDst and becomes Dst.
	Translated
)

// ICMPRange is a closed range of ICMP messages, each type<<8 | code.
type ICMPRange struct{ Min, Max uint16 }

// States is a set of connection states; bit 1<<s stands for s. The zero value is empty.
type States uint8

// AllStates holds every state.
const AllStates = States(1<<(flow.Untracked+1) - 1)

// Has reports whether s holds the state.
func (s States) Has(c flow.ConnState) bool { return c <= flow.Untracked && s&(1<<c) != 0 }

// Contains reports whether the packet is in the box. A packet outside of the universe is in no box.
func (b *Box) Contains(p *flow.Packet) bool {
	path := p.Path
	if path == flow.Local {
		path = flow.Input
	}
	if path != b.Path || !b.States.Has(p.State) || !b.Protocols.Has(uint8(p.Protocol)) {
		return false
	}
	if path != flow.Output && !b.In.Contains(p.In) || path != flow.Input && !b.Out.Contains(p.Out) {
		return false
	}
	f := p.Family()
	ports := hasPorts(p.Protocol)
	if p.Protocol == icmpOf(f) {
		m := uint16(p.ICMPType)<<8 | uint16(p.ICMPCode)
		if b.ICMP != nil && !slices.ContainsFunc(b.ICMP, func(r ICMPRange) bool { return r.Min <= m && m <= r.Max }) {
			return false
		}
	} else if b.ICMP != nil {
		return false
	}
	dst, dport := p.Dst, p.DstPort
	if b.NAT == Untranslated && p.NATDst.IsValid() || b.NAT == Translated && !p.NATDst.IsValid() {
		return false
	}
	if p.NATDst.IsValid() {
		dst, dport = p.NATDst.Addr(), p.NATDst.Port()
	}
	if b.NAT == Translated {
		if !b.holds(b.PreDst, p.Dst, f) || !inPorts(b.PreDstPorts, p.DstPort, ports) {
			return false
		}
		if p.DstLocal && !b.PreLocal || !p.DstLocal && !b.PreOther {
			return false
		}
		if out := p.RouteOut; path == flow.Output {
			if out == "" {
				out = p.Out
			}
			if !b.RouteOut.Contains(out) {
				return false
			}
		}
	}
	return b.holds(b.Src, p.Src, f) && b.holds(b.Dst, dst, f) &&
		inPorts(b.SrcPorts, p.SrcPort, ports) && inPorts(b.DstPorts, dport, ports)
}

func (b *Box) holds(s inet.PrefixSet, a netip.Addr, f inet.Family) bool {
	return inet.FamilyOf(a) == f && s.Contains(a)
}

func inPorts(s inet.PortSet, p uint16, has bool) bool {
	if !has {
		return s.Len() == 1<<16
	}
	return s.Contains(p)
}

// icmpOf returns the protocol whose types a family has.
func icmpOf(f inet.Family) inet.Protocol {
	if f == inet.IPv4 {
		return inet.ICMP
	}
	return inet.ICMPv6
}
