// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// receive opens UDP sockets and reads what comes, until the benchmark ends.
func (s *site) receive(b *testing.B, port uint16) {
	var stop atomic.Bool
	var wg sync.WaitGroup
	b.Cleanup(func() {
		stop.Store(true)
		wg.Wait()
	})
	s.host.do(b, func() {
		for i := range senders {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			require.NoError(b, err)
			require.NoError(b, unix.Bind(fd, &unix.SockaddrInet4{Port: int(port), Addr: hostAddr(i).As4()}))
			require.NoError(b, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}))
			wg.Go(func() {
				defer unix.Close(fd)
				v := newVector(make([]byte, 64))
				defer v.pin.Unpin()
				for !stop.Load() {
					unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&v.msgs[0])), uintptr(len(v.msgs)), unix.MSG_WAITFORONE, 0, 0)
				}
			})
		}
	})
}

// vector is what sendmmsg and recvmmsg take: many times the same buffer.
type vector struct {
	msgs []mmsghdr
	iov  unix.Iovec
	pin  runtime.Pinner
}

func newVector(buf []byte) *vector {
	v := &vector{msgs: make([]mmsghdr, 64), iov: unix.Iovec{Base: &buf[0], Len: uint64(len(buf))}}
	v.pin.Pin(&buf[0])
	v.pin.Pin(&v.iov)
	for i := range v.msgs {
		v.msgs[i].hdr.Iov, v.msgs[i].hdr.Iovlen = &v.iov, 1
	}
	return v
}

// own gives the peer an address to send from.
func (s *site) own(b *testing.B, t tuple) {
	s.peer.do(b, func() {
		out, err := exec.Command("ip", "addr", "replace", t.src.String()+"/32", "dev", "p0").CombinedOutput()
		require.NoError(b, err, string(out))
	})
}

// talk sends datagrams from sockets, as programs do, and returns how many the host received in a second of one
// processor, by the given counter of IP. All the work for a packet counts, from the call that sends it to the one that
// reads it, as it does where two programs keep a machine busy.
func (s *site) talk(b *testing.B, d time.Duration, t tuple, counter string) float64 {
	var wg sync.WaitGroup
	var stop atomic.Bool
	before, began := s.counter(b, "Ip", counter), processTime()
	for i := range senders {
		wg.Go(func() {
			s.peer.do(b, func() {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				require.NoError(b, err)
				defer unix.Close(fd)
				require.NoError(b, unix.Bind(fd, &unix.SockaddrInet4{Port: int(t.sport) + i, Addr: t.src.As4()}))
				require.NoError(b, unix.Connect(fd, &unix.SockaddrInet4{Port: int(t.dport), Addr: hostAddr(i).As4()}))
				v := newVector(make([]byte, 10))
				defer v.pin.Unpin()
				for !stop.Load() {
					unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&v.msgs[0])), uintptr(len(v.msgs)), 0, 0, 0)
				}
			})
		})
	}
	time.Sleep(d)
	stop.Store(true)
	wg.Wait()
	return float64(s.counter(b, "Ip", counter)-before) / (float64(processTime()-began) / 1e9)
}

// processTime returns the CPU time of this process in nanoseconds.
func processTime() int64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t) != nil {
		return 0
	}
	return t.Nano()
}

// BenchmarkPacketRate compares the rate of UDP datagrams that the last of n policies allows with the rate without rules,
// and with connection tracking alone. BenchmarkFrameRate leaves out what programs do.
//
//	go test -run '^$' -bench PacketRate -benchtime 1x ./backends/nftables
func BenchmarkPacketRate(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 5000} {
		b.Run(fmt.Sprintf("rules=%d/hit=last", n), func(b *testing.B) {
			text, last := uniform(n, "UDP")
			with, without, tracking := newSite(b), newSite(b), newSite(b)
			for _, s := range []*site{with, without, tracking} {
				s.receive(b, last.dport)
				s.own(b, last)
			}
			tracking.host.nft(b, onlyTracking)
			with.enforce(b, text, false)
			for b.Loop() {
				rate := func(s *site) func() float64 {
					return func() float64 { return s.talk(b, turn, last, "InDelivers") }
				}
				r := compare(rounds, rate(without), rate(with), rate(tracking))
				b.ReportMetric(r[0], "empty-pps")
				b.ReportMetric(r[1], "pps")
				b.ReportMetric(r[1]/r[0], "of-empty")
				b.ReportMetric(r[2]/r[0], "conntrack-of-empty")
			}
		})
	}
}

// BenchmarkDenyRate compares the rate of datagrams that no policy allows with the rate of datagrams without rules.
func BenchmarkDenyRate(b *testing.B) {
	const n = 1000
	text, last := uniform(n, "UDP")
	last.src = netip.MustParseAddr("172.16.0.1")
	with, without := newSite(b), newSite(b)
	for _, s := range []*site{with, without} {
		s.receive(b, last.dport)
		s.own(b, last)
	}
	with.enforce(b, text, false)
	for b.Loop() {
		rate := func(s *site) func() float64 {
			return func() float64 { return s.talk(b, turn, last, "InReceives") }
		}
		r := compare(rounds, rate(without), rate(with))
		b.ReportMetric(r[1], "pps")
		b.ReportMetric(r[1]/r[0], "of-empty")
	}
}
