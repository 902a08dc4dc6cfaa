// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"fmt"
	"slices"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
)

// final is what the outcomes mean that end a base chain.
type final struct {
	hook   flow.Hook
	chain  string // the base chain
	allow  []Expr // ends in accept
	reject bool
}

// final returns the final verdicts of an entry in one base chain.
func (b *builder) final(e ir.Entry, h NetfilterHook, name string) *final {
	f := &final{hook: e.Hook, chain: name}
	if e.NoTrack {
		f.allow = append(f.allow, Untrack{})
	}
	if b.marking.sets.Has(e.Hook) {
		f.allow = append(f.allow, SetMark{b.o.Mark, true})
	}
	f.allow = append(f.allow, Verdict{Op: Accept})
	// Ref: linux net/netfilter/nft_reject_inet.c. The kernel refuses rejects behind routing, and old ones before it.
	f.reject = b.o.DenyAction == render.Reject && h != Prerouting && h != Postrouting
	return f
}

// conv is a calling convention: where a block's outcomes lead. For each outcome, "" is the final verdict of the hook,
// back is the end of the chain, and anything else is a chain to go to. Comparable.
type conv struct {
	fin *final
	on  [4]string
}

// back cannot be the name of a chain.
const back = "<return>"

// blockKey identifies a chain: a block under a convention.
type blockKey struct {
	id ir.BlockID
	cv conv
}

// frame is a part of what is left to emit into a chain.
type frame struct {
	steps   []ir.Step
	settled bool // instead of steps: let go what an earlier Allow settled
}

func tailOf(todo []frame) bool {
	return !slices.ContainsFunc(todo, func(f frame) bool { return f.settled || len(f.steps) > 0 })
}

// maxRules bounds what blocks that cannot be shared may grow to.
const maxRules = 4 << 20

// emit writes the frames, the last one first, to the end of c. It reports whether a packet can get to the end.
func (b *builder) emit(c *chain, todo []frame, cv conv) (open bool, err error) {
	for len(todo) > 0 {
		top := &todo[len(todo)-1]
		if top.settled {
			todo = todo[:len(todo)-1]
			b.emitRule(c, nil, "allowed by an earlier hook", IsMarked{b.o.Mark}, Verdict{Op: Accept})
			continue
		}
		if len(top.steps) == 0 {
			todo = todo[:len(todo)-1]
			continue
		}
		step := top.steps[0]
		top.steps = top.steps[1:]
		if b.rules > maxRules {
			return false, b.unsupported("more than %d rules", maxRules)
		}
		goesOn := true
		switch s := step.(type) {
		case ir.Rule:
			goesOn, err = b.rule(c, s, &cv)
		case ir.Call:
			todo, goesOn, err = b.call(c, s, todo, &cv)
		case ir.Switch:
			goesOn, err = b.switchStep(c, s, todo, &cv)
		default:
			err = fmt.Errorf("nftables: unknown step %T", step)
		}
		if err != nil || !goesOn {
			return false, err
		}
	}
	if to := cv.on[ir.Undecided]; to != back && to != "" {
		b.emitRule(c, nil, "", Verdict{Goto, to})
		return false, nil
	}
	return true, nil
}

// chainOf returns the chain of a block under a convention.
func (b *builder) chainOf(id ir.BlockID, cv conv) (string, error) {
	blk := b.blocks[id]
	outs := b.outcomes[id]
	for o := range cv.on {
		if !outs.Has(ir.Outcome(o)) {
			cv.on[o] = "" // so that chains which differ in nothing are one
		}
	}
	key := blockKey{id, cv}
	if name, ok := b.done[key]; ok {
		return name, nil
	}
	name := b.freeName(string(id), cv.fin.chain+"\x00"+cv.on[0]+"\x00"+cv.on[1]+"\x00"+cv.on[2]+"\x00"+cv.on[3])
	b.done[key] = name
	_, err := b.emit(b.newNamedChain(name), []frame{{steps: blk.Steps}}, cv)
	return name, err
}

// freeName returns a name for a chain, with a hash of text and salt in it if another chain has the name already.
func (b *builder) freeName(text, salt string) string {
	name := chainName(text)
	for b.names[name] {
		salt += "\x00" + text
		name = chainName(text[:min(len(text), maxNameLen-20)] + "." + shortHash(salt))
	}
	b.names[name] = true
	return name
}

func (b *builder) newNamedChain(name string) *chain {
	c := &chain{Chain: Chain{Name: name}}
	b.chains = append(b.chains, c)
	return c
}

func (b *builder) newChain(name string) *chain {
	b.names[name] = true
	return b.newNamedChain(name)
}

// helper returns a new chain that belongs to c.
func (b *builder) helper(c *chain) *chain {
	c.helpers++
	return b.newNamedChain(b.freeName(fmt.Sprintf("%s.%d", c.Name, c.helpers), c.Name))
}

// rule writes an ir.Rule. It reports whether a packet may go on to the next step.
func (b *builder) rule(c *chain, s ir.Rule, cv *conv) (goesOn bool, err error) {
	b.origin = s.Origin
	if s.Then > ir.Pass {
		return false, fmt.Errorf("nftables: unknown %s", s.Then)
	}
	if s.Then == ir.Undecided && len(s.Do) == 0 {
		return true, nil
	}
	vs, err := b.variants(cv.fin.hook, s.Match)
	if err != nil {
		return false, err
	}
	if len(vs) == 0 {
		return true, nil
	}
	tail := b.tailBuf[:0]
	for _, e := range s.Do {
		if e != ir.Log {
			return false, fmt.Errorf("nftables: unknown %s", e)
		}
		tail = append(tail, b.log(flow.EventLog, cv.fin.hook, s.Origin))
	}
	if s.Then != ir.Undecided {
		tail = b.decide(tail, cv, s.Then, s.Origin)
	}
	b.tailBuf = tail
	switch {
	case s.Then == ir.Undecided: // must not happen twice
		return true, b.write(c, vs, tail, append(tail[:len(tail):len(tail)], Verdict{Op: Return}), true, s.Origin)
	case cv.on[s.Then] == "":
		return !unconditional(vs), b.write(c, vs, tail, tail, false, s.Origin)
	}
	return !unconditional(vs), b.write(c, vs, tail, nil, false, s.Origin)
}

func unconditional(vs []variant) bool {
	return len(vs) == 1 && len(vs[0].base) == 0 && len(vs[0].clauses) == 0
}

const (
	// maxProduct is how many rules a match may become before chains take the alternatives apart.
	maxProduct = 8
	// maxForced bounds the same where chains cannot be used.
	maxForced = 4096
)

// write writes rules that run tail for the packets that match. Apart is the same for a chain that c jumps to for the
// purpose, and nil if there is none: a return there would lead back to c. With once, a packet must not meet tail twice,
// though more than one alternative may hold for it.
func (b *builder) write(c *chain, vs []variant, tail, apart []Expr, once bool, origin ir.OriginID) error {
	note, by := b.note(origin)
	for i := range vs {
		v := &vs[i]
		switch {
		case len(v.clauses) == 0:
			b.put(c, v.base, tail, note, by)
		case apart != nil && (once || v.count(maxProduct) > maxProduct):
			h := b.helper(c)
			b.put(c, v.base, []Expr{Verdict{Jump, h.Name}}, note, nil)
			for n, alts := range v.clauses {
				then, who := apart, by
				var next *chain
				if n < len(v.clauses)-1 {
					next = b.helper(c)
					then, who = []Expr{Verdict{Goto, next.Name}}, nil
				}
				for _, a := range alts {
					if tests, ok := b.oneProtocol(v.guarded(a)); ok {
						b.put(h, tests, then, note, who)
					}
				}
				h = next
			}
		default:
			if n := v.count(maxForced); n > maxForced {
				return b.unsupported("a match of more than %d combinations", maxForced)
			}
			b.product(c, v.base, v.clauses, tail, note, by)
		}
	}
	return nil
}

// product writes one rule for each combination of alternatives.
func (b *builder) product(c *chain, base []Expr, clauses [][]alternative, tail []Expr, note string, by *flow.Origin) {
	if len(clauses) == 0 {
		if tests, ok := b.oneProtocol(base); ok {
			b.put(c, tests, tail, note, by)
		}
		return
	}
	for _, a := range clauses[0] {
		b.product(c, slices.Concat(base, a), clauses[1:], tail, note, by)
	}
}

// put appends a rule to c.
func (b *builder) put(c *chain, tests, tail []Expr, note string, by *flow.Origin) {
	b.rules++
	n := len(tests) + len(tail)
	s := b.room(n)
	s = append(append(s, tests...), tail...)
	b.arena = b.arena[:len(b.arena)+n]
	c.Rules = append(c.Rules, Rule{Exprs: s[:n:n], Comment: note, Origin: by})
}

// room returns an empty slice at the end of the arena with room for n expressions.
func (b *builder) room(n int) []Expr {
	if cap(b.arena)-len(b.arena) < n {
		b.arena = make([]Expr, 0, max(n, min(max(64, 2*cap(b.arena)), 4096)))
	}
	return b.arena[len(b.arena):len(b.arena):cap(b.arena)]
}

// emitRule appends a rule that is not a step of the program.
func (b *builder) emitRule(c *chain, by *flow.Origin, note string, es ...Expr) {
	b.put(c, nil, es, note, by)
}

// scratch returns an empty slice for the tests of a variant; keepScratch says that they are complete.
func (b *builder) scratch() []Expr { return b.room(16) }

func (b *builder) keepScratch(s []Expr) {
	if n := len(s); n > 0 && cap(b.arena)-len(b.arena) >= n && &s[0] == &b.arena[:len(b.arena)+1][len(b.arena)] {
		b.arena = b.arena[:len(b.arena)+n]
	}
}

// note returns the comment for rules of an origin.
func (b *builder) note(id ir.OriginID) (string, *flow.Origin) {
	if id == 0 || int64(id) > int64(len(b.p.Origins)) {
		return "", nil
	}
	o := &b.p.Origins[id-1]
	if b.notes[id-1] == "" {
		b.notes[id-1] = b.ruleComment(o)
	}
	return b.notes[id-1], o
}

func (b *builder) log(e flow.Event, h flow.Hook, id ir.OriginID) Expr {
	return Log{Group: b.o.LogGroup, SnapLen: b.o.SnapLen, Prefix: quotable(flow.LogPrefix(e, h, b.p.Origin(id), maxPrefix), maxPrefix)}
}

var eventOf = [...]flow.Event{ir.Allow: flow.EventAllow, ir.Deny: flow.EventDeny, ir.Pass: flow.EventPass}

// decide appends what a step does that decides for an outcome other than Undecided. Only what is final for the hook is
// an event.
func (b *builder) decide(tail []Expr, cv *conv, o ir.Outcome, id ir.OriginID) []Expr {
	if cv.on[o] == "" && id != 0 && (b.o.Events == AllEvents || b.o.Events == Denies && o == ir.Deny) {
		tail = append(tail, b.log(eventOf[o], cv.fin.hook, id))
	}
	if b.o.Counters {
		tail = append(tail, Count{})
	}
	return b.verdict(tail, cv, o)
}

// verdict appends the verdict for an outcome.
func (b *builder) verdict(tail []Expr, cv *conv, o ir.Outcome) []Expr {
	switch to := cv.on[o]; {
	case to == back:
		return append(tail, Verdict{Op: Return})
	case to != "":
		return append(tail, Verdict{Goto, to})
	case o == ir.Allow:
		return append(tail, cv.fin.allow...)
	case o == ir.Deny && cv.fin.reject:
		return append(tail, Verdict{Goto, b.rejectChain()})
	case o == ir.Deny:
		return append(tail, Verdict{Op: Drop})
	}
	return append(tail, Verdict{Op: Accept}) // no verdict: what follows is not ours
}

// rejectChain returns the chain that drops and answers.
func (b *builder) rejectChain() string {
	if !b.names[rejectChain] {
		c := b.newChain(rejectChain)
		b.emitRule(c, nil, "", b.protocols(onlyTCP), Reject{Reset: true})
		b.emitRule(c, nil, "", Reject{})
	}
	return rejectChain
}

// call writes an ir.Call. It reports whether a packet may go on to what is left in todo, which it may extend.
func (b *builder) call(c *chain, s ir.Call, todo []frame, cv *conv) ([]frame, bool, error) {
	b.origin = s.Origin
	vs, err := b.variants(cv.fin.hook, s.Match)
	if err != nil || len(vs) == 0 {
		return todo, true, err
	}
	always := unconditional(vs)
	resume := s.Resume | ir.OutcomesOf(ir.Undecided)
	outs := b.outcomes[s.Block]
	if always && outs&resume == ir.OutcomesOf(ir.Undecided) && !tailOf(todo) && (!b.jumps(outs&^resume, cv) || b.small(s.Block)) {
		// The callee ends where the caller does, but for Undecided, which goes on: as if its steps stood here. A jump
		// and the way back cost as much as a rule.
		return append(todo, frame{steps: b.blocks[s.Block].Steps}), true, nil
	}
	v, final, rest, err := b.target(c, s.Block, resume, todo, cv)
	if err != nil {
		return todo, false, err
	}
	vs, err = b.variants(cv.fin.hook, s.Match) // again, since rendering the block has used their memory
	if err != nil {
		return todo, false, err
	}
	var apart []Expr
	if v.Op == Jump || final {
		apart = []Expr{Verdict{Goto, v.Chain}} // its returns lead back to c, from where it was jumped to
	}
	if err := b.write(c, vs, []Expr{v}, apart, v.Op == Jump, s.Origin); err != nil {
		return todo, false, err
	}
	if rest != "" {
		if !always {
			b.emitRule(c, nil, "", Verdict{Goto, rest})
		}
		return todo, false, nil
	}
	return todo, outs&resume != 0 || !always, nil
}

// small reports whether a block is so short that it may be written at each of its calls. Every copy of a Switch is a map
// of its own in the kernel, which takes time that grows with the square of their number to load them: it looks each one
// up in a list, and compares it with all that the transaction did before.
// Ref: linux net/netfilter/nf_tables_api.c, nf_tables_newset, __nft_set_trans_bind.
func (b *builder) small(id ir.BlockID) bool {
	const steps, cases = 3, 64
	n := 0
	for _, s := range b.blocks[id].Steps {
		if s, ok := s.(ir.Switch); ok {
			n += len(s.Cases)
		}
	}
	return len(b.blocks[id].Steps) <= steps && n <= cases && (n == 0 || n*b.callsOf(id) <= cases)
}

// callsOf returns how often the program calls a block.
func (b *builder) callsOf(id ir.BlockID) int {
	if b.calls == nil {
		b.calls = make(map[ir.BlockID]int, len(b.p.Blocks))
		for i := range b.p.Blocks {
			for _, s := range b.p.Blocks[i].Steps {
				if s, ok := s.(ir.Call); ok {
					b.calls[s.Block]++
				}
			}
		}
	}
	return b.calls[id]
}

// jumps reports whether all these outcomes are final under cv, so that they may be decided below a jump.
func (b *builder) jumps(outs ir.OutcomeSet, cv *conv) bool {
	for o, to := range cv.on {
		if to != "" && outs.Has(ir.Outcome(o)) {
			return false
		}
	}
	return true
}

// target returns the verdict that runs a block and goes on with todo for the outcomes in resume. Final says that every
// outcome of the block ends the base chain. If todo had to become a chain of its own, rest is its name and nothing may
// be written behind this step.
func (b *builder) target(c *chain, id ir.BlockID, resume ir.OutcomeSet, todo []frame, cv *conv) (v Verdict, final bool, rest string, err error) {
	outs := b.outcomes[id]
	sub := *cv
	op := Goto
	switch {
	case outs&resume == 0:
		// It decides for every packet, and so it may take our place.
	case tailOf(todo):
		for o := range sub.on {
			if resume.Has(ir.Outcome(o)) {
				sub.on[o] = cv.on[ir.Undecided]
			}
		}
	case b.jumps(outs&^resume, cv):
		op = Jump
		for o := range sub.on {
			if resume.Has(ir.Outcome(o)) {
				sub.on[o] = back
			}
		}
	default:
		if rest, err = b.restOf(c, todo, *cv); err != nil {
			return v, false, "", err
		}
		for o := range sub.on {
			if resume.Has(ir.Outcome(o)) {
				sub.on[o] = rest
			}
		}
	}
	name, err := b.chainOf(id, sub)
	return Verdict{op, name}, b.jumps(outs, &sub), rest, err
}

// restOf makes what is left to do a chain of its own.
func (b *builder) restOf(c *chain, todo []frame, cv conv) (string, error) {
	h := b.helper(c)
	_, err := b.emit(h, slices.Clone(todo), cv)
	return h.Name, err
}

// maxDepth is how many chains may follow one another. Ref: linux/netfilter/nf_tables.h, NFT_JUMP_STACK_SIZE; the kernel
// counts goto, too.
const maxDepth = 16

// checkDepth reports chains that lead deeper than the kernel allows.
func checkDepth(r *Ruleset) error {
	index := make(map[string]int, len(r.Chains))
	for i := range r.Chains {
		index[r.Chains[i].Name] = i
	}
	depth := make([]int, len(r.Chains))
	var down func(int) int
	down = func(i int) int {
		if depth[i] != 0 {
			return depth[i]
		}
		deepest := 0
		for _, rule := range r.Chains[i].Rules {
			for _, e := range rule.Exprs {
				switch e := e.(type) {
				case Verdict:
					if e.Chain != "" {
						deepest = max(deepest, down(index[e.Chain]))
					}
				case VerdictMap:
					for _, c := range e.Cases {
						if c.Verdict.Chain != "" {
							deepest = max(deepest, down(index[c.Verdict.Chain]))
						}
					}
				}
			}
		}
		depth[i] = deepest + 1
		return depth[i]
	}
	for i := range r.Chains {
		if d := down(i); d > maxDepth {
			return &render.UnsupportedError{Backend: Backend, What: fmt.Sprintf("chains %d deep below %s; the kernel follows %d", d, r.Chains[i].Name, maxDepth)}
		}
	}
	return nil
}
