// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// tagMagic begins the tag that ends every packet of the lab; the packet's number follows. The tag stands at the very
// end, where neither malformed headers nor quoted packets move it.
const tagMagic = 0x6c61b7a6

const tagLen = 8

// padding makes packets long enough for two fragments.
const padding = "hostpolicy lab, no data."

func appendTag(b []byte, id uint32) []byte {
	b = binary.BigEndian.AppendUint32(b, tagMagic)
	return binary.BigEndian.AppendUint32(b, id)
}

// sighting is what one copy of a packet says of itself.
type sighting struct {
	id       uint32
	src      netip.Addr
	protocol inet.Protocol
	head     [2]byte // of the transport header: the source port, or the ICMP type and code
}

// readSighting reads the tag and the header fields that no NAT of the lab changes. False for packets of others.
func readSighting(b []byte) (sighting, bool) {
	var s sighting
	if len(b) < 20+tagLen {
		return s, false
	}
	t := b[len(b)-tagLen:]
	if binary.BigEndian.Uint32(t) != tagMagic {
		return s, false
	}
	s.id = binary.BigEndian.Uint32(t[4:])
	switch b[0] >> 4 {
	case 4:
		s.src, s.protocol, s.head = netip.AddrFrom4([4]byte(b[12:16])), inet.Protocol(b[9]), [2]byte(b[20:])
	case 6:
		if len(b) < 40+tagLen {
			return s, false
		}
		s.src, s.protocol, s.head = netip.AddrFrom16([16]byte(b[8:24])), inet.Protocol(b[6]), [2]byte(b[40:])
	default:
		return s, false
	}
	return s, true
}

// describe returns how p looks when it is seen again.
func describe(p *flow.Packet, id uint32) (sighting, error) {
	b, err := packets(p, id, false)
	if err != nil {
		return sighting{}, err
	}
	s, ok := readSighting(b[0])
	if !ok {
		return s, fmt.Errorf("packet %d cannot be told from others", id)
	}
	return s, nil
}

// packets returns p as the IP packets to send, tagged with id: one, or two fragments of one. The state of p decides
// what is in it: the opening packet of a flow, a later one, or one that connection tracking calls invalid.
func packets(p *flow.Packet, id uint32, fragment bool) ([][]byte, error) {
	body, err := transport(p, id)
	if err != nil {
		return nil, err
	}
	if !fragment {
		return [][]byte{ipPacket(p, id, body, 0, false, false)}, nil
	}
	// The first fragment must hold the whole transport header, or IPv6 drops it: RFC 7112.
	const cut = 24
	return [][]byte{
		ipPacket(p, id, body[:cut], 0, true, true),
		ipPacket(p, id, body[cut:], cut, false, true),
	}, nil
}

// ipPacket puts an IP header before a body, or before the part of it that stands at offset.
func ipPacket(p *flow.Packet, id uint32, body []byte, offset int, more, fragment bool) []byte {
	hops := byte(64)
	if p.Protocol == inet.ICMPv6 {
		hops = 255 // RFC 4861 ignores anything less
	}
	if p.Src.Is4() {
		h := make([]byte, 20, 20+len(body))
		h[0] = 0x45
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(body)))
		binary.BigEndian.PutUint16(h[4:], uint16(id)|1<<15) // not 0, or the kernel chooses one
		frag := uint16(offset / 8)
		if more {
			frag |= 1 << 13
		}
		binary.BigEndian.PutUint16(h[6:], frag)
		h[8], h[9] = hops, byte(p.Protocol)
		src, dst := p.Src.As4(), p.Dst.As4()
		copy(h[12:], src[:])
		copy(h[16:], dst[:])
		binary.BigEndian.PutUint16(h[10:], ^sum16(0, h))
		return append(h, body...)
	}
	h := make([]byte, 40, 48+len(body))
	h[0] = 0x60
	h[6], h[7] = byte(p.Protocol), hops
	src, dst := p.Src.As16(), p.Dst.As16()
	copy(h[8:], src[:])
	copy(h[24:], dst[:])
	if fragment {
		off := uint16(offset)
		if more {
			off |= 1
		}
		h[6] = 44 // fragment header, RFC 8200 4.5
		h = append(h, byte(p.Protocol), 0, byte(off>>8), byte(off))
		h = binary.BigEndian.AppendUint32(h, id)
	}
	binary.BigEndian.PutUint16(h[4:], uint16(len(h)-40+len(body)))
	return append(h, body...)
}

// transport returns everything behind the IP header.
func transport(p *flow.Packet, id uint32) ([]byte, error) {
	invalid := p.State == flow.Invalid
	var b []byte
	be := binary.BigEndian
	ports := func() {
		b = be.AppendUint16(b, p.SrcPort)
		b = be.AppendUint16(b, p.DstPort)
	}
	checksumAt := -1
	switch {
	case p.Protocol == inet.TCP:
		ports()
		flags := byte(0x02) // SYN
		var ack uint32
		switch {
		case invalid:
			flags = 0x07 // SYN, FIN and RST at once: nf_conntrack_proto_tcp.c, tcp_valid_flags
		case p.State == flow.Established:
			flags, ack = 0x18, 1 // PSH, ACK
		}
		b = be.AppendUint32(b, 1000+id)
		b = be.AppendUint32(b, ack)
		b = append(b, 5<<4, flags, 0x10, 0, 0, 0, 0, 0)
		b = append(b, padding...)
		b = appendTag(b, id)
		checksumAt = 16
	case p.Protocol == inet.UDP || p.Protocol == inet.UDPLite:
		ports()
		length := uint16(8 + len(padding) + tagLen)
		if invalid {
			length = 4 // less than the header
		} else if p.Protocol == inet.UDPLite {
			length = 0 // the checksum covers everything
		}
		b = be.AppendUint16(b, length)
		b = be.AppendUint16(b, 0)
		b = append(b, padding...)
		b = appendTag(b, id)
		checksumAt = 6
	case p.Protocol == inet.SCTP:
		ports()
		b = appendSCTP(b, p, id)
	case p.Protocol == icmpOf(p):
		b = append(b, p.ICMPType, p.ICMPCode, 0, 0)
		if inner, ok := quoted(p, id); ok {
			b = append(b, 0, 0, 0, 0)
			b = append(b, inner...)
			for len(b) < 8+128 { // so that no length field is needed, RFC 4884
				b = append(b, 0)
			}
		} else {
			b = be.AppendUint16(b, uint16(id))
			b = be.AppendUint16(b, 1)
			b = append(b, padding...)
		}
		b = appendTag(b, id)
		checksumAt = 2
	default:
		// ICMP of the other family is always invalid. Ref: nf_conntrack_proto_icmp.c, nf_conntrack_icmp_packet.
		if invalid && p.Protocol != inet.ICMP && p.Protocol != inet.ICMPv6 {
			return nil, fmt.Errorf("protocol %d has no invalid packets", p.Protocol)
		}
		b = append(b, padding...)
		b = appendTag(b, id)
	}
	if checksumAt >= 0 {
		init := pseudo(p, len(b))
		if p.Protocol == inet.ICMP {
			init = 0
		}
		c := ^sum16(init, b)
		if c == 0 {
			c = 0xffff
		}
		if p.Protocol == icmpOf(p) && invalid && canBeNew(p) {
			if p.Path == flow.Output {
				return nil, fmt.Errorf("%s %d/%d cannot be sent invalid: connection tracking looks at no checksum of the host's own packets",
					p.Protocol, p.ICMPType, p.ICMPCode)
			}
			c ^= 0x5555
		}
		be.PutUint16(b[checksumAt:], c)
	}
	return b, nil
}

// canBeNew reports whether an ICMP message can begin a flow.
// Ref: net/netfilter/nf_conntrack_proto_icmp.c and nf_conntrack_proto_icmpv6.c, valid_new.
func canBeNew(p *flow.Packet) bool {
	if p.Protocol == inet.ICMP {
		switch p.ICMPType {
		case 8, 13, 15, 17:
			return true
		}
		return false
	}
	return p.ICMPType == 128 || p.ICMPType == 139
}

// isICMPError reports whether an ICMP message quotes the packet that caused it.
func isICMPError(p *flow.Packet) bool {
	if p.Protocol == inet.ICMP {
		switch p.ICMPType {
		case 3, 4, 5, 11, 12:
			return true
		}
		return false
	}
	return 1 <= p.ICMPType && p.ICMPType <= 4 || p.ICMPType == 137
}

// quotedFlow returns the flow whose packet an ICMP error quotes: from the destination of the error to its source.
func quotedFlow(p *flow.Packet, id uint32) flow.Packet {
	q := flow.Packet{Protocol: inet.UDP, Src: p.Dst, Dst: p.Src, SrcPort: 33000 + uint16(id%1000), DstPort: 34000 + uint16(id/1000%1000)}
	return q
}

// quoted returns what an ICMP error quotes; false if p is no error. Without the flow in the connection table the error
// is invalid.
func quoted(p *flow.Packet, id uint32) ([]byte, bool) {
	if !isICMPError(p) {
		return nil, false
	}
	q := quotedFlow(p, id)
	b := make([]byte, 0, 8)
	b = binary.BigEndian.AppendUint16(b, q.SrcPort)
	b = binary.BigEndian.AppendUint16(b, q.DstPort)
	b = binary.BigEndian.AppendUint16(b, 8)
	b = binary.BigEndian.AppendUint16(b, 0)
	return ipPacket(&q, id, b, 0, false, false), true
}

// The vtags of the associations that the lab inserts.
const sctpTagOriginal, sctpTagReply = 0x01020304, 0x05060708

func appendSCTP(b []byte, p *flow.Packet, id uint32) []byte {
	be := binary.BigEndian
	vtag := uint32(0)
	if p.State == flow.Established {
		vtag = sctpTagOriginal
	}
	b = be.AppendUint32(b, vtag)
	b = be.AppendUint32(b, 0)
	switch p.State {
	case flow.Established: // DATA
		b = append(b, 0, 3, 0, 16+tagLen)
		b = be.AppendUint32(b, 1)
		b = be.AppendUint32(b, 0)
		b = be.AppendUint32(b, 0)
	case flow.Invalid: // a chunk without length
		b = append(b, 0, 3, 0, 0)
		b = append(b, padding...)
	default: // INIT, with the tag as an unknown parameter to be skipped
		b = append(b, 1, 0, 0, 20+tagLen)
		b = be.AppendUint32(b, sctpTagReply)
		b = be.AppendUint32(b, 0xffff)
		b = append(b, 0, 1, 0, 1)
		b = be.AppendUint32(b, 1)
	}
	b = appendTag(b, id)
	binary.LittleEndian.PutUint32(b[8:], crc32c(b))
	return b
}

// pseudo returns the sum of the pseudo header.
func pseudo(p *flow.Packet, n int) uint32 {
	var b []byte
	b = append(b, p.Src.AsSlice()...)
	b = append(b, p.Dst.AsSlice()...)
	proto := p.Protocol
	if proto == inet.UDPLite {
		proto = inet.UDP // what connection tracking expects: nf_conntrack_proto_udp.c, udplite_error
	}
	s := uint32(proto) + uint32(n)
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(b[i])<<8 | uint32(b[i+1])
	}
	return s
}

// sum16 is the internet checksum's sum, RFC 1071.
func sum16(init uint32, b []byte) uint16 {
	s := init
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

func icmpOf(p *flow.Packet) inet.Protocol {
	if p.Src.Is4() {
		return inet.ICMP
	}
	return inet.ICMPv6
}
