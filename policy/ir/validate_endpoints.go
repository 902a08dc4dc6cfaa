// SPDX-License-Identifier: Apache-2.0

package ir

import (
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Outcomes returns, for each block, the outcomes that it may have for some packet: at least those it really has. The
// program must be acyclic; a block that does not exist may have every outcome.
func Outcomes(p *Program) map[BlockID]OutcomeSet {
	blocks := make(map[BlockID]Block, len(p.Blocks))
	for _, b := range p.Blocks {
		blocks[b.ID] = b
	}
	memo := make(map[BlockID]OutcomeSet, len(p.Blocks))
	var of func(BlockID) OutcomeSet
	of = func(id BlockID) OutcomeSet {
		if s, ok := memo[id]; ok {
			return s
		}
		b, ok := blocks[id]
		if !ok {
			return OutcomesOf(Undecided, Allow, Deny, Pass)
		}
		s := BlockOutcomes(&b, of)
		memo[id] = s
		return s
	}
	for _, b := range p.Blocks {
		of(b.ID)
	}
	return memo
}

// BlockOutcomes returns the outcomes that a block may have, given those of the blocks that it calls.
func BlockOutcomes(b *Block, of func(BlockID) OutcomeSet) OutcomeSet {
	var s OutcomeSet
	goesOn := OutcomesOf(Undecided)
	for _, step := range b.Steps {
		switch step := step.(type) {
		case Rule:
			if step.Then == Undecided {
				continue
			}
			s |= OutcomesOf(step.Then)
			if len(step.Match) == 0 {
				return s
			}
		case Call:
			o := of(step.Block)
			s |= o &^ (step.Resume | goesOn)
			if len(step.Match) == 0 && o&(step.Resume|goesOn) == 0 {
				return s
			}
		case Switch:
			for _, c := range step.Cases {
				o := OutcomesOf(c.Then.Outcome)
				if c.Then.Block != "" {
					o = of(c.Then.Block)
				}
				s |= o &^ (step.Resume | goesOn)
			}
		}
	}
	return s | goesOn
}

// endpoints checks what holds for endpoints only. Calls are known to be acyclic.
func (v *validator) endpoints() {
	outcomes := Outcomes(v.p)
	for _, b := range v.p.Blocks {
		if !strings.HasPrefix(string(b.ID), string(EndpointBlock)) {
			continue
		}
		v.where = "block " + string(b.ID)
		if outcomes[b.ID].Has(Undecided) {
			v.fault("an endpoint must not end without a decision")
		}
		v.failsafesFirst(b)
	}
	for _, e := range v.p.Entries {
		v.where = "entry " + e.Hook.String()
		v.sameFailsafes(e)
	}
}

// failsafesFirst checks that no policy stands before a failsafe.
func (v *validator) failsafesFirst(b Block) {
	var policy flow.Origin
	v.walk(b.ID, map[BlockID]bool{}, func(o flow.Origin) {
		switch {
		case isFailsafe(o) && policy.Kind != 0:
			v.fault("%s stands behind %s", o, policy)
			policy = flow.Origin{}
		case isPolicy(o) && policy.Kind == 0:
			policy = o
		}
	})
}

// sameFailsafes checks that all endpoints of a hook have the same failsafes, and endpoints of the forward stage none.
// A program without any failsafe is legal: a configuration may say so.
func (v *validator) sameFailsafes(e Entry) {
	var first BlockID
	var want []flow.Origin
	for _, id := range v.endpointsBelow(e.Block, map[BlockID]bool{}) {
		var has []flow.Origin
		v.walk(id, map[BlockID]bool{}, func(o flow.Origin) {
			if isFailsafe(o) {
				has = append(has, o.ID())
			}
		})
		slices.SortFunc(has, CompareOrigins)
		has = slices.Compact(has)
		if e.Hook.Stage() == flow.StageForward && len(has) > 0 {
			v.fault("%s has the failsafe %s: forwarding has none", id, has[0])
		}
		if first == "" {
			first, want = id, has
		} else if !slices.Equal(want, has) {
			v.fault("%s and %s have different failsafes", first, id)
		}
	}
}

// endpointsBelow returns the endpoint blocks that a block leads to, in order.
func (v *validator) endpointsBelow(id BlockID, seen map[BlockID]bool) []BlockID {
	b := v.blocks[id]
	if b == nil || seen[id] {
		return nil
	}
	seen[id] = true
	if strings.HasPrefix(string(id), string(EndpointBlock)) {
		return []BlockID{id}
	}
	var ids []BlockID
	for _, s := range b.Steps {
		for _, c := range callees(s) {
			ids = append(ids, v.endpointsBelow(c, seen)...)
		}
	}
	return ids
}

// walk calls f with the origins of a block in the order in which a packet meets them. A block that is met again is not
// walked again.
func (v *validator) walk(id BlockID, seen map[BlockID]bool, f func(flow.Origin)) {
	b := v.blocks[id]
	if b == nil || seen[id] {
		return
	}
	seen[id] = true
	for _, s := range b.Steps {
		for _, o := range originsOf(s) {
			f(v.p.Origin(o))
		}
		for _, c := range callees(s) {
			v.walk(c, seen, f)
		}
	}
}

func isFailsafe(o flow.Origin) bool { return o.Kind == flow.OriginFailsafe || o.Kind == flow.OriginND }

func isPolicy(o flow.Origin) bool {
	switch o.Kind {
	case flow.OriginPolicy, flow.OriginProfile, flow.OriginTier, flow.OriginDefault, flow.OriginProfileMissing:
		return true
	}
	return false
}
