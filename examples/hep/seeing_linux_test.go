// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/lab"
)

const shopHost = `node: host-a
interfaces:
- {name: lo, addresses: [127.0.0.1/8]}
- {name: eth0, addresses: [10.9.0.1/24]}
- {name: eth1}
`

const shopPolicy = `apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: hep-eth0}
spec: {node: host-a, interfaceName: eth0, profiles: [gone]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: access}
spec:
  types: [Ingress, Egress]
  egress: [{action: Allow}]
  ingress:
  - {action: %s, protocol: TCP, destination: {ports: [2222]}}
  - {action: Allow, protocol: UDP, destination: {ports: [1000]}}
  - {action: Deny}
`

// safeBuffer is a buffer that a command writes while a test reads.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// shop is a host with documents that say ACTION of port 2222, and a peer.
type shop struct {
	t       *testing.T
	pair    *lab.Pair
	dir     string
	backend string
}

func newShop(t *testing.T, backend string) *shop {
	p, err := lab.NewPair()
	require.NoError(t, err, "this test needs root")
	t.Cleanup(func() { p.Close() })
	s := &shop{t: t, pair: p, dir: t.TempDir(), backend: backend}
	s.write("Allow")
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "host.yaml"), []byte(shopHost), 0o600))
	return s
}

func (s *shop) write(action string) {
	require.NoError(s.t, os.WriteFile(filepath.Join(s.dir, "policy.yaml"), fmt.Appendf(nil, shopPolicy, action), 0o600))
}

// args returns the arguments of a command with documents, host and namespace.
func (s *shop) args(cmd string, more ...string) []string {
	return append([]string{cmd, "-f", filepath.Join(s.dir, "policy.yaml"), "--host", filepath.Join(s.dir, "host.yaml"),
		"--netns", fmt.Sprintf("/proc/self/fd/%d", s.pair.Host.FD())}, more...)
}

func (s *shop) hep(cmd string, more ...string) (int, string) {
	var b bytes.Buffer
	o := &output{out: &b, err: &b, format: "table"}
	code := run(s.t.Context(), s.args(cmd, more...), o, os.Stdin)
	return code, b.String()
}

// session opens a TCP connection from the peer to port 2222.
func (s *shop) session() net.Conn {
	var l net.Listener
	require.NoError(s.t, s.pair.Host.Do(func() (err error) { l, err = net.Listen("tcp", "10.9.0.1:2222"); return err }))
	s.t.Cleanup(func() { l.Close() })
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
	}()
	var c net.Conn
	require.NoError(s.t, s.pair.Peer.Do(func() (err error) { c, err = net.Dial("tcp", "10.9.0.1:2222"); return err }))
	s.t.Cleanup(func() { c.Close(); (<-accepted).Close() })
	return c
}

func TestApplyRefusesToLockOut(t *testing.T) {
	t.Setenv("SSH_CONNECTION", "")
	s := newShop(t, "nftables")
	code, text := s.hep("apply")
	require.Equal(t, exitOK, code, text)
	c := s.session()

	code, text = s.hep("lockout", "--guard", "in/tcp/2222")
	require.Equal(t, exitOK, code, text)
	require.Contains(t, text, "every flow that is under way goes on")

	s.write("Deny")
	code, text = s.hep("apply", "--guard", "in/tcp/2222")
	require.Equal(t, exitMismatch, code, text)
	line := fmt.Sprintf("bars tcp %s > 10.9.0.1:2222", c.LocalAddr())
	require.Contains(t, text, line)
	require.Contains(t, text, "policy.yaml:13")
	require.Contains(t, text, "policy:default/access/ingress[0]")
	require.Contains(t, text, "--force")
	code, text = s.hep("status")
	require.Equal(t, exitMismatch, code, "the kernel has what it had: "+text)

	code, text = s.hep("lockout", "--guard", "in/tcp/2222", "-o", "json")
	require.Equal(t, exitMismatch, code, text)
	require.Contains(t, text, `"lockout":true`)
	require.Contains(t, text, `"effect":"bars"`)
	code, text = s.hep("lockout")
	require.Equal(t, exitOK, code, "nobody guards the port by default: "+text)
	require.Contains(t, text, "bars")

	// The session that hep runs in is guarded, whatever its port.
	local := c.LocalAddr().(*net.TCPAddr)
	t.Setenv("SSH_CONNECTION", fmt.Sprintf("%s %d 10.9.0.1 2222", local.IP, local.Port))
	code, text = s.hep("apply")
	require.Equal(t, exitMismatch, code, text)
	require.Contains(t, text, "guarded as this session")

	code, text = s.hep("apply", "--force", "--flows", "cut-denied", "-o", "json")
	require.Equal(t, exitOK, code, text)
	require.Contains(t, text, `"cut":1`)
	require.Contains(t, text, "applied by force")
	code, text = s.hep("status")
	require.Equal(t, exitOK, code, text)

	for _, bad := range [][]string{{"--flows", "cut"}, {"--guard", "tcp/22"}, {"--guard", "in/icmp/22"}, {"--guard", "up/tcp/22"}, {"--guard", "in/tcp/x"}} {
		code, text = s.hep("apply", bad...)
		require.Equal(t, exitFailed, code, text)
		require.Contains(t, text, bad[0])
	}
}

func TestFlowsAndStatus(t *testing.T) {
	s := newShop(t, "nftables")
	code, text := s.hep("apply", "--events", "all", "--log-group", "9")
	require.Equal(t, exitOK, code, text)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var live, js safeBuffer
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, s.args("flows", "--log-group", "9", "--rule", "policy:default/access/ingress", "--net", "10.9.0.2", "--protocol", "udp", "--window", "0", "--count", "4"),
			&output{out: &live, err: &live, format: "table"}, os.Stdin)
	}()
	var c net.Conn
	require.NoError(t, s.pair.Peer.Do(func() (err error) { c, err = net.Dial("udp", "10.9.0.1:1000"); return err }))
	defer c.Close()
	var d net.Conn
	require.NoError(t, s.pair.Peer.Do(func() (err error) { d, err = net.Dial("udp", "10.9.0.1:1001"); return err }))
	defer d.Close()
	var port net.PacketConn
	require.NoError(t, s.pair.Host.Do(func() (err error) { port, err = net.ListenPacket("udp", "10.9.0.1:1000"); return err }))
	defer port.Close()
	shout := func(stop <-chan int) int {
		for {
			for _, x := range []net.Conn{c, d} {
				_, err := x.Write([]byte("hello"))
				require.NoError(t, err)
			}
			select {
			case code := <-stop:
				return code
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	require.Equal(t, exitOK, shout(done), live.String())
	lines := strings.Split(strings.TrimSpace(live.String()), "\n")
	require.Len(t, lines, 5, live.String())
	require.Contains(t, lines[0], "TIME")
	require.Contains(t, live.String(), "policy:default/access/ingress[1]")
	require.Contains(t, live.String(), filepath.Join(s.dir, "policy.yaml:14"))
	require.Contains(t, live.String(), "udp "+d.LocalAddr().String()+" > 10.9.0.1:1001")

	go func() {
		done <- run(ctx, s.args("flows", "--log-group", "9", "--event", "deny", "--port", "1001", "-i", "eth0", "--window", "100ms", "--count", "2", "-o", "json"),
			&output{out: &js, err: &js, format: "table"}, os.Stdin)
	}()
	require.Equal(t, exitOK, shout(done), js.String())
	for l := range strings.Lines(js.String()) {
		var r struct {
			Event, Origin, Tuple, In string
			Packets                  int
		}
		require.NoError(t, json.Unmarshal([]byte(l), &r), l)
		require.Equal(t, "deny", r.Event)
		require.Equal(t, "policy:default/access/ingress[2]", r.Origin)
		require.Equal(t, "eth0", r.In)
		require.NotZero(t, r.Packets)
	}

	var top safeBuffer
	go func() {
		done <- run(ctx, s.args("flows", "--log-group", "9", "--top", "--window", "200ms", "--for", "2s"), &output{out: &top, err: &top, format: "table"}, os.Stdin)
	}()
	require.Equal(t, exitOK, shout(done), top.String())
	require.Contains(t, top.String(), "udp 10.9.0.2:0 > 10.9.0.1:1001")

	for _, bad := range [][]string{{"--event", "denied"}, {"--net", "x"}, {"--protocol", "x"}, {"--window", "-1s"}, {"--backend", "x"}, {"--top", "-o", "json"}} {
		code, text = s.hep("flows", bad...)
		require.Equal(t, exitFailed, code, text)
		require.Contains(t, text, bad[0])
	}

	code, text = s.hep("status", "--events", "all", "--log-group", "9")
	require.Equal(t, exitOK, code, text)
	for _, want := range []string{"hep-eth0", "default/access", "none: unprotected", "10.9.0.1/24", "HostEndpoint(hep-eth0)", "policy:default/access/ingress[2]"} {
		require.Contains(t, text, want)
	}
	code, text = s.hep("status", "--events", "all", "--log-group", "9", "-o", "json")
	require.Equal(t, exitOK, code, text)
	var st statusResult
	require.NoError(t, json.Unmarshal([]byte(text), &st), text)
	require.Equal(t, "host-a", st.Node)
	require.Len(t, st.Endpoints, 1)
	require.Len(t, st.Interfaces, 3)
	require.NotEmpty(t, st.Problems)
	for i := 1; i < len(st.Counters); i++ {
		require.GreaterOrEqual(t, st.Counters[i-1].Packets, st.Counters[i].Packets, "busiest first")
	}
	require.NotZero(t, st.Counters[0].Packets)
}
