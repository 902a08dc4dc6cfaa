// SPDX-License-Identifier: Apache-2.0

// Package agenttest tests agents at length, with any datastore and any backend, in network namespaces of their own.
package agenttest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// NewNetns returns a network namespace that lives as long as its test.
func NewNetns(t testing.TB) *os.File {
	t.Helper()
	f := newNetns(t)
	t.Cleanup(func() { f.Close() })
	return f
}

// newNetns returns a network namespace that lives until it is closed.
func newNetns(t testing.TB) *os.File {
	t.Helper()
	var f *os.File
	onThread(t, func() error {
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			f, err = os.Open("/proc/thread-self/ns/net")
		}
		// Addresses of IPv6 that come by themselves, and come late, would be changes of their own.
		for _, s := range []string{"default/accept_dad", "default/dad_transmits", "default/router_solicitations"} {
			err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv6/conf/"+s, []byte("0"), 0))
		}
		return errors.Join(err, os.WriteFile("/proc/sys/net/ipv6/conf/default/addr_gen_mode", []byte("1"), 0))
	})
	return f
}

// In runs f on a thread that is in the namespace. What it opens stays there.
func In(t testing.TB, ns *os.File, f func() error) {
	t.Helper()
	onThread(t, func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// onThread runs f on a thread of its own, which ends with it.
func onThread(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	require.NoError(t, <-done, "this needs root")
}

// Machine is a host in a namespace of its own. The other ends of its interfaces are in another one.
type Machine struct {
	testing.TB
	Host, Peer *os.File

	host, peer *netlink.Handle
	made       int
}

// NewMachine returns a host with the interface lo alone, which is up.
func NewMachine(t testing.TB) *Machine {
	m := &Machine{TB: t, Host: NewNetns(t), Peer: NewNetns(t)}
	var err error
	m.host, err = netlink.NewHandleAt(netns.NsHandle(m.Host.Fd()), unix.NETLINK_ROUTE)
	require.NoError(t, err)
	t.Cleanup(m.host.Close)
	m.peer, err = netlink.NewHandleAt(netns.NsHandle(m.Peer.Fd()), unix.NETLINK_ROUTE)
	require.NoError(t, err)
	t.Cleanup(m.peer.Close)
	m.up(m.host, "lo")
	return m
}

func (m *Machine) up(h *netlink.Handle, name string) {
	l, err := h.LinkByName(name)
	require.NoError(m, err)
	require.NoError(m, h.LinkSetUp(l))
}

// AddLink adds an interface with addresses, and one with the address of the same network that ends in 2 on the other side.
func (m *Machine) AddLink(name string, addrs ...string) {
	m.Helper()
	m.made++
	attrs := netlink.NewLinkAttrs()
	// Another index than that of the peer: else the kernel takes a second to notice that it is up.
	attrs.Name, attrs.Index = name, 1000+m.made
	peer := fmt.Sprintf("peer%d", m.made)
	require.NoError(m, m.host.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerNamespace: netlink.NsFd(m.Peer.Fd())}))
	m.up(m.host, name)
	m.up(m.peer, peer)
	for _, a := range addrs {
		m.AddAddress(name, a)
		p := netip.MustParsePrefix(a)
		other := p.Addr().AsSlice()
		other[len(other)-1] = 2
		l, err := m.peer.LinkByName(peer)
		require.NoError(m, err)
		require.NoError(m, m.peer.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: other, Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}, Flags: unix.IFA_F_NODAD}))
	}
}

// traffic has packets come in on an interface of its own until the function is called, 1,000 or so in a second.
func (m *Machine) traffic() (stop func()) {
	m.AddLink("busy0", "10.7.0.1/24")
	var c net.Conn
	In(m, m.Peer, func() (err error) {
		c, err = net.Dial("udp4", "10.7.0.1:7")
		return err
	})
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			for range 10 {
				_, _ = c.Write(make([]byte, 18)) // refused or denied, and that is no matter
			}
			select {
			case <-tick.C:
			case <-end:
				return
			}
		}
	}()
	return func() { close(end); <-ended; c.Close() }
}

func ipNet(s string) *net.IPNet {
	p := netip.MustParsePrefix(s)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// AddAddress adds an address.
func (m *Machine) AddAddress(name, addr string) {
	m.Helper()
	l, err := m.host.LinkByName(name)
	require.NoError(m, err)
	a := &netlink.Addr{IPNet: ipNet(addr)}
	if a.IP.To4() == nil {
		a.Flags = unix.IFA_F_NODAD
	}
	require.NoError(m, m.host.AddrAdd(l, a))
}

// DeleteAddress removes an address.
func (m *Machine) DeleteAddress(name, addr string) {
	m.Helper()
	l, err := m.host.LinkByName(name)
	require.NoError(m, err)
	require.NoError(m, m.host.AddrDel(l, &netlink.Addr{IPNet: ipNet(addr)}))
}

// Storm has interfaces come, all at once as far as that can be, and go again with a namespace that has their other ends.
func (m *Machine) Storm(interfaces int) {
	m.Helper()
	before, err := m.host.LinkList()
	require.NoError(m, err)
	ns := newNetns(m)
	for i := range interfaces {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = fmt.Sprint("storm", i)
		require.NoError(m, m.host.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprint("s", i), PeerNamespace: netlink.NsFd(ns.Fd())}))
	}
	require.NoError(m, ns.Close())
	require.Eventually(m, func() bool {
		left, err := m.host.LinkList()
		return err == nil && len(left) <= len(before)
	}, Patience, 50*time.Millisecond)
}

// Rename gives an interface another name.
func (m *Machine) Rename(from, to string) {
	m.Helper()
	l, err := m.host.LinkByName(from)
	require.NoError(m, err)
	require.NoError(m, m.host.LinkSetDown(l))
	require.NoError(m, m.host.LinkSetName(l, to))
	require.NoError(m, m.host.LinkSetUp(l))
}

// DeleteLink removes an interface.
func (m *Machine) DeleteLink(name string) {
	m.Helper()
	l, err := m.host.LinkByName(name)
	require.NoError(m, err)
	require.NoError(m, m.host.LinkDel(l))
}
