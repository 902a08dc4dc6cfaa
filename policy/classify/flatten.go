// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"fmt"
	"slices"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// program is an ir.Program with its matches taken apart.
type program struct {
	ids    map[ir.BlockID]int
	blocks []block
}

type block struct {
	id    ir.BlockID
	steps []step
}

// step is a step of a block with its match, or with those of its cases.
type step struct {
	ir      ir.Step
	matches []match
	callees []int // by match; -1 if it leads to no block
}

func newProgram(p *ir.Program) (*program, error) {
	q := &program{ids: make(map[ir.BlockID]int, len(p.Blocks)), blocks: make([]block, len(p.Blocks))}
	for i, b := range p.Blocks {
		q.ids[b.ID] = i
	}
	for i, b := range p.Blocks {
		q.blocks[i] = block{b.ID, make([]step, len(b.Steps))}
		for j, s := range b.Steps {
			out := &q.blocks[i].steps[j]
			out.ir = s
			switch s := s.(type) {
			case ir.Rule:
				m, err := matchOf(s.Match)
				if err != nil {
					return nil, err
				}
				out.matches, out.callees = []match{m}, []int{-1}
			case ir.Call:
				m, err := matchOf(s.Match)
				if err != nil {
					return nil, err
				}
				out.matches, out.callees = []match{m}, []int{q.ids[s.Block]}
			case ir.Switch:
				for _, c := range s.Cases {
					out.matches = append(out.matches, keyMatch(s.Key, c.Key))
					callee := -1
					if c.Then.Block != "" {
						callee = q.ids[c.Then.Block]
					}
					out.callees = append(out.callees, callee)
				}
			default:
				return nil, fmt.Errorf("unknown step %T", s)
			}
		}
	}
	return q, nil
}

func matchOf(m ir.Match) (match, error) {
	var out match
	for _, c := range m {
		clause := make([]test, len(c))
		for i, t := range c {
			var err error
			if clause[i], err = testOf(t); err != nil {
				return match{}, err
			}
			out.dynamic = out.dynamic || dynamic(clause[i].field)
		}
		out.clauses = append(out.clauses, clause)
	}
	return out, nil
}

func keyMatch(fields []ir.Field, key []ir.Interval) match {
	var out match
	for i, f := range fields {
		out.clauses = append(out.clauses, []test{{field: f, interval: key[i]}})
		out.dynamic = out.dynamic || dynamic(f)
	}
	return out
}

// dynamic reports whether a field may be known before any lookup.
func dynamic(f ir.Field) bool { return f == ir.InIface || f == ir.OutIface || f == ir.State }

// flattener makes the list of one kind of packet.
type flattener struct {
	prog   *program
	conjs  *conjs
	knowns knowns
	all    bool // keep rules that no packet reaches or that change nothing
	rules  []flatRule
	labels []label
	frames []frame
}

// flatRule is one bit. Its Next is a label until the list is complete.
type flatRule struct {
	conj conjID
	Action
}

// label is a place in the list that rules before it lead to.
type label struct {
	at   uint32
	used bool
}

// frame is a call under way: outcomes in resume lead to the label behind the call.
type frame struct {
	resume ir.OutcomeSet
	label  uint32
}

const noLabel = 0 // labels[0] is the end of the list

// flatten returns the rules that packets of which k is known meet in a block; with all, also those that stand behind a
// rule for every packet, and those that only lead to where the search goes anyway.
func flatten(p *program, cs *conjs, k knowns, root int, all bool) ([]flatRule, error) {
	f := &flattener{prog: p, conjs: cs, knowns: k, all: all, labels: make([]label, 1)}
	if _, err := f.block(root, always()); err != nil {
		return nil, err
	}
	f.labels[noLabel].at = uint32(len(f.rules))
	for i := range f.rules {
		f.rules[i].Next = f.labels[f.rules[i].Next].at
	}
	if all {
		for i := range f.rules {
			if r := &f.rules[i]; r.Outcome != ir.Undecided {
				r.Next = 0
			}
		}
		return f.rules, nil
	}
	return withoutSteps(f.rules), nil
}

// block appends the rules of a block, as far as packets that fulfil one of ctx meet them. It reports whether a packet
// can come out of it Undecided.
func (f *flattener) block(id int, ctx []conjID) (bool, error) {
	b := &f.prog.blocks[id]
	undecided := true
	for i := range b.steps {
		goesOn, err := f.step(&b.steps[i], ctx)
		if err != nil {
			return false, fmt.Errorf("block %s step %d: %w", b.id, i, err)
		}
		undecided = undecided && goesOn
		if !undecided && !f.all {
			break
		}
	}
	return undecided, nil
}

func (f *flattener) step(s *step, ctx []conjID) (bool, error) {
	switch st := s.ir.(type) {
	case ir.Rule:
		own, err := s.matches[0].ask(f.conjs, &f.knowns)
		if err != nil || own == nil {
			return true, err
		}
		if err := f.rule(own, ctx, st.Then, slices.Contains(st.Do, ir.Log), st.Origin); err != nil {
			return false, err
		}
		return st.Then == ir.Undecided || !isAlways(own), nil
	case ir.Call:
		return f.cases(s, 0, 1, ctx, st.Resume)
	case ir.Switch:
		from, to := 0, len(st.Cases)
		if len(st.Key) == 1 && st.Key[0] == f.knowns.field {
			from = f.knowns.name.find(st.Cases)
			if from < 0 {
				return true, nil
			}
			to = from + 1
		}
		return f.cases(s, from, to, ctx, st.Resume)
	}
	return false, fmt.Errorf("unknown step %T", s.ir)
}

// cases appends a Call, or those cases of a Switch that can match.
func (f *flattener) cases(s *step, from, to int, ctx []conjID, resume ir.OutcomeSet) (bool, error) {
	behind := f.label()
	f.frames = append(f.frames, frame{resume, behind})
	goesOn := true
	for i := from; i < to && (goesOn || f.all); i++ {
		own, err := s.matches[i].ask(f.conjs, &f.knowns)
		if err != nil {
			return false, err
		}
		if own == nil {
			continue
		}
		returns := false
		if callee := s.callees[i]; callee >= 0 {
			inner, err := f.conjs.both(ctx, own)
			if err != nil {
				return false, err
			}
			if returns, err = f.block(callee, inner); err != nil {
				return false, err
			}
		} else {
			c := s.ir.(ir.Switch).Cases[i]
			if err := f.rule(own, ctx, c.Then.Outcome, false, c.Origin); err != nil {
				return false, err
			}
		}
		goesOn = goesOn && (returns || !isAlways(own))
	}
	f.frames = f.frames[:len(f.frames)-1]
	f.labels[behind].at = uint32(len(f.rules))
	return goesOn || f.labels[behind].used, nil
}

// rule appends one rule.
func (f *flattener) rule(own, ctx []conjID, then ir.Outcome, log bool, origin ir.OriginID) error {
	if then == ir.Undecided && !log {
		return nil
	}
	all, err := f.conjs.both(ctx, own)
	if err != nil {
		return err
	}
	a := Action{Outcome: then, Log: log, Origin: origin}
	if then == ir.Undecided {
		a.Next = f.label()
	}
	for i := len(f.frames) - 1; i >= 0 && a.Outcome != ir.Undecided; i-- {
		if fr := f.frames[i]; fr.resume.Has(then) {
			a.Outcome, a.Next = ir.Undecided, fr.label
			f.labels[fr.label].used = true
		}
	}
	if len(f.rules)+len(all) > MaxListRules {
		return fmt.Errorf("%w: more than %d rules", ErrTooLarge, MaxListRules)
	}
	for _, c := range all {
		f.rules = append(f.rules, flatRule{c, a})
	}
	if then == ir.Undecided {
		f.labels[a.Next].at = uint32(len(f.rules))
	}
	return nil
}

func (f *flattener) label() uint32 {
	f.labels = append(f.labels, label{})
	return uint32(len(f.labels) - 1)
}

// withoutSteps takes out the rules that do nothing but lead to where the search would go anyway, such as the end of a
// tier that passes.
func withoutSteps(rules []flatRule) []flatRule {
	n := uint32(len(rules))
	// moved[i] is how many of the rules from i on stay; next is the first of them, seen from i.
	stay := make([]bool, n)
	next := n
	for i := n; i > 0; i-- {
		r := &rules[i-1]
		// Next leads to a rule that stays or is taken out itself; what counts is whether one that stays lies between.
		if r.Outcome == ir.Undecided && !r.Log && r.Next <= next {
			continue
		}
		stay[i-1], next = true, i-1
	}
	moved := make([]uint32, n+1)
	out := rules[:0]
	for i, r := range rules {
		moved[i] = uint32(len(out))
		if stay[i] {
			out = append(out, r)
		}
	}
	moved[n] = uint32(len(out))
	for i := range out {
		if r := &out[i]; r.Outcome == ir.Undecided {
			r.Next = moved[r.Next]
		} else {
			r.Next = 0
		}
	}
	return out
}
