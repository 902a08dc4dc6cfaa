// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/iptables"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

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
			for b.Loop() {
				b.StopTimer()
				be := newBackend(b, iptables.Options{Variant: v})
				runtime.GC()
				b.StartTimer()
				_, err := be.Apply(b.Context(), p, m)
				require.NoError(b, err)
			}
		})
		b.Run(fmt.Sprintf("variant=%s/rules=%d/change=one", v, n), func(b *testing.B) {
			be := newBackend(b, iptables.Options{Variant: v})
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
			for b.Loop() {
				r, err := be.Apply(b.Context(), p, both[i%2])
				require.NoError(b, err)
				require.Positive(b, r.Changes)
				i++
			}
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
