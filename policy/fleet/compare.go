// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Delta is how the hosts of a fleet differ before and after a change of its resources.
type Delta struct {
	Changes []*Change // hosts that treat some packet differently: those that change alike together, the most hosts first
	// Same are the nodes that treat every packet as before. Rewritten are those of them whose rules are others.
	Same, Rewritten []string
}

// Change is hosts that change alike. Before or After is nil for hosts that are not there then: they have no policy.
type Change struct {
	Nodes         []string // sorted
	Before, After *Group
	Report        *analyze.Report // of the first node
}

// Partial reports whether some part of the answer is missing; see analyze.Extent.
func (d *Delta) Partial() bool {
	return slices.ContainsFunc(d.Changes, func(c *Change) bool { return c.Report.Partial })
}

// Compare says which hosts change, and how. Hosts that enforce the same before and the same after are compared once.
// With o.By, hosts on which other rules decide the same change, too. The error is that of analyze.Diff.
func Compare(ctx context.Context, before, after []*Group, o analyze.Options) (*Delta, error) {
	type pair struct{ before, after *Group }
	pairs := map[pair][]string{}
	was, is := byNode(before), byNode(after)
	for node, g := range was {
		p := pair{g, is[node]}
		pairs[p] = append(pairs[p], node)
	}
	for node, g := range is {
		if was[node] == nil {
			p := pair{nil, g}
			pairs[p] = append(pairs[p], node)
		}
	}
	d := &Delta{}
	for p, nodes := range pairs {
		slices.Sort(nodes)
		if p.before != nil && p.after != nil && p.before.Fingerprint == p.after.Fingerprint {
			d.Same = append(d.Same, nodes...)
			continue
		}
		d.Changes = append(d.Changes, &Change{Nodes: nodes, Before: p.before, After: p.after})
	}
	slices.SortFunc(d.Changes, func(a, b *Change) int {
		return cmp.Or(cmp.Compare(len(b.Nodes), len(a.Nodes)), strings.Compare(a.Nodes[0], b.Nodes[0]))
	})
	var changes []*Change
	for _, c := range d.Changes {
		var err error
		if c.Report, err = analyze.Diff(ctx, c.Before.input(), c.After.input(), o); err != nil {
			return nil, fmt.Errorf("node %s: %w", c.Nodes[0], err)
		}
		if len(c.Report.Changes) == 0 && !c.Report.Partial {
			d.Same = append(d.Same, c.Nodes...)
			d.Rewritten = append(d.Rewritten, c.Nodes...)
			continue
		}
		changes = append(changes, c)
	}
	d.Changes = changes
	slices.Sort(d.Same)
	slices.Sort(d.Rewritten)
	return d, nil
}

// input returns what the group enforces; nothing for nil.
func (g *Group) input() analyze.Input {
	if g == nil {
		return analyze.Input{Program: &ir.Program{}}
	}
	return analyze.Input{Program: g.Program, Members: g.Members}
}

func byNode(groups []*Group) map[string]*Group {
	out := map[string]*Group{}
	for _, g := range groups {
		for _, n := range g.Nodes {
			out[n] = g
		}
	}
	return out
}
