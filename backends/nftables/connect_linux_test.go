// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// serve accepts connections to a port of the first address of the host, and closes them.
func (s *site) serve(b *testing.B, port uint16) {
	var l net.Listener
	s.host.do(b, func() {
		var err error
		l, err = net.Listen("tcp4", netip.AddrPortFrom(hostAddr(0), port).String())
		require.NoError(b, err)
	})
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
}

// connects opens connections from src one after the other, and returns how many a second.
func (s *site) connects(b *testing.B, d time.Duration, src netip.Addr, port uint16) (rate float64) {
	s.peer.do(b, func() {
		start, n := time.Now(), 0
		for time.Since(start) < d {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			require.NoError(b, err)
			require.NoError(b, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
			require.NoError(b, unix.Bind(fd, &unix.SockaddrInet4{Addr: src.As4()}))
			require.NoError(b, unix.Connect(fd, &unix.SockaddrInet4{Addr: hostAddr(0).As4(), Port: int(port)}))
			unix.Close(fd)
			n++
		}
		rate = float64(n) / time.Since(start).Seconds()
	})
	return rate
}

// BenchmarkConnectRate compares the rate of new TCP connections that the last of 5,000 policies allows with the rate
// without rules.
//
//	go test -run '^$' -bench ConnectRate -benchtime 1x ./backends/nftables
func BenchmarkConnectRate(b *testing.B) {
	text, last := uniform(5000, "TCP")
	with, without := newSite(b), newSite(b)
	for _, s := range []*site{with, without} {
		s.peer.do(b, func() {
			out, err := exec.Command("ip", "addr", "add", last.src.String()+"/32", "dev", "p0").CombinedOutput()
			require.NoError(b, err, string(out))
		})
		s.serve(b, last.dport)
	}
	with.enforce(b, text, false)
	for b.Loop() {
		rate := func(s *site) func() float64 {
			return func() float64 { return s.connects(b, 2*turn, last.src, last.dport) }
		}
		r := compare(rounds, rate(without), rate(with))
		b.ReportMetric(r[1], "connections/s")
		b.ReportMetric(r[1]/r[0], "of-empty")
	}
}
