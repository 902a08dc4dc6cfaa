// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// topology is what must be around a host for packets to take the paths that they claim. Cases with equal hosts share
// one, as long as their packets agree on the routes.
type topology struct {
	host       hostendpoint.Host
	forwarding bool
	dnat       []policytest.DNAT

	via    map[netip.Addr]string // for each address that something is sent to: the interface it leaves by
	groups map[group]bool        // multicast groups that the host must have joined
}

type group struct {
	addr  netip.Addr
	iface string
}

// sameHost says whether cases can share a topology: everything that the kernel is told before packets come.
func sameHost(c *policytest.Case) string {
	var b strings.Builder
	fmt.Fprintln(&b, c.Forwarding)
	ifaces := slices.Clone(c.Host.Interfaces)
	slices.SortFunc(ifaces, func(a, b hostendpoint.Interface) int { return strings.Compare(a.Name, b.Name) })
	for _, i := range ifaces {
		fmt.Fprintln(&b, i.Name, i.Addresses)
	}
	for _, d := range c.DNAT {
		fmt.Fprintln(&b, d.Protocol, d.To, d.Becomes)
	}
	return b.String()
}

func newTopology(c *policytest.Case) *topology {
	return &topology{host: c.Host, forwarding: c.Forwarding, dnat: c.DNAT, via: map[netip.Addr]string{}, groups: map[group]bool{}}
}

// add makes room for the packets of a case. The error says which two packets want different routes; then nothing was
// added.
func (t *topology) add(c *policytest.Case) error {
	via := map[netip.Addr]string{}
	want := func(p *policytest.Packet, dst netip.Addr, iface string) error {
		if iface == "" || iface == "lo" || dst.IsMulticast() || dst.IsLinkLocalUnicast() || isBroadcast(dst, t.host) {
			return nil // bound to the interface when sent
		}
		for _, m := range []map[netip.Addr]string{t.via, via} {
			if was, ok := m[dst]; ok && was != iface {
				return fmt.Errorf("line %d: %s: %s is routed to %s, and another packet goes there by %s", p.Line, p.Text, dst, iface, was)
			}
		}
		via[dst] = iface
		return nil
	}
	for i := range c.Packets {
		p := &c.Packets[i]
		if p.Path != flow.Output && p.Path != flow.Forward {
			continue
		}
		dst := p.Dst
		if p.NATDst.IsValid() {
			// The route to the untranslated address exists unless it has to be made. It decides nothing that lasts.
			if p.Path == flow.Output && policytest.RouteOut(dst, t.host) == "" && t.via[dst] == "" {
				via[dst] = p.Out
			}
			dst = p.NATDst.Addr()
		}
		if err := want(p, dst, p.Out); err != nil {
			return err
		}
	}
	for a, i := range via {
		t.via[a] = i
	}
	for i := range c.Packets {
		p := &c.Packets[i]
		if p.Path == flow.Input && p.Dst.IsMulticast() {
			t.groups[group{p.Dst, p.In}] = true
		}
	}
	return nil
}

// bindOut returns the interface to which a socket must be bound for p to leave by it; "" where routing decides.
func bindOut(p *flow.Packet, h hostendpoint.Host) string {
	if p.Dst.IsMulticast() || p.Dst.IsLinkLocalUnicast() || isBroadcast(p.Dst, h) {
		return p.Out
	}
	return ""
}

// isBroadcast reports whether a is the limited broadcast address or that of a network of the host.
func isBroadcast(a netip.Addr, h hostendpoint.Host) bool {
	if !a.Is4() {
		return false
	}
	if a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return true
	}
	for _, i := range h.Interfaces {
		for _, p := range i.Addresses {
			if p.Addr().Is4() && p.Bits() < 31 && p.Contains(a) && broadcastOf(p) == a {
				return true
			}
		}
	}
	return false
}

func broadcastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}

// destinationMAC returns the link address for a packet to a on a link whose receiver has the address own.
func destinationMAC(a netip.Addr, own [6]byte, h hostendpoint.Host) [6]byte {
	switch {
	case a.Is4() && a.IsMulticast():
		b := a.As4()
		return [6]byte{0x01, 0x00, 0x5e, b[1] & 0x7f, b[2], b[3]}
	case a.IsMulticast():
		b := a.As16()
		return [6]byte{0x33, 0x33, b[12], b[13], b[14], b[15]}
	case isBroadcast(a, h):
		return [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	return own
}
