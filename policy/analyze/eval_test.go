// SPDX-License-Identifier: Apache-2.0

package analyze_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/eval"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// The evaluator reads resources, not programs, so that it is another opinion on everything below the question.
func TestDiffAgreesWithTheEvaluator(t *testing.T) {
	changed := 0
	for seed := range uint64(*pairs / 20) {
		a := policytest.Generate(2*seed, policytest.Size{Packets: 300})
		b := policytest.Generate(2*seed+1, policytest.Size{Packets: 300})
		b.Host, b.Config = a.Host, a.Config
		x, runX := resolved(t, a)
		y, runY := resolved(t, b)
		r, err := analyze.Diff(t.Context(), x, y, analyze.Options{})
		require.NoError(t, err)
		require.False(t, r.Partial, r.Reason)
		ask := func(p *flow.Packet) {
			before, after := runX.Explain(p), runY.Explain(p)
			at, n := where(r, p)
			want := 0
			if before.Verdict != after.Verdict {
				want = 1
				changed++
			}
			require.Equal(t, want, n, "seed %d: %s", seed, policytest.FormatPacket(p))
			if n == 1 {
				require.Equal(t, analyze.Decision{Verdict: before.Verdict, By: before.By.ID()}, id(r.Changes[at].Before))
				require.Equal(t, analyze.Decision{Verdict: after.Verdict, By: after.By.ID()}, id(r.Changes[at].After))
			}
		}
		for i := range a.Packets {
			ask(&a.Packets[i].Packet)
		}
		for _, c := range r.Changes {
			for i := range c.Boxes {
				p := c.Boxes[i].Packet()
				ask(&p)
			}
		}
	}
	t.Log(changed, "packets change")
	require.Greater(t, changed, *pairs)
}

func id(d analyze.Decision) analyze.Decision {
	return analyze.Decision{Verdict: d.Verdict, By: d.By.ID()}
}

func resolved(t *testing.T, c *policytest.Case) (analyze.Input, *eval.Evaluator) {
	s, err := policy.Resolve(c.Resources, c.Host, c.Config)
	require.NoError(t, err)
	p, m, err := compile.Compile(s)
	require.NoError(t, err)
	return analyze.Input{Program: p, Members: m}, eval.New(s)
}
