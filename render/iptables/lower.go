// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"fmt"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// conv is a calling convention: what the outcomes of a block do in the chain that it becomes. An outcome in own decides
// the hook. One in gone has no meaning for the caller but to go on: it returns. All others set the mark of the result and
// return, and the caller looks at the mark. Comparable.
//
// In a chain that is not nested, the return leads out of the hook.
type conv struct {
	fin       *final
	nested    bool
	own, gone ir.OutcomeSet
	dflt      ir.Outcome // what Undecided means: Undecided or Pass
}

const decided ir.OutcomeSet = 1<<ir.Allow | 1<<ir.Deny | 1<<ir.Pass

// blockKey identifies a chain: a block under a convention.
type blockKey struct {
	id ir.BlockID
	cv conv
}

// frame is a part of what is left to emit into a chain.
type frame struct {
	steps      []ir.Step
	settled    bool // instead of steps: let go what an earlier Allow settled
	translated bool // instead of steps: leave what is decided behind routing
}

func (f *frame) empty() bool { return !f.settled && !f.translated && len(f.steps) == 0 }

func tailOf(todo []frame) bool {
	for i := range todo {
		if !todo[i].empty() {
			return false
		}
	}
	return true
}

// action is the end of a rule.
type action struct {
	target Target
	to     *chain
	op     VerdictOp
	kind   actionKind
}

type actionKind uint8

const (
	terminal actionKind = iota // the packet leaves the table
	tail                       // the packet leaves the chain, and may come back to what jumped to it
	resume                     // the packet comes back to the next rule
)

const (
	// maxRules bounds what blocks that cannot be shared may grow to.
	maxRules = 4 << 20
	// maxInline is the size up to which a block is written into each of its callers.
	maxInline = 32
)

// emit writes the frames, the last one first, to the end of c. It reports whether a packet can get to the end.
func (b *builder) emit(c *chain, todo []frame, cv conv) (open bool, err error) {
	for len(todo) > 0 {
		top := &todo[len(todo)-1]
		switch {
		case top.settled:
			todo = todo[:len(todo)-1]
			b.put(c, rule{tests: []Test{Mark{b.plan.bits, b.plan.bits}}, target: Verdict{Op: cv.fin.settled}, note: "allowed by an earlier hook"})
			if b.plan.settled != b.marks.Allow {
				b.put(c, rule{tests: []Test{Mark{b.plan.settled, b.plan.settled}}, target: Verdict{Op: Return}, note: "settled by an earlier hook"})
			}
			continue
		case top.translated:
			todo = todo[:len(todo)-1]
			later := b.seq("translated", []Target{SetMark{b.marks.Translated, b.marks.Translated}}, Return)
			b.put(c, rule{tests: []Test{Translated{}}, to: later, op: Goto, note: "decided behind routing, by the final interface"})
			continue
		case len(top.steps) == 0:
			todo = todo[:len(todo)-1]
			continue
		}
		step := top.steps[0]
		top.steps = top.steps[1:]
		if len(c.rules) > maxRules {
			return false, b.unsupported("more than %d rules", maxRules)
		}
		goesOn := true
		switch s := step.(type) {
		case ir.Rule:
			goesOn, err = b.rule(c, s, &cv)
		case ir.Call:
			todo, goesOn, err = b.call(c, s, todo, &cv)
		case ir.Switch:
			goesOn, err = b.switchStep(c, s, tailOf(todo), &cv)
		default:
			err = fmt.Errorf("iptables: unknown step %T", step)
		}
		if err != nil || !goesOn {
			return false, err
		}
	}
	if cv.dflt == ir.Pass {
		whole := conv{fin: cv.fin, own: decided}
		a, err := b.perform(&whole, ir.Pass, 0, true)
		if err != nil {
			return false, err
		}
		if v, ok := a.target.(Verdict); !ok || v.Op != Return {
			b.end(c, nil, a, "", nil)
			return false, nil
		}
	}
	return true, nil
}

// end appends a rule that ends in an action.
func (b *builder) end(c *chain, tests []Test, a action, note string, by *flow.Origin) {
	b.put(c, rule{tests: tests, target: a.target, to: a.to, op: a.op, note: note, by: by})
}

// chainOf returns the chain of a block under a convention.
func (b *builder) chainOf(id ir.BlockID, cv conv) (*chain, error) {
	blk := b.blocks[id]
	cv.own &= blk.outs // so that conventions which differ in nothing are one
	cv.gone &= blk.outs
	if !blk.outs.Has(ir.Undecided) {
		cv.dflt = ir.Undecided
	}
	key := blockKey{id, cv}
	if c, ok := b.done[key]; ok {
		return c, nil
	}
	c := b.newChain(chainText(id))
	c.rules = b.ruleA.room(min(blk.size, 1<<14))[:0]
	b.done[key] = c
	_, err := b.emit(c, []frame{{steps: blk.Steps}}, cv)
	return c, err
}

// chainText returns what is most telling in a block's ID for the few bytes of a name: "web" of "policy/default/web/x".
func chainText(id ir.BlockID) string {
	var parts [4]string
	n, from := 0, 0
	for i := 0; i <= len(id) && n < len(parts); i++ {
		if i == len(id) || id[i] == '/' {
			parts[n] = string(id[from:i])
			n, from = n+1, i+1
		}
	}
	switch parts[0] {
	case "policy":
		return parts[2]
	case "hook", "failsafe", "workload":
		return parts[0] + "." + parts[1]
	}
	if n > 1 {
		return parts[1]
	}
	return parts[0]
}

// rule writes an ir.Rule. It reports whether a packet may go on to the next step.
func (b *builder) rule(c *chain, s ir.Rule, cv *conv) (goesOn bool, err error) {
	b.origin = s.Origin
	if s.Then > ir.Pass {
		return false, fmt.Errorf("iptables: unknown %s", s.Then)
	}
	for _, e := range s.Do {
		if e != ir.Log {
			return false, fmt.Errorf("iptables: unknown %s", e)
		}
	}
	if s.Then == ir.Undecided && len(s.Do) == 0 {
		return true, nil
	}
	m, ok, err := b.lower(cv.fin.hook, s.Match)
	if err != nil || !ok {
		return true, err
	}
	note, by := b.note(s.Origin)
	if len(s.Do) > 0 {
		a := action{target: b.log(flow.EventLog, cv.fin.hook, s.Origin), kind: resume}
		logNote, logBy := note, by
		if s.Then != ir.Undecided { // counted by the rule that decides
			logNote, logBy = "", nil
		}
		if err := b.write(c, m, a, logNote, logBy); err != nil {
			return false, err
		}
	}
	if s.Then == ir.Undecided {
		return true, nil
	}
	a, err := b.perform(cv, s.Then, s.Origin, false)
	if err != nil {
		return false, err
	}
	return !m.always(), b.write(c, m, a, note, by)
}

// note returns the comment for rules of an origin.
func (b *builder) note(id ir.OriginID) (string, *flow.Origin) {
	if id == 0 || int64(id) > int64(len(b.p.Origins)) {
		return "", nil
	}
	o := &b.p.Origins[id-1]
	if b.notes[id-1] == "" {
		b.scr.text = appendComment(b.scr.text[:0], o)
		b.notes[id-1] = string(b.scr.text)
	}
	return b.notes[id-1], o
}

func (b *builder) log(e flow.Event, h flow.Hook, id ir.OriginID) Target {
	return Log{Group: b.o.LogGroup, Size: b.o.SnapLen, Prefix: clean(flow.LogPrefix(e, h, b.p.Origin(id), maxPrefix), maxPrefix)}
}

// verdicts are the targets that need no chain.
var verdicts = [...]Target{Drop: Verdict{Op: Drop}, Accept: Verdict{Op: Accept}, Return: Verdict{Op: Return}}

var eventOf = [...]flow.Event{ir.Allow: flow.EventAllow, ir.Deny: flow.EventDeny, ir.Pass: flow.EventPass}

// perform returns what an outcome other than Undecided does. Only what decides the hook is an event, and not if quiet.
func (b *builder) perform(cv *conv, o ir.Outcome, id ir.OriginID, quiet bool) (action, error) {
	if cv.gone.Has(o) {
		return action{target: verdicts[Return], kind: tail}, nil
	}
	list := b.scr.list[:0]
	defer func() { b.scr.list = list[:0] }()
	own := cv.own.Has(o)
	if own && !quiet && id != 0 && (b.o.Events == AllEvents || b.o.Events == Denies && o == ir.Deny) {
		list = append(list, b.log(eventOf[o], cv.fin.hook, id))
	}
	origin := b.p.Origin(id)
	failsafe := cv.fin.literal && (origin.Kind == flow.OriginFailsafe || origin.Kind == flow.OriginND)
	var end VerdictOp
	switch {
	case o == ir.Deny && own:
		if cv.fin.reject {
			if len(list) == 0 {
				return action{to: b.rejectChain(), op: Goto}, nil
			}
			c := b.seq("deny", list, Return)
			if len(c.rules) == len(list) {
				b.put(c, rule{to: b.rejectChain(), op: Goto})
			}
			return action{to: c, op: Goto}, nil
		}
		end = Drop
	case o == ir.Allow && own && (cv.fin.end == Accept || failsafe):
		list, end = append(list, cv.fin.allow...), Accept
	case o == ir.Pass && own && failsafe && cv.fin.hook.Stage() != flow.StageNormal:
		if cv.fin.takeBack {
			list = append(list, SetMark{0, b.marks.Allow})
		}
		end = Accept
	case cv.nested:
		bit, err := b.resultBit(o)
		if err != nil {
			return action{}, err
		}
		list, end = append(list, SetMark{bit, bit}), Return
	case o == ir.Allow && own:
		list, end = append(list, cv.fin.allow...), Return
	case o == ir.Pass && own:
		if cv.fin.takeBack {
			list = append(list, SetMark{0, b.marks.Allow})
		}
		end = Return
	default:
		return action{}, fmt.Errorf("iptables: %s at %s leads nowhere", o, cv.fin.hook)
	}
	kind := terminal
	if end == Return {
		kind = tail
	}
	if len(list) == 0 {
		return action{target: verdicts[end], kind: kind}, nil
	}
	return action{to: b.seq(o.String(), list, end), op: Goto, kind: kind}, nil
}

func (b *builder) resultBit(o ir.Outcome) (uint32, error) {
	bit := uint32(0)
	switch o {
	case ir.Allow:
		bit = b.marks.ResultA
	case ir.Pass:
		bit = b.marks.ResultP
	case ir.Deny:
		bit = b.marks.ResultD
	}
	if bit == 0 {
		return 0, b.unsupported("no bit of the mark mask for %s as the result of a chain", o)
	}
	b.usesR = true
	return bit, nil
}

// seq returns the chain that does a few things for every packet. A last Return is left to the end of the chain.
func (b *builder) seq(text string, list []Target, end VerdictOp) *chain {
	key := []byte(text)
	for _, t := range list {
		key = appendTarget(append(key, '\n'), t)
	}
	key = append(key, byte('0'+end))
	if c, ok := b.seqs[string(key)]; ok {
		return c
	}
	c := b.newChain(text)
	for _, t := range list {
		b.put(c, rule{target: t})
	}
	if end != Return {
		b.put(c, rule{target: Verdict{Op: end}})
	}
	b.seqs[string(key)] = c
	return c
}

// rejectChain returns the chain that drops and answers.
func (b *builder) rejectChain() *chain {
	const name = "reject"
	c, ok := b.seqs[name]
	if !ok {
		c = b.newChain(name)
		b.put(c, rule{tests: []Test{Protocol{Number: 6}}, target: Reject{b.family, true}})
		b.put(c, rule{target: Reject{b.family, false}})
		b.seqs[name] = c
	}
	return c
}

// call writes an ir.Call. It reports whether a packet may go on to what is left in todo, which it may extend.
func (b *builder) call(c *chain, s ir.Call, todo []frame, cv *conv) ([]frame, bool, error) {
	b.origin = s.Origin
	m, ok, err := b.lower(cv.fin.hook, s.Match)
	if err != nil || !ok {
		return todo, true, err
	}
	blk := b.blocks[s.Block]
	resumed := s.Resume&blk.outs&^ir.OutcomesOf(ir.Undecided) != 0
	if m.always() && !resumed && (blk.refs == 1 || blk.size <= maxInline) {
		// The block ends where the caller does, but for Undecided, which goes on: as if its steps stood here.
		if blk.outs&(s.Resume|ir.OutcomesOf(ir.Undecided)) == 0 {
			todo = todo[:0] // which no packet gets to
		}
		return append(todo, frame{steps: blk.Steps}), true, nil
	}
	a, sub, err := b.enter(s.Block, s.Resume, tailOf(todo), cv)
	if err != nil {
		return todo, false, err
	}
	if m, _, err = b.lower(cv.fin.hook, s.Match); err == nil { // again, since rendering the block has used its memory
		err = b.write(c, m, a, "", nil)
	}
	if err != nil {
		return todo, false, err
	}
	if a.kind != resume {
		return todo, !m.always(), nil
	}
	return todo, true, b.results(c, blk.outs, sub, cv)
}

// enter returns the action that runs a block, and the convention of its chain. An action of the kind resume needs
// results behind it.
func (b *builder) enter(id ir.BlockID, on ir.OutcomeSet, last bool, cv *conv) (action, conv, error) {
	outs := b.blocks[id].outs
	on |= ir.OutcomesOf(ir.Undecided)
	sub := *cv
	sub.own = cv.own &^ on
	if cv.dflt == ir.Pass && on&outs&^ir.OutcomesOf(ir.Undecided) != 0 {
		last = false // what it resumes becomes a Pass, which is more than a return
	}
	if last || outs&on == 0 {
		// Its end is our end.
		sub.gone = (cv.gone | on) &^ ir.OutcomesOf(ir.Undecided)
		to, err := b.chainOf(id, sub)
		return action{to: to, op: Goto, kind: tail}, sub, err
	}
	sub.nested, sub.dflt = true, ir.Undecided
	sub.gone = on &^ ir.OutcomesOf(ir.Undecided)
	to, err := b.chainOf(id, sub)
	return action{to: to, op: Jump, kind: resume}, sub, err
}

// results writes the rules behind a jump to a chain with the convention sub: what its results mean here.
func (b *builder) results(c *chain, outs ir.OutcomeSet, sub conv, cv *conv) error {
	for _, o := range [...]ir.Outcome{ir.Allow, ir.Deny, ir.Pass} {
		final := o == ir.Deny || o == ir.Allow && cv.fin.end == Accept
		if !outs.Has(o) || sub.gone.Has(o) || sub.own.Has(o) && final {
			continue
		}
		bit, err := b.resultBit(o)
		if err != nil {
			return err
		}
		a, err := b.perform(cv, o, 0, true)
		if err != nil {
			return err
		}
		switch {
		case cv.gone.Has(o): // the caller goes on, and must not take the mark for that of a later call
			a = action{to: b.seq("clear", []Target{SetMark{0, bit}}, Return), op: Goto, kind: tail}
		case cv.nested: // it is marked already
			a = action{target: Verdict{Op: Return}, kind: tail}
		}
		b.end(c, []Test{Mark{bit, bit}}, a, "", nil)
	}
	return nil
}
