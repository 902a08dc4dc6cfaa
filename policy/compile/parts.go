// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"encoding/binary"
	"maps"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// unit is a compiled list of rules, with its own origins: the OriginID of a step is an index into origins plus one.
type unit struct {
	list    []ir.Step
	origins []flow.Origin
	sets    []string // those that the rules name, each once
}

// equal reports whether two units have the same text. Nil is a unit without rules.
func (u *unit) equal(v *unit) bool {
	if u == nil || v == nil || u == v {
		return u == v
	}
	if len(u.list) != len(v.list) {
		return false
	}
	for i := range u.list {
		if !u.same(v, i) && u.text(i) != v.text(i) {
			return false
		}
	}
	return true
}

// same reports whether a rule of two units is built in the same way; then its text is the same, too.
func (u *unit) same(v *unit, i int) bool {
	a, ok1 := u.list[i].(ir.Rule)
	b, ok2 := v.list[i].(ir.Rule)
	if !ok1 || !ok2 || a.Then != b.Then || !slices.Equal(a.Do, b.Do) || u.origin(a.Origin) != v.origin(b.Origin) {
		return false
	}
	return slices.EqualFunc(a.Match, b.Match, func(c, d ir.Clause) bool { return slices.EqualFunc(c, d, sameTerm) })
}

// origin returns an origin without its position; the zero Origin if there is none.
func (u *unit) origin(id ir.OriginID) flow.Origin {
	if id == 0 || int(id) > len(u.origins) {
		return flow.Origin{}
	}
	return u.origins[id-1].ID()
}

func sameTerm(a, b ir.Term) bool {
	switch a := a.(type) {
	case ir.InPorts:
		b, ok := b.(ir.InPorts)
		return ok && a.Field == b.Field && a.Not == b.Not && slices.Equal(a.Ranges, b.Ranges)
	case ir.InPrefixes:
		b, ok := b.(ir.InPrefixes)
		return ok && a.Field == b.Field && a.Not == b.Not && slices.Equal(a.Prefixes, b.Prefixes)
	case ir.InMask:
		b, ok := b.(ir.InMask)
		return ok && a == b
	case ir.InSet:
		b, ok := b.(ir.InSet)
		return ok && a.Set == b.Set && a.Not == b.Not && slices.Equal(a.Fields, b.Fields)
	}
	return false
}

// text returns the text of one rule.
func (u *unit) text(i int) string {
	p := ir.Program{Blocks: []ir.Block{{Steps: u.list[i : i+1]}}, Origins: u.origins}
	return p.String()
}

// rules are the rules of a policy or of a profile that endpoints ask. The policy may be replaced; this stays.
type rules struct {
	number  uint32 // of a policy: no two policies have the same
	policy  *policy.Policy
	profile *policy.Profile

	refs  [maxHook + 1]int   // how many tiers or endpoints ask them at each hook
	units [maxHook + 1]*unit // of the hooks with refs; nil if no rule can match

	tiers map[*tier]struct{} // of a policy
	users map[*endpoint]int  // of a profile: endpoints that name it, and how often

	flipped bool // the profile came into being or ceased to, and settleRules does not know yet
}

func (r *rules) id(h flow.Hook) ir.BlockID {
	if r.policy != nil {
		return policyID(r.policy, h)
	}
	return profileID(r.profile, h)
}

func (r *rules) unit(h flow.Hook) *unit { return r.units[h] }

// steps implements blockSource.
func (r *rules) steps(c *compiler, h flow.Hook) []ir.Step {
	u := r.units[h]
	ids := make([]ir.OriginID, len(u.origins)+1)
	for i, o := range u.origins {
		ids[i+1] = c.origin(o)
	}
	out := make([]ir.Step, len(u.list))
	for i, s := range u.list {
		rule := s.(ir.Rule)
		rule.Origin = ids[rule.Origin]
		out[i] = rule
	}
	return out
}

// compile makes the unit of a hook.
func (x *Incremental) compile(r *rules, h flow.Hook) *unit {
	c := x.c
	c.prog = &ir.Program{}
	u := &unit{}
	if r.policy != nil {
		u.list = c.ruleSteps(directed(h, r.policy.Ingress, r.policy.Egress), policySource(r.policy, h))
	} else {
		u.list = c.ruleSteps(directed(h, r.profile.Ingress, r.profile.Egress), profileSource(r.profile, h))
	}
	x.c.errs = append(x.c.errs, c.errs...)
	if len(u.list) == 0 {
		return nil
	}
	u.origins, u.sets = c.prog.Origins, slices.Collect(maps.Keys(c.used))
	return u
}

// ask adds n to the references to r at a hook.
func (x *Incremental) ask(r *rules, h flow.Hook, n int) {
	before := r.refs[h]
	r.refs[h] += n
	switch {
	case before == 0:
		r.units[h] = x.compile(r, h)
		if r.units[h] != nil {
			x.addBlock(r.id(h), r, h)
			x.useSets(r.units[h], 1)
		}
	case r.refs[h] == 0:
		if r.units[h] != nil {
			x.dropBlock(r.id(h), r)
			x.useSets(r.units[h], -1)
			r.units[h] = nil
		}
	}
}

// recompile makes the units of r anew. It reports the hooks at which r came to have a block, or lost it.
func (x *Incremental) recompile(r *rules) flow.HookSet {
	var flipped flow.HookSet
	for _, h := range flow.Hooks {
		if r.refs[h] == 0 {
			continue
		}
		old, now := r.units[h], x.compile(r, h)
		x.useSets(now, 1)
		x.useSets(old, -1)
		switch id := r.id(h); {
		case old == nil && now != nil:
			x.addBlock(id, r, h)
			r.units[h] = now
		case old != nil && now == nil:
			x.dropBlock(id, r)
			r.units[h] = nil
		case old != nil:
			x.touchBlock(id)
			r.units[h] = now
		}
		if (old == nil) != (now == nil) {
			flipped |= flow.HooksOf(h)
		}
	}
	return flipped
}

// replacePolicy puts a policy in place of another. What its rules come to is found out by settleRules.
func (x *Incremental) replacePolicy(old, now *policy.Policy) {
	r := x.policies[old]
	if old == nil || now == nil || r == nil {
		return // nobody asks it, or the changes of endpoints say that nobody asks it any more
	}
	delete(x.policies, old)
	x.policies[now], r.policy = r, now
	x.replaced = append(x.replaced, r)
}

// replaceProfile is replacePolicy for profiles.
func (x *Incremental) replaceProfile(old, now *policy.Profile) {
	r := x.profiles[old]
	if old == nil || now == nil || r == nil {
		return
	}
	delete(x.profiles, old)
	x.profiles[now], r.profile = r, now
	r.flipped = old.Missing != now.Missing
	x.replaced = append(x.replaced, r)
}

// settleRules compiles the rules that were replaced and that somebody asks still. Before endpoints are settled nobody
// knows, and rules that nobody asks may name sets that are not there any more.
func (x *Incremental) settleRules() {
	for _, r := range x.replaced {
		if r.flipped {
			// What stands behind a missing profile is not asked.
			for ep := range r.users {
				x.unreach(ep)
				x.reach(ep)
			}
		}
		hooks := x.recompile(r)
		for t := range r.tiers {
			if hooks.Has(t.hook) {
				x.renameTier(t)
			}
		}
		if hooks != 0 || r.flipped {
			for ep := range r.users {
				x.recall(ep, flow.NormalIn)
				x.recall(ep, flow.NormalOut)
			}
		}
		r.flipped = false
	}
	x.replaced = x.replaced[:0]
}

// tier is a tier that asks certain policies at a hook. Endpoints share it.
type tier struct {
	key      string
	tier     *policy.Tier
	hook     flow.Hook
	policies []*rules
	id       ir.BlockID
	users    map[*endpoint]struct{}
}

func (t *tier) calls() []ir.BlockID {
	ids := make([]ir.BlockID, 0, len(t.policies))
	for _, r := range t.policies {
		if r.units[t.hook] != nil {
			ids = append(ids, r.id(t.hook))
		}
	}
	return ids
}

// steps implements blockSource.
func (t *tier) steps(c *compiler, h flow.Hook) []ir.Step { return c.tierSteps(t.tier, t.calls(), h) }

// tierOf returns the tier that asks the given policies at a hook.
func (x *Incremental) tierOf(t *policy.Tier, ps []*policy.Policy, h flow.Hook) *tier {
	key := append(x.scratch[:0], byte(h), byte(tierEnd(t, h)))
	for _, p := range ps {
		r := x.policies[p]
		if r == nil {
			x.numbers++
			r = &rules{number: x.numbers, policy: p, tiers: map[*tier]struct{}{}}
			x.policies[p] = r
		}
		key = binary.BigEndian.AppendUint32(key, r.number)
	}
	key = append(key, t.Name...)
	x.scratch = key
	if u := x.tiers[string(key)]; u != nil {
		if u.tier.Pos != t.Pos {
			x.touchBlock(u.id).moved = true
		}
		u.tier = t
		return u
	}
	u := &tier{key: string(key), tier: t, hook: h, policies: make([]*rules, len(ps)), users: map[*endpoint]struct{}{}}
	x.tiers[u.key] = u
	for i, p := range ps {
		r := x.policies[p]
		u.policies[i] = r
		r.tiers[u] = struct{}{}
		x.ask(r, h, 1)
	}
	u.id = tierID(t, u.calls(), h)
	x.addBlock(u.id, u, h)
	return u
}

// forgetTier removes a tier that no endpoint asks.
func (x *Incremental) forgetTier(t *tier) {
	delete(x.tiers, t.key)
	x.dropBlock(t.id, t)
	for _, r := range t.policies {
		delete(r.tiers, t)
		x.ask(r, t.hook, -1)
		if len(r.tiers) == 0 && x.policies[r.policy] == r {
			delete(x.policies, r.policy)
		}
	}
}

// renameTier gives a tier the ID that follows from its policies.
func (x *Incremental) renameTier(t *tier) {
	id := tierID(t.tier, t.calls(), t.hook)
	x.addBlock(id, t, t.hook)
	x.dropBlock(t.id, t)
	t.id = id
	for ep := range t.users {
		x.recall(ep, t.hook)
	}
}

// endpoint is an endpoint with what it asks.
type endpoint struct {
	name       string
	pos        field.Pos
	interfaces []string
	wildcard   bool
	forward    bool
	takes      [maxHook + 1]bool
	tiers      [maxHook + 1][]*tier
	profiles   []*rules
	reached    int                         // how many of them it refers to
	calls      [maxHook + 1]*endpointCalls // of the hooks at which it takes part
}

// steps implements blockSource.
func (ep *endpoint) steps(c *compiler, h flow.Hook) []ir.Step {
	return c.endpointSteps(ep.name, ep.pos, ep.calls[h], h)
}

func (a *endpointCalls) equal(b *endpointCalls) bool {
	return a == b || a != nil && b != nil && a.failsafes == b.failsafes && a.forward == b.forward && slices.Equal(a.tiers, b.tiers) &&
		slices.EqualFunc(a.profiles, b.profiles, func(p, q profileCall) bool {
			return p.block == q.block && p.missing == q.missing && p.name == q.name
		})
}

// reach makes an endpoint refer to those of its profiles that can be reached.
func (x *Incremental) reach(ep *endpoint) {
	for _, r := range ep.profiles {
		if r.profile.Missing {
			return
		}
		x.ask(r, flow.NormalIn, 1)
		x.ask(r, flow.NormalOut, 1)
		ep.reached++
	}
}

// unreach undoes reach.
func (x *Incremental) unreach(ep *endpoint) {
	for _, r := range ep.profiles[:ep.reached] {
		x.ask(r, flow.NormalIn, -1)
		x.ask(r, flow.NormalOut, -1)
	}
	ep.reached = 0
}

// recall finds out what an endpoint calls at a hook.
func (x *Incremental) recall(ep *endpoint, h flow.Hook) {
	if !ep.takes[h] {
		return
	}
	calls := &endpointCalls{failsafes: x.failsafes[h], forward: ep.forward && h.Stage() == flow.StageForward, tiers: make([]ir.BlockID, len(ep.tiers[h]))}
	for i, t := range ep.tiers[h] {
		calls.tiers[i] = t.id
	}
	if h.Stage() == flow.StageNormal {
		for _, r := range ep.profiles {
			if r.profile.Missing {
				calls.profiles = append(calls.profiles, profileCall{missing: true, name: r.profile.Name, pos: r.profile.Pos})
				break
			}
			if r.units[h] != nil {
				calls.profiles = append(calls.profiles, profileCall{block: r.id(h)})
			}
		}
	}
	x.touchBlock(endpointID(ep.name, h))
	ep.calls[h] = calls
}

// replaceEndpoint puts a new endpoint in, and the one of its name out.
func (x *Incremental) replaceEndpoint(ch *policy.EndpointChange) {
	old := x.endpoints[ch.Name]
	var now *endpoint
	if e := ch.Endpoint; e != nil {
		now = &endpoint{name: e.Name, pos: e.Pos, interfaces: e.Interfaces, wildcard: ch.Wildcard, forward: len(e.Forward) > 0}
		for _, h := range flow.Hooks {
			if now.takes[h] = takesPart(e, h, ch.Wildcard); !now.takes[h] {
				continue
			}
			for _, t := range stageOf(e, h.Stage()) {
				if ps := policiesOf(t, h); len(ps) > 0 {
					u := x.tierOf(t.Tier, ps, h)
					u.users[now] = struct{}{}
					now.tiers[h] = append(now.tiers[h], u)
				}
			}
		}
		for _, p := range e.Profiles {
			r := x.profiles[p]
			if r == nil {
				r = &rules{profile: p, users: map[*endpoint]int{}}
				x.profiles[p] = r
			}
			r.users[now]++
			now.profiles = append(now.profiles, r)
		}
		x.reach(now)
	}
	for _, h := range flow.Hooks {
		was, is := old != nil && old.takes[h], now != nil && now.takes[h]
		if is {
			id := endpointID(now.name, h)
			t := x.touchBlock(id)
			t.moved = t.moved || was && old.pos != now.pos && h.Stage() == flow.StageNormal
			x.recall(now, h)
			x.addBlock(id, now, h)
		}
		if was {
			x.dropBlock(endpointID(old.name, h), old)
		}
		specific := func(ep *endpoint, takes bool) int {
			if takes && !ep.wildcard {
				return 1
			}
			return 0
		}
		x.taking[h] += specific(now, is) - specific(old, was)
		if was != is || was && (old.wildcard != now.wildcard || !slices.Equal(old.interfaces, now.interfaces)) {
			x.touchBlock(x.entries[h].Block).changed = true
		}
	}
	if old != nil {
		x.removeEndpoint(old)
	}
	if now != nil {
		x.endpoints[ch.Name] = now
		if now.wildcard {
			x.wildcard = now
		}
	}
}

func (x *Incremental) removeEndpoint(ep *endpoint) {
	delete(x.endpoints, ep.name)
	if x.wildcard == ep {
		x.wildcard = nil
	}
	for _, list := range ep.tiers {
		for _, t := range list {
			if delete(t.users, ep); len(t.users) == 0 {
				x.forgetTier(t)
			}
		}
	}
	x.unreach(ep)
	for _, r := range ep.profiles {
		if r.users[ep]--; r.users[ep] == 0 {
			if delete(r.users, ep); len(r.users) == 0 && x.profiles[r.profile] == r {
				delete(x.profiles, r.profile)
			}
		}
	}
}
