// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/hostpolicy/hostpolicy/backends/lab/rate"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// TestWatchersLeaveNobodyBehind ends a watcher while more devices come than it has looked at. Who tells it of them is done
// then, too: it would keep the backend and its memory for ever.
func TestWatchersLeaveNobodyBehind(t *testing.T) {
	subscribers := func(in string) (n int) {
		all := make([]byte, 1<<22)
		for _, g := range strings.Split(string(all[:runtime.Stack(all, true)]), "\n\n") {
			if strings.Contains(g, "netlink.linkSubscribeAt.func") && strings.Contains(g, in) {
				n++
			}
		}
		return n
	}
	gone := func() bool { return subscribers("") == 0 }
	require.Eventually(t, gone, 20*time.Second, 10*time.Millisecond) // those of tests before
	ns := rate.NewNetns(t)
	b, err := New(Options{NetNS: ns.FD(), Path: fmt.Sprintf("%s-test_%d-watchers", DefaultPath, os.Getpid())})
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	p, m, err := ir.Parse("entry untracked-in a\nblock a\n  rule protocol=udp -> deny by policy:t/p/ingress[0]@untracked\n")
	require.NoError(t, err)
	_, err = b.Apply(t.Context(), p, m)
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.Teardown(context.Background()) })
	require.Eventually(t, func() bool { return subscribers("") > 0 }, 20*time.Second, time.Millisecond)

	h, err := netlink.NewHandleAt(netns.NsHandle(ns.FD()))
	require.NoError(t, err)
	defer h.Close()
	b.mu.Lock() // it looks at nothing meanwhile
	for i := 0; subscribers("[chan send") == 0 && i < 1000; i++ {
		if err = h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("v%d", i)}, PeerName: fmt.Sprintf("p%d", i)}); err != nil {
			break
		}
	}
	stuck := subscribers("[chan send")
	b.unwatch()
	b.mu.Unlock()
	require.NoError(t, err)
	require.NotZero(t, stuck, "nobody waits: the test shows nothing")
	require.Eventually(t, gone, 20*time.Second, 10*time.Millisecond)
}
