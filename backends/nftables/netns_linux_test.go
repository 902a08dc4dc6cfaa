// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"

	"github.com/hostpolicy/hostpolicy/backends/lab/rate"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
)

// netns is a network namespace that lives as long as its test.
type netns struct{ rate.Netns }

func newNetns(t testing.TB) netns {
	t.Helper()
	return netns{rate.NewNetns(t)}
}

func (n netns) fd() int { return n.FD() }

// do runs f on a thread in the namespace.
func (n netns) do(t testing.TB, f func()) {
	t.Helper()
	n.Do(t, f)
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
