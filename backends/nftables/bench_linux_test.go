// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// BenchmarkApply loads a table from nothing, and changes one rule of it.
func BenchmarkApply(b *testing.B) {
	const n = 10000
	p, m := rendertest.Large(n, 10)
	require.NoError(b, ir.Validate(p, m))
	b.Run(fmt.Sprintf("rules=%d/change=all", n), func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			be := newBackend(b, nftables.Options{})
			runtime.GC()
			b.StartTimer()
			_, err := be.Apply(b.Context(), p, m)
			require.NoError(b, err)
		}
	})
	b.Run(fmt.Sprintf("rules=%d/change=one", n), func(b *testing.B) {
		be := newBackend(b, nftables.Options{})
		q := *p
		q.Blocks = append([]ir.Block(nil), p.Blocks...)
		for i := range q.Blocks {
			if q.Blocks[i].ID == "policy/default/policy-500/normal-in" {
				q.Blocks[i].Steps = q.Blocks[i].Steps[1:]
			}
		}
		both := [2]*ir.Program{p, &q}
		_, err := be.Apply(b.Context(), p, m)
		require.NoError(b, err)
		i := 1
		for b.Loop() {
			r, err := be.Apply(b.Context(), both[i%2], m)
			require.NoError(b, err)
			require.Positive(b, r.Changes)
			i++
		}
	})
}

// BenchmarkApplyMember changes one member of a large set.
func BenchmarkApplyMember(b *testing.B) {
	const n = 100000
	p, m := rendertest.Large(100, n)
	extra := ir.Element{Prefix: netip.MustParsePrefix("172.20.5.5/32")}
	b.Run(fmt.Sprintf("members=%d/how=delta", n), func(b *testing.B) {
		be := newBackend(b, nftables.Options{})
		_, err := be.Apply(b.Context(), p, m)
		require.NoError(b, err)
		on := false
		for b.Loop() {
			c := ir.MembersChange{ID: "s:all", Added: []ir.Element{extra}}
			if on {
				c = ir.MembersChange{ID: "s:all", Removed: []ir.Element{extra}}
			}
			on = !on
			r, err := be.ApplyMembers(b.Context(), ir.MembersChanges{c})
			require.NoError(b, err)
			require.Positive(b, r.Changes)
		}
	})
	b.Run(fmt.Sprintf("members=%d/how=whole", n), func(b *testing.B) {
		be := newBackend(b, nftables.Options{})
		more := ir.Members{Sets: []ir.SetMembers{{ID: "s:all", Elements: append(append([]ir.Element(nil), m.Sets[0].Elements...), extra)}}}.Canonical()
		_, err := be.Apply(b.Context(), p, m)
		require.NoError(b, err)
		both, i := [2]ir.Members{m, more}, 1
		for b.Loop() {
			r, err := be.Apply(b.Context(), p, both[i%2])
			require.NoError(b, err)
			require.Positive(b, r.Changes)
			i++
		}
	})
}

// BenchmarkObserve reads a large table back.
func BenchmarkObserve(b *testing.B) {
	p, m := rendertest.Large(10000, 1000)
	be := newBackend(b, nftables.Options{})
	_, err := be.Apply(b.Context(), p, m)
	require.NoError(b, err)
	for b.Loop() {
		st, err := be.Observe(b.Context())
		require.NoError(b, err)
		require.Empty(b, st.Drift)
	}
}
