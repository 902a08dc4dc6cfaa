// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Packet returns a packet of the box, a usual one where there is a choice. It is the same each time; the zero Packet if the
// box is empty.
func (b *Box) Packet() flow.Packet {
	p := flow.Packet{Path: b.Path}
	for _, s := range [...]flow.ConnState{flow.New, flow.Established, flow.Related, flow.Untracked, flow.Invalid} {
		if b.States.Has(s) {
			p.State = s
			break
		}
	}
	if b.Path != flow.Output {
		p.In = b.In.usual("eth0")
	}
	switch {
	case b.Path == flow.Output:
		p.Out = b.Out.usual("eth0")
	case b.Path == flow.Forward:
		p.Out = b.Out.usual("eth1")
	}
	f := inet.IPv4
	if b.Src.Family(f).IsEmpty() || b.Dst.Family(f).IsEmpty() || b.ICMP != nil && b.Protocols.Has(uint8(inet.ICMPv6)) {
		f = inet.IPv6
	}
	p.Src, p.Dst = addrOf(b.Src, f, 0), addrOf(b.Dst, f, 1)
	if !p.Src.IsValid() || !p.Dst.IsValid() {
		return flow.Packet{}
	}
	order := []inet.Protocol{inet.TCP, inet.UDP, inet.SCTP, inet.UDPLite, icmpOf(f)}
	for i := range 256 {
		order = append(order, inet.Protocol(i))
	}
	at := slices.IndexFunc(order, func(x inet.Protocol) bool { return b.Protocols.Has(uint8(x)) })
	if at < 0 {
		return flow.Packet{}
	}
	p.Protocol = order[at]
	ports := hasPorts(p.Protocol)
	if ports {
		p.SrcPort, p.DstPort = portOf(b.SrcPorts, 40000), portOf(b.DstPorts, 443, 80, 22, 53)
	}
	if p.Protocol == icmpOf(f) {
		m := uint16(8 << 8)
		if f == inet.IPv6 {
			m = 128 << 8
		}
		if b.ICMP != nil && !slices.ContainsFunc(b.ICMP, func(r ICMPRange) bool { return r.Min <= m && m <= r.Max }) {
			m = b.ICMP[0].Min
		}
		p.ICMPType, p.ICMPCode = uint8(m>>8), uint8(m)
	}
	if b.NAT == Translated {
		p.NATDst = netip.AddrPortFrom(p.Dst, p.DstPort)
		p.Dst = addrOf(b.PreDst, f, 2)
		if ports {
			p.DstPort = portOf(b.PreDstPorts, 443, 80, 22, 53)
		}
		p.DstLocal = !b.PreOther
		if b.Path == flow.Output {
			if p.RouteOut = b.RouteOut.usual(p.Out); p.RouteOut == p.Out {
				p.RouteOut = ""
			}
		}
	}
	return p
}

// usual returns the name if the set holds it, or another one.
func (n Names) usual(name string) string {
	if n.Contains(name) {
		return name
	}
	return n.Any()
}

// examples are addresses for documentation and for private networks, from which those of packets are taken if possible.
var examples = map[inet.Family][]netip.Addr{
	inet.IPv4: {
		netip.AddrFrom4([4]byte{198, 51, 100, 1}), netip.AddrFrom4([4]byte{192, 0, 2, 1}), netip.AddrFrom4([4]byte{203, 0, 113, 1}),
		netip.AddrFrom4([4]byte{10, 0, 0, 1}), netip.AddrFrom4([4]byte{192, 168, 0, 1}),
	},
	inet.IPv6: {
		netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 1, 15: 1}), netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 2, 15: 1}),
		netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 3, 15: 1}), netip.AddrFrom16([16]byte{0xfd, 15: 1}),
	},
}

// addrOf returns an address of the set; another one for each role if possible.
func addrOf(s inet.PrefixSet, f inet.Family, role int) netip.Addr {
	all := examples[f]
	for i := range all {
		if a := all[(i+role)%len(all)]; s.Contains(a) {
			return a
		}
	}
	rs := s.Family(f).Ranges()
	if len(rs) == 0 {
		return netip.Addr{}
	}
	// The first address of a network is seldom that of a host.
	if n := rs[0].From.Next(); n.IsValid() && n.Compare(rs[0].To) < 0 {
		return n
	}
	return rs[0].From
}

// portOf returns one of the ports that are asked for, or else the lowest one above 0.
func portOf(s inet.PortSet, usual ...uint16) uint16 {
	for _, p := range usual {
		if s.Contains(p) {
			return p
		}
	}
	rs := s.Ranges()
	switch {
	case len(rs) == 0:
		return 0
	case rs[0].Min > 0 || rs[0].Max == 0 && len(rs) == 1:
		return rs[0].Min
	case rs[0].Max > 0:
		return 1
	}
	return rs[1].Min
}
