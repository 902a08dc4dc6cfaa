// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/iptables"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// BenchmarkRender renders to typed rules and to text. Rules of "mixed" are in both families, most of them.
func BenchmarkRender(b *testing.B) {
	const n = 10000
	mixed, members := rendertest.Large(n, 10)
	for _, x := range []struct {
		name string
		p    *ir.Program
		m    ir.Members
	}{{"one", rendertest.OnePolicyEach(n), ir.Members{}}, {"mixed", mixed, members}} {
		b.Run(fmt.Sprintf("program=%s/rules=%d", x.name, n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := iptables.Render(x.p, x.m, iptables.Options{})
				require.NoError(b, err)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/rule")
		})
	}
}
