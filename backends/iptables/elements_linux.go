// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// fewElements is how many changes of elements are told to the kernel directly. To start ipset takes as long as
// hundreds of them, and a member that comes or goes is what happens most often.
const fewElements = 256

// The attributes of ipset that are needed here.
// Ref: include/uapi/linux/netfilter/ipset/ip_set.h.
const (
	ipsetProtocol   = 7
	ipsetCmdAdd     = 9
	ipsetCmdDel     = 10
	ipsetAttrProto  = 1 // of the message: the version of the protocol
	ipsetAttrName   = 2
	ipsetAttrData   = 7
	ipsetDataIP     = 1
	ipsetDataCIDR   = 3
	ipsetDataPort   = 4
	ipsetDataProto  = 7
	ipsetIPv4       = 1
	ipsetIPv6       = 2
	ipsetErrPrivate = 4096
)

// ipsetErrors are what ipset answers beyond the errors of the system.
// Ref: include/uapi/linux/netfilter/ipset/ip_set.h, enum ipset_errno, and ip_set_hash.h.
var ipsetErrors = map[unix.Errno]string{
	unix.ENOENT:           "the set does not exist",
	ipsetErrPrivate + 1:   "the set does not take such an element: it is of another type or family",
	ipsetErrPrivate + 8:   "the prefix length is out of range",
	ipsetErrPrivate + 10:  "the set is of the other family, or of another type",
	ipsetErrPrivate + 13:  "the set takes IPv4 addresses only",
	ipsetErrPrivate + 14:  "the set takes IPv6 addresses only",
	ipsetErrPrivate + 256: "the set is full",
	ipsetErrPrivate + 257: "the kernel takes no such element",
}

// elements adds and removes elements, one after the other; those that are there, or are not there, are no error. The
// error is an *Error that quotes the command that ipset would be given.
func (t *tools) elements(ctx context.Context, op string, ops []elementOp) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: t.netns})
	if err != nil {
		return &Error{Op: op, Tool: "ipset", Text: "netlink: " + err.Error(), Err: err}
	}
	defer c.Close()
	for _, o := range ops {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := o.message()
		if err != nil {
			return err
		}
		command := netlink.HeaderType(ipsetCmdDel)
		if o.add {
			command = ipsetCmdAdd
		}
		_, err = c.Execute(netlink.Message{
			Header: netlink.Header{Type: unix.NFNL_SUBSYS_IPSET<<8 | command, Flags: netlink.Request | netlink.Acknowledge},
			Data:   data,
		})
		if err != nil {
			return &Error{Op: op, Tool: "ipset", Text: ipsetText(err), Line: o.line(), Err: err}
		}
	}
	return nil
}

// line returns the operation as a command of ipset.
func (o elementOp) line() string {
	command := "del"
	if o.add {
		command = "add"
	}
	return strings.TrimSuffix(string(o.set.AppendElement(nil, command, o.set.Name, o.e)), "\n")
}

func ipsetText(err error) string {
	var n unix.Errno
	if !errors.As(err, &n) {
		return err.Error()
	}
	if text, ok := ipsetErrors[n]; ok {
		return text
	}
	return n.Error()
}

// message returns the payload that names the set and the element.
func (o elementOp) message() ([]byte, error) {
	family, kind := uint8(unix.AF_INET), uint16(ipsetIPv4)
	addr := o.e.Prefix.Addr()
	if addr.Is6() {
		family, kind = unix.AF_INET6, ipsetIPv6
	}
	e := netlink.NewAttributeEncoder()
	e.ByteOrder = binary.BigEndian
	e.Uint8(ipsetAttrProto, ipsetProtocol)
	e.String(ipsetAttrName, o.set.Name)
	e.Nested(ipsetAttrData, func(e *netlink.AttributeEncoder) error {
		e.Nested(ipsetDataIP, func(e *netlink.AttributeEncoder) error {
			e.Bytes(kind|unix.NLA_F_NET_BYTEORDER, addr.AsSlice())
			return nil
		})
		e.Uint8(ipsetDataCIDR, uint8(o.e.Prefix.Bits()))
		if o.set.Kind == ir.SetOfEndpoints {
			e.Uint16(ipsetDataPort|unix.NLA_F_NET_BYTEORDER, o.e.Port)
			e.Uint8(ipsetDataProto, uint8(o.e.Protocol))
		}
		return nil
	})
	b, err := e.Encode()
	if err != nil {
		return nil, fmt.Errorf("iptables: element %s: %w", o.line(), err)
	}
	return append([]byte{family, 0, 0, 0}, b...), nil // struct nfgenmsg
}
