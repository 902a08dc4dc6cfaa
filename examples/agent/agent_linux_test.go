// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	if os.Getenv("HOSTPOLICY_TEST_AGENT") != "" { // the agent, and the watchdogs that it starts
		main()
		return
	}
	os.Exit(m.Run())
}

// host is a network namespace in which a thread of its own does everything.
type host struct {
	t  *testing.T
	do chan func()
}

func newHost(t *testing.T) *host {
	h := &host{t, make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: nobody else may get this thread
		ready <- syscall.Unshare(syscall.CLONE_NEWNET)
		for f := range h.do {
			f()
		}
	}()
	require.NoError(t, <-ready, "this test needs root")
	t.Cleanup(func() { close(h.do) })
	return h
}

func (h *host) run(name string, args ...string) string {
	var out []byte
	done := make(chan struct{})
	h.do <- func() { defer close(done); out, _ = exec.Command(name, args...).CombinedOutput() }
	<-done
	return string(out)
}

// agent starts an agent in the namespace.
// It returns the file of its log.
func (h *host) agent(args ...string) (*exec.Cmd, string) {
	log, err := os.Create(filepath.Join(h.t.TempDir(), "log"))
	require.NoError(h.t, err)
	defer log.Close()
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), "HOSTPOLICY_TEST_AGENT=1")
	c.Stderr = log
	done := make(chan error)
	h.do <- func() { done <- c.Start() }
	require.NoError(h.t, <-done)
	h.t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return c, log.Name()
}

func (h *host) until(what string, wanted bool, name string, args ...string) {
	h.t.Helper()
	require.Eventually(h.t, func() bool { return strings.Contains(h.run(name, args...), what) == wanted }, time.Minute, 20*time.Millisecond, "%s", what)
}

const policy = `
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: all}
spec: {node: host-a, interfaceName: "*"}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec: {selector: all(), ingress: [{action: Allow, protocol: TCP, destination: {ports: [PORT]}}]}
`

func TestAgent(t *testing.T) {
	h := newHost(t)
	dir, state, boot := t.TempDir(), filepath.Join(t.TempDir(), "agent"), filepath.Join(t.TempDir(), "boot")
	write := func(port string) {
		t.Helper()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte(strings.ReplaceAll(policy, "PORT", port)), 0o600))
	}
	list := []string{"list", "table", "inet", "hostpolicy"}
	args := []string{"-datastore", "file:" + dir, "-node", "host-a", "-state", state, "-boot-file", boot, "-v"}
	write("1111")
	first, _ := h.agent(args...)
	h.until("1111", true, "nft", list...)
	write("2222")
	h.until("2222", true, "nft", list...)
	h.until("2222", true, "cat", boot)

	// What a killed agent leaves goes on to be enforced, and the next one takes it over.
	require.NoError(t, first.Process.Kill())
	_ = first.Wait()
	before := h.run("nft", append([]string{"-a"}, list...)...)
	require.Contains(t, before, "2222")
	second, log := h.agent(args...)
	h.until("msg=enforced", true, "cat", log)
	require.Equal(t, before, h.run("nft", append([]string{"-a"}, list...)...))
	require.NoError(t, second.Process.Signal(syscall.SIGTERM))
	require.NoError(t, second.Wait(), h.run("cat", log))
	h.until("present=true differences=0", true, "cat", log)

	// So does early boot, from which an agent takes over as well.
	h.run("nft", "flush", "ruleset")
	require.Empty(t, h.run(boot))
	third, log := h.agent(append(args, "-on-stop", "failsafes-only", "-confirm", "1h")...)
	write("3333")
	h.until("3333", true, "nft", list...)
	require.NoError(t, third.Process.Signal(syscall.SIGUSR1))
	require.Eventually(t, func() bool {
		left, _ := filepath.Glob(filepath.Join(state, "watchdog-*"))
		return len(left) == 0
	}, time.Minute, 20*time.Millisecond)
	require.NoError(t, third.Process.Signal(syscall.SIGTERM))
	require.NoError(t, third.Wait(), h.run("cat", log))
	h.until("3333", false, "nft", list...)
	require.Contains(t, h.run("nft", list...), "failsafe")
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"-datastore", "tape:1"}, {"-backend", "tape"}, {"-stale", "tape"}, {"more"}} {
		require.Error(t, run(t.Context(), args, &bytes.Buffer{}), "%q", args)
	}
}
