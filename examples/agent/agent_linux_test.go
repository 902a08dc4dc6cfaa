// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/examples/serve"
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

// With every backend the agent enforces, is killed, is taken over, undoes what nobody confirms, keeps a session of ssh
// alive, and says what it does at its socket.
func TestBackends(t *testing.T) {
	for _, backend := range []string{"nftables", "iptables", "ebpf"} {
		t.Run(backend, func(t *testing.T) {
			h := newHost(t)
			h.run("ip", "link", "set", "lo", "up")
			dir, state := t.TempDir(), filepath.Join(t.TempDir(), "agent")
			write := func(port string) {
				t.Helper()
				tmp := filepath.Join(dir, ".new")
				text := strings.NewReplacer("PORT", port, "ingress:", "types: [Ingress, Egress], egress: [{action: Allow}], ingress:").Replace(policy)
				require.NoError(t, os.WriteFile(tmp, []byte(text), 0o600))
				require.NoError(t, os.Rename(tmp, filepath.Join(dir, "policy.yaml")))
			}
			ask := func(path string) string {
				b, err := serve.Get(t.Context(), "unix:"+filepath.Join(state, "agent.sock"), path)
				if err != nil {
					return err.Error()
				}
				return string(b)
			}
			until := func(path, what string) {
				t.Helper()
				require.Eventually(t, func() bool { return strings.Contains(ask(path), what) }, time.Minute, 20*time.Millisecond, "%s", what)
			}
			listen := func(port int) {
				done := make(chan error)
				h.do <- func() {
					l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", port))
					if err == nil {
						t.Cleanup(func() { l.Close() })
						go func() {
							for {
								c, err := l.Accept()
								if err != nil {
									return
								}
								go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
							}
						}()
					}
					done <- err
				}
				require.NoError(t, <-done)
			}
			dial := func(port int) (net.Conn, error) {
				var c net.Conn
				done := make(chan error)
				h.do <- func() {
					var err error
					c, err = net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
					done <- err
				}
				return c, <-done
			}
			reaches := func(port int, want bool) {
				t.Helper()
				require.Eventually(t, func() bool {
					c, err := dial(port)
					if err == nil {
						c.Close()
					}
					return (err == nil) == want
				}, 30*time.Second, 20*time.Millisecond, "port %d %t", port, want)
			}
			for _, p := range []int{1111, 2222, 3333} {
				listen(p)
			}
			args := []string{"-datastore", "file:" + dir, "-node", "host-a", "-state", state, "-backend", backend}
			write("1111")
			first, _ := h.agent(args...)
			until("/readyz", "ok")
			reaches(1111, true)
			reaches(2222, false)
			require.Contains(t, ask("/counters"), "policy:default/web/ingress[0]")

			// Killed, it leaves everything in force, and the next takes it over, with a change that waits to be confirmed.
			require.NoError(t, first.Process.Kill())
			_ = first.Wait()
			reaches(1111, true)
			reaches(2222, false)
			second, log := h.agent(append(args, "-confirm", "2s")...)
			h.until("present=true differences=0", true, "cat", log)
			until("/readyz", "ok")
			write("2222")
			reaches(2222, true)
			// The agent that would revert it is killed, and its watchdog does.
			require.NoError(t, second.Process.Kill())
			_ = second.Wait()
			reaches(2222, false)
			reaches(1111, true)

			// A change that would bar a session of ssh is not applied before that has ended.
			write("3333") // what was reverted stays away
			third, log := h.agent(append(args, "-on-stop", "open")...)
			reaches(3333, true)
			require.NoError(t, os.WriteFile("/proc/self/comm", []byte("sshd"), 0)) // this process has the other end
			c, err := dial(3333)
			require.NoError(t, err)
			defer c.Close()
			write("1111")
			until("/status", "guarded as ssh, by ")
			_, err = c.Write([]byte("x"))
			require.NoError(t, err)
			_, err = io.ReadFull(c, make([]byte, 1))
			require.NoError(t, err)
			reaches(1111, false)
			require.NoError(t, c.Close())
			reaches(1111, true)
			until("/readyz", "ok")
			require.NoError(t, third.Process.Signal(syscall.SIGTERM))
			require.NoError(t, third.Wait(), h.run("cat", log))
			reaches(2222, true)
		})
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"-datastore", "tape:1"}, {"-backend", "tape"}, {"-stale", "tape"}, {"more"}} {
		require.Error(t, run(t.Context(), args, &bytes.Buffer{}), "%q", args)
	}
}
