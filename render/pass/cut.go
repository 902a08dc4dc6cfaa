// SPDX-License-Identifier: Apache-2.0

package pass

import (
	"cmp"
	"math"
	"math/bits"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// allPorts is every port. Rendered, a test for it is one for the protocols that have ports.
var allPorts = []inet.PortRange{{Max: 65535}}

// cell is a range of values with the narrow rules that hold all of it, by their positions in the list.
type cell struct {
	span.Span
	narrow []int32
}

// cut is a list taken apart by the values of one field.
type cut struct {
	dim   dim
	cells []cell  // sorted, disjoint, each with a rule
	wide  []int32 // positions of the rules that stand apart from cells; all that match packets without the field are
}

const (
	// minCopies is in how many cells a narrow rule may always be, on average.
	minCopies = 2
	// maxPrefixes is how many blocks of the first wide rules there may be.
	maxPrefixes = 8
	// perCopy is about what a copy adds to the program: a rule or a call, and its part of a case.
	perCopy = 2
)

// bestCut returns the cut that leaves the fewest rules to look at; false if looking at all of them costs less. The program
// may grow to about so many rules.
func (t *tree) bestCut(list []ref, rules int) (*cut, bool) {
	var best *draft
	at := &t.drafts[0] // what is at work; the other is the best so far
	for d := range numDims {
		for copies := t.effort.copies; copies >= minCopies; copies /= 2 {
			all, ok := t.draft(at, list, d, min(copies, max(rules/perCopy/len(list), minCopies)))
			if !ok {
				break
			}
			// A cut that leaves nearly everything wide is not worth its Switch.
			worth := at.mean+float64(len(list)-len(at.narrow))+float64(min(switchCost, t.l.o.MinRules)) < float64(len(list))
			if worth && (best == nil || at.score < best.score) {
				best = at
				at = &t.drafts[0]
				if at == best {
					at = &t.drafts[1]
				}
			}
			if all {
				break
			}
		}
	}
	if best == nil {
		return nil, false
	}
	return t.cut(list, best), true
}

// draft is a cut before its cells are made.
type draft struct {
	dim    dim
	points []span.Key // where cells begin; values before the first are in none
	narrow []int32
	mean   float64 // of the numbers of narrow rules in the cells
	score  float64 // about what a packet costs, in rules looked at
}

// draft makes c a draft for a field, with narrow rules that are in so many cells on average. It reports false if there is
// none, and whether no rule was left out for being in too many.
func (t *tree) draft(c *draft, list []ref, d dim, most int) (all, ok bool) {
	t.work -= len(list)
	*c = draft{dim: d, points: c.points[:0], narrow: c.narrow[:0]}
	for i, r := range list {
		s := t.set(r, d)
		if s == nil || s.absent || len(s.spans) == 0 {
			continue
		}
		c.narrow = append(c.narrow, int32(i))
		for _, x := range s.spans {
			c.points = append(c.points, x.Lo)
			if x.Hi != d.top() {
				c.points = append(c.points, x.Hi.Next())
			}
		}
	}
	if len(c.narrow) < 2 {
		return false, false
	}
	slices.SortFunc(c.points, span.Key.Compare)
	c.points = slices.Compact(c.points)
	widths := make([]int, len(c.narrow))
	copies := 0
	for i, at := range c.narrow {
		for _, x := range t.set(list[at], d).spans {
			lo, hi := c.cells(x)
			widths[i] += hi - lo
		}
		copies += widths[i]
	}
	limit := most * len(c.narrow)
	all = copies <= limit
	if !all {
		order := make([]int, len(c.narrow))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(widths[b], widths[a]) })
		for _, i := range order {
			if copies <= limit {
				break
			}
			copies -= widths[i]
			c.narrow[i] = -1
		}
		c.narrow = slices.DeleteFunc(c.narrow, func(i int32) bool { return i < 0 })
	}
	c.mean = float64(copies) / float64(len(c.points))
	c.score = wideCost(len(list)-len(c.narrow)) + c.mean
	return all, true
}

// wideCost is about what it costs to search wide rules, in rules looked at: where they are many they become trees.
func wideCost(n int) float64 {
	if n <= switchCost {
		return float64(n)
	}
	return switchCost * (1 + math.Log2(float64(n)/switchCost))
}

// cells returns the half-open range of cells that a span is.
func (c *draft) cells(x span.Span) (lo, hi int) {
	lo, _ = slices.BinarySearchFunc(c.points, x.Lo, span.Key.Compare)
	if x.Hi == c.dim.top() {
		return lo, len(c.points)
	}
	hi, _ = slices.BinarySearchFunc(c.points, x.Hi.Next(), span.Key.Compare)
	return lo, hi
}

func (t *tree) cut(list []ref, from *draft) *cut {
	c := &cut{dim: from.dim}
	lists := make([][]int32, len(from.points))
	next := 0
	for i := range list {
		if next == len(from.narrow) || from.narrow[next] != int32(i) {
			c.wide = append(c.wide, int32(i))
			continue
		}
		next++
		for _, x := range t.set(list[i], from.dim).spans {
			lo, hi := from.cells(x)
			for k := lo; k < hi; k++ {
				lists[k] = append(lists[k], int32(i))
			}
		}
	}
	for k, l := range lists {
		if len(l) == 0 {
			continue
		}
		hi := from.dim.top()
		if k+1 < len(from.points) {
			hi = from.points[k+1].Prev()
		}
		if n := len(c.cells); n > 0 && c.cells[n-1].Hi.Next() == from.points[k] && slices.Equal(c.cells[n-1].narrow, l) {
			c.cells[n-1].Hi = hi
			continue
		}
		c.cells = append(c.cells, cell{span.Span{Lo: from.points[k], Hi: hi}, l})
	}
	return c
}

// refs returns the rules at the positions.
func refs(list []ref, at []int32) []ref {
	out := make([]ref, len(at))
	for i, a := range at {
		out[i] = list[a]
	}
	return out
}

// merge appends the narrow rules of a cell and the wide ones, in order.
func (c *cut) merge(out, list []ref, cell *cell) []ref {
	w := 0
	for _, a := range cell.narrow {
		for w < len(c.wide) && c.wide[w] < a {
			out = append(out, list[c.wide[w]])
			w++
		}
		out = append(out, list[a])
	}
	for ; w < len(c.wide); w++ {
		out = append(out, list[c.wide[w]])
	}
	return out
}

// pieces holds the wide rules of a cut, so that any range of them is a few calls.
type pieces struct {
	t     *tree
	wide  []ref
	meets map[int][]int32 // by the index of a narrow rule: positions of wide ones before it that overlap, few or too many
	b     budget
	// Whether narrow rules may have detours behind all wide ones before them; see detourBehind.
	behind bool
}

// cover appends the steps for the wide rules from a up to b.
func (p *pieces) cover(steps []step, a, b int) []step {
	for a < b {
		size := chunk
		if a%chunk != 0 || a+chunk > b {
			steps = append(steps, p.t.ruleStep(p.wide[a]))
			a++
			continue
		}
		for a%(2*size) == 0 && a+2*size <= b {
			size *= 2
		}
		if a == 0 && b == len(p.wide) {
			size = b
		}
		n, share := len(p.wide), p.b.rules
		if size < n {
			share /= bits.Len(uint(n / chunk)) // pieces of all sizes together
		}
		id := p.t.block(p.wide[a:a+size], budget{share * size / n, p.b.paths * size / n, p.b.depth, perWide})
		if id != "" {
			steps = append(steps, step{Step: ir.Call{Block: id}})
		}
		a += size
	}
	return steps
}

// before returns the steps for the first w wide rules, for a detour: a block that starts with the first, as long as that
// keeps to the budget, and pieces behind it.
func (p *pieces) before(w int) []step {
	q := *p
	q.b.depth = behindDepth - 1
	n, unit := len(p.wide), chunk
	for unit*maxPrefixes < n {
		unit *= 2
	}
	from := w / unit * unit
	q.b.rules = 2 * q.b.rules / (n/unit + 1) * from / n // all of them together
	var steps []step
	if from > 0 {
		if id := q.t.block(q.wide[:from], q.b); id != "" {
			steps = append(steps, step{Step: ir.Call{Block: id}})
		}
	}
	return q.cover(steps, from, w)
}

// composed returns the steps of a cell: its narrow rules, and the pieces of wide rules between them.
func (t *tree) composed(list []ref, c *cut, cell *cell, p *pieces, b budget) []step {
	var steps []step
	w := 0   // wide rules before the narrow one at hand
	put := 0 // wide rules that are written
	for i := 0; i < len(cell.narrow); {
		for w < len(c.wide) && c.wide[w] < cell.narrow[i] {
			w++
		}
		at := t.place(list[cell.narrow[i]], c.dim, p.wide, put, w)
		j := i + 1
		for next := w; j < len(cell.narrow); j++ {
			for next < len(c.wide) && c.wide[next] < cell.narrow[j] {
				next++
			}
			if t.place(list[cell.narrow[j]], c.dim, p.wide, at, next) != at {
				break
			}
		}
		steps = p.cover(steps, put, at)
		put = at
		run := t.within(nil, refs(list, cell.narrow[i:j]), c.dim, cell.Span)
		steps = append(steps, t.node(run, b)...)
		if len(run) > 0 && t.always(run[len(run)-1]) {
			return steps
		}
		i = j
	}
	return p.cover(steps, put, len(c.wide))
}

// reach is how far a narrow rule looks for a better place among the wide ones.
const reach = 128

// place returns before which wide rule a narrow one may stand, not before from, that the list has before the one at. It
// gets past wide rules only if no packet can match both, and chooses the place that leaves the fewest pieces.
func (t *tree) place(r ref, d dim, wide []ref, from, at int) int {
	lo := at
	for lo > from && at-lo < reach && !t.overlap(r, wide[lo-1], d) {
		lo--
	}
	if lo == from {
		return from
	}
	best := at
	for step := 1; step <= at; step *= 2 {
		if x := at / step * step; x >= lo {
			best = x
		}
	}
	return best
}

// overlap reports whether some packet may match both rules; d is the field of the cell.
func (t *tree) overlap(a, b ref, d dim) bool {
	for e := range numDims {
		if e == d {
			continue
		}
		x, y := t.set(a, e), t.set(b, e)
		if x == nil || y == nil || x.absent && y.absent {
			continue
		}
		if !span.Overlap(x.spans, y.spans) {
			return false
		}
	}
	return true
}
