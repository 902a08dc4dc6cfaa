// SPDX-License-Identifier: Apache-2.0

package analyze_test

import (
	"context"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/policytest/irtest"
)

func BenchmarkDiff(b *testing.B) {
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		for _, c := range []struct {
			rules int
			kind  string
		}{{1000, "edits=5"}, {1000, "unrelated"}, {3000, "edits=5"}, {3000, "unrelated"}} {
			b.Run(fmt.Sprintf("family=%s/rules=%d/%s", f, c.rules, c.kind), func(b *testing.B) {
				m := irtest.NewMaker(1, f)
				rules := m.Rules(c.rules)
				other := irtest.Edited(rules, 5, m)
				if c.kind == "unrelated" {
					other = m.Rules(c.rules)
				}
				x, y := hostWith(b, rules), hostWith(b, other)
				b.ReportAllocs()
				var r *analyze.Report
				begin := processorTime()
				for b.Loop() {
					var err error
					r, err = analyze.Diff(context.Background(), x, y, analyze.Options{})
					require.NoError(b, err)
					if r.Partial {
						b.Log(r.Reason)
					}
				}
				b.ReportMetric(float64((processorTime()-begin).Milliseconds())/float64(b.N), "cpu-ms/op")
				boxes := 0
				for _, c := range r.Changes {
					boxes += len(c.Boxes)
				}
				b.ReportMetric(float64(len(r.Changes)), "changes")
				b.ReportMetric(float64(boxes), "boxes")
				b.ReportMetric(float64(r.States), "states")
			})
		}
	}
}

func BenchmarkDiffWide(b *testing.B) {
	for seed := range uint64(20) {
		f := []inet.Family{inet.IPv4, inet.IPv6}[seed%2]
		b.Run(fmt.Sprintf("family=%s/rules=100/seed=%d", f, seed/2), func(b *testing.B) {
			m := irtest.NewMaker(seed/2, f)
			x, y := hostWith(b, m.Wide(100)), hostWith(b, m.Wide(100))
			var r *analyze.Report
			var before, after runtime.MemStats
			for b.Loop() {
				runtime.ReadMemStats(&before)
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				var err error
				r, err = analyze.Diff(ctx, x, y, analyze.Options{})
				require.NoError(b, err)
				cancel()
				runtime.ReadMemStats(&after)
			}
			b.ReportMetric(float64(r.States), "states")
			b.ReportMetric(float64(len(r.Changes)), "changes")
			b.ReportMetric(float64(len(r.Samples)), "samples")
			b.ReportMetric(float64(after.Sys>>20), "MiB")
			b.Log(r.Reason)
		})
	}
}

func BenchmarkReach(b *testing.B) {
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			x := hostWith(b, irtest.NewMaker(1, inet.IPv4).Rules(n))
			var r *analyze.Reachability
			for b.Loop() {
				var err error
				r, err = analyze.Reach(context.Background(), x, analyze.Options{})
				require.NoError(b, err)
			}
			dead, redundant := 0, 0
			for _, x := range r.Rules {
				if x.Status.Dead() {
					dead++
				}
				if x.Redundant {
					redundant++
				}
			}
			b.ReportMetric(float64(dead), "dead")
			b.ReportMetric(float64(redundant), "redundant")
			b.ReportMetric(float64(r.States), "states")
			b.Log(r.Extent)
		})
	}
}

// processorTime returns what this process has used: the measure that other work on the machine does not change.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
