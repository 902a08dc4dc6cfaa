// SPDX-License-Identifier: Apache-2.0

package ebpf_test

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/backends/lab/rate"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// TestApplyMembersEqualsApply changes members in place, and compares with a Backend that applies each state anew, and with
// what another process finds.
func TestApplyMembersEqualsApply(t *testing.T) {
	t.Parallel()
	ns := loopback(t)
	path := pinPath()
	b := newBackend(t, ebpf.Options{NetNS: ns.FD(), Path: path})
	_, err := b.ApplyMembers(t.Context(), nil)
	require.ErrorIs(t, err, ebpf.ErrNotApplied)
	other := newBackend(t, ebpf.Options{NetNS: rate.NewNetns(t).FD()})
	p, m := rendertest.Program(3, rendertest.Size{})
	_, err = b.Apply(t.Context(), p, m)
	require.NoError(t, err)
	undrifted := func(b *ebpf.Backend) {
		st, err := b.Observe(t.Context())
		require.NoError(t, err)
		require.Empty(t, st.Drift)
	}
	last := uint64(1)
	for seed := range uint64(20) {
		n := ir.Members{}
		for i, s := range p.Sets {
			n.Sets = append(n.Sets, ir.SetMembers{ID: s.ID, Elements: rendertest.Elements(seed*5+uint64(i), s.Kind)})
		}
		var r backends.Receipt
		if seed%4 == 3 {
			r, err = b.Apply(t.Context(), p, n)
		} else {
			r, err = b.ApplyMembers(t.Context(), ir.DiffMembers(m, n))
		}
		require.NoError(t, err)
		require.Equal(t, last+1, r.Generation)
		last++
		m = n
		f, err := other.Apply(t.Context(), p, m)
		require.NoError(t, err)
		require.Equal(t, f.Fingerprint, r.Fingerprint)
		undrifted(b)
		if seed%5 != 0 {
			continue
		}
		next, err := ebpf.New(ebpf.Options{NetNS: ns.FD(), Path: path})
		require.NoError(t, err)
		st, err := next.Adopt(t.Context(), p, m)
		require.NoError(t, err)
		require.Empty(t, st.Drift)
		require.Equal(t, r.Fingerprint, st.Fingerprint)
		require.Equal(t, r.Generation, st.Generation)
		a, err := next.Apply(t.Context(), p, m)
		require.NoError(t, err)
		require.Zero(t, a.Changes, "the kernel has it already")
		require.NoError(t, b.Close())
		b = next
		t.Cleanup(func() { _ = next.Teardown(context.Background()) })
	}
	// Other members are noticed.
	wrong := ir.Members{Sets: slices.Clone(m.Sets)}
	i := slices.IndexFunc(p.Sets, func(s ir.SetDecl) bool { return s.Kind == ir.SetOfPrefixes })
	for k, s := range p.Sets {
		wrong.Sets[k].Elements = nil
		if s.Kind == ir.SetOfPrefixes {
			wrong.Sets[k].Elements = []ir.Element{{Prefix: netip.MustParsePrefix("203.0.113.7/32")}}
		}
	}
	next, err := ebpf.New(ebpf.Options{NetNS: ns.FD(), Path: path})
	require.NoError(t, err)
	defer next.Close()
	st, err := next.Adopt(t.Context(), p, wrong.Canonical())
	require.NoError(t, err)
	require.NotEmpty(t, st.Drift)
	_, err = next.ApplyMembers(t.Context(), nil)
	require.ErrorIs(t, err, ebpf.ErrNotApplied, "it was not adopted")

	// What a set cannot hold changes nothing.
	_, err = b.ApplyMembers(t.Context(), ir.MembersChanges{{ID: p.Sets[i].ID, Added: []ir.Element{{}}}})
	require.Error(t, err)
	undrifted(b)
	// Somebody else puts a generation in force.
	_, err = next.Apply(t.Context(), p, m)
	require.NoError(t, err)
	_, err = b.ApplyMembers(t.Context(), ir.MembersChanges{{ID: p.Sets[i].ID, Added: []ir.Element{{Prefix: netip.MustParsePrefix("203.0.113.7/32")}}}})
	require.ErrorIs(t, err, ebpf.ErrNotApplied)
}

// TestNoMixtureOfMembers moves an address from set to set while both processors send from it. Each set lets its packets
// through, by another hook and by its own end of the list, and only one at a time holds it.
func TestNoMixtureOfMembers(t *testing.T) {
	const text = `entry prednat a settles normal-in,forward-in
entry normal-in b
block a
  rule src=@s:a src=@s:b -> deny by policy:t/p/ingress[0]@prednat
  rule protocol=udp src=@s:a -> allow by policy:t/p/ingress[1]@prednat
block b
  rule src=@s:c protocol=udp -> allow by policy:t/p/ingress[2]
  rule protocol=udp src=@s:b dst=@s:d -> allow by policy:t/p/ingress[3]
  rule -> deny by policy:t/p/ingress[4]
set s:a prefixes
set s:b prefixes
set s:c prefixes
set s:d prefixes
members s:a
  10.1.2.3/32
members s:b
  10.9.0.0/16
members s:c
  10.8.0.0/16
members s:d
  198.51.100.0/24
`
	s := rate.NewSite(t)
	b := newBackend(t, ebpf.Options{NetNS: s.Host.FD()})
	p, m := parse(t, text)
	_, err := b.Apply(t.Context(), p, m)
	require.NoError(t, err)
	one := []ir.Element{{Prefix: netip.MustParsePrefix("10.1.2.3/32")}}
	around := []ir.Element{{Prefix: netip.MustParsePrefix("10.1.0.0/16")}}
	to := []ir.Element{{Prefix: netip.MustParsePrefix("192.0.2.0/30")}}
	states := []ir.MembersChanges{ // from a to b with d, to c, and back
		{{ID: "s:a", Removed: one}, {ID: "s:b", Added: around}, {ID: "s:d", Added: to}},
		{{ID: "s:b", Removed: around}, {ID: "s:c", Added: one}, {ID: "s:d", Removed: to}},
		{{ID: "s:a", Added: one}, {ID: "s:c", Removed: one}},
	}
	flow := rate.Tuple{Src: netip.MustParseAddr("10.1.2.3"), SrcPort: 40000, DstPort: 9, Protocol: 17}
	received, delivered, n := blastWhile(t, s, flow, 1000, func(n int) error {
		_, err := b.ApplyMembers(context.Background(), states[n%len(states)])
		return err
	})
	t.Logf("%d packets, %d changes", received, n)
	require.NotZero(t, received)
	require.GreaterOrEqual(t, n, 1000)
	require.Equal(t, received, delivered, "packets that were denied")
	for o, packets := range counters(t, b) {
		switch {
		case strings.Contains(o, "ingress[0]"), strings.Contains(o, "ingress[4]"):
			require.Zero(t, packets, o)
		default:
			require.NotZero(t, packets, o)
		}
	}
	st, err := b.Observe(t.Context())
	require.NoError(t, err)
	require.Empty(t, st.Drift)
}

// BenchmarkApplyMembers changes one member of a set of many, in a host that gets packets meanwhile.
func BenchmarkApplyMembers(b *testing.B) {
	for _, c := range []struct{ rules, members int }{{1000, 1000}, {10000, 1000}, {100, 100000}} {
		b.Run(fmt.Sprintf("rules=%d/members=%d", c.rules, c.members), func(b *testing.B) {
			p, m := rendertest.Large(c.rules, c.members)
			s := rate.NewSite(b)
			be := newBackend(b, ebpf.Options{NetNS: s.Host.FD()})
			_, err := be.Apply(b.Context(), p, m)
			require.NoError(b, err)
			done := make(chan struct{})
			ctx, stop := context.WithCancel(b.Context())
			go func() {
				defer close(done)
				for ctx.Err() == nil {
					s.Blast(b, 50*time.Millisecond, []rate.Tuple{{Src: netip.MustParseAddr("10.1.2.3"), SrcPort: 40000, DstPort: 9, Protocol: 17}}, "Ip", "InReceives")
					time.Sleep(50 * time.Millisecond) // two threads that send are all processors here
				}
			}()
			var took []time.Duration
			var spent int64
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			i := 0
			for b.Loop() {
				e := []ir.Element{{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 20, byte(i >> 9), byte(i >> 1)}), 32)}}
				change := ir.MembersChange{ID: p.Sets[0].ID, Added: e}
				if i%2 == 1 {
					change = ir.MembersChange{ID: p.Sets[0].ID, Removed: e}
				}
				i++
				began, at := time.Now(), threadTime()
				r, err := be.ApplyMembers(b.Context(), ir.MembersChanges{change})
				took, spent = append(took, time.Since(began)), spent+threadTime()-at
				require.NoError(b, err)
				require.Equal(b, 1, r.Changes)
			}
			stop()
			<-done
			slices.Sort(took)
			b.ReportMetric(float64(spent)/float64(len(took))/1e3, "cpu-µs")
			b.ReportMetric(float64(took[len(took)/10])/1e3, "µs-10th")
			b.ReportMetric(float64(took[len(took)/2])/1e3, "µs-median")
			b.ReportMetric(float64(took[len(took)*99/100])/1e3, "µs-99th")
			b.ReportMetric(float64(took[len(took)-1])/1e3, "µs-worst")
			require.NoError(b, be.Teardown(b.Context()))
		})
	}
}

// threadTime returns the CPU time of this thread in nanoseconds.
func threadTime() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return t.Nano()
}
