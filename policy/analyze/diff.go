// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Report is the difference between two programs.
type Report struct {
	Changes []Change // largest first
	// Samples are packets that change and are in no box of Changes: of a partial report alone, and one for each pair of
	// decisions at most. They come from where not all packets were looked at, and show that there is more; that there
	// are none shows nothing.
	Samples []Sample
	Extent
}

// Change is a set of packets on which two programs differ. Each packet that changes is in exactly one box of exactly one
// change, unless the report is partial.
type Change struct {
	Before, After Decision
	Boxes         []Box       // disjoint, largest first
	Witness       flow.Packet // a packet of the first box
	// Share is the part of all packets that changes, if each field has each of its values equally often: between 0 and
	// 1, a measure to sort by. The families count half each.
	Share float64
}

// Diff returns the packets that the two programs treat differently. The answer is complete unless it is partial, which it
// is if ctx ends or another limit is met; then, unless ctx was canceled, a bounded number of packets is tried where not all
// were looked at. The error is that of ir.Validate, or wraps classify.ErrTooLarge.
func Diff(ctx context.Context, before, after Input, o Options) (*Report, error) {
	a, err := newAnalysis(ctx, o, false, before, after)
	if err != nil {
		return nil, err
	}
	ps := newPlaces(a.sides, nil)
	c := newCollector(ps, a.sets, a.budget, o)
	var left []unfinished
	for i := range ps.groups {
		g := &ps.groups[i]
		for _, g.family = range families {
			chains, err := a.chains(&g.place)
			if err != nil {
				return nil, err
			}
			if a.reason == "" {
				d := newDiagram(a.budget, a.sets, g.family, a.class(o.By), chains...)
				c.take(d, d.build(d.pair(len(chains[0]))), g)
			}
			if a.reason != "" {
				left = append(left, unfinished{g, g.family, chains})
			}
		}
	}
	r := &Report{Extent: a.extent()}
	for p := range c.raws {
		x := Change{Before: a.decisions[p.a], After: a.decisions[p.b]}
		x.Boxes, x.Share = c.boxes(p)
		x.Witness = x.Boxes[0].Packet()
		r.Changes = append(r.Changes, x)
	}
	slices.SortFunc(r.Changes, func(x, y Change) int {
		return cmp.Or(cmp.Compare(y.Share, x.Share), compareDecisions(x.Before, y.Before), compareDecisions(x.After, y.After))
	})
	if !errors.Is(ctx.Err(), context.Canceled) {
		r.Samples = a.sample(c, left, r.Changes, o.By)
	}
	return r, nil
}

func compareDecisions(x, y Decision) int {
	return cmp.Or(cmp.Compare(x.Verdict, y.Verdict), cmp.Compare(x.By.String(), y.By.String()))
}

// analysis is what all questions begin with.
type analysis struct {
	*budget
	sides     []*side
	sets      *spanSets
	decisions []Decision
	by        []int32 // by decision: the OriginID on its side
	ids       map[decisionKey]int32
}

type decisionKey struct {
	side    int
	verdict flow.Verdict
	by      ir.OriginID
}

func newAnalysis(ctx context.Context, o Options, all bool, inputs ...Input) (*analysis, error) {
	a := &analysis{budget: newBudget(ctx, o), sets: newSpanSets(), ids: map[decisionKey]int32{}}
	what := [...]string{"before: ", "after: "}
	for i, in := range inputs {
		s, err := newSide(in, a.sets, all)
		if err != nil && len(inputs) > 1 {
			err = fmt.Errorf("%s%w", what[i], err)
		}
		if err != nil {
			return nil, err
		}
		a.sides = append(a.sides, s)
	}
	return a, nil
}

// chains returns what packets of a place meet on each side.
func (a *analysis) chains(pl *place) ([]chain, error) {
	out := make([]chain, len(a.sides))
	for n, s := range a.sides {
		var err error
		if out[n], err = buildChain(s, n, pl, func(v flow.Verdict, by ir.OriginID) int32 { return a.decide(n, v, by) }); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (a *analysis) decide(side int, v flow.Verdict, by ir.OriginID) int32 {
	k := decisionKey{side, v, by}
	id, ok := a.ids[k]
	if !ok {
		id = int32(len(a.decisions))
		a.ids[k] = id
		d := Decision{Verdict: v}
		switch {
		case by != 0:
			d.By = a.sides[side].origins[by-1]
		case v == flow.None:
			d.By.Kind = flow.OriginNoEndpoint
		}
		a.decisions, a.by = append(a.decisions, d), append(a.by, int32(by))
	}
	return id
}

// class returns which decisions are the same: those with one verdict, and with by those of one rule.
func (a *analysis) class(by bool) []int32 {
	out := make([]int32, len(a.decisions))
	known := map[Decision]int32{}
	for i, d := range a.decisions {
		out[i] = int32(d.Verdict)
		if by {
			d.By = d.By.ID()
			id, ok := known[d]
			if !ok {
				id = int32(len(known))
				known[d] = id
			}
			out[i] = id
		}
	}
	return out
}
