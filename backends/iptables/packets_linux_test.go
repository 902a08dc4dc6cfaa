// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends/iptables"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	renderer "github.com/hostpolicy/hostpolicy/render/iptables"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// batch is how many packets one system call sends.
const batch = 64

// gun sends UDP packets to the host of a world, each of a flow of its own. They go through the host in the sender's own
// time, so the time of its thread is that of the packets.
type gun struct {
	fd     int
	frames [batch][60]byte
	iov    [batch]unix.Iovec
	msgs   [batch]struct {
		unix.Msghdr
		n uint32
		_ [4]byte
	}
	port uint16
	load load
}

// load is what is sent.
type load string

const (
	// newFlows is a flow for each packet. They are dropped behind the table filter, so that connection tracking sees new
	// flows only and keeps none.
	newFlows load = "new"
	// fewFlows is packets of a few flows to a socket that nobody reads and nobody answers: every packet is of a flow that
	// is not established, and meets all rules.
	fewFlows load = "few"
)

// newGun makes a gun for packets from an address to UDP port 8000. In the host they are counted behind the table filter.
func newGun(t testing.TB, w world, from [4]byte, l load, tracked bool) *gun {
	t.Helper()
	w.host.run(t, "", "sh", "-c", "for i in all eth0; do echo 0 > /proc/sys/net/ipv4/conf/$i/rp_filter; done")
	w.host.run(t, "", "ip", "route", "add", "10.0.0.0/8", "dev", "eth0")
	state, end := "", ""
	if tracked {
		state = "ct state new "
	}
	if l == newFlows {
		end = " drop"
	} else {
		w.host.listen(t, hostAddr+":8000")
	}
	w.host.run(t, "", "nft", "add table ip tap; add counter ip tap seen; add chain ip tap c { type filter hook input priority 300; }; add rule ip tap c "+state+"counter name seen"+end)
	g := &gun{port: 1024, load: l}
	var err error
	var index int
	w.peer.do(func() {
		var i *net.Interface
		if i, err = net.InterfaceByName("eth0"); err == nil {
			index = i.Index
			g.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		}
	})
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(g.fd) })
	require.NoError(t, unix.Bind(g.fd, &unix.SockaddrLinklayer{Ifindex: index}))
	require.NoError(t, unix.SetsockoptInt(g.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
	var mac net.HardwareAddr
	w.host.do(func() {
		var i *net.Interface
		if i, err = net.InterfaceByName("eth0"); err == nil {
			mac = i.HardwareAddr
		}
	})
	require.NoError(t, err)
	for i := range g.frames {
		f := g.frames[i][:]
		copy(f, mac)
		copy(f[6:], []byte{2, 0, 0, 0, 0, 9, 8, 0})
		ip := f[14:]
		ip[0], ip[3], ip[8], ip[9] = 0x45, 46, 64, 17
		copy(ip[12:], from[:])
		copy(ip[16:], net.ParseIP(hostAddr).To4())
		sum := uint32(0)
		for k := 0; k < 20; k += 2 {
			sum += uint32(ip[k])<<8 | uint32(ip[k+1])
		}
		for sum>>16 != 0 {
			sum = sum&0xffff + sum>>16
		}
		binary.BigEndian.PutUint16(ip[10:], ^uint16(sum))
		binary.BigEndian.PutUint16(ip[22:], 8000)
		ip[25] = 26
		g.iov[i].Base, g.iov[i].Len = &f[0], 60
		g.msgs[i].Iov, g.msgs[i].Iovlen = &g.iov[i], 1
	}
	return g
}

// fire sends n packets, a multiple of batch, and returns the time that it took the thread.
func (g *gun) fire(t testing.TB, n int) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var a, b unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &a)
	for range n / batch {
		for i := range g.frames {
			if g.port++; g.port < 1024 || g.load == fewFlows && g.port >= 1024+batch {
				g.port = 1024
			}
			binary.BigEndian.PutUint16(g.frames[i][34:], g.port)
		}
		if _, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(g.fd), uintptr(unsafe.Pointer(&g.msgs)), batch, 0, 0, 0); errno != 0 {
			t.Fatal(errno)
		}
	}
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &b)
	return time.Duration(b.Nano() - a.Nano())
}

// seen returns how many packets got past the table filter.
func (w world) seen(t testing.TB) (n int) {
	t.Helper()
	out := w.host.run(t, "", "nft", "list", "counter", "ip", "tap", "seen")
	for i := 0; i < len(out); i++ {
		if k, err := fmt.Sscanf(out[i:], "packets %d", &n); err == nil && k == 1 {
			return n
		}
	}
	t.Fatal(out)
	return 0
}

// rates fires at a host with n policies of one rule, whose last one lets the packets in, at one without rules but with
// connection tracking, and at one with neither, in turn. It returns the time of a packet in each.
func rates(b testing.TB, o iptables.Options, l load, n, rounds int) (with, tracked, without time.Duration) {
	i := n - 1
	from := [4]byte{10, byte(100 + i>>8), byte(i), 7}
	bare, plain, ruled := newWorld(b), newWorld(b), newWorld(b)
	o.NetNS = ruled.host.fd()
	be := newBackend(b, o)
	_, err := be.Apply(b.Context(), rendertest.OnePolicyEach(n), ir.Members{})
	require.NoError(b, err)
	z, p, r := newGun(b, bare, from, l, false), newGun(b, plain, from, l, true), newGun(b, ruled, from, l, true)
	const chunk = 64 * batch
	for k := range rounds + 2 {
		a, x, y := z.fire(b, chunk), p.fire(b, chunk), r.fire(b, chunk)
		if k >= 2 {
			without, tracked, with = without+a, tracked+x, with+y
		}
	}
	sent := (rounds + 2) * chunk
	require.InDelta(b, sent, ruled.seen(b), float64(sent)/50, "packets that got in, of those sent")
	require.InDelta(b, sent, plain.seen(b), float64(sent)/50)
	require.InDelta(b, sent, bare.seen(b), float64(sent)/50)
	cs, err := be.Counters(b.Context())
	require.NoError(b, err)
	for _, c := range cs {
		if c.Origin.String() == fmt.Sprintf("policy:default/policy-%d/ingress[0]", i) {
			require.InDelta(b, sent, c.Packets, float64(sent)/50, "the counter of the last rule")
		}
	}
	packets := time.Duration(rounds * chunk)
	return with / packets, tracked / packets, without / packets
}

// BenchmarkPackets reports the rate of packets that the last of many policies lets in, and its relation to the rates
// without rules and without rules but with connection tracking.
func BenchmarkPackets(b *testing.B) {
	for _, v := range variants {
		for _, l := range []load{fewFlows, newFlows} {
			for _, n := range []int{1, 100, 1000, 5000, 10000} {
				for _, e := range []renderer.Events{renderer.NoEvents, renderer.Denies} {
					b.Run(fmt.Sprintf("variant=%s/flows=%s/policies=%d/events=%d", v, l, n, e), func(b *testing.B) {
						with, tracked, without := rates(b, iptables.Options{Variant: v, Render: renderer.Options{Events: e}}, l, n, max(b.N, 20))
						b.ReportMetric(1e9/float64(with), "packets/s")
						b.ReportMetric(float64(without)/float64(with), "of-no-rules")
						b.ReportMetric(float64(tracked)/float64(with), "of-tracking")
						b.ReportMetric(0, "ns/op")
					})
				}
			}
		}
	}
}
