// SPDX-License-Identifier: Apache-2.0

package pass

import (
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// prune drops rules that cannot match, that do nothing, and that no packet gets to.
func (l *lowerer) prune(q *ir.Program) {
	outs := ir.Outcomes(q)
	for i := range q.Blocks {
		b := &q.Blocks[i]
		var kept []ir.Step
		ended, dead, idle := false, 0, 0
		for _, s := range b.Steps {
			if ended {
				dead++
				continue
			}
			switch s := s.(type) {
			case ir.Rule:
				if !l.memory.view(s.Match).possible || s.Then == ir.Undecided && len(s.Do) == 0 {
					idle++
					continue
				}
				ended = s.Then != ir.Undecided && len(s.Match) == 0
			case ir.Call:
				ended = len(s.Match) == 0 && outs[s.Block]&(s.Resume|ir.OutcomesOf(ir.Undecided)) == 0
			}
			kept = append(kept, s)
		}
		if dead+idle > 0 {
			b.Steps = kept
			l.note(PassPrune, b.ID, "%d steps that cannot match, %d that cannot be reached", idle, dead)
		}
	}
}
