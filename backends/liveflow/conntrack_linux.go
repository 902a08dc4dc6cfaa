// SPDX-License-Identifier: Apache-2.0

package liveflow

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Messages and attributes of ctnetlink. Ref: include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const (
	ctGet, ctDelete                                               = 1, 2
	ctaTupleOrig, ctaTupleReply, ctaStatus, ctaProtoinfo          = 1, 2, 3, 4
	ctaID, ctaZone                                                = 12, 18
	ipsSeenReply                                           uint32 = 2 // linux/netfilter/nf_conntrack_common.h
	ctaTupleIP, ctaTupleProto                                     = 1, 2
	ctaIPv4Src, ctaIPv4Dst, ctaIPv6Src, ctaIPv6Dst                = 1, 2, 3, 4
	ctaProtoNum, ctaProtoSrcPort, ctaProtoDstPort                 = 1, 2, 3
	ctaICMPType, ctaICMPCode, ctaICMPv6Type, ctaICMPv6Code        = 5, 6, 8, 9
	ctaProtoinfoTCP, ctaTCPState                                  = 1, 1
	tcpLastAck, tcpTimeWait, tcpClose, tcpMaxState         uint8  = 6, 7, 8, 9
)

// entry is an entry of the kernel's table of connections.
type entry struct {
	family      byte
	orig, reply flow.Tuple
	tcp         uint8
	status      uint32
	rawTuple    []byte // CTA_TUPLE_ORIG, to name it by
	id          uint32 // in the byte order of the network
	zone        []byte // CTA_ZONE; nil if it is in none
}

// over reports whether the flow has come to its end, and only its entry is still there.
func (e *entry) over() bool {
	return e.orig.Protocol == inet.TCP && (e.tcp == tcpLastAck || e.tcp == tcpTimeWait || e.tcp == tcpClose)
}

// conntrack talks to the table of a namespace.
type conntrack struct{ conn *netlink.Conn }

func openConntrack(netns int) (*conntrack, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netns})
	if err != nil {
		return nil, fmt.Errorf("ctnetlink: %w", err)
	}
	return &conntrack{c}, nil
}

func (c *conntrack) close() { c.conn.Close() }

// bound makes calls end with ctx.
func (c *conntrack) bound(ctx context.Context) (release func()) {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// list returns the entries of both families. A table that changed meanwhile may lack some: what is there all the time is
// there. Ref: net/netfilter/nf_conntrack_netlink.c, ctnetlink_dump_table.
func (c *conntrack) list(ctx context.Context) ([]*entry, error) {
	defer c.bound(ctx)()
	msgs, err := c.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_CTNETLINK<<8 | ctGet, Flags: netlink.Request | netlink.Dump},
		Data:   []byte{unix.AF_UNSPEC, 0, 0, 0},
	})
	if err != nil {
		return nil, ctError("list connections", ctx, err)
	}
	var out []*entry
	for _, m := range msgs {
		if len(m.Data) < 4 {
			continue
		}
		e, err := decodeEntry(m.Data)
		if err != nil {
			return nil, fmt.Errorf("list connections: %w", err)
		}
		out = append(out, e)
	}
	return out, nil
}

func ctError(op string, ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err = fmt.Errorf("%s: %w", op, err)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// remove deletes an entry; false if it was gone.
func (c *conntrack) remove(ctx context.Context, e *entry) (bool, error) {
	defer c.bound(ctx)()
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Bytes(unix.NLA_F_NESTED|ctaTupleOrig, e.rawTuple)
	ae.Uint32(ctaID, e.id)
	if e.zone != nil {
		ae.Bytes(ctaZone, e.zone)
	}
	attrs, err := ae.Encode()
	if err != nil {
		return false, err
	}
	_, err = c.conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_CTNETLINK<<8 | ctDelete, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append([]byte{e.family, 0, 0, 0}, attrs...),
	})
	if errors.Is(err, syscall.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, ctError("delete connection "+e.orig.String(), ctx, err)
	}
	return true, nil
}

func decodeEntry(b []byte) (*entry, error) {
	e := &entry{family: b[0]}
	ad, err := netlink.NewAttributeDecoder(b[4:])
	if err != nil {
		return nil, err
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleOrig:
			e.rawTuple = ad.Bytes()
			ad.Nested(func(n *netlink.AttributeDecoder) error { return decodeTuple(n, &e.orig) })
		case ctaTupleReply:
			ad.Nested(func(n *netlink.AttributeDecoder) error { return decodeTuple(n, &e.reply) })
		case ctaStatus:
			e.status = ad.Uint32()
		case ctaProtoinfo:
			ad.Nested(func(n *netlink.AttributeDecoder) error {
				for n.Next() {
					if n.Type() == ctaProtoinfoTCP {
						n.Nested(func(n *netlink.AttributeDecoder) error {
							for n.Next() {
								if n.Type() == ctaTCPState {
									e.tcp = min(n.Uint8(), tcpMaxState)
								}
							}
							return n.Err()
						})
					}
				}
				return n.Err()
			})
		case ctaID:
			e.id = ad.Uint32()
		case ctaZone:
			e.zone = ad.Bytes()
		}
	}
	return e, ad.Err()
}

func decodeTuple(ad *netlink.AttributeDecoder, t *flow.Tuple) error {
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case ctaTupleIP:
			ad.Nested(func(n *netlink.AttributeDecoder) error {
				for n.Next() {
					switch n.Type() {
					case ctaIPv4Src, ctaIPv6Src:
						t.Src, _ = netip.AddrFromSlice(n.Bytes())
					case ctaIPv4Dst, ctaIPv6Dst:
						t.Dst, _ = netip.AddrFromSlice(n.Bytes())
					}
				}
				return n.Err()
			})
		case ctaTupleProto:
			ad.Nested(func(n *netlink.AttributeDecoder) error {
				n.ByteOrder = binary.BigEndian
				for n.Next() {
					switch n.Type() {
					case ctaProtoNum:
						t.Protocol = inet.Protocol(n.Uint8())
					case ctaProtoSrcPort:
						t.SrcPort = n.Uint16()
					case ctaProtoDstPort:
						t.DstPort = n.Uint16()
					case ctaICMPType, ctaICMPv6Type:
						t.ICMPType = n.Uint8()
					case ctaICMPCode, ctaICMPv6Code:
						t.ICMPCode = n.Uint8()
					}
				}
				return n.Err()
			})
		}
	}
	return ad.Err()
}
