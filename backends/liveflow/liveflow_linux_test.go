// SPDX-License-Identifier: Apache-2.0

package liveflow_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/lab"
	"github.com/hostpolicy/hostpolicy/backends/liveflow"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

const (
	endpoint = `apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: hep-eth0}
spec: {node: host-a, interfaceName: eth0}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: access}
spec:
  types: [Ingress, Egress]
  egress: [{action: Allow}]
  ingress:
`
	allow    = endpoint + "  - {action: Allow}\n"
	denySSH  = endpoint + "  - {action: Deny, protocol: TCP, destination: {ports: [2222]}}\n  - {action: Allow}\n"
	denyAway = `apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: hep-eth0}
spec: {node: host-a, interfaceName: eth0}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: access}
spec:
  types: [Ingress, Egress]
  ingress: [{action: Allow}]
  egress: [{action: Deny, protocol: TCP, destination: {ports: [2379]}}, {action: Allow}]
`
	denyRaw = `apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: hep-eth0}
spec: {node: host-a, interfaceName: eth0}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: raw}
spec:
  doNotTrack: true
  applyOnForward: true
  types: [Ingress]
  ingress: [{action: Deny, protocol: TCP, destination: {ports: [2222]}}]
`
)

func newPair(t testing.TB) *lab.Pair {
	t.Helper()
	p, err := lab.NewPair()
	require.NoError(t, err, "these tests need root")
	t.Cleanup(func() { p.Close() })
	return p
}

// compiled returns the program for documents, without failsafes: those would protect what the tests cut.
func compiled(t testing.TB, p *lab.Pair, text string) (*ir.Program, ir.Members) {
	t.Helper()
	r, err := manifest.Parse(manifest.Source{Name: "access.yaml", Data: []byte(text)})
	require.NoError(t, err)
	none := policy.Failsafes{Inbound: []policy.FailsafePort{}, Outbound: []policy.FailsafePort{}}
	s, err := policy.Resolve(r, p.Spec("host-a"), policy.Config{Failsafes: none})
	require.NoError(t, err)
	prog, m, err := compile.Compile(s)
	require.NoError(t, err)
	return prog, m
}

func newBackend(t testing.TB, p *lab.Pair) *nftables.Backend {
	t.Helper()
	b, err := nftables.New(nftables.Options{NetNS: p.Host.FD()})
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

// session is a TCP connection that echoes lines.
type session struct {
	net.Conn
	r *bufio.Reader
}

// newSession connects a client in one namespace with a server in the other.
func newSession(t testing.TB, server, client lab.Netns, from, to string) *session {
	t.Helper()
	var l net.Listener
	require.NoError(t, server.Do(func() (err error) { l, err = net.Listen("tcp", to); return err }))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				s := bufio.NewScanner(c)
				for s.Scan() {
					if _, err := fmt.Fprintln(c, s.Text()); err != nil {
						return
					}
				}
			}()
		}
	}()
	var c net.Conn
	require.NoError(t, client.Do(func() (err error) {
		local, err := net.ResolveTCPAddr("tcp", from)
		if err != nil {
			return err
		}
		c, err = (&net.Dialer{LocalAddr: local, Timeout: 10 * time.Second}).Dial("tcp", to)
		return err
	}))
	t.Cleanup(func() { c.Close() })
	s := &session{c, bufio.NewReader(c)}
	require.NoError(t, s.echo(10*time.Second))
	return s
}

// echo sends a line and waits for it to come back.
func (s *session) echo(patience time.Duration) error {
	if err := s.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := s.Write([]byte("hello\n")); err != nil {
		return err
	}
	_, err := s.r.ReadString('\n')
	return err
}

var sshGuard = []liveflow.Guard{{Name: "ssh", Protocol: inet.TCP, Local: []inet.PortRange{{Min: 2222, Max: 2222}}}}

func gate(t testing.TB, p *lab.Pair, o liveflow.Options) *liveflow.Gate {
	t.Helper()
	o.NetNS = p.Host.FD()
	g, err := liveflow.NewGate(o)
	require.NoError(t, err)
	return g
}

func TestTheLockoutCheckNamesTheFlowAndTheRule(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	b := newBackend(t, p)
	prog, m := compiled(t, p, allow)
	_, err := b.Apply(t.Context(), prog, m)
	require.NoError(t, err)
	for _, c := range []struct{ from, to string }{{"10.9.0.2:40000", "10.9.0.1:2222"}, {"[fd00:9::2]:40000", "[fd00:9::1]:2222"}} {
		s := newSession(t, p.Host, p.Peer, c.from, c.to)
		prog, m := compiled(t, p, denySSH)
		for _, fate := range []liveflow.Fate{liveflow.Keep, liveflow.CutDenied, liveflow.CutAll} {
			err := gate(t, p, liveflow.Options{Guards: sshGuard, Fate: fate}).Before(t.Context(), prog, m)
			require.ErrorIs(t, err, liveflow.ErrLockout)
			var lock *liveflow.LockoutError
			require.ErrorAs(t, err, &lock)
			i := slices.IndexFunc(lock.Findings, func(f liveflow.Finding) bool {
				return f.Flow.Tuple.String() == "tcp "+c.from+" > "+c.to
			})
			require.GreaterOrEqual(t, i, 0, "%v", err)
			f := lock.Findings[i]
			require.Equal(t, "policy:default/access/ingress[0]", f.By.String())
			require.Equal(t, "access.yaml:13", f.By.Pos.String())
			require.Equal(t, "eth0", f.Flow.In)
			require.Equal(t, flow.Input, f.Flow.Path)
			require.True(t, f.Flow.Tracked)
			require.True(t, f.Flow.Answered)
			me, err := os.ReadFile("/proc/self/comm")
			require.NoError(t, err)
			require.Equal(t, string(me), f.Flow.Process+"\n")
			want := liveflow.Cuts
			if fate == liveflow.Keep {
				want = liveflow.Bars
			}
			require.Equal(t, want, f.Effect)
			require.ErrorContains(t, lock, fmt.Sprintf("%s tcp %s > %s (%s) guarded as ssh, by policy:default/access/ingress[0] at access.yaml:13", want, c.from, c.to, f.Flow.Process))
		}
		require.NoError(t, gate(t, p, liveflow.Options{Guards: sshGuard, Force: true}).Before(t.Context(), prog, m))
		require.NoError(t, gate(t, p, liveflow.Options{}).Before(t.Context(), prog, m), "nobody guards port 2222 by default")
		require.NoError(t, s.echo(10*time.Second), "nothing was changed")
	}
}

// A host without stateful rules tracks nothing; sockets tell of its flows.
func TestFlowsThatNobodyTracksAreFoundByTheirSockets(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	newSession(t, p.Host, p.Peer, "10.9.0.2:40000", "10.9.0.1:2222")
	newSession(t, p.Peer, p.Host, "[fd00:9::1]:40001", "[fd00:9::2]:2379")
	newSession(t, p.Host, p.Host, "127.0.0.1:40002", "127.0.0.1:80")
	flows, err := liveflow.List(t.Context(), p.Host.FD())
	require.NoError(t, err)
	var got []string
	for _, f := range flows {
		require.False(t, f.Tracked)
		require.True(t, f.Answered)
		got = append(got, fmt.Sprintf("%s %q>%q %s", f.Path, f.In, f.Out, f.Tuple))
	}
	require.Equal(t, []string{
		`output "">"lo" tcp 127.0.0.1:40002 > 127.0.0.1:80`,
		`input "eth0">"" tcp 10.9.0.2:40000 > 10.9.0.1:2222`,
		`output "">"eth0" tcp [fd00:9::1]:40001 > [fd00:9::2]:2379`,
	}, sorted(got))

	prog, m := compiled(t, p, denyAway)
	err = gate(t, p, liveflow.Options{}).Before(t.Context(), prog, m)
	require.ErrorIs(t, err, liveflow.ErrLockout)
	require.ErrorContains(t, err, "cuts tcp [fd00:9::1]:40001 > [fd00:9::2]:2379")
	require.ErrorContains(t, err, "guarded as datastore, by policy:default/access/egress[0] at access.yaml:12")
}

func sorted(s []string) []string {
	slices.SortFunc(s, func(a, b string) int { return len(a) - len(b) })
	return s
}

// Policy before connection tracking cuts what is established, whatever the fate.
func TestUntrackedPolicyCutsWhatIsEstablished(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	b := newBackend(t, p)
	prog, m := compiled(t, p, allow)
	_, err := b.Apply(t.Context(), prog, m)
	require.NoError(t, err)
	s := newSession(t, p.Host, p.Peer, "10.9.0.2:40000", "10.9.0.1:2222")
	prog, m = compiled(t, p, denyRaw)
	g := gate(t, p, liveflow.Options{Guards: sshGuard})
	fs, err := g.Check(t.Context(), prog, m)
	require.NoError(t, err)
	require.NotEmpty(t, fs)
	require.Equal(t, liveflow.Cuts, fs[0].Effect)
	require.Equal(t, "policy:default/raw/ingress[0]@untracked", fs[0].By.String())
	// It is as it was said.
	_, err = b.Apply(t.Context(), prog, m)
	require.NoError(t, err)
	require.Error(t, s.echo(500*time.Millisecond))
}

func TestFateOfFlows(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fate           liveflow.Fate
		denied, others bool // whether they go on
		removed        func(n int) bool
	}{
		{liveflow.Keep, true, true, func(n int) bool { return n == 0 }},
		{liveflow.CutDenied, false, true, func(n int) bool { return n == 1 }},
		{liveflow.CutAll, false, true, func(n int) bool { return n >= 2 }}, // the other one is let in anew
	} {
		t.Run(c.fate.String(), func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			b := newBackend(t, p)
			prog, m := compiled(t, p, allow)
			_, err := b.Apply(t.Context(), prog, m)
			require.NoError(t, err)
			denied := newSession(t, p.Host, p.Peer, "10.9.0.2:40000", "10.9.0.1:2222")
			other := newSession(t, p.Host, p.Peer, "10.9.0.2:40001", "10.9.0.1:8080")

			prog, m = compiled(t, p, denySSH)
			g := gate(t, p, liveflow.Options{Guards: []liveflow.Guard{}, Fate: c.fate})
			require.NoError(t, g.Before(t.Context(), prog, m))
			_, err = b.Apply(t.Context(), prog, m)
			require.NoError(t, err)
			n, err := g.After(t.Context(), prog, m)
			require.NoError(t, err)
			require.True(t, c.removed(n), "%d flows were cut", n)
			if c.denied {
				require.NoError(t, denied.echo(10*time.Second))
			} else {
				require.ErrorIs(t, denied.echo(500*time.Millisecond), os.ErrDeadlineExceeded)
			}
			require.NoError(t, other.echo(10*time.Second))
		})
	}
}

func TestListEndsWithItsContext(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := liveflow.List(ctx, p.Host.FD())
	require.ErrorIs(t, err, context.Canceled)
	g := gate(t, p, liveflow.Options{Force: true})
	prog, m := compiled(t, p, allow)
	require.ErrorIs(t, g.Before(ctx, prog, m), context.Canceled, "force does not make it go on")
}

// What the host translates is one flow, whose packets are asked for as they are on either side of the translation.
func TestTranslatedFlows(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	require.NoError(t, p.Host.Do(func() error {
		c := exec.Command("nft", "-f", "-")
		c.Stdin = strings.NewReader("table ip nat { chain pre { type nat hook prerouting priority dstnat; tcp dport 22 redirect to 2222; }; }\n")
		out, err := c.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return nil
	}))
	newSession(t, p.Host, p.Peer, "10.9.0.2:39999", "10.9.0.1:2222")
	var c net.Conn
	require.NoError(t, p.Peer.Do(func() (err error) { c, err = net.Dial("tcp", "10.9.0.1:22"); return err }))
	defer c.Close()
	require.NoError(t, (&session{c, bufio.NewReader(c)}).echo(10*time.Second)) // it has been accepted
	flows, err := liveflow.List(t.Context(), p.Host.FD())
	require.NoError(t, err)
	i := slices.IndexFunc(flows, func(f liveflow.Flow) bool { return f.Tuple.DstPort == 22 })
	require.GreaterOrEqual(t, i, 0, "%+v", flows)
	f := flows[i]
	require.Equal(t, "10.9.0.1:2222", f.NATDst.String())
	require.NotEmpty(t, f.Process, "its socket has the translated address")
	answer := f.Answer(flow.Established)
	require.Equal(t, "tcp 10.9.0.1:2222 > "+c.LocalAddr().String(), answer.Tuple().String())

	prog, m := compiled(t, p, denySSH)
	err = gate(t, p, liveflow.Options{Guards: sshGuard}).Before(t.Context(), prog, m)
	require.ErrorContains(t, err, "bars tcp "+c.LocalAddr().String()+" > 10.9.0.1:22 ")
	n, err := liveflow.Cut(t.Context(), p.Host.FD(), flows[i:i+1])
	require.NoError(t, err)
	require.Equal(t, 1, n)
	n, err = liveflow.Cut(t.Context(), p.Host.FD(), flows[i:i+1])
	require.NoError(t, err)
	require.Zero(t, n, "it is gone")
}

// Where connection tracking does not begin in the midst of a connection, forgetting one cuts it.
func TestStrictConnectionTracking(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	require.NoError(t, p.Host.Do(func() error {
		return os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", []byte("0"), 0)
	}))
	b := newBackend(t, p)
	prog, m := compiled(t, p, allow)
	_, err := b.Apply(t.Context(), prog, m)
	require.NoError(t, err)
	s := newSession(t, p.Host, p.Peer, "10.9.0.2:40000", "10.9.0.1:2222")
	require.NoError(t, gate(t, p, liveflow.Options{Guards: sshGuard, Fate: liveflow.CutDenied}).Before(t.Context(), prog, m))
	g := gate(t, p, liveflow.Options{Guards: sshGuard, Fate: liveflow.CutAll})
	err = g.Before(t.Context(), prog, m)
	require.ErrorContains(t, err, "cuts tcp 10.9.0.2:40000 > 10.9.0.1:2222")
	require.ErrorContains(t, err, "by conntrack:invalid")
	// It is as it was said.
	_, err = g.After(t.Context(), prog, m)
	require.NoError(t, err)
	require.Error(t, s.echo(500*time.Millisecond))
}

// A host asks a name server that never answers; that is no reason to refuse a change.
func TestWhatNobodyAnswersIsNotUnderWay(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	b := newBackend(t, p)
	prog, m := compiled(t, p, allow)
	_, err := b.Apply(t.Context(), prog, m)
	require.NoError(t, err)
	require.NoError(t, p.Host.Do(func() error {
		c, err := net.Dial("udp", "10.9.0.2:53")
		require.NoError(t, err)
		_, err = c.Write([]byte("who?"))
		require.NoError(t, err)
		return c.Close()
	}))
	flows, err := liveflow.List(t.Context(), p.Host.FD())
	require.NoError(t, err)
	i := slices.IndexFunc(flows, func(f liveflow.Flow) bool { return f.Tuple.DstPort == 53 })
	require.GreaterOrEqual(t, i, 0)
	require.False(t, flows[i].Answered)
	prog, m = compiled(t, p, strings.Replace(allow, "egress: [{action: Allow}]", "egress: [{action: Deny}]", 1))
	g := gate(t, p, liveflow.Options{})
	fs, err := g.Check(t.Context(), prog, m)
	require.NoError(t, err)
	require.Len(t, fs, 1)
	require.Equal(t, "policy:default/access/egress[0]", fs[0].By.String())
	require.NoError(t, g.Before(t.Context(), prog, m))
}
