// SPDX-License-Identifier: Apache-2.0

package rate

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Hose sends frames that no socket of this machine made, as a network card has them: without a buffer of the stack, which
// to allocate and fill takes longer than much of what is to be measured.
type Hose struct {
	site *Site
	prog *ebpf.Program
	in   xdpContext
	data []byte
}

// xdpContext is struct xdp_md. Ref: linux/bpf.h.
type xdpContext struct{ Data, End, Meta, Ifindex, Queue, Egress uint32 }

// NewHose prepares frames with a packet to the first address of the host, whose link takes them in bulk from then on.
func (s *Site) NewHose(b testing.TB, t Tuple) *Hose {
	b.Helper()
	h := &Hose{site: s, data: s.frame(t, hostAddr(0))}
	h.in = xdpContext{End: uint32(len(h.data)), Ifindex: uint32(s.index)}
	program := func(verdict int32) *ebpf.Program {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()}})
		require.NoError(b, err)
		b.Cleanup(func() { p.Close() })
		return p
	}
	const pass, transmit = 2, 3 // Ref: linux/bpf.h, enum xdp_action
	h.prog = program(transmit)
	s.Peer.Do(b, func() { // without a program of its own, the link has no queue to send from
		l, err := link.AttachXDP(link.XDPOptions{Program: program(pass), Interface: s.index})
		require.NoError(b, err)
		b.Cleanup(func() { l.Close() })
	})
	s.Host.Do(b, func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		require.NoError(b, err)
		defer unix.Close(fd)
		on := struct{ cmd, data uint32 }{0x2c, 1} // ETHTOOL_SGRO, by which the link gets a queue
		r := struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}{data: unsafe.Pointer(&on)}
		copy(r.name[:], "eth0")
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&r)))
		require.Zero(b, errno)
	})
	return h
}

// Run sends frames for about the given time, calls behind after each few thousand of them, and returns how many counter
// counts in a second of one processor. All the work for a frame counts, on both ends of the link.
func (h *Hose) Run(b testing.TB, d time.Duration, behind func(), counter func() uint64) float64 {
	const bulk = 1 << 12
	var spent int64
	before, others := counter(), softirqTime(b)
	h.site.Peer.Do(b, func() {
		began, at := time.Now(), threadTime()
		for time.Since(began) < d {
			_, err := h.prog.Run(&ebpf.RunOptions{Data: h.data, Context: h.in, Repeat: bulk, Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES})
			require.NoError(b, err)
			behind()
		}
		spent = threadTime() - at
	})
	spent += softirqTime(b) - others
	return float64(counter()-before) / (float64(spent) / 1e9)
}

// Reader opens a UDP socket at the first address of the host, with room for what a Hose sends at once, and returns what
// reads all that is there.
func (s *Site) Reader(b testing.TB, port uint16) func() {
	var fd int
	s.Host.Do(b, func() {
		var err error
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		require.NoError(b, err)
		require.NoError(b, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 256<<20))
		require.NoError(b, unix.Bind(fd, &unix.SockaddrInet4{Port: int(port), Addr: hostAddr(0).As4()}))
	})
	v := newVector(make([]byte, 64))
	b.Cleanup(func() {
		unix.Close(fd)
		v.pin.Unpin()
	})
	return func() {
		for {
			n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&v.msgs[0])), uintptr(len(v.msgs)), 0, 0, 0)
			if errno != 0 || n == 0 {
				return
			}
		}
	}
}

// softirqTime returns the CPU time of the threads to which the kernel leaves packets when there are many, in nanoseconds.
func softirqTime(b testing.TB) (sum int64) {
	threads, err := filepath.Glob("/proc/[0-9]*/comm")
	require.NoError(b, err)
	for _, path := range threads {
		name, err := os.ReadFile(path)
		if err != nil || !strings.HasPrefix(string(name), "ksoftirqd/") {
			continue // or it has just ended
		}
		text, err := os.ReadFile(filepath.Join(filepath.Dir(path), "schedstat"))
		require.NoError(b, err)
		n, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		require.NoError(b, err)
		sum += n
	}
	return sum
}
