// SPDX-License-Identifier: Apache-2.0

package agenttest

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/backends/iptables"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
)

// Opener opens a backend in a network namespace. Backends that one process opens there one after the other find what the
// one before has left.
type Opener func(t testing.TB, netns int) backends.Backend

// Backends are those of this module, by name.
func Backends() map[string]Opener {
	return map[string]Opener{
		"nftables": func(t testing.TB, netns int) backends.Backend {
			b, err := nftables.New(nftables.Options{NetNS: netns})
			require.NoError(t, err)
			return b
		},
		"ebpf": func(t testing.TB, netns int) backends.Backend {
			// One directory for each namespace, so that backends that follow each other find what is pinned.
			var st unix.Stat_t
			require.NoError(t, unix.Fstat(netns, &st))
			path := fmt.Sprintf("%s-test/agent_%d_%d", ebpf.DefaultPath, os.Getpid(), st.Ino)
			b, err := ebpf.New(ebpf.Options{NetNS: netns, Path: path})
			require.NoError(t, err)
			t.Cleanup(func() {
				b, err := ebpf.New(ebpf.Options{NetNS: netns, Path: path})
				require.NoError(t, err)
				require.NoError(t, b.Teardown(context.Background()))
				require.NoError(t, b.Close())
			})
			return b
		},
		"iptables-nft": func(t testing.TB, netns int) backends.Backend {
			b, err := iptables.New(iptables.Options{NetNS: netns, Variant: iptables.NFT})
			require.NoError(t, err)
			return b
		},
		"iptables-legacy": func(t testing.TB, netns int) backends.Backend {
			b, err := iptables.New(iptables.Options{NetNS: netns, Variant: iptables.Legacy})
			require.NoError(t, err)
			return b
		},
	}
}
