// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Attributes of ctnetlink. Ref: include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	ctaTupleOrig, ctaTupleReply, ctaStatus, ctaProtoinfo            = 1, 2, 3, 4
	ctaTimeout, ctaNATDst, ctaTupleMaster                           = 7, 13, 14
	ctaTupleIP, ctaTupleProto                                       = 1, 2
	ctaIPv4Src, ctaIPv4Dst, ctaIPv6Src, ctaIPv6Dst                  = 1, 2, 3, 4
	ctaProtoNum, ctaProtoSrcPort, ctaProtoDstPort                   = 1, 2, 3
	ctaICMPID, ctaICMPType, ctaICMPCode                             = 4, 5, 6
	ctaICMPv6ID, ctaICMPv6Type, ctaICMPv6Code                       = 7, 8, 9
	ctaProtoinfoTCP, ctaProtoinfoSCTP                               = 1, 3
	ctaTCPState, ctaTCPFlagsOriginal, ctaTCPFlagsReply              = 1, 4, 5
	ctaSCTPState, ctaSCTPVtagOriginal, ctaSCTPVtagReply             = 1, 2, 3
	ctaNATv4Min, ctaNATv4Max, ctaNATProto                           = 1, 2, 3
	ctaNATv6Min, ctaNATv6Max, ctaProtoNATMin, ctaProtoNATMax        = 4, 5, 1, 2
	tcpEstablished, sctpEstablished                                 = 3, 4
	tcpFlagLiberal                                                  = 0x08 // whatever the window
	ipsSeenReply, ipsAssured, ipsConfirmed                   uint32 = 2, 4, 8
)

// tuple is one direction of a flow.
type tuple struct {
	protocol         inet.Protocol
	src, dst         netip.Addr
	srcPort, dstPort uint16
	icmpType, code   uint8
	icmpID           uint16
}

func (t tuple) reverse() tuple {
	t.src, t.dst, t.srcPort, t.dstPort = t.dst, t.src, t.dstPort, t.srcPort
	if x, ok := icmpReply[t.protocol][t.icmpType]; ok {
		t.icmpType = x
	}
	return t
}

// icmpReply pairs queries and replies, both ways.
var icmpReply = map[inet.Protocol]map[uint8]uint8{
	inet.ICMP:   {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17},
	inet.ICMPv6: {128: 129, 129: 128, 139: 140, 140: 139},
}

// connection is an entry of the connection table.
type connection struct {
	orig    tuple
	natDst  netip.AddrPort // the zero value is no NAT
	related *tuple         // another connection that this one was expected from
}

// reply returns the tuple of what comes back, behind NAT.
func (c connection) reply() tuple {
	t := c.orig.reverse()
	if c.natDst.IsValid() {
		t.src, t.srcPort = c.natDst.Addr(), c.natDst.Port()
	}
	return t
}

// connections is a set that one table can hold: no two share a tuple.
type connections map[tuple]connection

// add adds cs, or reports false and adds nothing if one of them is in the way of another. A connection may be there
// already.
func (s connections) add(cs []connection) bool {
	for _, c := range cs {
		for _, t := range []tuple{c.orig, c.reply()} {
			if x, ok := s[t]; ok && (x.orig != c.orig || x.natDst != c.natDst || (x.related == nil) != (c.related == nil)) {
				return false
			}
		}
	}
	for _, c := range cs {
		s[c.orig], s[c.reply()] = c, c
	}
	return true
}

// connectionsFor returns the connections that must be known for p to have its state; none for the states new, invalid
// and untracked.
func connectionsFor(p *flow.Packet, id uint32) ([]connection, error) {
	t := tuple{protocol: p.Protocol, src: p.Src, dst: p.Dst, srcPort: p.SrcPort, dstPort: p.DstPort}
	if p.Protocol == icmpOf(p) {
		t.icmpType, t.code, t.icmpID = p.ICMPType, p.ICMPCode, uint16(id)
	}
	switch p.State {
	case flow.Established:
		if p.Protocol == icmpOf(p) && !canBeNew(p) {
			if _, reply := icmpReply[p.Protocol][p.ICMPType]; !reply {
				return nil, fmt.Errorf("%s %d/%d is never part of a flow", p.Protocol, p.ICMPType, p.ICMPCode)
			}
			return []connection{{orig: t.reverse()}}, nil
		}
		return []connection{{orig: t, natDst: p.NATDst}}, nil
	case flow.Related:
		if isICMPError(p) && p.Protocol == icmpOf(p) {
			q := quotedFlow(p, id)
			return []connection{{orig: tuple{protocol: q.Protocol, src: q.Src, dst: q.Dst, srcPort: q.SrcPort, dstPort: q.DstPort}}}, nil
		}
		if p.Protocol == icmpOf(p) {
			return nil, fmt.Errorf("%s %d/%d reports no error, so it is related to nothing", p.Protocol, p.ICMPType, p.ICMPCode)
		}
		master := tuple{protocol: inet.UDP, src: p.Src, dst: p.Dst, srcPort: 35000 + uint16(id%1000), dstPort: 36000 + uint16(id/1000%1000)}
		return []connection{{orig: master}, {orig: t, natDst: p.NATDst, related: &master}}, nil
	}
	return nil, nil
}

// conntrack writes the connection table of a namespace.
type conntrack struct{ conn *netlink.Conn }

func openConntrack(ns Netns) (*conntrack, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns.FD()})
	if err != nil {
		return nil, fmt.Errorf("ctnetlink: %w", err)
	}
	return &conntrack{c}, nil
}

func (c *conntrack) close() error { return c.conn.Close() }

// flush empties the table.
func (c *conntrack) flush() error {
	_, err := c.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_CTNETLINK<<8 | 2, Flags: netlink.Request | netlink.Acknowledge},
		Data:   []byte{unix.AF_UNSPEC, 0, 0, 0},
	})
	if err != nil {
		return fmt.Errorf("flush connections: %w", err)
	}
	return nil
}

// insert adds a connection as one that has seen packets of both directions, or as a new one that was expected. One that
// is there already is left as it is.
func (c *conntrack) insert(x connection) error {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Nested(ctaTupleOrig, encodeTuple(x.orig))
	ae.Nested(ctaTupleReply, encodeTuple(x.orig.reverse()))
	ae.Uint32(ctaTimeout, 3600)
	status := ipsConfirmed
	if x.related == nil {
		status |= ipsSeenReply | ipsAssured
	} else {
		ae.Nested(ctaTupleMaster, encodeTuple(*x.related))
	}
	ae.Uint32(ctaStatus, status)
	switch x.orig.protocol {
	case inet.TCP:
		ae.Nested(ctaProtoinfo, func(e *netlink.AttributeEncoder) error {
			e.Nested(ctaProtoinfoTCP, func(e *netlink.AttributeEncoder) error {
				if x.related == nil {
					e.Uint8(ctaTCPState, tcpEstablished)
				}
				e.Bytes(ctaTCPFlagsOriginal, []byte{tcpFlagLiberal, tcpFlagLiberal})
				e.Bytes(ctaTCPFlagsReply, []byte{tcpFlagLiberal, tcpFlagLiberal})
				return nil
			})
			return nil
		})
	case inet.SCTP:
		if x.related == nil {
			ae.Nested(ctaProtoinfo, func(e *netlink.AttributeEncoder) error {
				e.Nested(ctaProtoinfoSCTP, func(e *netlink.AttributeEncoder) error {
					e.ByteOrder = binary.BigEndian
					e.Uint8(ctaSCTPState, sctpEstablished)
					e.Uint32(ctaSCTPVtagOriginal, sctpTagOriginal)
					e.Uint32(ctaSCTPVtagReply, sctpTagReply)
					return nil
				})
				return nil
			})
		}
	}
	if x.natDst.IsValid() {
		ae.Nested(ctaNATDst, func(e *netlink.AttributeEncoder) error {
			e.ByteOrder = binary.BigEndian
			lo, hi := uint16(ctaNATv4Min), uint16(ctaNATv4Max)
			if !x.natDst.Addr().Is4() {
				lo, hi = ctaNATv6Min, ctaNATv6Max
			}
			e.Bytes(lo, x.natDst.Addr().AsSlice())
			e.Bytes(hi, x.natDst.Addr().AsSlice())
			e.Nested(ctaNATProto, func(e *netlink.AttributeEncoder) error {
				e.ByteOrder = binary.BigEndian
				e.Uint16(ctaProtoNATMin, x.natDst.Port())
				e.Uint16(ctaProtoNATMax, x.natDst.Port())
				return nil
			})
			return nil
		})
	}
	attrs, err := ae.Encode()
	if err != nil {
		return err
	}
	family := byte(unix.AF_INET)
	if !x.orig.src.Is4() {
		family = unix.AF_INET6
	}
	_, err = c.conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  unix.NFNL_SUBSYS_CTNETLINK << 8,
			Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl,
		},
		Data: append([]byte{family, 0, 0, 0}, attrs...),
	})
	if err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("insert connection %s > %s: %w", x.orig.src, x.orig.dst, err)
	}
	return nil
}

func encodeTuple(t tuple) func(*netlink.AttributeEncoder) error {
	return func(e *netlink.AttributeEncoder) error {
		e.Nested(ctaTupleIP, func(e *netlink.AttributeEncoder) error {
			if t.src.Is4() {
				e.Bytes(ctaIPv4Src, t.src.AsSlice())
				e.Bytes(ctaIPv4Dst, t.dst.AsSlice())
			} else {
				e.Bytes(ctaIPv6Src, t.src.AsSlice())
				e.Bytes(ctaIPv6Dst, t.dst.AsSlice())
			}
			return nil
		})
		e.Nested(ctaTupleProto, func(e *netlink.AttributeEncoder) error {
			e.ByteOrder = binary.BigEndian
			e.Uint8(ctaProtoNum, uint8(t.protocol))
			switch {
			case t.protocol == inet.ICMP && t.src.Is4():
				e.Uint16(ctaICMPID, t.icmpID)
				e.Uint8(ctaICMPType, t.icmpType)
				e.Uint8(ctaICMPCode, t.code)
			case t.protocol == inet.ICMPv6 && !t.src.Is4():
				e.Uint16(ctaICMPv6ID, t.icmpID)
				e.Uint8(ctaICMPv6Type, t.icmpType)
				e.Uint8(ctaICMPv6Code, t.code)
			default:
				e.Uint16(ctaProtoSrcPort, t.srcPort)
				e.Uint16(ctaProtoDstPort, t.dstPort)
			}
			return nil
		})
		return nil
	}
}
