// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/agent"
	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/file"
)

// What governed the host before a restart governs it behind it, if the datastore has nothing better.
func TestRestartKeepsLastGoodVersions(t *testing.T) {
	ns := newNetns(t)
	dir, state := t.TempDir(), t.TempDir()
	write := func(name, text string) {
		t.Helper()
		tmp := filepath.Join(dir, ".new")
		require.NoError(t, os.WriteFile(tmp, []byte(text), 0o600))
		require.NoError(t, os.Rename(tmp, filepath.Join(dir, name)))
	}
	begin := func() *running {
		ctx, cancel := context.WithCancel(context.Background())
		d, err := file.Open(ctx, dir, file.Options{Settle: time.Millisecond})
		require.NoError(t, err)
		t.Cleanup(func() { cancel(); <-d.Done() })
		return start(t, agent.Options{Store: store.New(d, store.Options{}), Host: agent.FixedHost(hostA), Backend: newNFT(t, int(ns.Fd())), StateDir: state})
	}
	enforcing := func(a *running) {
		a.until(t, "enforcing", func(s agent.Status) bool { return s.Phase == agent.Enforcing })
	}
	rules := func() string { return nft(t, ns, "list", "ruleset") }
	kept := func() int {
		files, err := filepath.Glob(filepath.Join(state, "good", "*.yaml"))
		require.NoError(t, err)
		return len(files)
	}
	until := func(ok func() bool) { t.Helper(); require.Eventually(t, ok, wait, 10*time.Millisecond) }

	write("endpoint.yaml", endpoint)
	write("web.yaml", web)
	write("more.yaml", other("more", "101"))
	write("gone.yaml", other("gone", "102"))
	a := begin()
	until(func() bool { return strings.Contains(rules(), "policy:default/gone/") })
	until(func() bool { return kept() == 4 })
	require.NoError(t, a.stop())

	for name, bad := range map[string]string{
		"cannot be read": "kind: [",
		"means nothing":  strings.Replace(web, "action: Allow", "action: Perhaps", 1),
	} {
		t.Run(name, func(t *testing.T) {
			write("web.yaml", bad)
			_ = os.Remove(filepath.Join(dir, "gone.yaml")) // what is gone is gone
			a := begin()
			enforcing(a)
			require.Contains(t, rules(), "policy:default/web/")
			require.Contains(t, rules(), "policy:default/more/")
			require.NotContains(t, rules(), "policy:default/gone/")
			until(func() bool { return kept() == 3 })
			st := a.Status()
			require.NotEmpty(t, len(st.Store.Problems)+len(st.Problems))
			// And again: the process in between has nothing but what was kept either.
			require.NoError(t, a.stop())
			a = begin()
			enforcing(a)
			require.Contains(t, rules(), "policy:default/web/")
			// A version that is good counts at once.
			write("web.yaml", strings.Replace(web, "[80]", "[8080]", 1))
			until(func() bool { return strings.Contains(rules(), "8080") })
			require.NoError(t, a.stop())
			require.Zero(t, a.Status().Panics)
		})
	}
	// A file that is unreadable, and then gone, takes with it what it governed.
	write("web.yaml", "kind: [")
	a = begin()
	enforcing(a)
	require.Contains(t, rules(), "policy:default/web/")
	require.NoError(t, os.Remove(filepath.Join(dir, "web.yaml")))
	until(func() bool { return !strings.Contains(rules(), "policy:default/web/") })
	until(func() bool { return kept() == 2 })
	require.NoError(t, a.stop())

	// What is in the directory of good versions may be broken, too, and is no reason to stop.
	files, err := filepath.Glob(filepath.Join(state, "good", "*.yaml"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(files[0], []byte("kind: ["), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(state, "good", "."+filepath.Base(files[0])+".1234"), nil, 0o600))
	a = begin()
	enforcing(a)
	require.Contains(t, rules(), "policy:default/more/")
	until(func() bool { left, _ := os.ReadDir(filepath.Join(state, "good")); return len(left) == 2 })
}
