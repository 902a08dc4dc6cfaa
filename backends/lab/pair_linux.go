// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Pair is a host and its peer, two network namespaces with real stacks: what is sent to them is answered. Eth0 of the one
// is connected with eth0 of the other. The zero value is none.
type Pair struct{ Host, Peer Netns }

// The addresses of a Pair, all of them with their networks.
var (
	PairHost4 = netip.MustParsePrefix("10.9.0.1/24")
	PairPeer4 = netip.MustParsePrefix("10.9.0.2/24")
	PairHost6 = netip.MustParsePrefix("fd00:9::1/64")
	PairPeer6 = netip.MustParsePrefix("fd00:9::2/64")
)

// NewPair makes a Pair that is ready for packets. The error wraps ErrUnavailable where there can be none.
func NewPair() (p *Pair, err error) {
	p = &Pair{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
			p = nil
		}
	}()
	if p.Host, err = newNetns(); err != nil {
		return p, unavailable(err)
	}
	if p.Peer, err = newNetns(); err != nil {
		return p, unavailable(err)
	}
	host, err := netlink.NewHandleAt(netns.NsHandle(p.Host.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		return p, fmt.Errorf("rtnetlink: %w", err)
	}
	defer host.Close()
	peer, err := netlink.NewHandleAt(netns.NsHandle(p.Peer.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		return p, fmt.Errorf("rtnetlink: %w", err)
	}
	defer peer.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = "eth0", firstIndex // another one than the peer's: see addInterface
	if err := host.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(p.Peer.FD())}); err != nil {
		return p, fmt.Errorf("add veth: %w", err)
	}
	for _, end := range []struct {
		nl    *netlink.Handle
		addrs []netip.Prefix
	}{{host, []netip.Prefix{PairHost4, PairHost6}}, {peer, []netip.Prefix{PairPeer4, PairPeer6}}} {
		for _, name := range []string{"lo", "eth0"} {
			l, err := end.nl.LinkByName(name)
			if err != nil {
				return p, err
			}
			if err := end.nl.LinkSetUp(l); err != nil {
				return p, fmt.Errorf("set %s up: %w", name, err)
			}
			for _, a := range end.addrs {
				if name == "lo" {
					continue
				}
				x := &netlink.Addr{IPNet: ipNet(a)}
				if a.Addr().Is6() {
					x.Flags = unix.IFA_F_NODAD
				}
				if err := end.nl.AddrAdd(l, x); err != nil {
					return p, fmt.Errorf("add address %s: %w", a, err)
				}
			}
		}
	}
	for _, nl := range []*netlink.Handle{host, peer} {
		if err := waitReady(nl); err != nil {
			return p, err
		}
	}
	// IPv6 is ready last, even without duplicate address detection.
	return p, poll(func() (string, error) {
		missing := ""
		err := p.Peer.Do(func() error {
			c, err := net.ListenPacket("udp6", netip.AddrPortFrom(PairPeer6.Addr(), 0).String())
			if err != nil {
				missing = "address " + PairPeer6.String()
				return nil
			}
			return c.Close()
		})
		if err == nil && missing == "" {
			err = p.Host.Do(func() error {
				c, err := net.ListenPacket("udp6", netip.AddrPortFrom(PairHost6.Addr(), 0).String())
				if err != nil {
					missing = "address " + PairHost6.String()
					return nil
				}
				return c.Close()
			})
		}
		return missing, err
	})
}

// Spec returns the host as policy knows it.
func (p *Pair) Spec(node string) hostendpoint.Host {
	return hostendpoint.Host{Node: node, Interfaces: []hostendpoint.Interface{
		{Name: "lo", Addresses: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("::1/128")}},
		{Name: "eth0", Addresses: []netip.Prefix{PairHost4, PairHost6}},
	}}
}

// Close releases the namespaces; the kernel removes them when nothing is open in them any more.
func (p *Pair) Close() error { return errors.Join(p.Host.close(), p.Peer.close()) }
