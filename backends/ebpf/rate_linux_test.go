// SPDX-License-Identifier: Apache-2.0

package ebpf_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/backends/lab/rate"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

const (
	turn = 50 * time.Millisecond
	// sink drops what no socket waits for.
	sink = "table inet sink {\n chain c {\n type filter hook input priority 1000;\n drop\n }\n}\n"
)

func enforce(b *testing.B, s *rate.Site, policies string) {
	p, m := rate.Compiled(b, "eth0", policies)
	_, err := newBackend(b, ebpf.Options{NetNS: s.Host.FD()}).Apply(b.Context(), p, m)
	require.NoError(b, err)
}

// BenchmarkPacketRate compares the rate of UDP datagrams that the last of n policies allows with the rate without rules, and
// with connection tracking alone.
//
//	go test -run '^$' -bench Rate -benchtime 1x ./backends/ebpf
func BenchmarkPacketRate(b *testing.B) { rate.Packets(b, []int{10, 1000, 10000}, enforce) }

// BenchmarkMixedPacketRate is BenchmarkPacketRate for a flow that one of n rules of many shapes allows.
func BenchmarkMixedPacketRate(b *testing.B) {
	for _, n := range []int{1000, 5000} {
		for seed := range uint64(3) {
			b.Run(fmt.Sprintf("rules=%d/seed=%d", n, seed), func(b *testing.B) {
				text, tuples := rate.Mixed(n, seed)
				p, m := rate.Compiled(b, "eth0", text)
				means, err := ir.NewInterpreter(p, m)
				require.NoError(b, err)
				i := slices.IndexFunc(tuples, func(t rate.Tuple) bool {
					v, by := means.Verdict(&flow.Packet{
						Path: flow.Input, In: "eth0", Src: t.Src, Dst: netip.MustParseAddr("192.0.2.1"),
						Protocol: inet.Protocol(t.Protocol), SrcPort: t.SrcPort, DstPort: t.DstPort,
					})
					return t.Protocol == 17 && t.Src.IsGlobalUnicast() && v == flow.Allow && by.Kind == flow.OriginPolicy
				})
				require.GreaterOrEqual(b, i, 0)
				rate.PacketsOf(b, text, tuples[i], false, enforce)
			})
		}
	}
}

// BenchmarkMixedRate compares frames for rules of many shapes with frames without rules: nothing but the way through the
// host counts, and hardly a packet belongs to a connection.
func BenchmarkMixedRate(b *testing.B) {
	for _, n := range []int{1000, 5000} {
		for seed := range uint64(3) {
			b.Run(fmt.Sprintf("rules=%d/seed=%d", n, seed), func(b *testing.B) {
				text, tuples := rate.Mixed(n, seed)
				with, without, tracking := rate.NewSite(b), rate.NewSite(b), rate.NewSite(b)
				enforce(b, with, text)
				tracking.Load(b, rate.OnlyTracking)
				for _, s := range []*rate.Site{with, without, tracking} {
					s.Load(b, sink)
				}
				for b.Loop() {
					blast := func(s *rate.Site) func() float64 {
						return func() float64 { return s.Blast(b, turn, tuples, "Ip", "InReceives") }
					}
					r := rate.Compare(blast(without), blast(with), blast(tracking))
					b.ReportMetric(r[1], "pps")
					b.ReportMetric(r[1]/r[0], "of-empty")
					b.ReportMetric(r[2]/r[0], "conntrack-of-empty")
				}
			})
		}
	}
}

// BenchmarkDeviceDenyRate compares the rate of frames that untracked policy denies at the device, of which n are rules,
// with the rate of frames that a host without rules accepts: of frames as a network card has them, accepted when a program
// has read them; and of those that sockets of the peer made, accepted when they are at a socket whose buffer is full. On
// a link within one machine, a frame that a socket made takes most of the time for itself, and must be copied before a
// program at the device sees it.
func BenchmarkDeviceDenyRate(b *testing.B) {
	modes := []struct {
		name string
		mode ebpf.XDP
	}{{"driver", ebpf.XDPAuto}, {"generic", ebpf.XDPGeneric}}
	for _, from := range []string{"card", "sockets"} {
		for _, mode := range modes {
			for _, n := range []int{10, 1000} {
				b.Run(fmt.Sprintf("from=%s/xdp=%s/rules=%d", from, mode.name, n), func(b *testing.B) {
					deviceDenyRate(b, n, mode.mode, from == "card")
				})
			}
		}
	}
}

func deviceDenyRate(b *testing.B, n int, mode ebpf.XDP, card bool) {
	var w strings.Builder
	for i := range n {
		fmt.Fprintf(&w, "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p%05d}\nspec: {order: %d, selector: all(), doNotTrack: true, applyOnForward: true, types: [Ingress], ingress: [{action: Deny, protocol: UDP, source: {nets: [10.%d.%d.0/24]}, destination: {ports: [%d]}}]}\n", i, i, i>>8, i&255, 10000+i)
	}
	to := rate.Tuple{Src: netip.AddrFrom4([4]byte{10, byte((n - 1) >> 8), byte(n - 1), 7}), SrcPort: 40000, DstPort: uint16(10000 + n - 1), Protocol: 17}
	with, without := rate.NewSite(b), rate.NewSite(b)
	if !card {
		without.Listen(b, to.DstPort)
	}
	p, m := rate.Compiled(b, "eth0", w.String())
	be := newBackend(b, ebpf.Options{NetNS: with.Host.FD(), XDP: mode})
	_, err := be.Apply(b.Context(), p, m)
	require.NoError(b, err)
	denied := func() (n uint64) {
		for _, c := range counters(b, be) {
			n += c
		}
		return n
	}
	accepted := func() uint64 { return without.Counter(b, "Ip", "InDelivers") }
	accept := func() float64 { return without.BlastCounted(b, turn, []rate.Tuple{to}, accepted) }
	deny := func() float64 { return with.BlastCounted(b, turn, []rate.Tuple{to}, denied) }
	if card {
		in, out := with.NewHose(b, to), without.NewHose(b, to)
		read, none := without.Reader(b, to.DstPort), with.Reader(b, to.DstPort)
		accept = func() float64 {
			return out.Run(b, turn, read, func() uint64 { return without.Counter(b, "Udp", "InDatagrams") })
		}
		deny = func() float64 { return in.Run(b, turn, none, denied) }
	}
	for b.Loop() {
		r := rate.Compare(accept, deny)
		b.ReportMetric(r[0], "empty-pps")
		b.ReportMetric(r[1], "pps")
		b.ReportMetric(r[1]/r[0], "of-empty")
	}
	require.Zero(b, with.Counter(b, "Ip", "InReceives"), "not at the device")
}
