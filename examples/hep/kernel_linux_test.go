// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// inNamespace runs f in a network namespace of its own. The thread is never used for anything else again.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			t.Errorf("this test needs root: %v", err)
			return
		}
		f()
	}()
	<-done
}

func TestApplyStatusAndTeardownInANamespace(t *testing.T) {
	dir := t.TempDir()
	demo, err := os.Open("demo.txtar")
	require.NoError(t, err)
	defer demo.Close()
	require.NoError(t, unpack(demo, dir))
	in := []string{"-f", filepath.Join(dir, "resources.yaml"), "--host", filepath.Join(dir, "host.yaml")}

	for _, backend := range []string{"nftables", "ebpf"} {
		t.Run(backend, func(t *testing.T) {
			inNamespace(t, func() { applyStatusTeardown(t, backend, dir, in) })
		})
	}
}

func applyStatusTeardown(t *testing.T, backend, dir string, in []string) {
	hep := func(args ...string) (int, string) {
		var b bytes.Buffer
		o := &output{out: &b, err: &b, format: "table"}
		code := run(t.Context(), append(args, "--backend", backend), o, os.Stdin)
		return code, b.String()
	}
	with := func(cmd string, more ...string) []string { return append(append([]string{cmd}, in...), more...) }

	code, text := hep(with("status")...)
	require.Equal(t, exitMismatch, code, text)
	require.Contains(t, text, "this host is unprotected")

	code, text = hep(with("apply")...)
	require.Equal(t, exitOK, code, text)
	code, text = hep(with("apply", "--table", "second")...)
	require.Equal(t, exitOK, code, text)

	code, text = hep(with("status")...)
	require.Equal(t, exitOK, code, text)
	require.Contains(t, text, "the kernel enforces exactly these documents")
	require.Contains(t, text, "failsafe:in/tcp/22")

	// Other documents than those that were applied are a difference.
	other := filepath.Join(dir, "other.yaml")
	require.NoError(t, os.WriteFile(other, []byte("apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: e}\nspec: {node: demo, interfaceName: eth1}\n"), 0o600))
	code, text = hep("status", "-o", "json", "-f", other, "--host", filepath.Join(dir, "host.yaml"))
	require.Equal(t, exitMismatch, code, text)
	var st statusResult
	require.NoError(t, json.Unmarshal([]byte(text), &st))
	require.NotEmpty(t, st.State.Drift)

	code, text = hep("teardown")
	require.Equal(t, exitOK, code, text)
	code, text = hep(with("status")...)
	require.Equal(t, exitMismatch, code, text)
	code, text = hep(with("status", "--table", "second")...)
	require.Equal(t, exitOK, code, "the other instance is untouched: "+text)
	code, text = hep("teardown", "--table", "second")
	require.Equal(t, exitOK, code, text)
}
