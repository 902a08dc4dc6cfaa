// SPDX-License-Identifier: Apache-2.0

package ebpf_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/backends/lab/rate"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

func parse(t testing.TB, text string) (*ir.Program, ir.Members) {
	t.Helper()
	p, m, err := ir.Parse(text)
	require.NoError(t, err)
	require.NoError(t, ir.Validate(p, m))
	return p, m
}

func newBackend(t testing.TB, o ebpf.Options) *ebpf.Backend {
	t.Helper()
	if o.Path == "" {
		o.Path = pinPath()
	}
	b, err := ebpf.New(o)
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = b.Teardown(context.Background())
		_ = b.Close()
	})
	return b
}

func apply(t testing.TB, b *ebpf.Backend, text string) backends.Receipt {
	t.Helper()
	p, m := parse(t, text)
	r, err := b.Apply(t.Context(), p, m)
	require.NoError(t, err)
	return r
}

func counters(t testing.TB, b *ebpf.Backend) map[string]uint64 {
	t.Helper()
	cs, err := b.Counters(t.Context())
	require.NoError(t, err)
	by := map[string]uint64{}
	for _, c := range cs {
		by[c.Origin.String()] = c.Packets
	}
	return by
}

func command(t testing.TB, ns rate.Netns, args ...string) string {
	t.Helper()
	var out []byte
	var err error
	ns.Do(t, func() { out, err = exec.Command(args[0], args[1:]...).CombinedOutput() })
	require.NoError(t, err, "%v: %s", args, out)
	return string(out)
}

// loopback returns a namespace in which somebody answers on UDP and TCP port 7.
func loopback(t testing.TB) rate.Netns {
	ns := rate.NewNetns(t)
	command(t, ns, "ip", "link", "set", "lo", "up")
	ns.Do(t, func() {
		c, err := net.ListenPacket("udp4", "127.0.0.1:7")
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		go func() {
			b := make([]byte, 100)
			for {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = c.WriteTo(b[:n], from)
			}
		}()
	})
	return ns
}

// echoes reports whether a datagram from a new socket is answered.
func echoes(t testing.TB, ns rate.Netns) bool {
	t.Helper()
	var c net.Conn
	ns.Do(t, func() {
		var err error
		c, err = net.Dial("udp4", "127.0.0.1:7")
		require.NoError(t, err)
	})
	defer c.Close()
	return echo(c)
}

func echo(c net.Conn) bool {
	_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := c.Write([]byte("x")); err != nil {
		return false
	}
	_, err := c.Read(make([]byte, 1))
	return err == nil
}

const (
	open   = "entry normal-in a\nblock a\n  switch state\n    case established -> allow by conntrack:established\n  rule protocol=udp -> allow by policy:t/p/ingress[0]\n  rule -> deny by policy:t/p/ingress[1]\n"
	closed = "entry normal-in a\nblock a\n  switch state\n    case established -> allow by conntrack:established\n  rule protocol=udp -> deny by policy:t/p/ingress[0]\n  rule -> deny by policy:t/p/ingress[1]\n"
)

// TestEnforcementOutlivesTheProcess kills the process that applied, and takes over what it left.
func TestEnforcementOutlivesTheProcess(t *testing.T) {
	if path := os.Getenv("HOSTPOLICY_TEST_PATH"); path != "" { // the one that is killed
		b, err := ebpf.New(ebpf.Options{NetNS: 3, Path: path})
		require.NoError(t, err)
		apply(t, b, closed)
		fmt.Println("applied")
		time.Sleep(time.Hour)
	}
	t.Parallel()
	ns := loopback(t)
	require.True(t, echoes(t, ns))
	path := pinPath()
	self, err := os.Executable()
	require.NoError(t, err)
	c := exec.Command(self, "-test.run=^TestEnforcementOutlivesTheProcess$")
	c.Env = append(os.Environ(), "HOSTPOLICY_TEST_PATH="+path)
	c.ExtraFiles = []*os.File{ns.File}
	out, err := c.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	line := make([]byte, 8)
	_, err = out.Read(line)
	require.NoError(t, err)
	require.Equal(t, "applied\n", string(line))
	require.False(t, echoes(t, ns))
	require.NoError(t, c.Process.Kill())
	_ = c.Wait()
	require.False(t, echoes(t, ns), "nobody is left but the kernel")

	b := newBackend(t, ebpf.Options{NetNS: ns.FD(), Path: path})
	p, m := parse(t, closed)
	st, err := b.Adopt(t.Context(), p, m)
	require.NoError(t, err)
	require.True(t, st.Present)
	require.Empty(t, st.Drift)
	require.Equal(t, uint64(1), st.Generation)
	require.Equal(t, uint64(2), counters(t, b)["policy:t/p/ingress[0]"], "what was counted before is not lost")
	q, m := parse(t, open)
	st, err = b.Adopt(t.Context(), q, m)
	require.NoError(t, err)
	require.NotEmpty(t, st.Drift, "something else than what the kernel has")
	require.False(t, echoes(t, ns))

	r := apply(t, b, open)
	require.Equal(t, uint64(2), r.Generation)
	require.True(t, echoes(t, ns))
	st, err = b.Observe(t.Context())
	require.NoError(t, err)
	require.Empty(t, st.Drift)
	require.Equal(t, uint64(4), counters(t, b)["policy:t/p/ingress[0]"], "three denied, one allowed")
}

// TestTeardownLeavesNothing looks for what is left, after a Teardown of another process than the one that applied.
func TestTeardownLeavesNothing(t *testing.T) {
	t.Parallel()
	ns := loopback(t)
	path := pinPath()
	b := newBackend(t, ebpf.Options{NetNS: ns.FD(), Path: path})
	apply(t, b, "entry untracked-in a settles normal-in notrack\nentry prednat a\nentry normal-in a\nentry forward-in a\nentry untracked-out a\nentry normal-out a\nblock a\n  rule protocol=udp -> deny by policy:t/p/ingress[0]\n")
	require.False(t, echoes(t, ns))
	require.NoError(t, b.Close())
	_, err := b.Observe(t.Context())
	require.Error(t, err)
	other := newBackend(t, ebpf.Options{NetNS: ns.FD(), Path: path})
	require.NoError(t, other.Teardown(t.Context()))
	require.True(t, echoes(t, ns))
	_, err = os.Stat(path)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Empty(t, strings.TrimSpace(command(t, ns, "nft", "list", "ruleset")))
	require.NotContains(t, command(t, ns, "ip", "-d", "link", "show", "lo"), "xdp")
	st, err := other.Observe(t.Context())
	require.NoError(t, err)
	require.False(t, st.Present)
	require.NoError(t, other.Teardown(t.Context()), "twice does no harm")
	apply(t, other, closed) // and it begins anew
	require.False(t, echoes(t, ns))
}

// TestConntrackOffDoesNotOpen takes away what keeps connection tracking on. Packets without a connection must not be taken
// for those of an established one, though the kernel says so of them.
func TestConntrackOffDoesNotOpen(t *testing.T) {
	t.Parallel()
	ns := loopback(t)
	b := newBackend(t, ebpf.Options{NetNS: ns.FD()})
	apply(t, b, open)
	var known net.Conn
	ns.Do(t, func() {
		var err error
		known, err = net.Dial("udp4", "127.0.0.1:7")
		require.NoError(t, err)
	})
	defer known.Close()
	require.True(t, echo(known))
	apply(t, b, closed)
	require.True(t, echo(known), "the connection is established")
	require.False(t, echoes(t, ns))
	command(t, ns, "nft", "delete", "table", "inet", ebpf.DefaultTable)
	require.False(t, echoes(t, ns))
	require.False(t, echo(known), "nobody knows whether it is")
	require.Zero(t, counters(t, b)["conntrack:established"]-3, "three packets at most were of a known connection: two answers and a question")
	st, err := b.Observe(t.Context())
	require.NoError(t, err)
	require.Equal(t, []backends.Drift{{Kind: backends.DriftMissing, Object: "chain inet conntrack"}}, st.Drift)
	apply(t, b, open)
	require.True(t, echoes(t, ns))
	require.True(t, echoes(t, ns))
	st, err = b.Observe(t.Context())
	require.NoError(t, err)
	require.Empty(t, st.Drift)
}

// TestDriftIsSeen changes and takes away what was applied.
func TestDriftIsSeen(t *testing.T) {
	t.Parallel()
	ns := loopback(t)
	path := pinPath()
	b := newBackend(t, ebpf.Options{NetNS: ns.FD(), Path: path})
	apply(t, b, closed)
	links, err := filepath.Glob(path + "/link_input_4-*")
	require.NoError(t, err)
	require.Len(t, links, 1)
	require.NoError(t, os.Remove(links[0]))
	command(t, ns, "nft", "add", "rule", "inet", ebpf.DefaultTable, "conntrack", "accept")
	st, err := b.Observe(t.Context())
	require.NoError(t, err)
	require.Equal(t, []backends.Drift{{Kind: backends.DriftChanged, Object: "chain inet conntrack"}, {Kind: backends.DriftMissing, Object: "pin of link input_4"}}, st.Drift)
	apply(t, b, closed)
	st, err = b.Observe(t.Context())
	require.NoError(t, err)
	require.Empty(t, st.Drift)
	require.False(t, echoes(t, ns))
	r := apply(t, b, closed)
	require.Zero(t, r.Changes, "the kernel has it already")
	require.Equal(t, st.Generation, r.Generation)
	require.NotZero(t, apply(t, b, open).Changes)

	apply(t, b, "entry untracked-in a notrack\nentry untracked-out a notrack\nblock a\n  rule protocol=udp -> allow by policy:t/p/ingress[0]@untracked\n")
	command(t, ns, "nft", "delete", "table", "ip6", ebpf.DefaultTable)
	command(t, ns, "nft", "flush", "chain", "ip", ebpf.DefaultTable, "untracked-out")
	command(t, ns, "nft", "add", "chain", "ip", ebpf.DefaultTable, "more")
	st, err = b.Observe(t.Context())
	require.NoError(t, err)
	require.Equal(t, []backends.Drift{
		{Kind: backends.DriftUnknown, Object: "chain ip more"}, {Kind: backends.DriftChanged, Object: "chain ip untracked-out"},
		{Kind: backends.DriftMissing, Object: "chain ip6 untracked-in"}, {Kind: backends.DriftMissing, Object: "chain ip6 untracked-out"},
	}, st.Drift)
	require.NotZero(t, apply(t, b, open).Changes)
	st, err = b.Observe(t.Context())
	require.NoError(t, err)
	require.Empty(t, st.Drift)
	require.NoError(t, b.Teardown(t.Context()))
	require.Empty(t, strings.TrimSpace(command(t, ns, "nft", "list", "ruleset")))
}

// TestEventsSayEverything reads events of two generations, with a limit that is too low.
func TestEventsSayEverything(t *testing.T) {
	t.Parallel()
	ns := loopback(t)
	b := newBackend(t, ebpf.Options{NetNS: ns.FD(), Render: render.Options{Events: render.Denies, EventRate: 1, EventBurst: 2}})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	sub, err := b.Events(ctx)
	require.NoError(t, err)
	apply(t, b, open)
	r := apply(t, b, closed)
	const sent = 20
	ns.Do(t, func() {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		require.NoError(t, err)
		defer unix.Close(s)
		for range sent {
			require.NoError(t, unix.Sendto(s, []byte("hello"), 0, &unix.SockaddrInet4{Port: 7, Addr: [4]byte{127, 0, 0, 1}}))
		}
	})
	var got []ebpf.Event
	flushed := make(chan error, 1)
	go func() { flushed <- sub.Flush(ctx) }()
	for done := false; !done; {
		select {
		case e := <-sub.C():
			got = append(got, e)
		case err := <-flushed:
			require.NoError(t, err)
			for len(sub.C()) > 0 {
				got = append(got, <-sub.C())
			}
			done = true
		}
	}
	loss, err := b.Lost(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, got)
	require.Equal(t, sent, len(got)+int(loss.Limit), "each is reported or counted")
	require.NotZero(t, loss.Limit)
	require.Zero(t, loss.Full)
	e := got[0]
	require.Equal(t, "policy:t/p/ingress[0]", e.Origin.String())
	require.Equal(t, e.Origin.Key(), e.Key)
	require.Equal(t, []any{flow.NormalIn, flow.EventDeny, flow.New, "lo", "", uint32(33), r.Generation}, []any{e.Hook, e.Kind, e.State, e.In, e.Out, e.Length, e.Generation})
	require.Equal(t, "hello", string(e.Packet[28:]))
	require.Equal(t, netip.MustParseAddr("127.0.0.1"), netip.AddrFrom4([4]byte(e.Packet[12:])))
	stop()
	for range sub.C() {
	}
	require.NoError(t, sub.Err())
}

// TestRefusals asks for what cannot be.
func TestRefusals(t *testing.T) {
	t.Parallel()
	ns := rate.NewNetns(t)
	for _, o := range []ebpf.Options{
		{XDP: 9}, {Render: render.Options{Events: 9}}, {NetNS: 1 << 20},
	} {
		_, err := ebpf.New(o)
		require.Error(t, err)
	}
	b, err := ebpf.New(ebpf.Options{NetNS: ns.FD(), Path: t.TempDir()})
	require.NoError(t, err)
	defer b.Close()
	p, m := parse(t, open)
	_, err = b.Apply(t.Context(), p, m)
	var e *ebpf.Error
	require.True(t, errors.As(err, &e), "%v", err)
	require.Contains(t, err.Error(), "not in a BPF file system")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	_, err = b.Apply(ctx, p, m)
	require.ErrorIs(t, err, context.Canceled)
}
