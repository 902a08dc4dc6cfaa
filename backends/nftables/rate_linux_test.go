// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/lab/rate"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

// Packet rates are compared within one run: short turns with and without rules, in namespaces that differ in nothing
// else, in processor time.

type site struct{ *rate.Site }

func newSite(b *testing.B) *site { return &site{rate.NewSite(b)} }

// nft runs nft in the host.
func (s *site) nft(b *testing.B, input string) { netns{s.Host}.nft(b, input) }

// enforce applies policies to the interface of a site.
func (s *site) enforce(b *testing.B, policies string, linear bool) *nftables.Backend {
	p, m := rate.Compiled(b, "eth0", policies)
	be, err := nftables.New(nftables.Options{NetNS: s.Host.FD(), Render: render.Options{Linear: linear}})
	require.NoError(b, err)
	b.Cleanup(func() { be.Close() })
	start := time.Now()
	r, err := be.Apply(b.Context(), p, m)
	require.NoError(b, err)
	b.Logf("applied in %v (rendered %v, committed %v)", time.Since(start), r.Rendered, r.Committed)
	return be
}

const turn = 50 * time.Millisecond

// BenchmarkPacketRate compares the rate of UDP datagrams that the last of n policies allows with the rate without rules,
// and with connection tracking alone. BenchmarkFrameRate leaves out what programs do.
//
//	go test -run '^$' -bench PacketRate -benchtime 1x ./backends/nftables
func BenchmarkPacketRate(b *testing.B) {
	rate.Packets(b, []int{10, 100, 1000, 5000}, func(b *testing.B, s *rate.Site, policies string) {
		(&site{s}).enforce(b, policies, false)
	})
}

// BenchmarkDenyRate compares the rate of datagrams that no policy allows with the rate of datagrams without rules.
func BenchmarkDenyRate(b *testing.B) {
	const n = 1000
	text, last := rate.Uniform(n, "UDP")
	last.Src = netip.MustParseAddr("172.16.0.1")
	with, without := newSite(b), newSite(b)
	for _, s := range []*site{with, without} {
		s.Receive(b, last.DstPort)
		s.Own(b, last)
	}
	with.enforce(b, text, false)
	for b.Loop() {
		of := func(s *site) func() float64 {
			return func() float64 { return s.Talk(b, turn, last, "InReceives") }
		}
		r := rate.Compare(of(without), of(with))
		b.ReportMetric(r[1], "pps")
		b.ReportMetric(r[1]/r[0], "of-empty")
	}
}

// BenchmarkFrameRate compares as BenchmarkPacketRate does, but with frames that no program sends or reads, so that
// nothing but the way through the host counts.
func BenchmarkFrameRate(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 5000} {
		b.Run(fmt.Sprintf("rules=%d/hit=last", n), func(b *testing.B) {
			text, last := rate.Uniform(n, "UDP")
			with, without, tracking := newSite(b), newSite(b), newSite(b)
			for _, s := range []*site{with, without, tracking} {
				s.Listen(b, last.DstPort)
			}
			tracking.Load(b, rate.OnlyTracking)
			with.enforce(b, text, false)
			for b.Loop() {
				of := func(s *site) func() float64 {
					return func() float64 { return s.Blast(b, turn, []rate.Tuple{last}, "Ip", "InDelivers") }
				}
				r := rate.Compare(of(without), of(with), of(tracking))
				b.ReportMetric(r[0], "empty-pps")
				b.ReportMetric(r[1], "pps")
				b.ReportMetric(r[1]/r[0], "of-empty")
				b.ReportMetric(r[2]/r[0], "conntrack-of-empty")
			}
		})
	}
}

// BenchmarkMixedRate compares rules of many shapes with the same rules rendered one by one.
func BenchmarkMixedRate(b *testing.B) {
	for _, n := range []int{1000, 5000} {
		for seed := range uint64(3) {
			b.Run(fmt.Sprintf("rules=%d/seed=%d", n, seed), func(b *testing.B) {
				text, tuples := rate.Mixed(n, seed)
				tree, linear, without := newSite(b), newSite(b), newSite(b)
				tree.enforce(b, text, false)
				linear.enforce(b, text, true)
				for _, s := range []*site{tree, linear, without} { // nothing of it is for a socket
					s.nft(b, "table inet sink {\n chain c {\n type filter hook input priority 1000;\n drop\n }\n}\n")
				}
				for b.Loop() {
					of := func(s *site) func() float64 {
						return func() float64 { return s.Blast(b, turn, tuples, "Ip", "InReceives") }
					}
					r := rate.Compare(of(tree), of(linear), of(without))
					b.ReportMetric(r[0], "pps")
					b.ReportMetric(r[0]/r[1], "x-linear")
					b.ReportMetric(r[0]/r[2], "of-empty")
				}
			})
		}
	}
}

// BenchmarkApplyMixed loads rules of many shapes from nothing.
func BenchmarkApplyMixed(b *testing.B) {
	for _, n := range []int{1000, 5000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			text, _ := rate.Mixed(n, 0)
			p, m := rate.Compiled(b, "eth0", text)
			var rendered, committed time.Duration
			for b.Loop() {
				b.StopTimer()
				be := newBackend(b, nftables.Options{})
				b.StartTimer()
				r, err := be.Apply(b.Context(), p, m)
				require.NoError(b, err)
				rendered, committed = rendered+r.Rendered, committed+r.Committed
			}
			b.ReportMetric(rendered.Seconds()*1e3/float64(b.N), "rendered-ms")
			b.ReportMetric(committed.Seconds()*1e3/float64(b.N), "committed-ms")
		})
	}
}
