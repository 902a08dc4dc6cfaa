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

	"github.com/hostpolicy/hostpolicy/backends/lab/rate"
)

// hostAddr is the first address of the host of a site.
var hostAddr = netip.MustParseAddr("192.0.2.1")

// serve accepts connections to a port of the first address of the host, and closes them.
func (s *site) serve(b *testing.B, port uint16) {
	var l net.Listener
	s.Host.Do(b, func() {
		var err error
		l, err = net.Listen("tcp4", netip.AddrPortFrom(hostAddr, port).String())
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
func (s *site) connects(b *testing.B, d time.Duration, src netip.Addr, port uint16) (perSecond float64) {
	s.Peer.Do(b, func() {
		start, n := time.Now(), 0
		for time.Since(start) < d {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			require.NoError(b, err)
			require.NoError(b, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
			require.NoError(b, unix.Bind(fd, &unix.SockaddrInet4{Addr: src.As4()}))
			require.NoError(b, unix.Connect(fd, &unix.SockaddrInet4{Addr: hostAddr.As4(), Port: int(port)}))
			unix.Close(fd)
			n++
		}
		perSecond = float64(n) / time.Since(start).Seconds()
	})
	return perSecond
}

// BenchmarkConnectRate compares the rate of new TCP connections that the last of 5,000 policies allows with the rate
// without rules.
//
//	go test -run '^$' -bench ConnectRate -benchtime 1x ./backends/nftables
func BenchmarkConnectRate(b *testing.B) {
	text, last := rate.Uniform(5000, "TCP")
	with, without := newSite(b), newSite(b)
	for _, s := range []*site{with, without} {
		s.Peer.Do(b, func() {
			out, err := exec.Command("ip", "addr", "add", last.Src.String()+"/32", "dev", "p0").CombinedOutput()
			require.NoError(b, err, string(out))
		})
		s.serve(b, last.DstPort)
	}
	with.enforce(b, text, false)
	for b.Loop() {
		of := func(s *site) func() float64 {
			return func() float64 { return s.connects(b, 2*turn, last.Src, last.DstPort) }
		}
		r := rate.Compare(of(without), of(with))
		b.ReportMetric(r[1], "connections/s")
		b.ReportMetric(r[1]/r[0], "of-empty")
	}
}
