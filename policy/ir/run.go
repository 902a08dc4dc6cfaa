// SPDX-License-Identifier: Apache-2.0

package ir

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Interpreter runs a program on packets. It defines what the IR means: a renderer is right if the kernel agrees with
// it. It is immutable and safe for concurrent use.
type Interpreter struct {
	prog   *Program
	index  *Index
	blocks map[BlockID]*Block
}

// NewInterpreter prepares a program. The error is that of Validate. The interpreter keeps p, which must not change.
func NewInterpreter(p *Program, m Members) (*Interpreter, error) {
	if err := Validate(p, m); err != nil {
		return nil, err
	}
	in := &Interpreter{prog: p, index: NewIndex(m), blocks: make(map[BlockID]*Block, len(p.Blocks))}
	for i := range p.Blocks {
		in.blocks[p.Blocks[i].ID] = &p.Blocks[i]
	}
	return in, nil
}

// Result is what became of a packet and how.
type Result struct {
	Verdict flow.Verdict
	By      flow.Origin
	Hooks   []HookResult  // the hooks that were asked, in order
	Logged  []flow.Origin // the rules that logged the packet, in order
}

// HookResult is what one hook said.
type HookResult struct {
	Hook    flow.Hook
	Outcome Outcome
	By      flow.Origin // what decided; zero if the outcome is Undecided
	Blocks  []BlockID   // the blocks that were entered, in order
}

// String returns the verdict and its origin, and behind them what each hook said.
func (r Result) String() string {
	var w strings.Builder
	fmt.Fprintf(&w, "%s %s\n", r.Verdict, r.By)
	for _, h := range r.Hooks {
		fmt.Fprintf(&w, "  %s: %s", h.Hook, h.Outcome)
		if h.By.Kind != 0 {
			fmt.Fprintf(&w, " by %s", h.By)
		}
		fmt.Fprintf(&w, " through %v\n", h.Blocks)
	}
	for _, o := range r.Logged {
		fmt.Fprintf(&w, "  log %s\n", o)
	}
	return w.String()
}

// Verdict returns what the host does with the packet, and what decided it. A packet without a known path or with
// invalid addresses is denied by the zero Origin.
func (in *Interpreter) Verdict(p *flow.Packet) (flow.Verdict, flow.Origin) {
	return in.run(p, nil)
}

// Explain is Verdict with a record of the way there.
func (in *Interpreter) Explain(p *flow.Packet) Result {
	var r Result
	r.Verdict, r.By = in.run(p, &r)
	return r
}

// run leads the packet through the hooks of its path.
func (in *Interpreter) run(p *flow.Packet, rec *Result) (flow.Verdict, flow.Origin) {
	hooks := p.Path.Hooks()
	if hooks == nil || !p.Src.IsValid() || !p.Dst.IsValid() {
		return flow.Deny, flow.Origin{}
	}
	allowed, allowedBy, passedBy := false, flow.Origin{}, flow.Origin{Kind: flow.OriginNoEndpoint}
	var settled flow.HookSet
	untracked := false
	for i := 0; i < len(hooks); i++ {
		h := hooks[i]
		e, ok := in.prog.Entry(h)
		if !ok {
			continue
		}
		outcome, origin, asked := in.enter(e, see(p, h, untracked), settled.Has(h), rec)
		if !asked {
			continue
		}
		switch outcome {
		case Deny:
			return flow.Deny, origin
		case Allow:
			allowed, allowedBy = true, origin
			settled |= e.Settles
			if e.NoTrack {
				untracked = true
				if p.Path == flow.Forward && p.NATDst.IsValid() && p.DstLocal {
					hooks = flow.Input.Hooks() // no NAT: it goes to the address written on it; both begin alike
				}
			}
		case Pass:
			allowed = false
			if st := h.Stage(); (st == flow.StageNormal || st == flow.StageForward) &&
				(origin.Kind == flow.OriginNoVerdict || origin.Kind == flow.OriginWorkload) {
				passedBy = origin
			}
		}
	}
	if allowed {
		return flow.Allow, allowedBy
	}
	return flow.None, passedBy
}

// enter runs an entry. It reports false if there was nothing to ask.
func (in *Interpreter) enter(e Entry, v view, settled bool, rec *Result) (Outcome, flow.Origin, bool) {
	if settled && e.Always == "" {
		return Undecided, flow.Origin{}, false
	}
	r := runner{in: in, view: v, rec: rec}
	if rec != nil {
		rec.Hooks = append(rec.Hooks, HookResult{Hook: e.Hook})
	}
	outcome, id := Undecided, OriginID(0)
	if e.Always != "" {
		outcome, id = r.block(e.Always)
	}
	if outcome == Undecided && !settled {
		if outcome, id = r.block(e.Block); outcome == Undecided {
			outcome, id = e.Default, 0
		}
	}
	origin := in.prog.Origin(id)
	if rec != nil {
		h := &rec.Hooks[len(rec.Hooks)-1]
		h.Outcome, h.By = outcome, origin
	}
	return outcome, origin, true
}

// runner runs blocks for one packet at one hook.
type runner struct {
	in   *Interpreter
	view view
	rec  *Result
}

func (r *runner) block(id BlockID) (Outcome, OriginID) {
	if r.rec != nil {
		h := &r.rec.Hooks[len(r.rec.Hooks)-1]
		h.Blocks = append(h.Blocks, id)
	}
	for _, s := range r.in.blocks[id].Steps {
		var outcome Outcome
		var by OriginID
		switch s := s.(type) {
		case Rule:
			if !r.match(s.Match) {
				continue
			}
			if r.rec != nil && slices.Contains(s.Do, Log) {
				r.rec.Logged = append(r.rec.Logged, r.in.prog.Origin(s.Origin))
			}
			outcome, by = s.Then, s.Origin
		case Call:
			if !r.match(s.Match) {
				continue
			}
			if outcome, by = r.block(s.Block); s.Resume.Has(outcome) {
				continue
			}
		case Switch:
			c, ok := r.find(s)
			if !ok {
				continue
			}
			if outcome, by = c.Then.Outcome, c.Origin; c.Then.Block != "" {
				outcome, by = r.block(c.Then.Block)
			}
			if s.Resume.Has(outcome) {
				continue
			}
		}
		if outcome != Undecided {
			return outcome, by
		}
	}
	return Undecided, 0
}

// find returns the case that holds the packet's values.
func (r *runner) find(s Switch) (Case, bool) {
	var key [16]Value // there are fewer fields than that, and none occurs twice
	for i, f := range s.Key {
		v, ok := r.view.value(f)
		if !ok {
			return Case{}, false
		}
		key[i] = v
	}
	// The first field is sorted by Lo, but intervals of several fields may overlap in it: only the upper end is known.
	end, _ := slices.BinarySearchFunc(s.Cases, key[0], func(c Case, v Value) int {
		if c.Key[0].Lo.Compare(v) <= 0 {
			return -1
		}
		return 1
	})
	for i := end - 1; i >= 0; i-- {
		if holds(s.Cases[i].Key, &key) {
			return s.Cases[i], true
		}
		if len(s.Key) == 1 {
			break
		}
	}
	return Case{}, false
}

func holds(key []Interval, v *[16]Value) bool {
	for f, i := range key {
		if !i.Contains(v[f]) {
			return false
		}
	}
	return true
}

func (r *runner) match(m Match) bool {
	for _, c := range m {
		if !r.clause(c) {
			return false
		}
	}
	return true
}

func (r *runner) clause(c Clause) bool {
	for _, t := range c {
		if r.term(t) {
			return true
		}
	}
	return false
}

// term reports whether the term holds. What cannot be asked of the packet does not hold, and its negation does.
func (r *runner) term(t Term) bool {
	switch t := t.(type) {
	case InPorts:
		n, ok := r.view.number(t.Field)
		for _, pr := range t.Ranges {
			if ok && pr.Contains(n) {
				return !t.Not
			}
		}
		return t.Not
	case InPrefixes:
		a, ok := r.view.addr(t.Field)
		for _, p := range t.Prefixes {
			if ok && p.Contains(a) {
				return !t.Not
			}
		}
		return t.Not
	case InNames:
		s, ok := r.view.name(t.Field)
		for _, n := range t.Names {
			if ok && (s == n.Name || n.Prefix && strings.HasPrefix(s, n.Name)) {
				return !t.Not
			}
		}
		return t.Not
	case InMask:
		n, ok := r.view.number(t.Field)
		return (ok && t.Mask.Has(uint8(n))) != t.Not
	case InSet:
		return r.inSet(t) != t.Not
	}
	return false // Validate lets no other term through
}

func (r *runner) inSet(t InSet) bool {
	a, ok := r.view.addr(t.Fields[0])
	if !ok {
		return false
	}
	if len(t.Fields) == 1 {
		return r.in.index.Contains(t.Set, a, 0, 0)
	}
	port, ok := r.view.number(t.Fields[2])
	return ok && r.in.index.Contains(t.Set, a, r.view.protocol, port)
}
