// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

// Tuple is what tells one direction of a flow from others. Fields that the protocol has not are zero. Comparable; the
// zero value names nothing.
type Tuple struct {
	Protocol         inet.Protocol
	Src, Dst         netip.Addr // one family, without zone
	SrcPort, DstPort uint16     // TCP, UDP, SCTP, UDPLite; 0 in a fragment that is not the first
	ICMPType         uint8      // ICMP and ICMPv6
	ICMPCode         uint8
}

// Tuple returns the packet's tuple, as its sender wrote it.
func (p *Packet) Tuple() Tuple {
	t := Tuple{Protocol: p.Protocol, Src: p.Src, Dst: p.Dst}
	switch {
	case t.hasPorts():
		t.SrcPort, t.DstPort = p.SrcPort, p.DstPort
	case t.isICMP():
		t.ICMPType, t.ICMPCode = p.ICMPType, p.ICMPCode
	}
	return t
}

func (t Tuple) hasPorts() bool { return t.Protocol.HasPorts() || t.Protocol == inet.UDPLite }

// isICMP reports whether it is a control message of its own family.
func (t Tuple) isICMP() bool {
	return t.Src.Is4() && t.Protocol == inet.ICMP || t.Src.Is6() && t.Protocol == inet.ICMPv6
}

// String returns "tcp 10.9.0.2:40000 > 10.9.0.1:443", "icmp 8/0 10.9.0.2 > 10.9.0.1" or "proto 47 10.9.0.2 > 10.9.0.1";
// "" for the zero value.
func (t Tuple) String() string {
	switch {
	case t == Tuple{}:
		return ""
	case t.hasPorts():
		return fmt.Sprintf("%s %s > %s", t.Protocol, netip.AddrPortFrom(t.Src, t.SrcPort), netip.AddrPortFrom(t.Dst, t.DstPort))
	case t.isICMP():
		return fmt.Sprintf("%s %d/%d %s > %s", t.Protocol, t.ICMPType, t.ICMPCode, t.Src, t.Dst)
	}
	return fmt.Sprintf("proto %d %s > %s", t.Protocol, t.Src, t.Dst)
}

// MarshalText returns the tuple's String.
func (t Tuple) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// maxExtensions is how many IPv6 extension headers ReadTuple skips; real packets have two at most.
const maxExtensions = 8

// ReadTuple reads the headers of an IP packet, of which as much as possible should be there: what has been cut off is
// zero. It returns false if there are no whole addresses.
func ReadTuple(b []byte) (Tuple, bool) {
	if len(b) == 0 {
		return Tuple{}, false
	}
	var t Tuple
	var rest []byte // behind the IP headers; nil if no transport header begins there
	switch b[0] >> 4 {
	case 4:
		if len(b) < 20 {
			return Tuple{}, false
		}
		t = Tuple{Protocol: inet.Protocol(b[9]), Src: netip.AddrFrom4([4]byte(b[12:16])), Dst: netip.AddrFrom4([4]byte(b[16:20]))}
		n := int(b[0]&15) * 4
		if first := binary.BigEndian.Uint16(b[6:])&0x1fff == 0; first && n >= 20 && n <= len(b) {
			rest = b[n:]
		}
	case 6:
		if len(b) < 40 {
			return Tuple{}, false
		}
		t = Tuple{Src: netip.AddrFrom16([16]byte(b[8:24])), Dst: netip.AddrFrom16([16]byte(b[24:40]))}
		t.Protocol, rest = skipExtensions(inet.Protocol(b[6]), b[40:])
	default:
		return Tuple{}, false
	}
	switch {
	case t.hasPorts() && len(rest) >= 4:
		t.SrcPort, t.DstPort = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
	case t.isICMP() && len(rest) >= 2:
		t.ICMPType, t.ICMPCode = rest[0], rest[1]
	}
	return t, true
}

// The headers of RFC 8200 that stand before the transport header, and that of RFC 4302.
const (
	hopByHop    = 0
	routing     = 43
	fragment    = 44
	authHeader  = 51
	destOptions = 60
)

// skipExtensions returns the protocol behind the extension headers and what belongs to it; nil if that is in another
// packet or was cut off.
func skipExtensions(next inet.Protocol, b []byte) (inet.Protocol, []byte) {
	for range maxExtensions {
		n := 0
		switch next {
		case hopByHop, routing, destOptions:
			if len(b) >= 2 {
				n = 8 + int(b[1])*8
			}
		case authHeader:
			if len(b) >= 2 {
				n = 8 + int(b[1])*4
			}
		case fragment:
			if len(b) >= 4 && binary.BigEndian.Uint16(b[2:])&^7 != 0 {
				return inet.Protocol(b[0]), nil
			}
			n = 8
		default:
			return next, b
		}
		if n == 0 || len(b) < n {
			return next, nil
		}
		next, b = inet.Protocol(b[0]), b[n:]
	}
	return next, nil
}
