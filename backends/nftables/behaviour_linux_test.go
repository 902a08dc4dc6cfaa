// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/render"
	rn "github.com/hostpolicy/hostpolicy/render/nftables"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// dial connects to a port of the loopback interface, and returns the error.
func (n netns) dial(t testing.TB, network, addr string) (err error) {
	n.do(t, func() {
		d := net.Dialer{Timeout: 300 * time.Millisecond}
		var c net.Conn
		if c, err = d.Dial(network, addr); err != nil {
			return
		}
		defer c.Close()
		if strings.HasPrefix(network, "udp") {
			c.SetDeadline(time.Now().Add(300 * time.Millisecond))
			c.Write([]byte("x"))
			_, err = c.Read(make([]byte, 1))
		}
	})
	return err
}

func timedOut(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// TestDenyAnswersOrNot tries both deny actions at a hook that may answer, and at one that may not.
func TestDenyAnswersOrNot(t *testing.T) {
	t.Parallel()
	const program = "entry prednat a\nentry normal-in b\nblock a\n  rule dport=99 -> deny by policy:t/p/ingress[0]@prednat\nblock b\n" +
		"  switch dport\n    case 81 -> deny by policy:t/p/ingress[1]\n  rule dport=80 -> deny by policy:t/p/ingress[0]\n"
	ns := newNetns(t)
	ns.up(t, "lo")
	p, m := parse(t, program)
	for _, addr := range []string{"127.0.0.1", "::1"} {
		ns.do(t, func() { // somebody would answer
			for _, port := range []string{"80", "81", "99"} {
				l, err := net.Listen("tcp", net.JoinHostPort(addr, port))
				require.NoError(t, err)
				t.Cleanup(func() { l.Close() })
			}
		})
		require.NoError(t, ns.dial(t, "tcp", net.JoinHostPort(addr, "80")))
		for _, action := range []render.DenyAction{render.Drop, render.Reject} {
			b := newBackend(t, nftables.Options{NetNS: ns.fd(), Render: rn.Options{DenyAction: action}})
			_, err := b.Apply(t.Context(), p, m)
			require.NoError(t, err)
			for _, port := range []string{"80", "81"} {
				tcp, udp := ns.dial(t, "tcp", net.JoinHostPort(addr, port)), ns.dial(t, "udp", net.JoinHostPort(addr, port))
				if action == render.Reject {
					require.ErrorIs(t, tcp, syscall.ECONNREFUSED)
					want := syscall.EHOSTUNREACH // RFC 1122: administratively prohibited
					if addr == "::1" {
						want = syscall.EACCES
					}
					require.ErrorIs(t, udp, want)
				} else {
					require.True(t, timedOut(tcp), "%v", tcp)
					require.True(t, timedOut(udp), "%v", udp)
				}
			}
			require.True(t, timedOut(ns.dial(t, "tcp", net.JoinHostPort(addr, "99"))))
			require.NoError(t, b.Teardown(t.Context()))
		}
	}
}

// TestMarksOfSocketsAreNoAllow sends packets that carry the mark of an early Allow already.
func TestMarksOfSocketsAreNoAllow(t *testing.T) {
	t.Parallel()
	ns := newNetns(t)
	ns.up(t, "lo")
	b := newBackend(t, nftables.Options{NetNS: ns.fd(), Render: rn.Options{Counters: true}})
	p, m := parse(t, `entry prednat a settles normal-in,forward-in
entry normal-in b
entry untracked-out c settles normal-out notrack
entry normal-out d

block a
  rule dport=7 -> allow by policy:t/p/ingress[0]@prednat
block b
  rule protocol=udp -> deny by policy:t/p/ingress[0]
block c
  rule dport=9 -> allow by policy:t/p/egress[0]@untracked
block d
  rule dport=8 -> deny by policy:t/p/egress[0]
`)
	_, err := b.Apply(t.Context(), p, m)
	require.NoError(t, err)
	ns.do(t, func() {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		require.NoError(t, err)
		defer unix.Close(s)
		require.NoError(t, unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_MARK, rn.DefaultMark|5))
		for port, n := range map[int]int{6: 1, 7: 2, 8: 4, 9: 8} {
			for range n {
				err := unix.Sendto(s, []byte("x"), 0, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
				require.True(t, err == nil || errors.Is(err, unix.EPERM), "%v", err)
			}
		}
	})
	cs, err := b.Counters(t.Context())
	require.NoError(t, err)
	got := map[string]uint64{}
	for _, c := range cs {
		got[c.Origin.String()] = c.Packets
	}
	require.Equal(t, map[string]uint64{
		"policy:t/p/ingress[0]@prednat":  2,     // port 7
		"policy:t/p/ingress[0]":          1 + 8, // port 6, and 9, which only the way out allowed
		"policy:t/p/egress[0]@untracked": 8,     // port 9
		"policy:t/p/egress[0]":           4,     // port 8
	}, got)
}

// TestConntrackIsOn applies programs that ask for no connection state. Fragments must be put together and connections
// known all the same.
func TestConntrackIsOn(t *testing.T) {
	t.Parallel()
	ns := newNetns(t)
	ns.up(t, "lo")
	b := newBackend(t, nftables.Options{NetNS: ns.fd(), Render: rn.Options{Counters: true}})
	p, m := parse(t, "entry untracked-in a\nblock a\n  rule protocol=udp dport=7 -> deny by policy:t/p/ingress[0]@untracked\n  rule protocol=udp -> pass by no-verdict@untracked\n")
	_, err := b.Apply(t.Context(), p, m)
	require.NoError(t, err)
	ns.do(t, func() {
		lo, err := netlink.LinkByName("lo")
		require.NoError(t, err)
		require.NoError(t, netlink.LinkSetMTU(lo, 1500))
		c, err := net.ListenPacket("udp4", "127.0.0.1:0")
		require.NoError(t, err)
		defer c.Close()
		_, err = c.WriteTo(make([]byte, 4000), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7}) // three fragments
		require.NoError(t, err)
		l, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
		require.NoError(t, err)
		require.NotEqual(t, "0", strings.TrimSpace(string(l)))
	})
	cs, err := b.Counters(t.Context())
	require.NoError(t, err)
	require.Len(t, cs, 2)
	require.Equal(t, "no-verdict@untracked", cs[0].Origin.String())
	require.Zero(t, cs[0].Packets, "fragments have no ports")
	require.Equal(t, uint64(1), cs[1].Packets)
}

// TestConcurrentUse calls everything at once. The last word is one of the programs as a whole.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	b := newBackend(t, nftables.Options{})
	var wg sync.WaitGroup
	for seed := range uint64(4) {
		wg.Go(func() {
			p, m := rendertest.Program(seed, rendertest.Size{})
			for range 3 {
				_, err := b.Apply(context.Background(), p, m)
				require.NoError(t, err)
				st, err := b.Observe(context.Background())
				require.NoError(t, err)
				require.Empty(t, st.Drift)
				_, err = b.Counters(context.Background())
				require.NoError(t, err)
			}
		})
	}
	wg.Wait()
	require.NoError(t, b.Teardown(t.Context()))
}
