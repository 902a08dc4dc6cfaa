// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"context"
	"fmt"
	"io"
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

// testNetns returns a network namespace, and a handle in it.
func testNetns(t *testing.T) (*os.File, *netlink.Handle) {
	t.Helper()
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
	t.Cleanup(func() { ns.Close() })
	nl, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	require.NoError(t, err)
	t.Cleanup(nl.Close)
	return ns, nl
}

// follow follows until the test ends, and returns where the host is told.
func follow(t *testing.T, m *Monitor) <-chan hostendpoint.Host {
	ctx, cancel := context.WithCancel(context.Background())
	told := make(chan hostendpoint.Host, 10000)
	ended := make(chan error, 1)
	go func() { ended <- m.Follow(ctx, func(h hostendpoint.Host) { told <- h }) }()
	t.Cleanup(func() { cancel(); require.ErrorIs(t, <-ended, context.Canceled) })
	return told
}

// until reads what is told until it is as wanted.
func until(t *testing.T, told <-chan hostendpoint.Host, ok func(hostendpoint.Host) bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	n := 0
	for {
		select {
		case h := <-told:
			if n = len(h.Interfaces); ok(h) {
				return
			}
		case <-deadline:
			require.FailNow(t, "never told", "%d interfaces in the end", n)
		}
	}
}

// A storm of a thousand interfaces, of which the kernel drops notices, is told as it ends, without a refresh.
func TestLostNotices(t *testing.T) {
	ns, nl := testNetns(t)
	m, err := New(Options{Node: "host-a", NetNS: int(ns.Fd()), Refresh: -1})
	require.NoError(t, err)
	m.buffer = 1 // the kernel makes it the least that it has
	told := follow(t, m)
	<-told
	const pairs = 500
	for i := range pairs {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = fmt.Sprint("a", i)
		require.NoError(t, nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprint("b", i)}))
	}
	until(t, told, func(h hostendpoint.Host) bool { return len(h.Interfaces) == 2*pairs+1 })
	require.Positive(t, m.Lost())
	links, err := nl.LinkList()
	require.NoError(t, err)
	for _, l := range links {
		if l.Attrs().Name[0] == 'a' {
			require.NoError(t, nl.LinkDel(l))
		}
	}
	until(t, told, func(h hostendpoint.Host) bool { return len(h.Interfaces) == 1 })
}

// When the socket fails, what changes until there is another one is told.
func TestSubscribesAnew(t *testing.T) {
	ns, nl := testNetns(t)
	m, err := New(Options{Node: "host-a", NetNS: int(ns.Fd()), Refresh: -1})
	require.NoError(t, err)
	sockets := make(chan io.Closer, 10)
	m.dialed = func(c io.Closer) { sockets <- c }
	told := follow(t, m)
	<-told
	for i := range 3 {
		require.NoError(t, (<-sockets).Close())
		attrs := netlink.NewLinkAttrs()
		attrs.Name = fmt.Sprint("a", i)
		require.NoError(t, nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: fmt.Sprint("b", i)}))
		until(t, told, func(h hostendpoint.Host) bool { return len(h.Interfaces) == 1+2*(i+1) })
	}
}
