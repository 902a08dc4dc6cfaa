// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends/nftables"
)

// netns is a network namespace that lives as long as its test.
type netns struct{ *os.File }

func newNetns(t testing.TB) netns {
	t.Helper()
	var f *os.File
	onThread(t, func() {
		require.NoError(t, unix.Unshare(unix.CLONE_NEWNET), "these tests need root")
		var err error
		f, err = os.Open("/proc/thread-self/ns/net")
		require.NoError(t, err)
	})
	t.Cleanup(func() { f.Close() })
	return netns{f}
}

func (n netns) fd() int { return int(n.Fd()) }

// do runs f on a thread in the namespace.
func (n netns) do(t testing.TB, f func()) {
	t.Helper()
	onThread(t, func() {
		require.NoError(t, unix.Setns(n.fd(), unix.CLONE_NEWNET))
		f()
	})
}

// onThread runs f on a thread of its own, which ends with it.
func onThread(t testing.TB, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: nobody else may get this thread
		f()
	}()
	<-done
}

// nft runs nft in the namespace with the given input, or arguments.
func (n netns) nft(t testing.TB, input string, args ...string) string {
	t.Helper()
	out, err := n.tryNft(t, input, args...)
	require.NoError(t, err, out)
	return out
}

func (n netns) tryNft(t testing.TB, input string, args ...string) (out string, err error) {
	t.Helper()
	if input != "" {
		args = append(args, "-f", "-")
	}
	n.do(t, func() {
		c := exec.Command("nft", args...)
		c.Stdin = strings.NewReader(input)
		var b []byte
		b, err = c.CombinedOutput()
		out = string(bytes.TrimSpace(b))
	})
	return out, err
}

// newBackend returns a Backend in a namespace of its own unless o names one.
func newBackend(t testing.TB, o nftables.Options) *nftables.Backend {
	t.Helper()
	if o.NetNS == 0 {
		o.NetNS = newNetns(t).fd()
	}
	b, err := nftables.New(o)
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

// up sets an interface up.
func (n netns) up(t testing.TB, name string) {
	t.Helper()
	n.do(t, func() {
		l, err := netlink.LinkByName(name)
		require.NoError(t, err)
		require.NoError(t, netlink.LinkSetUp(l))
	})
}
