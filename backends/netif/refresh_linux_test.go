// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"context"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// What no notice says the refresh finds.
func TestRefresh(t *testing.T) {
	var ns *os.File
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: nobody else may get this thread
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns, err = os.Open("/proc/thread-self/ns/net")
		}
		done <- err
	}()
	require.NoError(t, <-done, "this test needs root")
	defer ns.Close()
	m, err := New(Options{Node: "host-a", NetNS: int(ns.Fd()), Refresh: 10 * time.Millisecond})
	require.NoError(t, err)
	m.groups = nil
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	told := make(chan hostendpoint.Host, 100)
	go m.Follow(ctx, func(h hostendpoint.Host) { told <- h })
	require.Empty(t, (<-told).Interfaces[0].Addresses)
	nl, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	require.NoError(t, err)
	defer nl.Close()
	lo, err := nl.LinkByName("lo")
	require.NoError(t, err)
	addr, err := netlink.ParseAddr("10.1.1.1/32")
	require.NoError(t, err)
	require.NoError(t, nl.AddrAdd(lo, addr))
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.1.1.1/32")}, (<-told).Interfaces[0].Addresses)
}
