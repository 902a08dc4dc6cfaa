// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

// Packet rates are compared within one run: short turns with and without rules, in namespaces that differ in nothing
// else, in processor time.

// site is a host in a namespace, and the other end of its link. Two threads send, each to an address of its own.
type site struct {
	host, peer netns
	mac        [6]byte
	index      int // of the link in peer
}

const senders = 2

func hostAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i)}) }

func newSite(b *testing.B) *site {
	s := &site{host: newNetns(b), peer: newNetns(b), mac: [6]byte{2, 0, 0, 0, 0, 1}}
	ip := func(n netns, args ...string) {
		n.do(b, func() {
			out, err := exec.Command("ip", args...).CombinedOutput()
			require.NoError(b, err, "%v: %s", args, out)
		})
	}
	s.host.do(b, func() {
		for k, v := range map[string]string{"all/rp_filter": "0", "default/rp_filter": "0", "all/accept_local": "1"} {
			require.NoError(b, os.WriteFile("/proc/sys/net/ipv4/conf/"+k, []byte(v), 0))
		}
	})
	ip(s.host, "link", "add", "eth0", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "p0", "address", "02:00:00:00:00:02")
	ip(s.host, "link", "set", "lo", "up")
	s.host.do(b, func() { // a namespace without a name is known by its file
		c := exec.Command("ip", "link", "set", "p0", "netns", "/proc/self/fd/3")
		c.ExtraFiles = []*os.File{s.peer.File}
		out, err := c.CombinedOutput()
		require.NoError(b, err, string(out))
	})
	ip(s.host, "link", "set", "eth0", "up")
	ip(s.peer, "link", "set", "p0", "up")
	ip(s.peer, "addr", "add", "10.255.255.254/8", "dev", "p0")
	ip(s.peer, "route", "add", "192.0.2.0/24", "dev", "p0")
	for i := range senders {
		ip(s.host, "addr", "add", hostAddr(i).String()+"/24", "dev", "eth0")
		ip(s.peer, "neigh", "add", hostAddr(i).String(), "lladdr", "02:00:00:00:00:01", "dev", "p0")
	}
	ip(s.host, "route", "add", "default", "dev", "eth0")
	ip(s.host, "neigh", "add", "10.255.255.254", "lladdr", "02:00:00:00:00:02", "dev", "eth0")
	s.peer.do(b, func() {
		i, err := net.InterfaceByName("p0")
		require.NoError(b, err)
		s.index = i.Index
	})
	return s
}

// listen opens UDP sockets that nobody reads: a full buffer costs the same with and without rules.
func (s *site) listen(b *testing.B, port uint16) {
	s.host.do(b, func() {
		for i := range senders {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			require.NoError(b, err)
			require.NoError(b, unix.Bind(fd, &unix.SockaddrInet4{Port: int(port), Addr: hostAddr(i).As4()}))
			b.Cleanup(func() { unix.Close(fd) })
		}
	})
}

// counter returns a counter of /proc/net/snmp in the host, such as "Ip", "InReceives".
func (s *site) counter(b *testing.B, proto, name string) (n uint64) {
	s.host.do(b, func() {
		text, err := os.ReadFile("/proc/thread-self/net/snmp")
		require.NoError(b, err)
		var names []string
		for _, l := range strings.Split(string(text), "\n") {
			f := strings.Fields(l)
			if len(f) == 0 || f[0] != proto+":" {
				continue
			}
			if names == nil {
				names = f
				continue
			}
			i := slices.Index(names, name)
			require.GreaterOrEqual(b, i, 0, name)
			n, err = strconv.ParseUint(f[i], 10, 64)
			require.NoError(b, err)
		}
	})
	return n
}

type tuple struct {
	src          netip.Addr
	sport, dport uint16
	proto        uint8
}

// frame returns an Ethernet frame with a UDP or TCP SYN packet, without transport checksum (UDP) or payload.
func (s *site) frame(t tuple, dst netip.Addr) []byte {
	f := make([]byte, 14, 64)
	copy(f, s.mac[:])
	copy(f[6:], []byte{2, 0, 0, 0, 0, 2})
	binary.BigEndian.PutUint16(f[12:], unix.ETH_P_IP)
	ip := make([]byte, 20)
	l4 := make([]byte, 18) // UDP with 10 bytes
	binary.BigEndian.PutUint16(l4, t.sport)
	binary.BigEndian.PutUint16(l4[2:], t.dport)
	if t.proto == unix.IPPROTO_UDP {
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	} else {
		l4 = append(l4, 0, 0)
		l4[12], l4[13] = 5<<4, 2
	}
	ip[0], ip[8], ip[9] = 0x45, 64, t.proto
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(l4)))
	a, d := t.src.As4(), dst.As4()
	copy(ip[12:], a[:])
	copy(ip[16:], d[:])
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	if t.proto != unix.IPPROTO_UDP {
		pseudo := append(append(append([]byte{}, ip[12:20]...), 0, t.proto, 0, byte(len(l4))), l4...)
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

// blast sends packets for the given time and returns how many the host received in a second of one processor, by the
// given counter. Counting processor time keeps other work of the machine out of it.
func (s *site) blast(b *testing.B, d time.Duration, tuples []tuple, proto, counter string) float64 {
	const batch = 64
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
			s.peer.do(b, func() {
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
	before := s.counter(b, proto, counter)
	close(ready)
	time.Sleep(d)
	stop.Store(true)
	wg.Wait()
	return float64(s.counter(b, proto, counter)-before) / (float64(cpu.Load()) / 1e9)
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

// compare measures sites in turns and returns the rates of their good turns, those that only one in ten exceeds: what
// else runs on the machine only ever makes a turn slower.
func compare(rounds int, measure ...func() float64) []float64 {
	rates := make([][]float64, len(measure))
	for range rounds {
		for i, m := range measure {
			rates[i] = append(rates[i], m())
		}
	}
	out := make([]float64, len(measure))
	for i, r := range rates {
		slices.Sort(r)
		out[i] = r[len(r)*9/10]
	}
	return out
}

// enforce applies policies to the interface of a site.
func (s *site) enforce(b *testing.B, policies string, linear bool) *nftables.Backend {
	p, m := compiled(b, policies)
	be, err := nftables.New(nftables.Options{NetNS: s.host.fd(), Render: render.Options{Linear: linear}})
	require.NoError(b, err)
	b.Cleanup(func() { be.Close() })
	start := time.Now()
	r, err := be.Apply(b.Context(), p, m)
	require.NoError(b, err)
	b.Logf("applied in %v (rendered %v, committed %v)", time.Since(start), r.Rendered, r.Committed)
	return be
}

func compiled(b testing.TB, policies string) (*ir.Program, ir.Members) {
	b.Helper()
	const endpoint = `apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: e, labels: {a: b}}
spec: {node: n, interfaceName: eth0}
`
	rs, err := manifest.Parse(manifest.Source{Name: "bench.yaml", Data: []byte(endpoint + policies)})
	require.NoError(b, err)
	host := hostendpoint.Host{Node: "n", Interfaces: []hostendpoint.Interface{{Name: "eth0"}}}
	snap, err := policy.Resolve(rs, host, policy.Config{})
	require.NoError(b, err)
	p, m, err := compile.Compile(snap)
	require.NoError(b, err)
	return p, m
}

func policyText(w *strings.Builder, i int, rule string) {
	fmt.Fprintf(w, "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p%05d}\nspec: {order: %d, selector: all(), types: [Ingress], ingress: [%s]}\n", i, i, rule)
}

// uniform returns n one-rule policies of one shape, and the packet that the last one allows.
func uniform(n int, proto string) (string, tuple) {
	var w strings.Builder
	var last tuple
	for i := range n {
		last = tuple{netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 7}), 40000, uint16(10000 + i), unix.IPPROTO_UDP}
		policyText(&w, i, fmt.Sprintf("{action: Allow, protocol: %s, source: {nets: [10.%d.%d.0/24]}, destination: {ports: [%d]}}", proto, i>>8, i&255, last.dport))
	}
	return w.String(), last
}

const (
	turn   = 50 * time.Millisecond
	rounds = 25
)

// onlyTracking makes the kernel track connections.
const onlyTracking = "table inet t {\n chain c {\n type filter hook input priority 0;\n ct state established accept\n }\n}\n"

// BenchmarkFrameRate compares as BenchmarkPacketRate does, but with frames that no program sends or reads, so that
// nothing but the way through the host counts.
func BenchmarkFrameRate(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 5000} {
		b.Run(fmt.Sprintf("rules=%d/hit=last", n), func(b *testing.B) {
			text, last := uniform(n, "UDP")
			with, without, tracking := newSite(b), newSite(b), newSite(b)
			for _, s := range []*site{with, without, tracking} {
				s.listen(b, last.dport)
			}
			tracking.host.nft(b, onlyTracking)
			with.enforce(b, text, false)
			for b.Loop() {
				rate := func(s *site) func() float64 {
					return func() float64 { return s.blast(b, turn, []tuple{last}, "Ip", "InDelivers") }
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

// mixed returns policies of many shapes, and packets: half of them made for a rule, half at random.
func mixed(n int, seed uint64) (string, []tuple) {
	r := rand.New(rand.NewPCG(seed, 7))
	bases := make([]uint32, 1+n/8)
	for i := range bases {
		bases[i] = r.Uint32()
	}
	prefix := func() netip.Prefix {
		for {
			a := r.Uint32()
			if r.IntN(2) == 0 {
				a = bases[r.IntN(len(bases))]&0xffff0000 | a&0xffff
			}
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)}), 8+r.IntN(25)).Masked()
			if first := p.Addr().As4()[0]; first > 0 && first < 224 && first != 127 {
				return p
			}
		}
	}
	var w strings.Builder
	tuples := make([]tuple, 0, 2*n)
	for i := range n {
		hit := tuple{prefix().Addr(), 40000, uint16(r.IntN(65536)), unix.IPPROTO_UDP}
		action, proto := "Allow", "UDP"
		if r.IntN(3) == 0 {
			action = "Deny"
		}
		if r.IntN(3) == 0 {
			hit.proto, proto = unix.IPPROTO_TCP, "TCP"
		}
		var source, destination []string
		narrow := r.IntN(20) < 17 // no rule matches nearly everything: those behind it would not count
		if narrow {
			p := prefix()
			hit.src = p.Addr()
			source = append(source, fmt.Sprintf("nets: [%s]", p))
		}
		if r.IntN(10) == 0 {
			source = append(source, fmt.Sprintf("notNets: [%s]", prefix()))
		}
		lo := 1 + r.IntN(65535)
		hi := lo
		if r.IntN(3) == 0 {
			hi = min(65535, lo+r.IntN(2000))
		}
		ports := fmt.Sprintf("[%q]", fmt.Sprintf("%d:%d", lo, hi))
		switch k := r.IntN(20); {
		case k == 0 && narrow:
			destination = append(destination, "notPorts: "+ports)
		case k < 18 || !narrow:
			hit.dport = uint16(lo)
			destination = append(destination, "ports: "+ports)
		}
		policyText(&w, i, fmt.Sprintf("{action: %s, protocol: %s, source: {%s}, destination: {%s}}", action, proto, strings.Join(source, ", "), strings.Join(destination, ", ")))
		tuples = append(tuples, hit, tuple{netip.AddrFrom4([4]byte{byte(1 + r.IntN(126)), byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))}), 40000, uint16(r.IntN(65536)), unix.IPPROTO_UDP})
	}
	return w.String(), tuples
}

// BenchmarkMixedRate compares rules of many shapes with the same rules rendered one by one.
func BenchmarkMixedRate(b *testing.B) {
	for _, n := range []int{1000, 5000} {
		for seed := range uint64(3) {
			b.Run(fmt.Sprintf("rules=%d/seed=%d", n, seed), func(b *testing.B) {
				text, tuples := mixed(n, seed)
				tree, linear, without := newSite(b), newSite(b), newSite(b)
				tree.enforce(b, text, false)
				linear.enforce(b, text, true)
				for _, s := range []*site{tree, linear, without} { // nothing of it is for a socket
					s.host.nft(b, "table inet sink {\n chain c {\n type filter hook input priority 1000;\n drop\n }\n}\n")
				}
				for b.Loop() {
					rate := func(s *site) func() float64 {
						return func() float64 { return s.blast(b, turn, tuples, "Ip", "InReceives") }
					}
					r := compare(rounds, rate(tree), rate(linear), rate(without))
					b.ReportMetric(r[0], "pps")
					b.ReportMetric(r[0]/r[1], "x-linear")
					b.ReportMetric(r[0]/r[2], "of-empty")
				}
			})
		}
	}
}
