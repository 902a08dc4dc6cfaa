// SPDX-License-Identifier: Apache-2.0

package rate

import (
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

// readEvery is how long readers pause when they have read everything. A reader that waits for the next datagram is woken
// by it, which takes longer than all that is compared here, and the more often the slower datagrams come: what is slower
// would seem slower than it is. Programs on a busy machine find work whenever they look.
const readEvery = 200 * time.Microsecond

// batch is how many datagrams or frames a call takes at most.
const batch = 64

// Batched makes programs send and read many datagrams in a call, as few do: the least work that can surround a packet.
func (s *Site) Batched() { s.batched = true }

// Receive opens UDP sockets and reads what comes, until the benchmark ends.
func (s *Site) Receive(b testing.TB, port uint16) {
	var stop atomic.Bool
	var wg sync.WaitGroup
	b.Cleanup(func() {
		stop.Store(true)
		wg.Wait()
	})
	s.Host.Do(b, func() {
		for i := range senders {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			require.NoError(b, err)
			require.NoError(b, unix.Bind(fd, &unix.SockaddrInet4{Port: int(port), Addr: hostAddr(i).As4()}))
			require.NoError(b, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)) // for more than comes between two looks
			wg.Go(func() {
				defer unix.Close(fd)
				buf := make([]byte, 64)
				v := newVector(buf)
				defer v.pin.Unpin()
				for !stop.Load() {
					if s.batched {
						n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&v.msgs[0])), uintptr(len(v.msgs)), unix.MSG_DONTWAIT, 0, 0)
						if errno != 0 || int(n) < len(v.msgs) {
							time.Sleep(readEvery)
						}
					} else if _, err := unix.Read(fd, buf); err != nil {
						time.Sleep(readEvery)
					}
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
	v := &vector{msgs: make([]mmsghdr, batch), iov: unix.Iovec{Base: &buf[0], Len: uint64(len(buf))}}
	v.pin.Pin(&buf[0])
	v.pin.Pin(&v.iov)
	for i := range v.msgs {
		v.msgs[i].hdr.Iov, v.msgs[i].hdr.Iovlen = &v.iov, 1
	}
	return v
}

// Own gives the peer an address to send from.
func (s *Site) Own(b testing.TB, t Tuple) {
	s.Peer.Do(b, func() {
		out, err := exec.Command("ip", "addr", "replace", t.Src.String()+"/32", "dev", "p0").CombinedOutput()
		require.NoError(b, err, string(out))
	})
}

// Talk sends datagrams from sockets, as programs do, and returns how many the host received in a second of one
// processor, by the given counter of IP. All the work for a packet counts, from the call that sends it to the one that
// reads it, as it does where two programs keep a machine busy.
func (s *Site) Talk(b testing.TB, d time.Duration, t Tuple, counter string) float64 {
	var wg sync.WaitGroup
	var stop atomic.Bool
	before, began := s.Counter(b, "Ip", counter), processTime()
	for i := range senders {
		wg.Go(func() {
			s.Peer.Do(b, func() {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				require.NoError(b, err)
				defer unix.Close(fd)
				require.NoError(b, unix.Bind(fd, &unix.SockaddrInet4{Port: int(t.SrcPort) + i, Addr: t.Src.As4()}))
				require.NoError(b, unix.Connect(fd, &unix.SockaddrInet4{Port: int(t.DstPort), Addr: hostAddr(i).As4()}))
				buf := make([]byte, 10)
				v := newVector(buf)
				defer v.pin.Unpin()
				for !stop.Load() {
					if s.batched {
						unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&v.msgs[0])), uintptr(len(v.msgs)), 0, 0, 0)
					} else {
						unix.Write(fd, buf)
					}
				}
			})
		})
	}
	time.Sleep(d)
	stop.Store(true)
	wg.Wait()
	return float64(s.Counter(b, "Ip", counter)-before) / (float64(processTime()-began) / 1e9)
}

// processTime returns the CPU time of this process in nanoseconds.
func processTime() int64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &t) != nil {
		return 0
	}
	return t.Nano()
}
