// SPDX-License-Identifier: Apache-2.0

package rate

import (
	"encoding/binary"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Tuple is what a packet is made from.
type Tuple struct {
	Src              netip.Addr
	SrcPort, DstPort uint16
	Protocol         uint8
}

// Frame puts a packet into an Ethernet frame.
func Frame(packet []byte) []byte {
	f := make([]byte, 14, 14+len(packet))
	binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IP)
	if packet[0]>>4 == 6 {
		binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IPV6)
	}
	return append(f, packet...)
}

// Packet returns an IP packet to the first address of the host.
func (t Tuple) Packet() []byte { return (&Site{}).frame(t, hostAddr(0))[14:] }

// frame returns an Ethernet frame with a UDP or TCP SYN packet, without transport checksum (UDP) or payload.
func (s *Site) frame(t Tuple, dst netip.Addr) []byte {
	f := make([]byte, 14, 64)
	copy(f, s.mac[:])
	copy(f[6:], []byte{2, 0, 0, 0, 0, 2})
	binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IP)
	ip := make([]byte, 20)
	l4 := make([]byte, 18) // UDP with 10 bytes
	binary.BigEndian.PutUint16(l4, t.SrcPort)
	binary.BigEndian.PutUint16(l4[2:], t.DstPort)
	if t.Protocol == unix.IPPROTO_UDP {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	} else {
		l4 = append(l4, 0, 0)
		l4[12], l4[13] = 5<<4, 2
	}
	ip[0], ip[8], ip[9] = 0x45, 64, t.Protocol
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(l4)))
	a, d := t.Src.As4(), dst.As4()
	copy(ip[12:], a[:])
	copy(ip[16:], d[:])
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	if t.Protocol != unix.IPPROTO_UDP {
		pseudo := append(append(append([]byte{}, ip[12:20]...), 0, t.Protocol, 0, byte(len(l4))), l4...)
		binary.BigEndian.PutUint16(l4[16:], checksum(pseudo))
	}
	return append(append(f, ip...), l4...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

// Blast sends packets for the given time and returns how many the host received in a second of one processor, by the
// given counter. Counting processor time keeps other work of the machine out of it.
func (s *Site) Blast(b testing.TB, d time.Duration, tuples []Tuple, proto, counter string) float64 {
	return s.BlastCounted(b, d, tuples, func() uint64 { return s.Counter(b, proto, counter) })
}

// BlastCounted is Blast for packets that somebody else counts.
func (s *Site) BlastCounted(b testing.TB, d time.Duration, tuples []Tuple, counter func() uint64) float64 {
	var wg sync.WaitGroup
	var stop atomic.Bool
	var cpu atomic.Int64
	ready := make(chan struct{})
	var setup sync.WaitGroup
	for i := range senders {
		var frames [][]byte
		for _, t := range tuples {
			frames = append(frames, s.frame(t, hostAddr(i)))
		}
		setup.Add(1)
		wg.Go(func() {
			s.Peer.Do(b, func() {
				fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
				require.NoError(b, err)
				defer unix.Close(fd)
				require.NoError(b, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
				require.NoError(b, unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: s.index}))
				iovs := make([]unix.Iovec, len(frames))
				for k, f := range frames {
					iovs[k] = unix.Iovec{Base: &f[0], Len: uint64(len(f))}
				}
				msgs := make([]mmsghdr, batch)
				var pin runtime.Pinner
				defer pin.Unpin()
				for k := range frames {
					pin.Pin(&frames[k][0])
				}
				pin.Pin(&iovs[0])
				next := i * len(frames) / senders
				setup.Done()
				<-ready
				began := threadTime()
				defer func() { cpu.Add(threadTime() - began) }()
				for !stop.Load() {
					for k := range msgs {
						msgs[k].hdr.Iov, msgs[k].hdr.Iovlen = &iovs[next], 1
						if next++; next == len(iovs) {
							next = 0
						}
					}
					unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), batch, 0, 0, 0)
				}
			})
		})
	}
	setup.Wait()
	before := counter()
	close(ready)
	time.Sleep(d)
	stop.Store(true)
	wg.Wait()
	return float64(counter()-before) / (float64(cpu.Load()) / 1e9)
}

// threadTime returns the CPU time of this thread in nanoseconds. The kernel handles what comes through a veth in the
// time of the thread that sends it.
func threadTime() int64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) != nil {
		return 0
	}
	return t.Nano()
}

// rounds is how often sites take their turns.
const rounds = 40

// Compare measures sites in turns and returns the medians of their rates. The best turns of each differ more from run to
// run than what is compared.
func Compare(measure ...func() float64) []float64 {
	rates := make([][]float64, len(measure))
	for range rounds {
		for i, m := range measure {
			rates[i] = append(rates[i], m())
		}
	}
	out := make([]float64, len(measure))
	for i, r := range rates {
		slices.Sort(r)
		out[i] = r[len(r)/2]
	}
	return out
}
