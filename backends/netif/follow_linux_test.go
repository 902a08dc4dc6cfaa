// SPDX-License-Identifier: Apache-2.0

package netif_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends/netif"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// world is a network namespace with a Monitor that follows it.
type world struct {
	t       *testing.T
	nl      *netlink.Handle
	monitor *netif.Monitor

	mu   sync.Mutex
	told []hostendpoint.Host
}

func newWorld(t *testing.T, o netif.Options) *world {
	var f *os.File
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: nobody else may get this thread
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			f, err = os.Open("/proc/thread-self/ns/net")
		}
		if err == nil {
			_ = os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
			_ = os.WriteFile("/proc/sys/net/ipv6/conf/default/addr_gen_mode", []byte("1"), 0)
		}
		done <- err
	}()
	require.NoError(t, <-done, "these tests need root")
	t.Cleanup(func() { f.Close() })
	nl, err := netlink.NewHandleAt(netns.NsHandle(f.Fd()), unix.NETLINK_ROUTE)
	require.NoError(t, err)
	t.Cleanup(nl.Close)
	o.Node, o.NetNS = "host-a", int(f.Fd())
	w := &world{t: t, nl: nl}
	w.monitor, err = netif.New(o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- w.monitor.Follow(ctx, func(h hostendpoint.Host) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.told = append(w.told, h)
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
	w.until("lo=")
	return w
}

func text(h hostendpoint.Host) string {
	var out []string
	for _, i := range h.Interfaces {
		var addrs []string
		for _, a := range i.Addresses {
			addrs = append(addrs, a.String())
		}
		out = append(out, i.Name+"="+strings.Join(addrs, ","))
	}
	return strings.Join(out, " ")
}

// until waits until the host is as it should be, and returns what was told since the last call.
func (w *world) until(want string) []hostendpoint.Host {
	w.t.Helper()
	last := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		w.mu.Lock()
		told := w.told
		if n := len(told); n > 0 {
			last = text(told[n-1])
			if last == want {
				w.told = told[n-1:]
			}
		}
		w.mu.Unlock()
		if last == want {
			return told
		}
	}
	require.FailNow(w.t, "never told", "want %q, got %q", want, last)
	return nil
}

func (w *world) veth(a, b string) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = a
	require.NoError(w.t, w.nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: b}))
}

func (w *world) link(name string) netlink.Link {
	l, err := w.nl.LinkByName(name)
	require.NoError(w.t, err)
	return l
}

func (w *world) up(name string) { require.NoError(w.t, w.nl.LinkSetUp(w.link(name))) }

func ipNet(s string) *net.IPNet {
	p := netip.MustParsePrefix(s)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (w *world) add(link, addr string) {
	require.NoError(w.t, w.nl.AddrAdd(w.link(link), &netlink.Addr{IPNet: ipNet(addr), Flags: unix.IFA_F_NODAD}))
}

func (w *world) del(link, addr string) {
	require.NoError(w.t, w.nl.AddrDel(w.link(link), &netlink.Addr{IPNet: ipNet(addr)}))
}

func TestFollowsInterfacesAndAddresses(t *testing.T) {
	w := newWorld(t, netif.Options{Refresh: -1})
	w.up("lo")
	w.until("lo=127.0.0.1/8,::1/128")
	const lo = "lo=127.0.0.1/8,::1/128"
	w.veth("eth0", "eth1")
	w.until("eth0= eth1= " + lo)
	w.add("eth0", "10.9.0.1/24")
	w.until("eth0=10.9.0.1/24 eth1= " + lo)
	w.up("eth0")
	w.up("eth1")
	w.add("eth0", "fd00::1/64")
	w.until("eth0=10.9.0.1/24,fd00::1/64 eth1= " + lo)
	links := w.monitor.Links()
	require.True(t, slices.ContainsFunc(links, func(l netif.Link) bool { return l.Name == "eth0" && l.Index > 0 }))

	// A local address that is not configured counts, as in Calico; a local network does not.
	require.NoError(t, w.nl.RouteAdd(&netlink.Route{LinkIndex: w.link("eth1").Attrs().Index, Dst: ipNet("10.8.0.7/32"), Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST}))
	w.until("eth0=10.9.0.1/24,fd00::1/64 eth1=10.8.0.7/32 " + lo)
	require.NoError(t, w.nl.RouteAdd(&netlink.Route{LinkIndex: w.link("eth1").Attrs().Index, Dst: ipNet("10.7.0.0/16"), Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST}))

	w.del("eth0", "10.9.0.1/24")
	w.add("eth1", "10.9.0.1/24") // it moves
	w.until("eth0=fd00::1/64 eth1=10.8.0.7/32,10.9.0.1/24 " + lo)

	require.NoError(t, w.nl.LinkSetDown(w.link("eth0")))
	require.NoError(t, w.nl.LinkSetName(w.link("eth0"), "wan0"))
	require.NoError(t, w.nl.LinkDel(w.link("wan0")))
	w.until(lo)
}

func TestRenameIsNoVanishing(t *testing.T) {
	w := newWorld(t, netif.Options{Refresh: -1, Debounce: time.Hour})
	w.veth("eth0", "eth1")
	w.add("eth0", "10.9.0.1/24")
	w.until("eth0=10.9.0.1/24 eth1= lo=")
	require.NoError(t, w.nl.LinkSetName(w.link("eth0"), "wan0"))
	w.until("eth1= lo= wan0=10.9.0.1/24")
}

func TestFlapIsNotTold(t *testing.T) {
	w := newWorld(t, netif.Options{Refresh: -1, Debounce: time.Hour})
	w.veth("eth0", "eth1")
	w.add("eth0", "10.9.0.1/24")
	w.until("eth0=10.9.0.1/24 eth1= lo=")
	for range 20 {
		w.del("eth0", "10.9.0.1/24")
		w.add("eth0", "10.9.0.1/24")
	}
	w.add("eth1", "10.9.1.1/24")
	for _, h := range w.until("eth0=10.9.0.1/24 eth1=10.9.1.1/24 lo=") {
		require.Contains(t, text(h), "eth0=10.9.0.1/24")
	}
}

// A storm of changes costs few looks, and none of them is lost.
func TestStorm(t *testing.T) {
	w := newWorld(t, netif.Options{Refresh: -1})
	w.veth("eth0", "eth1")
	const n = 1000
	var all []string
	for i := range n {
		a := fmt.Sprintf("10.%d.%d.1/32", i/250, i%250)
		all = append(all, a)
		w.add("eth0", a)
	}
	slices.SortFunc(all, func(a, b string) int { return netip.MustParsePrefix(a).Compare(netip.MustParsePrefix(b)) })
	told := w.until("eth0=" + strings.Join(all, ",") + " eth1= lo=")
	require.Less(t, len(told), n/2)
	require.NoError(t, w.nl.LinkDel(w.link("eth0")))
	w.until("lo=")
}

func TestSeveralMonitors(t *testing.T) {
	a, b := newWorld(t, netif.Options{}), newWorld(t, netif.Options{})
	a.veth("eth0", "eth1")
	b.veth("eth2", "eth3")
	a.until("eth0= eth1= lo=")
	b.until("eth2= eth3= lo=")
	h, err := a.monitor.Look(context.Background())
	require.NoError(t, err)
	require.Equal(t, "eth0= eth1= lo=", text(h))
}

func ExampleMonitor() {
	m, err := netif.New(netif.Options{Node: "host-a"})
	if err != nil {
		panic(err)
	}
	h, err := m.Look(context.Background())
	if err != nil {
		panic(err)
	}
	for _, i := range h.Interfaces {
		if i.Name == "lo" {
			fmt.Println(h.Node, "has", i.Name)
		}
	}
	// Output: host-a has lo
}
