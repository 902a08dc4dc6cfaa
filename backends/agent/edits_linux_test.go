// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/agent/agenttest"
	"github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/backends/iptables"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/file"
	"github.com/hostpolicy/hostpolicy/backends/store/memory"
)

var sequences = flag.Int("sequences", 6, "how many random sequences of edits to enforce with each backend and datastore")

// openers are the backends under test.
var openers = map[string]func(t testing.TB, netns int) backends.Backend{
	"nftables": func(t testing.TB, netns int) backends.Backend {
		b, err := nftables.New(nftables.Options{NetNS: netns})
		require.NoError(t, err)
		return b
	},
	"ebpf": func(t testing.TB, netns int) backends.Backend {
		// One directory for each namespace, so that backends that follow each other find what is pinned.
		var st unix.Stat_t
		require.NoError(t, unix.Fstat(netns, &st))
		b, err := ebpf.New(ebpf.Options{NetNS: netns, Path: fmt.Sprintf("%s-test/agent_%d_%d", ebpf.DefaultPath, os.Getpid(), st.Ino)})
		require.NoError(t, err)
		t.Cleanup(func() {
			b, err := ebpf.New(ebpf.Options{NetNS: netns, Path: fmt.Sprintf("%s-test/agent_%d_%d", ebpf.DefaultPath, os.Getpid(), st.Ino)})
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

// stores are the datastores of this module.
var stores = map[string]func(t testing.TB) store.Store{
	"memory": func(testing.TB) store.Store { return memory.New() },
	"file": func(t testing.TB) store.Store {
		ctx, cancel := context.WithCancel(context.Background())
		d, err := file.Open(ctx, t.TempDir(), file.Options{})
		require.NoError(t, err)
		t.Cleanup(func() { cancel(); <-d.Done() })
		return store.New(d, store.Options{})
	},
}

func TestEndsWhereACompilerWould(t *testing.T) {
	for backend, open := range openers {
		for name, make := range stores {
			if name == "file" && backend == "iptables-legacy" { // it is slow, and the other variant is the same code
				continue
			}
			t.Run(backend+"/"+name, func(t *testing.T) {
				agenttest.Edits{Store: make(t), Open: open, Sequences: *sequences, Seed: uint64(len(backend))}.Run(t)
			})
		}
	}
}
