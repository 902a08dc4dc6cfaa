// SPDX-License-Identifier: Apache-2.0

package analyze_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

func TestReachIsWhatExhaustionFinds(t *testing.T) {
	count := map[analyze.Status]int{}
	redundant := 0
	for seed := range uint64(*pairs / 2) {
		w := newWorld(seed)
		in := w.program(1+w.IntN(3), 4)
		r, err := analyze.Reach(t.Context(), in, analyze.Options{})
		require.NoError(t, err)
		require.False(t, r.Partial, r.Reason)
		require.Len(t, r.Rules, len(in.Program.Origins))
		run := interpreter(t, in)
		decides := map[flow.Origin]bool{}
		w.Packets(func(p *flow.Packet) {
			v := run.Explain(p)
			decides[v.By] = true
			i := slices.IndexFunc(r.Rules, func(x analyze.Rule) bool { return x.Origin == v.By })
			if i >= 0 {
				require.Equal(t, analyze.Decides, r.Rules[i].Status, "seed %d: %+v is decided by %s\n%s", seed, p, v.By, in.Program)
			}
			for _, h := range v.Hooks {
				if i := slices.IndexFunc(r.Rules, func(x analyze.Rule) bool { return x.Origin == h.By }); i >= 0 {
					require.False(t, r.Rules[i].Status.Dead(), "seed %d: %+v meets %s at %s\n%s", seed, p, h.By, h.Hook, in.Program)
				}
			}
			for _, o := range v.Logged {
				i := slices.IndexFunc(r.Rules, func(x analyze.Rule) bool { return x.Origin == o })
				require.False(t, r.Rules[i].Status.Dead(), "seed %d: %+v is logged by %s\n%s", seed, p, o, in.Program)
			}
		})
		for _, x := range r.Rules {
			count[x.Status]++
			if x.Status == analyze.Decides {
				require.Equal(t, x.Origin, decision(run, x.Witness).By, "seed %d: %+v\n%s", seed, x.Witness, in.Program)
			}
			if !x.Redundant {
				continue
			}
			redundant++
			other := interpreter(t, analyze.Input{Program: without(in.Program, x.Origin), Members: in.Members})
			w.Packets(func(p *flow.Packet) {
				a, b := decision(run, p), decision(other, p)
				require.Equal(t, a.Verdict, b.Verdict, "seed %d: %+v without %s\n%s", seed, p, x.Origin, in.Program)
			})
		}
	}
	t.Log(count, redundant)
	for _, s := range []analyze.Status{analyze.Decides, analyze.Matches, analyze.Shadowed, analyze.Empty} {
		require.Greater(t, count[s], *pairs/40, s)
	}
	require.Greater(t, redundant, *pairs/40)
}

// without returns the program with no rule of an origin.
func without(p *ir.Program, o flow.Origin) *ir.Program {
	q := *p
	q.Blocks = slices.Clone(p.Blocks)
	is := func(id ir.OriginID) bool { return p.Origin(id) == o }
	for i := range q.Blocks {
		steps := slices.DeleteFunc(slices.Clone(q.Blocks[i].Steps), func(s ir.Step) bool {
			r, ok := s.(ir.Rule)
			return ok && is(r.Origin)
		})
		for j, s := range steps {
			if sw, ok := s.(ir.Switch); ok {
				sw.Cases = slices.DeleteFunc(slices.Clone(sw.Cases), func(c ir.Case) bool { return is(c.Origin) })
				steps[j] = sw
			}
		}
		q.Blocks[i].Steps = steps
	}
	return ir.Canonical(&q)
}
