// SPDX-License-Identifier: Apache-2.0

package selector_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/selector"
)

// benchLabels are 11 labels, k0 to k10: more than the eight that a Go map keeps in one group.
func benchLabels() selector.MapLabels {
	m := selector.MapLabels{}
	for i := range 11 {
		m[fmt.Sprintf("k%d", i)] = fmt.Sprintf("v%d", i)
	}
	m["k6"] = "w6"
	m["k4"], m["k5"] = "v4", "v5"
	return m
}

// benchSelectors all hold for benchLabels.
var benchSelectors = []struct{ name, text string }{
	{"eq", `k3 == 'v3'`},
	{"has-and-eq", `has(k1) && k2 == "v2"`},
	{"in-10", `k7 in {"a0", "a1", "a2", "v3", "v4", "v5", "v6", "v7", "v8", "v9"}`},
	{"and-of-10-or", andOfOrs()},
	{"mixed", `k4 ends with '4' && k5 contains 'v' && !(k6 starts with 'x')`},
}

func andOfOrs() string {
	var terms []string
	for i := range 10 {
		if i == 6 {
			terms = append(terms, "(k10 == 'v10' || has(zz10))")
			continue
		}
		terms = append(terms, fmt.Sprintf("(k%d == 'v%d' || has(zz%d))", i, i, i))
	}
	return strings.Join(terms, " && ")
}

func BenchmarkParse(b *testing.B) {
	for _, s := range benchSelectors {
		b.Run("selector="+s.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := selector.Parse(s.text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, s := range benchSelectors {
		sel, err := selector.Parse(s.text)
		require.NoError(b, err)
		labels := benchLabels()
		b.Run("selector="+s.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !sel.Matches(labels) {
					b.Fatal("no match")
				}
			}
		})
	}
}

func BenchmarkID(b *testing.B) {
	for _, s := range benchSelectors {
		sel, err := selector.Parse(s.text)
		require.NoError(b, err)
		b.Run("selector="+s.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = sel.ID()
			}
		})
	}
}

func TestAllocations(t *testing.T) {
	labels := benchLabels()
	limits := map[string]float64{"eq": 4, "has-and-eq": 6, "in-10": 10, "and-of-10-or": 49, "mixed": 11}
	for _, s := range benchSelectors {
		sel, err := selector.Parse(s.text)
		require.NoError(t, err)
		require.True(t, sel.Matches(labels), s.text)
		require.Zero(t, testing.AllocsPerRun(100, func() { sel.Matches(labels) }), s.text)
		require.LessOrEqual(t, testing.AllocsPerRun(100, func() { _, _ = selector.Parse(s.text) }), limits[s.name], s.text)
	}
}
