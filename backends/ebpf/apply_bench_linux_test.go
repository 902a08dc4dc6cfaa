// SPDX-License-Identifier: Apache-2.0

package ebpf_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/backends/lab/rate"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// BenchmarkApply loads a generation of n rules in policies of ten in place of another one, and a set of many members.
func BenchmarkApply(b *testing.B) {
	replace := func(b *testing.B, p *ir.Program, m ir.Members) {
		q := *p
		q.Blocks = append([]ir.Block(nil), p.Blocks...)
		for i := range q.Blocks {
			if q.Blocks[i].ID == "policy/default/policy-1/normal-in" {
				q.Blocks[i].Steps = q.Blocks[i].Steps[1:]
			}
		}
		both := [2]*ir.Program{p, &q}
		be, err := ebpf.New(ebpf.Options{NetNS: rate.NewNetns(b).FD(), Path: pinPath()})
		require.NoError(b, err)
		defer be.Close()
		_, err = be.Apply(b.Context(), p, m)
		require.NoError(b, err)
		runtime.GC()
		i := 1
		var rendered, committed float64
		for b.Loop() {
			r, err := be.Apply(b.Context(), both[i%2], m)
			require.NoError(b, err)
			rendered, committed = rendered+r.Rendered.Seconds(), committed+r.Committed.Seconds()
			i++
		}
		b.ReportMetric(1000*rendered/float64(b.N), "ms-rendered")
		b.ReportMetric(1000*committed/float64(b.N), "ms-committed")
		require.NoError(b, be.Teardown(b.Context()))
	}
	for _, c := range []struct{ rules, members int }{{10000, 10}, {100, 100000}} {
		b.Run(fmt.Sprintf("rules=%d/members=%d", c.rules, c.members), func(b *testing.B) {
			p, m := rendertest.Large(c.rules, c.members)
			replace(b, p, m)
		})
	}
}
