// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// view is a packet as one hook sees it.
type view struct {
	src, dst     key
	sport, dport uint16
	low          uint16 // of the number on L4
	protocol     uint8
	family       uint8 // 0 is IPv4, 1 is IPv6
	state        uint8 // below States
	ports        bool
	untracked    bool   // an earlier hook took the packet out of connection tracking
	in, out      string // "" if there is none
	inKnown      bool
	outKnown     bool
	inC, outC    uint32 // their classes, once known
}

func addrKey(a netip.Addr) key {
	return span.KeyOf(a.As16())
}

// init takes what all hooks see alike.
func (v *view) init(p *flow.Packet) {
	v.src = addrKey(p.Src)
	v.protocol = uint8(p.Protocol)
	v.sport = p.SrcPort
	v.ports = hasPorts(p.Protocol)
	icmp := inet.ICMP
	if v.src.Hi != 0 || v.src.Lo>>32 != mapped {
		v.family, icmp = 1, inet.ICMPv6
	}
	if p.Protocol == icmp {
		v.low = uint16(p.ICMPType)<<8 | uint16(p.ICMPCode)
	}
	if p.Path != flow.Output {
		v.in = p.In
	}
}

// see takes what hook h sees of the packet. Ref: felix/rules/static.go, for what stands before and behind NAT.
func (v *view) see(p *flow.Packet, h flow.Hook) {
	dst, dport, out := p.Dst, p.DstPort, p.Out
	switch h {
	case flow.UntrackedIn, flow.PreDNAT:
	case flow.UntrackedOut:
		if p.NATDst.IsValid() && p.RouteOut != "" {
			out = p.RouteOut
		}
	default:
		switch {
		case v.untracked:
			if p.Path == flow.Output && p.NATDst.IsValid() && p.RouteOut != "" {
				out = p.RouteOut
			}
		case p.NATDst.IsValid():
			dst, dport = p.NATDst.Addr(), p.NATDst.Port()
		}
	}
	switch h {
	case flow.ForwardIn, flow.ForwardOut, flow.UntrackedOut, flow.NormalOut:
	default:
		out = "" // not routed yet, or not at all
	}
	v.dst, v.dport = addrKey(dst), dport
	if v.ports {
		v.low = dport
	}
	if v.out != out {
		v.out, v.outKnown = out, false
	}
	switch {
	case h.Stage() == flow.StageUntracked:
		v.state = uint8(NoState)
	case v.untracked:
		v.state = uint8(flow.Untracked)
	default:
		v.state = min(uint8(p.State), uint8(NoState))
	}
}

func (v *view) inClass(n *nameClasses) uint32 {
	if !v.inKnown {
		v.inC, v.inKnown = n.classOf(v.in), true
	}
	return v.inC
}

func (v *view) outClass(n *nameClasses) uint32 {
	if !v.outKnown {
		v.outC, v.outKnown = n.classOf(v.out), true
	}
	return v.outC
}
