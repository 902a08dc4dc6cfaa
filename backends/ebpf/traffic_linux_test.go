// SPDX-License-Identifier: Apache-2.0

package ebpf_test

import (
	"context"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/backends/lab/rate"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// blastWhile sends packets of a flow, and of others that begin and end, while change is called with 0, 1 and so on, for
// some seconds and at least as often as told. It returns how many packets came and how many of them were let in, and how often change was
// called: fewer times only if a machine takes minutes for them.
func blastWhile(t *testing.T, s *rate.Site, flow rate.Tuple, least int, change func(n int) error) (received, delivered uint64, changes int) {
	t.Helper()
	s.Listen(t, flow.DstPort)
	received, delivered = s.Counter(t, "Ip", "InReceives"), s.Counter(t, "Ip", "InDelivers")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var called atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ctx.Err() == nil; n++ {
			if err := change(n); err != nil {
				t.Error(err)
				stop()
				return
			}
			called.Add(1)
		}
	}()
	many := make([]rate.Tuple, 0, 500)
	for i := range cap(many) {
		x := flow
		x.SrcPort = uint16(1000 + i)
		many = append(many, x)
	}
	for start := time.Now(); ctx.Err() == nil; {
		s.Blast(t, time.Second, many, "Ip", "InDelivers")
		if d := time.Since(start); d >= 3*time.Second && called.Load() >= int64(least) || d > 5*time.Minute {
			break
		}
	}
	stop()
	<-done
	return s.Counter(t, "Ip", "InReceives") - received, s.Counter(t, "Ip", "InDelivers") - delivered, int(called.Load())
}

// TestNoMixtureOfGenerations swaps generations while both processors send. Each of them lets the packets through, by
// another hook, and no two of them do so together.
func TestNoMixtureOfGenerations(t *testing.T) {
	const (
		prednat   = "entry prednat a settles normal-in,forward-in\nentry normal-in b\nblock a\n  rule protocol=udp -> allow by policy:t/p/ingress[0]@prednat\nblock b\n  rule -> deny by policy:t/p/ingress[1]\n"
		normal    = "entry prednat a settles normal-in,forward-in\nentry normal-in b\nblock a\n  rule protocol=tcp -> deny by policy:t/q/ingress[0]@prednat\nblock b\n  rule protocol=udp -> allow by policy:t/q/ingress[1]\n  rule -> deny by policy:t/q/ingress[2]\n"
		untracked = "entry untracked-in a settles prednat,normal-in,forward-in notrack\nentry prednat b\nentry normal-in b\nblock a\n  rule protocol=udp -> allow by policy:t/r/ingress[0]@untracked\nblock b\n  rule -> deny by policy:t/r/ingress[1]\n"
	)
	s := rate.NewSite(t)
	b := newBackend(t, ebpf.Options{NetNS: s.Host.FD()})
	type generation struct {
		p *ir.Program
		m ir.Members
	}
	var gs []generation
	for _, text := range []string{prednat, normal, untracked} {
		p, m := parse(t, text)
		gs = append(gs, generation{p, m})
	}
	to := rate.Tuple{Src: netip.MustParseAddr("10.1.2.3"), SrcPort: 40000, DstPort: 9, Protocol: 17}
	_, err := b.Apply(t.Context(), gs[0].p, gs[0].m)
	require.NoError(t, err)
	received, delivered, n := blastWhile(t, s, to, 10, func(n int) error {
		g := gs[n%len(gs)]
		_, err := b.Apply(context.Background(), g.p, g.m)
		return err
	})
	t.Logf("%d packets, %d generations", received, n)
	require.NotZero(t, received)
	require.GreaterOrEqual(t, n, 10)
	require.Equal(t, received, delivered, "packets that were denied")
	by := counters(t, b)
	for o, packets := range by {
		if strings.Contains(o, "ingress[1]") && !strings.Contains(o, "t/q") || strings.Contains(o, "ingress[2]") {
			require.Zero(t, packets, o)
		}
	}
}

// TestDevicesComeGoAndAreRenamed denies by the name of an interface that is not there yet, at the device and behind it.
func TestDevicesComeGoAndAreRenamed(t *testing.T) {
	t.Parallel()
	for mode, kind := range map[ebpf.XDP]string{ebpf.XDPAuto: "xdp/", ebpf.XDPGeneric: "xdpgeneric/", ebpf.XDPOff: ""} {
		s := rate.NewSite(t)
		b := newBackend(t, ebpf.Options{NetNS: s.Host.FD(), XDP: mode})
		apply(t, b, "entry untracked-in a\nblock a\n  rule iif=later0 protocol=udp -> deny by policy:t/p/ingress[0]@untracked\n")
		to := rate.Tuple{Src: netip.MustParseAddr("10.1.2.3"), SrcPort: 40000, DstPort: 9, Protocol: 17}
		s.Listen(t, to.DstPort)
		sent := func() (denied, delivered uint64) {
			d, n := s.Counter(t, "Ip", "InDelivers"), counters(t, b)["policy:t/p/ingress[0]@untracked"]
			s.Blast(t, 50*time.Millisecond, []rate.Tuple{to}, "Ip", "InDelivers")
			return counters(t, b)["policy:t/p/ingress[0]@untracked"] - n, s.Counter(t, "Ip", "InDelivers") - d
		}
		denied, delivered := sent()
		require.Zero(t, denied)
		require.NotZero(t, delivered)
		rename := func(from, to string) {
			command(t, s.Host, "ip", "link", "set", from, "down")
			command(t, s.Host, "ip", "link", "set", from, "name", to)
			command(t, s.Host, "ip", "link", "set", to, "up")
			command(t, s.Host, "ip", "route", "replace", "default", "dev", to)
		}
		rename("eth0", "later0")
		denied, delivered = sent() // at once, whether or not there is a program at the device
		require.NotZero(t, denied)
		require.Zero(t, delivered)
		stands := func(name string) bool {
			return strings.Contains(command(t, s.Host, "ip", "-d", "link", "show", name), "prog/xdp") ||
				strings.Contains(command(t, s.Host, "ip", "link", "show", name), "xdp")
		}
		if kind != "" {
			require.Eventually(t, func() bool { return stands("later0") }, 20*time.Second, 20*time.Millisecond)
			r := s.Counter(t, "Ip", "InReceives")
			denied, delivered = sent()
			require.NotZero(t, denied)
			require.Zero(t, delivered)
			require.Equal(t, r, s.Counter(t, "Ip", "InReceives"), "they never got to the hook")
			// What stands upon the device has packets of its own, which only the hook can tell apart.
			command(t, s.Host, "ip", "link", "add", "link", "later0", "name", "upon0", "type", "macvlan")
			r = s.Counter(t, "Ip", "InReceives")
			denied, delivered = sent()
			require.NotZero(t, denied)
			require.Zero(t, delivered)
			require.Equal(t, denied, s.Counter(t, "Ip", "InReceives")-r, "the hook denies what the device leaves to it")
			command(t, s.Host, "ip", "link", "del", "upon0")
		} else {
			require.False(t, stands("later0"))
		}
		rename("later0", "other0")
		denied, delivered = sent()
		require.Zero(t, denied)
		require.NotZero(t, delivered)
		if kind != "" {
			require.Eventually(t, func() bool { return !stands("other0") }, 20*time.Second, 20*time.Millisecond)
		}
		st, err := b.Observe(t.Context())
		require.NoError(t, err)
		require.Empty(t, st.Drift)
	}
}
