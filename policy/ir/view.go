// SPDX-License-Identifier: Apache-2.0

package ir

import (
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// view is a packet as one hook sees it.
type view struct {
	hook     flow.Hook
	in, out  string
	family   inet.Family
	protocol inet.Protocol
	src, dst netip.Addr // never IPv4-mapped
	sport    uint16
	dport    uint16
	icmpType uint8
	icmpCode uint8
	state    flow.ConnState
}

// see returns what hook h sees of the packet. Untracked says that an earlier hook took it out of connection tracking.
// Ref: felix/rules/static.go, for what stands before and behind NAT.
func see(p *flow.Packet, h flow.Hook, untracked bool) view {
	v := view{
		hook: h, in: p.In, out: p.Out, family: p.Family(), protocol: p.Protocol,
		src: bare(p.Src), dst: bare(p.Dst), sport: p.SrcPort, dport: p.DstPort,
		icmpType: p.ICMPType, icmpCode: p.ICMPCode, state: p.State,
	}
	if p.Path == flow.Output {
		v.in = ""
	}
	switch h {
	case flow.UntrackedIn, flow.PreDNAT:
	case flow.UntrackedOut:
		if p.NATDst.IsValid() && p.RouteOut != "" {
			v.out = p.RouteOut
		}
	default:
		switch {
		case untracked:
			if p.Path == flow.Output && p.NATDst.IsValid() && p.RouteOut != "" {
				v.out = p.RouteOut
			}
		case p.NATDst.IsValid():
			v.dst, v.dport = bare(p.NATDst.Addr()), p.NATDst.Port()
		}
	}
	if untracked {
		v.state = flow.Untracked
	}
	return v
}

// bare returns the address as prefixes know it.
func bare(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

func hasPorts(p inet.Protocol) bool { return p.HasPorts() || p == inet.UDPLite }

func (v *view) isICMP() bool {
	return v.family == inet.IPv4 && v.protocol == inet.ICMP || v.family == inet.IPv6 && v.protocol == inet.ICMPv6
}

// name returns the value of InIface or OutIface.
func (v *view) name(f Field) (string, bool) {
	if f == InIface {
		return v.in, v.in != ""
	}
	switch v.hook {
	case flow.ForwardIn, flow.ForwardOut, flow.UntrackedOut, flow.NormalOut:
		return v.out, v.out != ""
	}
	return "", false
}

// addr returns the value of SrcAddr or DstAddr.
func (v *view) addr(f Field) (netip.Addr, bool) {
	a := v.dst
	if f == SrcAddr {
		a = v.src
	}
	return a, a.IsValid()
}

// number returns the value of any other field.
func (v *view) number(f Field) (uint16, bool) {
	switch f {
	case Family:
		return uint16(v.family), true
	case Protocol:
		return uint16(v.protocol), true
	case SrcPort:
		return v.sport, hasPorts(v.protocol)
	case DstPort:
		return v.dport, hasPorts(v.protocol)
	case ICMPType:
		return uint16(v.icmpType), v.isICMP()
	case ICMPCode:
		return uint16(v.icmpCode), v.isICMP()
	case State:
		return uint16(v.state), v.hook.Stage() != flow.StageUntracked
	}
	return 0, false
}

// value returns the value of any field in the form that keys of a Switch have.
func (v *view) value(f Field) (Value, bool) {
	switch f {
	case InIface, OutIface:
		s, ok := v.name(f)
		if !ok {
			return Value{}, false
		}
		return Name(s)
	case SrcAddr, DstAddr:
		a, ok := v.addr(f)
		return Addr(a), ok
	}
	n, ok := v.number(f)
	return Number(n), ok
}
