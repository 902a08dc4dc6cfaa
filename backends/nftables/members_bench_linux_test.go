// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// BenchmarkReplaceMembers replaces all members of a large set by others.
//
//	go test -run '^$' -bench ReplaceMembers -benchtime 5x ./backends/nftables
func BenchmarkReplaceMembers(b *testing.B) {
	const n = 100000
	for _, kind := range []struct {
		name string
		bits int
		step uint32
	}{{"addresses", 32, 2}, {"nets", 28, 32}} {
		b.Run(fmt.Sprintf("members=%d/kind=%s", n, kind.name), func(b *testing.B) {
			p, _ := rendertest.Large(100, 1)
			var gens [2]ir.Members
			for g := range gens {
				es := make([]ir.Element, n)
				for i := range es {
					x := 0x0a000000 + uint32(g)*kind.step/2 + uint32(i)*kind.step
					es[i].Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(x >> 24), byte(x >> 16), byte(x >> 8), byte(x)}), kind.bits)
				}
				gens[g] = ir.Members{Sets: []ir.SetMembers{{ID: "s:all", Elements: es}}}
			}
			be := newBackend(b, nftables.Options{})
			_, err := be.Apply(b.Context(), p, gens[0])
			require.NoError(b, err)
			i := 1
			var rendered, committed float64
			for b.Loop() {
				r, err := be.Apply(b.Context(), p, gens[i%2])
				require.NoError(b, err)
				rendered, committed = rendered+r.Rendered.Seconds()*1e3, committed+r.Committed.Seconds()*1e3
				i++
			}
			b.ReportMetric(rendered/float64(b.N), "rendered-ms")
			b.ReportMetric(committed/float64(b.N), "committed-ms")
		})
	}
}
