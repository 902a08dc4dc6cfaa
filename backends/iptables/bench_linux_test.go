// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends/iptables"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// processorTime returns what this process and the commands that it started and waited for have used.
func processorTime(b *testing.B) time.Duration {
	var all time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		require.NoError(b, unix.Getrusage(who, &u))
		all += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return all
}

// stopwatch adds up processor time, which says more than the clock where a machine is busy with other things.
type stopwatch struct{ used, at time.Duration }

func (s *stopwatch) start(b *testing.B) { s.at = processorTime(b) }
func (s *stopwatch) stop(b *testing.B)  { s.used += processorTime(b) - s.at }
func (s *stopwatch) report(b *testing.B) {
	b.ReportMetric(float64(s.used.Microseconds())/1000/float64(b.N), "cpu-ms/op")
}

// BenchmarkApply loads everything from nothing, and changes one rule.
func BenchmarkApply(b *testing.B) {
	const n = 10000
	p, m := rendertest.Large(n, 10)
	require.NoError(b, ir.Validate(p, m))
	q := *p
	q.Blocks = append([]ir.Block(nil), p.Blocks...)
	for i := range q.Blocks {
		if q.Blocks[i].ID == "policy/default/policy-500/normal-in" {
			q.Blocks[i].Steps = q.Blocks[i].Steps[1:]
		}
	}
	for _, v := range variants {
		b.Run(fmt.Sprintf("variant=%s/rules=%d/change=all", v, n), func(b *testing.B) {
			var w stopwatch
			for b.Loop() {
				b.StopTimer()
				be := newBackend(b, iptables.Options{Variant: v})
				runtime.GC()
				w.start(b)
				b.StartTimer()
				_, err := be.Apply(b.Context(), p, m)
				w.stop(b)
				require.NoError(b, err)
			}
			w.report(b)
		})
		b.Run(fmt.Sprintf("variant=%s/rules=%d/change=one", v, n), func(b *testing.B) {
			be := newBackend(b, iptables.Options{Variant: v})
			both := [2]*ir.Program{p, &q}
			_, err := be.Apply(b.Context(), p, m)
			require.NoError(b, err)
			i := 1
			var w stopwatch
			w.start(b)
			for b.Loop() {
				r, err := be.Apply(b.Context(), both[i%2], m)
				require.NoError(b, err)
				require.Positive(b, r.Changes)
				i++
			}
			w.stop(b)
			w.report(b)
		})
	}
}

// BenchmarkApplyMember changes one member of a large set.
func BenchmarkApplyMember(b *testing.B) {
	const n = 100000
	p, m := rendertest.Large(100, n)
	extra := ir.Element{Prefix: netip.MustParsePrefix("172.20.5.5/32")}
	more := ir.Members{Sets: []ir.SetMembers{{ID: "s:all", Elements: append(append([]ir.Element(nil), m.Sets[0].Elements...), extra)}}}.Canonical()
	for _, v := range variants {
		b.Run(fmt.Sprintf("variant=%s/members=%d", v, n), func(b *testing.B) {
			be := newBackend(b, iptables.Options{Variant: v})
			_, err := be.Apply(b.Context(), p, m)
			require.NoError(b, err)
			both, i := [2]ir.Members{m, more}, 1
			var w stopwatch
			w.start(b)
			for b.Loop() {
				r, err := be.Apply(b.Context(), p, both[i%2])
				require.NoError(b, err)
				require.Positive(b, r.Changes)
				i++
			}
			w.stop(b)
			w.report(b)
		})
	}
}

// BenchmarkObserve reads everything back.
func BenchmarkObserve(b *testing.B) {
	p, m := rendertest.Large(10000, 1000)
	for _, v := range variants {
		b.Run("variant="+v.String(), func(b *testing.B) {
			be := newBackend(b, iptables.Options{Variant: v})
			_, err := be.Apply(b.Context(), p, m)
			require.NoError(b, err)
			for b.Loop() {
				st, err := be.Observe(b.Context())
				require.NoError(b, err)
				require.Empty(b, st.Drift)
			}
		})
	}
}
