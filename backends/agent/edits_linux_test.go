// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"flag"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/agent/agenttest"
	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/file"
	"github.com/hostpolicy/hostpolicy/backends/store/memory"
)

var sequences = flag.Int("sequences", 6, "how many random sequences of edits to enforce with each backend and datastore")

// openers are the backends under test.
var openers = agenttest.Backends()

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
