// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/render/nftables"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

func BenchmarkRender(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			p, m := rendertest.Large(n, 10)
			b.ReportAllocs()
			for b.Loop() {
				_, err := nftables.Render(p, m, nftables.Options{Linear: true})
				require.NoError(b, err)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/rule")
		})
	}
}

func BenchmarkText(b *testing.B) {
	p, m := rendertest.Large(10000, 10)
	r, err := nftables.Render(p, m, nftables.Options{Linear: true})
	require.NoError(b, err)
	b.ReportAllocs()
	var text []byte
	for b.Loop() {
		text = r.AppendText(text[:0])
	}
	b.SetBytes(int64(len(text)))
}
