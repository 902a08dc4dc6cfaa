// SPDX-License-Identifier: Apache-2.0

package ir

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// MaxDepth is how many blocks may be entered from an entry, the entry's own included. Ref: linux/netfilter/nf_tables.h,
// NFT_JUMP_STACK_SIZE: deeper calls could not be rendered as chains.
const MaxDepth = 16

// EndpointBlock is the beginning of the IDs of blocks that speak for a whole endpoint at one hook. Validate demands
// that none of them can end Undecided, and that failsafes stand before policy in them.
const EndpointBlock BlockID = "endpoint/"

// Fault is one thing that is wrong with a program.
type Fault struct {
	Where  string      // "entry prednat", "set s:vp0q", "block endpoint/web/normal-in step 2", counted from 0
	Origin flow.Origin // of the rule, if it is one and has one
	Reason string
}

// Error implements error.
func (f *Fault) Error() string {
	where := f.Where
	if f.Origin.Kind != 0 {
		where += " (" + f.Origin.String()
		if p := f.Origin.Pos.String(); p != "" {
			where += " at " + p
		}
		where += ")"
	}
	return where + ": " + f.Reason
}

// Validate reports everything that is wrong with a program and its members: names that lead nowhere, calls that go
// round or too deep, values out of range, lists that are not in canonical form, cases that overlap, decisions without
// origin, endpoints that can end without a decision, failsafes behind policy. The error joins *Fault values in the
// order of the text form; nil means that every part of this module may rely on what the types promise.
func Validate(p *Program, m Members) error {
	if p == nil {
		return &Fault{Where: "program", Reason: "is nil"}
	}
	v := &validator{p: p, kinds: map[SetID]SetKind{}, blocks: map[BlockID]*Block{}, depth: map[BlockID]int{}}
	for i := range p.Blocks {
		v.blocks[p.Blocks[i].ID] = &p.Blocks[i]
	}
	v.origins()
	v.entries()
	v.sets()
	for _, b := range p.Blocks {
		v.block(b)
	}
	if v.calls() {
		v.endpoints()
	}
	v.members(m)
	return errors.Join(v.faults...)
}

type validator struct {
	p      *Program
	kinds  map[SetID]SetKind
	blocks map[BlockID]*Block
	depth  map[BlockID]int // longest way down, the block included; -1 while it is being computed
	where  string
	rule   OriginID // of the step that is looked at
	faults []error
}

func (v *validator) fault(format string, args ...any) {
	f := &Fault{Where: v.where, Reason: fmt.Sprintf(format, args...)}
	if v.rule > 0 && int(v.rule) <= len(v.p.Origins) {
		f.Origin = v.p.Origins[v.rule-1]
	}
	v.faults = append(v.faults, f)
}

// sorted reports lists that are not strictly ascending.
func sorted[T any](v *validator, what string, s []T, compare func(a, b T) int) {
	for i := 1; i < len(s); i++ {
		if compare(s[i-1], s[i]) >= 0 {
			v.fault("%s are not sorted and unique at %d", what, i)
			return
		}
	}
}

func (v *validator) origins() {
	v.where = "origins"
	seen := make(map[flow.Origin]bool, len(v.p.Origins))
	for i, o := range v.p.Origins {
		if seen[o.ID()] {
			v.fault("%s occurs twice", o)
		}
		seen[o.ID()] = true
		if q, err := flow.ParseOrigin(o.String()); err != nil || q != o.ID() {
			v.fault("origin %d has no canonical text: %q", i+1, o.String())
		}
	}
}

func (v *validator) entries() {
	v.where = "entries"
	sorted(v, "hooks", v.p.Entries, func(a, b Entry) int { return cmp.Compare(a.Hook, b.Hook) })
	for _, e := range v.p.Entries {
		v.where = "entry " + e.Hook.String()
		if !slices.Contains(flow.Hooks[:], e.Hook) {
			v.fault("unknown hook")
		}
		v.known(e.Block)
		if e.Always != "" {
			v.known(e.Always)
		}
		switch e.Default {
		case Undecided, Pass:
		case Allow, Deny:
			v.fault("default %s has no origin", e.Default)
		default:
			v.fault("unknown %s", e.Default)
		}
		for h := flow.Hook(0); h < 16; h++ {
			if e.Settles.Has(h) && !after(e.Hook, h) {
				v.fault("settles %s, which no packet meets behind it", h)
			}
		}
		if e.NoTrack && e.Hook.Stage() != flow.StageUntracked {
			v.fault("notrack behind connection tracking")
		}
	}
}

// after reports whether some packet meets h behind first.
func after(first, h flow.Hook) bool {
	for _, p := range []flow.Path{flow.Input, flow.Output, flow.Forward, flow.Local} {
		hooks := p.Hooks()
		if i := slices.Index(hooks, first); i >= 0 && slices.Contains(hooks[i+1:], h) {
			return true
		}
	}
	return false
}

func (v *validator) known(id BlockID) {
	if v.blocks[id] == nil {
		v.fault("block %q does not exist", id)
	}
}

func (v *validator) sets() {
	v.where = "sets"
	sorted(v, "sets", v.p.Sets, func(a, b SetDecl) int { return cmp.Compare(a.ID, b.ID) })
	for _, s := range v.p.Sets {
		v.where = "set " + string(s.ID)
		if s.ID == "" {
			v.fault("has no name")
		}
		if !knownEnum(setKindNames[:], s.Kind) {
			v.fault("unknown %s", s.Kind)
		}
		v.kinds[s.ID] = s.Kind
	}
	v.where = "blocks"
	sorted(v, "blocks", v.p.Blocks, func(a, b Block) int { return cmp.Compare(a.ID, b.ID) })
}

func (v *validator) block(b Block) {
	v.where = "block " + string(b.ID)
	if b.ID == "" {
		v.fault("has no name")
	}
	for i, s := range b.Steps {
		v.where = fmt.Sprintf("block %s step %d", b.ID, i)
		switch s := s.(type) {
		case Rule:
			v.rule = s.Origin
			v.match(s.Match)
			for _, e := range s.Do {
				if !knownEnum(effectNames[:], e) {
					v.fault("unknown %s", e)
				}
			}
			v.outcome(s.Then)
			v.origin(s.Origin, s.Then != Undecided || len(s.Do) > 0)
		case Call:
			v.match(s.Match)
			v.known(s.Block)
			v.resume(s.Resume)
			v.origin(s.Origin, false)
		case Switch:
			v.switchStep(s)
		default:
			v.fault("unknown step %T", s)
		}
		v.rule = 0
	}
}

func (v *validator) outcome(o Outcome) {
	if !knownEnum(outcomeNames[:], o) {
		v.fault("unknown %s", o)
	}
}

func (v *validator) resume(r OutcomeSet) {
	for _, o := range r.Outcomes() {
		v.outcome(o)
	}
}

func (v *validator) origin(id OriginID, needed bool) {
	switch {
	case id == 0 && needed:
		v.fault("has no origin")
	case int64(id) > int64(len(v.p.Origins)):
		v.fault("origin %d does not exist", id)
	}
}

func (v *validator) switchStep(s Switch) {
	v.resume(s.Resume)
	if len(s.Key) == 0 {
		v.fault("switch without key")
	}
	for i, f := range s.Key {
		if !knownEnum(fieldNames[:], f) {
			v.fault("unknown %s", f)
		}
		if slices.Contains(s.Key[:i], f) {
			v.fault("%s occurs twice in the key", f)
		}
	}
	step, proper := v.where, true
	for i, c := range s.Cases {
		v.where = fmt.Sprintf("%s case %d", step, i)
		proper = v.key(s.Key, c.Key) && proper
		switch {
		case c.Then.Block != "" && c.Then.Outcome != Undecided:
			v.fault("leads to a block and to an outcome")
		case c.Then.Block != "":
			v.known(c.Then.Block)
			v.origin(c.Origin, false)
		case c.Then.Outcome == Undecided:
			v.fault("leads nowhere")
		default:
			v.outcome(c.Then.Outcome)
			v.origin(c.Origin, true)
		}
	}
	v.where = step
	if !proper {
		return
	}
	if i, j, ok := overlap(s.Cases, len(s.Key)); ok {
		v.fault("cases %d and %d overlap", min(i, j), max(i, j))
		return
	}
	sorted(v, "cases", s.Cases, CompareCases)
}

func (v *validator) key(fields []Field, key []Interval) bool {
	if len(key) != len(fields) {
		v.fault("has %d keys for %d fields", len(key), len(fields))
		return false
	}
	n := len(v.faults)
	for i, f := range fields {
		d, k := f.Domain(), key[i]
		switch {
		case k.Lo.Compare(k.Hi) > 0:
			v.fault("the interval of %s is empty", f)
		case k.Lo.Compare(d.Lo) < 0 || k.Hi.Compare(d.Hi) > 0:
			v.fault("%s is not a value of %s", intervalText(f, k), f)
		}
		if f == Family && k.Lo != k.Hi && k != d {
			v.fault("%s is not a value of %s", intervalText(f, k), f)
		}
		if f == Family && k.Contains(Number(uint8(5))) && k.Lo == k.Hi {
			v.fault("there is no family 5")
		}
	}
	return n == len(v.faults)
}

// calls looks for calls that go round or too deep. It reports whether the rest of the program can be walked.
func (v *validator) calls() bool {
	ok := true
	for _, b := range v.p.Blocks {
		v.where = "block " + string(b.ID)
		ok = v.down(b.ID) && ok
	}
	if !ok {
		return false
	}
	for _, e := range v.p.Entries {
		v.where = "entry " + e.Hook.String()
		if d := max(v.depth[e.Block], v.depth[e.Always]); d > MaxDepth {
			v.fault("calls are %d blocks deep; the limit is %d", d, MaxDepth)
		}
	}
	return true
}

func (v *validator) down(id BlockID) bool {
	b := v.blocks[id]
	if b == nil || v.depth[id] > 0 {
		return true
	}
	if v.depth[id] < 0 {
		v.fault("calls itself through %s", id)
		return false
	}
	v.depth[id] = -1
	deepest := 0
	for _, s := range b.Steps {
		for _, c := range callees(s) {
			if !v.down(c) {
				v.depth[id] = 1
				return false
			}
			deepest = max(deepest, v.depth[c])
		}
	}
	v.depth[id] = deepest + 1
	return true
}

// callees returns the blocks that a step may enter, in order.
func callees(s Step) []BlockID {
	switch s := s.(type) {
	case Call:
		return []BlockID{s.Block}
	case Switch:
		var ids []BlockID
		for _, c := range s.Cases {
			if c.Then.Block != "" {
				ids = append(ids, c.Then.Block)
			}
		}
		return ids
	}
	return nil
}

func (v *validator) members(m Members) {
	v.where = "members"
	sorted(v, "sets", m.Sets, func(a, b SetMembers) int { return cmp.Compare(a.ID, b.ID) })
	filled := map[SetID]bool{}
	for _, s := range m.Sets {
		v.where = "members " + string(s.ID)
		filled[s.ID] = true
		kind, declared := v.kinds[s.ID]
		if !declared {
			v.fault("the set is not declared")
		}
		sorted(v, "elements", s.Elements, CompareElements)
		for i, e := range s.Elements {
			q, valid := PlainPrefix(e.Prefix)
			switch {
			case !valid || q != e.Prefix:
				v.fault("element %d: %s is not a masked prefix in its own family", i, e.Prefix)
			case kind == SetOfPrefixes && (e.Protocol != 0 || e.Port != 0):
				v.fault("element %d: a set of prefixes has no protocols and ports", i)
			case kind == SetOfEndpoints && !e.Prefix.IsSingleIP():
				v.fault("element %d: %s is not a single address", i, e.Prefix)
			case kind == SetOfEndpoints && e.Protocol == 0:
				v.fault("element %d: has no protocol", i)
			}
		}
	}
	for _, s := range v.p.Sets {
		if !filled[s.ID] {
			v.where = "members " + string(s.ID)
			v.fault("missing")
		}
	}
}
