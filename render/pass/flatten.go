// SPDX-License-Identifier: Apache-2.0

package pass

import (
	"slices"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// flatten replaces calls by the rules of the called blocks, where that makes a list long enough for a tree. It goes
// from callees to callers, and stops copying when the program would outgrow half of its bound; the other half is for
// trees.
func (l *lowerer) flatten(q *ir.Program) {
	flat := make(map[ir.BlockID][]ir.Step, len(q.Blocks))
	room := max(64, sizeOf(l.p).total()*l.o.Growth/2)
	index := make(map[ir.BlockID]int, len(q.Blocks))
	refs := make(map[ir.BlockID]int, len(q.Blocks))
	for i, b := range q.Blocks {
		index[b.ID] = i
		for _, s := range b.Steps {
			for c := range callees(s) {
				refs[c]++
			}
		}
	}
	var visit func(id ir.BlockID) []ir.Step
	visit = func(id ir.BlockID) []ir.Step {
		if steps, ok := flat[id]; ok {
			return steps
		}
		b := &q.Blocks[index[id]]
		for _, s := range b.Steps {
			for c := range callees(s) {
				visit(c)
			}
		}
		steps, inlined := b.Steps, 0
		if rules, calls := l.inlinable(b, flat, refs); calls > 0 && rules >= l.o.MinRules {
			if rules > room && calls > 1 {
				l.note(PassFlatten, id, "kept %d calls: %d rules would go beyond %d times the program", calls, rules, l.o.Growth)
			} else {
				room -= rules
				steps = make([]ir.Step, 0, rules+len(b.Steps))
				for _, s := range b.Steps {
					c, ok := s.(ir.Call)
					if !ok || !l.inlines(c, flat) {
						steps = append(steps, s)
						continue
					}
					inlined++
					for _, s := range flat[c.Block] {
						r := s.(ir.Rule)
						if len(c.Match) > 0 {
							r.Match = slices.Concat(c.Match, r.Match)
						}
						steps = append(steps, r)
					}
				}
				l.note(PassFlatten, id, "%d calls became %d rules", inlined, rules)
			}
		}
		flat[id] = steps
		return steps
	}
	for i := range q.Blocks {
		visit(q.Blocks[i].ID)
	}
	for i := range q.Blocks {
		q.Blocks[i].Steps = flat[q.Blocks[i].ID]
	}
}

// inlinable returns how many rules calls of the block could be replaced by, and how many calls these are. A single call
// of a block that others call too stays: that block gets a tree of its own, for all of them.
func (l *lowerer) inlinable(b *ir.Block, flat map[ir.BlockID][]ir.Step, refs map[ir.BlockID]int) (rules, calls int) {
	shared := false
	for _, s := range b.Steps {
		if c, ok := s.(ir.Call); ok && l.inlines(c, flat) {
			calls++
			rules += len(flat[c.Block])
			shared = shared || refs[c.Block] > 1
		}
	}
	if calls == 1 && shared {
		return 0, 0
	}
	return rules, calls
}

// inlines reports whether the called block's rules can stand where the call stands: whatever decides there decides here.
// Failsafes stay apart, in sight of ir.Validate.
func (l *lowerer) inlines(c ir.Call, flat map[ir.BlockID][]ir.Step) bool {
	if l.outs[c.Block]&c.Resume&^ir.OutcomesOf(ir.Undecided) != 0 {
		return false
	}
	for _, s := range flat[c.Block] {
		if r, ok := s.(ir.Rule); !ok || len(c.Match)+len(r.Match) > maxClauses || isFailsafe(l.p.Origin(r.Origin)) {
			return false
		}
	}
	return true
}

func isFailsafe(o flow.Origin) bool { return o.Kind == flow.OriginFailsafe || o.Kind == flow.OriginND }
