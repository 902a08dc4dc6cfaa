// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// maxInterrupted is how often a list is begun anew because it changed while it was read.
const maxInterrupted = 20

// list returns the interfaces and their addresses, sorted by name.
func list(c *netlink.Conn) ([]Link, error) {
	byIndex := map[int]*Link{}
	if err := dump(c, unix.RTM_GETLINK, make([]byte, unix.SizeofIfInfomsg), func() { clear(byIndex) }, func(d []byte) error {
		l, err := parseLink(d)
		if err == nil && l.Name != "" {
			byIndex[l.Index] = &l
		}
		return err
	}); err != nil {
		return nil, fmt.Errorf("links: %w", err)
	}
	lengths := map[onLink]int{}
	if err := dump(c, unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func() { clear(lengths) }, func(d []byte) error {
		k, bits, err := parseAddr(d)
		if err == nil && k.addr.IsValid() {
			lengths[k] = bits
		}
		return err
	}); err != nil {
		return nil, fmt.Errorf("addresses: %w", err)
	}
	local := map[onLink]bool{}
	ask := make([]byte, unix.SizeofRtMsg)
	ask[4] = unix.RT_TABLE_LOCAL // kernels that do not filter send more
	if err := dump(c, unix.RTM_GETROUTE, ask, func() { clear(local) }, func(d []byte) error {
		k, err := parseRoute(d)
		if err == nil && k.addr.IsValid() {
			local[k] = true
		}
		return err
	}); err != nil {
		return nil, fmt.Errorf("routes: %w", err)
	}
	for k := range local {
		l := byIndex[k.index]
		if l == nil {
			continue
		}
		bits, ok := lengths[k]
		if !ok {
			bits = k.addr.BitLen()
		}
		l.Addresses = append(l.Addresses, netip.PrefixFrom(k.addr, bits))
	}
	out := make([]Link, 0, len(byIndex))
	for _, l := range byIndex {
		slices.SortFunc(l.Addresses, netip.Prefix.Compare)
		out = append(out, *l)
	}
	slices.SortFunc(out, func(a, b Link) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

type onLink struct {
	index int
	addr  netip.Addr
}

// dump lists objects, anew if they changed meanwhile.
func dump(c *netlink.Conn, typ uint16, data []byte, begin func(), each func([]byte) error) error {
	for range maxInterrupted {
		begin()
		msgs, err := c.Execute(netlink.Message{Header: netlink.Header{Type: netlink.HeaderType(typ), Flags: netlink.Request | netlink.Dump}, Data: data})
		if err != nil {
			return err
		}
		interrupted := false
		for _, m := range msgs {
			interrupted = interrupted || m.Header.Flags&netlink.DumpInterrupted != 0
			if err := each(m.Data); err != nil {
				return err
			}
		}
		if !interrupted {
			return nil
		}
	}
	return errors.New("it changes all the time")
}

var errShort = errors.New("a message that is too short")

func parseLink(d []byte) (l Link, err error) {
	if len(d) < unix.SizeofIfInfomsg {
		return l, errShort
	}
	l.Index = int(int32(binary.NativeEndian.Uint32(d[4:8])))
	flags := binary.NativeEndian.Uint32(d[8:12])
	l.Up = flags&unix.IFF_UP != 0 && flags&unix.IFF_RUNNING != 0
	a, err := netlink.NewAttributeDecoder(d[unix.SizeofIfInfomsg:])
	if err != nil {
		return l, err
	}
	for a.Next() {
		if a.Type() == unix.IFLA_IFNAME {
			l.Name = a.String()
		}
	}
	return l, a.Err()
}

// parseAddr returns an address with the length of its network.
func parseAddr(d []byte) (k onLink, bits int, err error) {
	if len(d) < unix.SizeofIfAddrmsg {
		return k, 0, errShort
	}
	k.index, bits = int(binary.NativeEndian.Uint32(d[4:8])), int(d[1])
	a, err := netlink.NewAttributeDecoder(d[unix.SizeofIfAddrmsg:])
	if err != nil {
		return k, 0, err
	}
	local := false
	for a.Next() {
		// On a point-to-point interface IFA_ADDRESS is the other side.
		if t := a.Type(); t == unix.IFA_LOCAL || t == unix.IFA_ADDRESS && !local {
			k.addr, _ = netip.AddrFromSlice(a.Bytes())
			local = t == unix.IFA_LOCAL
		}
	}
	return k, bits, a.Err()
}

// localRoute reports whether a route, of which d holds at least the header, is one of type local in the table local.
func localRoute(d []byte) bool { return d[4] == unix.RT_TABLE_LOCAL && d[7] == unix.RTN_LOCAL }

// parseRoute returns the address that a route makes local, if it makes one so.
func parseRoute(d []byte) (k onLink, err error) {
	if len(d) < unix.SizeofRtMsg {
		return k, errShort
	}
	if !localRoute(d) {
		return k, nil
	}
	a, err := netlink.NewAttributeDecoder(d[unix.SizeofRtMsg:])
	if err != nil {
		return k, err
	}
	for a.Next() {
		switch a.Type() {
		case unix.RTA_DST:
			k.addr, _ = netip.AddrFromSlice(a.Bytes())
		case unix.RTA_OIF:
			k.index = int(a.Uint32())
		}
	}
	if int(d[1]) != k.addr.BitLen() { // a whole network, as 127.0.0.0/8 is on lo
		k.addr = netip.Addr{}
	}
	return k, a.Err()
}
