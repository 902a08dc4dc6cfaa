// SPDX-License-Identifier: Apache-2.0

package oracle_test

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/analyze/oracle"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/eval"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
	"github.com/hostpolicy/hostpolicy/policy/policytest/irtest"
)

var pairs = flag.Int("pairs", 200, "how many pairs of random programs are compared; they are the pairs of the tests of package analyze")

// judge compares answers at places of its choice, and counts what it saw.
type judge struct {
	*rand.Rand
	translated []bool // both unless a test says otherwise
	places     int
	boxes      int
}

func newJudge() *judge {
	return &judge{Rand: rand.New(rand.NewPCG(1, 2)), translated: []bool{false, true}}
}

// names returns interface names for each kind that programs tell apart.
func names(inputs ...analyze.Input) []string {
	out := []string{"zz9"}
	add := func(s string) {
		for _, n := range []string{s, s + "~"} {
			if _, ok := ir.Name(n); ok && !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	for _, in := range inputs {
		for _, b := range in.Program.Blocks {
			for _, st := range b.Steps {
				var m ir.Match
				switch st := st.(type) {
				case ir.Rule:
					m = st.Match
				case ir.Call:
					m = st.Match
				case ir.Switch:
					for _, c := range st.Cases {
						for i, f := range st.Key {
							if f == ir.InIface || f == ir.OutIface {
								add(strings.TrimRight(string(c.Key[i].Lo[:]), "\x00"))
							}
						}
					}
				}
				for _, c := range m {
					for _, term := range c {
						if n, ok := term.(ir.InNames); ok {
							for _, p := range n.Names {
								add(p.Name)
							}
						}
					}
				}
			}
		}
	}
	return out
}

func (j *judge) place(path flow.Path, names []string) oracle.Place {
	pl := oracle.Place{Path: path, State: flow.ConnState(j.IntN(5)), DstLocal: j.IntN(2) == 0}
	if path != flow.Output {
		pl.In = names[j.IntN(len(names))]
	}
	if path == flow.Output || path == flow.Forward {
		pl.Out = names[j.IntN(len(names))]
	}
	if path == flow.Output {
		pl.RouteOut = names[j.IntN(len(names))]
	}
	return pl
}

// each calls do at n places of each path, in both families, with and without NAT, as the inputs tell interfaces apart.
func (j *judge) each(n int, do func(s *oracle.Space, pl oracle.Place, ds []oracle.Decisions) error, inputs ...analyze.Input) error {
	known := names(inputs...)
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		for _, translated := range j.translated {
			s, err := oracle.NewSpace(f, translated)
			if err != nil {
				return err
			}
			for _, path := range []flow.Path{flow.Input, flow.Output, flow.Forward, flow.Local} {
				for range n {
					pl := j.place(path, known)
					var ds []oracle.Decisions
					for _, in := range inputs {
						d, err := oracle.Decide(s, in, pl)
						if err != nil {
							return err
						}
						ds = append(ds, d)
					}
					j.places++
					if err := do(s, pl, ds); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// judge compares a report.
func (j *judge) judge(before, after analyze.Input, r *analyze.Report, by bool, n int) error {
	return j.each(n, func(s *oracle.Space, pl oracle.Place, ds []oracle.Decisions) error {
		return oracle.CompareDiff(s, ds[0], ds[1], r, pl, by)
	}, before, after)
}

// diff compares two inputs both ways, and returns the report.
func (j *judge) diff(t *testing.T, before, after analyze.Input, by bool, n int, what ...any) *analyze.Report {
	t.Helper()
	r, err := analyze.Diff(t.Context(), before, after, analyze.Options{By: by})
	require.NoError(t, err, what...)
	require.False(t, r.Partial, what...)
	if err := j.judge(before, after, r, by, n); err != nil {
		t.Fatalf("%v: %v\nbefore\n%safter\n%s", what, err, before.Program, after.Program)
	}
	for _, c := range r.Changes {
		j.boxes += len(c.Boxes)
	}
	return r
}

// pair makes the pair of random programs that the exhaustive test of Diff makes of a seed.
func pair(seed uint64) (before, after analyze.Input, by bool) {
	w := irtest.NewWorld(seed)
	p, m := w.Program(1+w.IntN(3), 3)
	before = analyze.Input{Program: p, Members: m}
	after = analyze.Input{Program: w.Edit(p), Members: m}
	if w.IntN(3) == 0 {
		after.Program, after.Members = w.Program(1+w.IntN(3), 3)
	}
	return before, after, w.IntN(2) == 0
}

func TestDiffOfRandomPairs(t *testing.T) {
	j := newJudge()
	for seed := range uint64(*pairs) {
		a, b, by := pair(seed)
		j.diff(t, a, b, by, 1, "seed", seed)
	}
	t.Log(j.places, "places,", j.boxes, "boxes")
	require.Greater(t, j.boxes, *pairs)
}

// Rules of the shapes that hosts have, some of which cross each other in every field.
func TestDiffOfManyRules(t *testing.T) {
	j := newJudge()
	input := func(rules []policy.Rule) analyze.Input {
		p, m, err := irtest.Host(rules)
		require.NoError(t, err)
		return analyze.Input{Program: p, Members: m}
	}
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		m := irtest.NewMaker(5, f)
		rules := m.Rules(60)
		j.diff(t, input(rules), input(irtest.Edited(rules, 5, m)), true, 2, f, "edited")
		j.diff(t, input(rules), input(m.Rules(60)), false, 2, f, "unrelated")
		j.diff(t, input(m.Wide(6)), input(m.Wide(6)), false, 2, f, "wide")
	}
	require.Greater(t, j.boxes, 300)
	t.Log(j.places, "places,", j.boxes, "boxes")
}

// compiled returns what a case enforces, and the evaluator for it, which reads resources and not programs.
func compiled(t *testing.T, r hostendpoint.Resources, c *policytest.Case) (analyze.Input, *eval.Evaluator) {
	t.Helper()
	s, err := policy.Resolve(r, c.Host, c.Config)
	require.NoError(t, err, c.Name)
	p, m, err := compile.Compile(s)
	require.NoError(t, err, c.Name)
	return analyze.Input{Program: p, Members: m}, eval.New(s)
}

// Three opinions on policies: Diff, the diagrams, and the evaluator on packets that are drawn from the diagrams.
func TestPoliciesAtRandom(t *testing.T) {
	j := newJudge()
	asked := 0
	for seed := range uint64(*pairs / 10) {
		a := policytest.Generate(2*seed, policytest.Size{Packets: 1})
		b := policytest.Generate(2*seed+1, policytest.Size{Packets: 1})
		x, runX := compiled(t, a.Resources, a)
		y, runY := compiled(t, b.Resources, a)
		asked += j.three(t, x, y, runX, runY, fmt.Sprint("seed ", seed))
	}
	t.Log(j.places, "places,", j.boxes, "boxes,", asked, "packets")
	require.Greater(t, asked, *pairs)
}

func (j *judge) three(t *testing.T, x, y analyze.Input, runX, runY *eval.Evaluator, name string) (asked int) {
	t.Helper()
	r, err := analyze.Diff(t.Context(), x, y, analyze.Options{})
	require.NoError(t, err, name)
	require.False(t, r.Partial, name)
	for _, c := range r.Changes {
		j.boxes += len(c.Boxes)
	}
	coin := func() bool { return j.IntN(2) == 0 }
	err = j.each(1, func(s *oracle.Space, pl oracle.Place, ds []oracle.Decisions) error {
		if err := oracle.CompareDiff(s, ds[0], ds[1], r, pl, false); err != nil {
			return err
		}
		for i, run := range []*eval.Evaluator{runX, runY} {
			// In an order, so that the same packets are drawn in every run.
			for _, d := range slices.SortedFunc(maps.Keys(ds[i]), func(a, b analyze.Decision) int { return cmp.Compare(a.String(), b.String()) }) {
				set := ds[i][d]
				p := pl.Packet(s.Sample(set, coin))
				if !s.Has(set, &p) {
					return fmt.Errorf("%+v is not in the set that it was drawn from", p)
				}
				if v, by := run.Decide(&p); v != d.Verdict || by.ID() != d.By.ID() {
					return fmt.Errorf("%s: the evaluator says %s by %s, the diagrams %s", policytest.FormatPacket(&p), v, by, d)
				}
				before, _ := runX.Decide(&p)
				after, _ := runY.Decide(&p)
				in := slices.ContainsFunc(r.Changes, func(c analyze.Change) bool {
					return slices.ContainsFunc(c.Boxes, func(b analyze.Box) bool { return b.Contains(&p) })
				})
				if in != (before != after) {
					return fmt.Errorf("%s: %s becomes %s, but Diff says %t", policytest.FormatPacket(&p), before, after, in)
				}
				asked++
			}
		}
		return nil
	}, x, y)
	require.NoError(t, err, name)
	return asked
}

// The cases that are written by hand: each against the same without one of its policies, and against nothing.
func TestCases(t *testing.T) {
	cases, err := policytest.Cases()
	require.NoError(t, err)
	j := newJudge()
	asked := 0
	for i, c := range cases {
		// With NAT and without take turns.
		j.translated = []bool{i%2 == 1}
		x, runX := compiled(t, c.Resources, c)
		less := c.Resources
		if n := len(less.GlobalNetworkPolicies); n > 0 && i%4 != 0 {
			less.GlobalNetworkPolicies = slices.Delete(slices.Clone(less.GlobalNetworkPolicies), i%n, i%n+1)
		} else {
			less = hostendpoint.Resources{}
		}
		y, runY := compiled(t, less, c)
		asked += j.three(t, x, y, runX, runY, c.Name)
	}
	t.Log(len(cases), "cases,", j.places, "places,", j.boxes, "boxes,", asked, "packets")
	require.Greater(t, j.boxes, len(cases))
}

// The other questions have the same answer as the diagrams, too.
func TestWhoAndReach(t *testing.T) {
	j := newJudge()
	decided := 0
	for seed := range uint64(*pairs / 3) {
		in, _, _ := pair(seed)
		who, err := analyze.Who(t.Context(), in, analyze.Query{Verdicts: []flow.Verdict{flow.Allow, flow.Deny, flow.None}}, analyze.Options{})
		require.NoError(t, err)
		reach, err := analyze.Reach(t.Context(), in, analyze.Options{})
		require.NoError(t, err)
		require.NoError(t, j.each(1, func(s *oracle.Space, pl oracle.Place, ds []oracle.Decisions) error {
			for d := range ds[0] {
				at := slices.IndexFunc(reach.Rules, func(r analyze.Rule) bool { return r.Origin == d.By })
				if at >= 0 && reach.Rules[at].Status != analyze.Decides {
					return fmt.Errorf("%+v: %s decides, but is called %s", pl, d.By, reach.Rules[at].Status)
				}
				decided++
			}
			return oracle.CompareWho(s, ds[0], who, pl)
		}, in), "seed %d\n%s", seed, in.Program)
	}
	require.Greater(t, decided, *pairs)
}

// An answer that is wrong in the least is found out.
func TestTheOracleFindsMistakes(t *testing.T) {
	j := newJudge()
	found := map[string]int{}
	for seed := range uint64(20) {
		f := inet.IPv4
		if seed%2 == 1 {
			f = inet.IPv6
		}
		m := irtest.NewMaker(seed, f)
		rules := m.Rules(10)
		p, members, err := irtest.Host(rules)
		require.NoError(t, err)
		q, others, err := irtest.Host(irtest.Edited(rules, 2, m))
		require.NoError(t, err)
		before, after := analyze.Input{Program: p, Members: members}, analyze.Input{Program: q, Members: others}
		r, err := analyze.Diff(t.Context(), before, after, analyze.Options{})
		require.NoError(t, err)
		require.NoError(t, j.judge(before, after, r, false, 4))
		if len(r.Changes) == 0 {
			continue
		}
		for what, break_ := range map[string]func(r *analyze.Report){
			"a box is lost":    func(r *analyze.Report) { r.Changes[0].Boxes = r.Changes[0].Boxes[1:] },
			"a box is twice":   func(r *analyze.Report) { r.Changes[0].Boxes = append(r.Changes[0].Boxes, r.Changes[0].Boxes[0]) },
			"a change is lost": func(r *analyze.Report) { r.Changes = r.Changes[1:] },
			"a port too many":  func(r *analyze.Report) { moreOf(&r.Changes[0].Boxes[0]) },
			"a rule is another": func(r *analyze.Report) {
				r.Changes[0].After.By = flow.Origin{Kind: flow.OriginPolicy, Tier: "t", Name: "x"}
			},
			"the wrong way": func(r *analyze.Report) { c := &r.Changes[0]; c.Before, c.After = c.After, c.Before },
			"an address less": func(r *analyze.Report) {
				b := &r.Changes[0].Boxes[0]
				one, err := inet.NewPrefixSet(netip.PrefixFrom(r.Changes[0].Witness.Src, r.Changes[0].Witness.Src.BitLen()))
				require.NoError(t, err)
				b.Src = b.Src.Minus(one)
			},
		} {
			bad := &analyze.Report{}
			for _, c := range r.Changes {
				c.Boxes = slices.Clone(c.Boxes)
				bad.Changes = append(bad.Changes, c)
			}
			break_(bad)
			if err := atWitness(t, before, after, bad, &r.Changes[0].Witness); err != nil {
				found[what]++
			} else {
				t.Errorf("seed %d: %s, and nobody noticed", seed, what)
			}
		}
	}
	t.Log(found)
	for _, what := range []string{"a box is lost", "a box is twice", "a change is lost", "a port too many", "a rule is another", "the wrong way", "an address less"} {
		require.Greater(t, found[what], 5, what)
	}
}

// moreOf adds something to a box.
func moreOf(b *analyze.Box) {
	if rest := b.DstPorts.Complement(); !rest.IsEmpty() {
		one, _ := inet.NewPortSet(inet.PortRange{Min: rest.Ranges()[0].Min, Max: rest.Ranges()[0].Min})
		b.DstPorts = b.DstPorts.Union(one)
		return
	}
	for p := range b.Protocols {
		b.Protocols[p] = ^uint64(0)
	}
}

// atWitness compares a report at the place of a packet.
func atWitness(t *testing.T, before, after analyze.Input, r *analyze.Report, p *flow.Packet) error {
	t.Helper()
	s, err := oracle.NewSpace(inet.FamilyOf(p.Src), p.NATDst.IsValid())
	require.NoError(t, err)
	pl := oracle.Place{Path: p.Path, In: p.In, Out: p.Out, State: p.State, DstLocal: p.DstLocal, RouteOut: p.RouteOut}
	x, err := oracle.Decide(s, before, pl)
	require.NoError(t, err)
	y, err := oracle.Decide(s, after, pl)
	require.NoError(t, err)
	return oracle.CompareDiff(s, x, y, r, pl, false)
}
