// SPDX-License-Identifier: Apache-2.0

package analyze_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
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

// Those that shadow a rule are enough to do so, and none of them can be left out.
func TestWhatShadowsCannotBeLess(t *testing.T) {
	several := 0
	for seed := range uint64(*pairs / 4) {
		w := newWorld(seed)
		w.Paths = []flow.Path{flow.Input}
		p := w.List(8)
		r, err := analyze.Reach(t.Context(), analyze.Input{Program: p}, analyze.Options{})
		require.NoError(t, err)
		for _, x := range r.Rules {
			if x.Status != analyze.Shadowed {
				require.True(t, x.Redundant || x.By == nil)
				continue
			}
			require.NotEmpty(t, x.By, "seed %d: %s\n%s", seed, x.Origin, p)
			only := func(but flow.Origin) *ir.Program {
				q := p
				for _, o := range p.Origins {
					if o != x.Origin && (o == but || !slices.Contains(x.By, o)) {
						q = without(q, o)
					}
				}
				return q
			}
			run := interpreter(t, analyze.Input{Program: only(flow.Origin{})})
			w.Packets(func(q *flow.Packet) {
				require.NotEqual(t, x.Origin, decision(run, q).By, "seed %d: %s is not shadowed by %s alone\n%s", seed, x.Origin, x.By, p)
			})
			for _, o := range x.By {
				// The packet that shows it need not be of this world.
				q := only(o)
				r, err := analyze.Reach(t.Context(), analyze.Input{Program: q}, analyze.Options{})
				require.NoError(t, err)
				at := slices.IndexFunc(r.Rules, func(y analyze.Rule) bool { return y.Origin == x.Origin })
				require.Equal(t, analyze.Decides, r.Rules[at].Status, "seed %d: %s is shadowed without %s, too\n%s", seed, x.Origin, o, p)
				require.Equal(t, x.Origin, decision(interpreter(t, analyze.Input{Program: q}), r.Rules[at].Witness).By)
			}
			if len(x.By) > 1 {
				several++
			}
		}
	}
	t.Log(several, "rules are shadowed by several together")
	require.Greater(t, several, *pairs/100)
}

// What evaluation shows of the way of packets agrees with what is said of Pass rules.
func TestThroughIsWhatPacketsMet(t *testing.T) {
	through, direct := 0, 0
	for seed := range uint64(*pairs / 10) {
		c := policytest.Generate(seed, policytest.Size{Packets: 500})
		in, run := resolved(t, c)
		r, err := analyze.Reach(t.Context(), in, analyze.Options{})
		require.NoError(t, err)
		known := map[flow.Origin]*analyze.Rule{}
		for i := range r.Rules {
			known[r.Rules[i].Origin.ID()] = &r.Rules[i]
		}
		check := func(p *flow.Packet) {
			var passed []flow.Origin
			for _, step := range run.Explain(p).Trace {
				o := step.Origin.ID()
				x := known[o]
				if !step.Matched || x == nil || o.Kind != flow.OriginPolicy && o.Kind != flow.OriginProfile {
					continue
				}
				if x.Through != nil {
					through++
					require.True(t, slices.ContainsFunc(x.Through, func(o flow.Origin) bool { return slices.Contains(passed, o.ID()) }),
						"seed %d: %s reaches %s without %s", seed, policytest.FormatPacket(p), o, x.Through)
				}
				if step.Effect == string(hostendpoint.Pass) {
					passed = append(passed, o)
				}
			}
		}
		for i := range c.Packets {
			check(&c.Packets[i].Packet)
		}
		for _, x := range r.Rules {
			if x.Witness == nil {
				continue
			}
			check(x.Witness)
			if x.Through == nil {
				direct++
			}
		}
	}
	t.Log(through, "packets met rules behind a Pass;", direct, "rules need none")
	require.Greater(t, through, *pairs/10)
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
