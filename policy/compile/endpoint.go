// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"strconv"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// endpoint adds the block with everything an endpoint says at a hook.
func (c *compiler) endpoint(ep *policy.Endpoint, h flow.Hook) ir.BlockID {
	calls := endpointCalls{failsafes: c.failsafes(h), tiers: c.tiers(ep, stageOf(ep, h.Stage()), h), forward: len(ep.Forward) > 0}
	if h.Stage() == flow.StageNormal {
		calls.profiles = c.profiles(ep, h)
	}
	return c.block(endpointID(ep.Name, h), c.endpointSteps(ep.Name, ep.Pos, &calls, h))
}

func endpointID(name string, h flow.Hook) ir.BlockID { return blockID("endpoint", name, h.String()) }

// stageOf returns the tiers of a stage.
func stageOf(ep *policy.Endpoint, s flow.Stage) []policy.TierPolicies {
	switch s {
	case flow.StageUntracked:
		return ep.Untracked
	case flow.StagePreDNAT:
		return ep.PreDNAT
	case flow.StageForward:
		return ep.Forward
	}
	return ep.Normal
}

// endpointCalls is what the block of an endpoint calls at one hook. Immutable.
type endpointCalls struct {
	failsafes ir.BlockID // "" if there are none
	tiers     []ir.BlockID
	forward   bool // the endpoint has forward policy, in whatever direction
	profiles  []profileCall
}

// profileCall is a profile whose block an endpoint calls, or one that is missing.
type profileCall struct {
	block   ir.BlockID
	missing bool
	name    string // of a missing one
	pos     field.Pos
}

// endpointSteps returns everything an endpoint says at a hook: connection tracking, failsafes, tiers, profiles, end.
// Ref: felix/rules/endpoints.go, endpointIptablesChain.
func (c *compiler) endpointSteps(name string, pos field.Pos, calls *endpointCalls, h flow.Hook) []ir.Step {
	steps := make([]ir.Step, 0, 3+len(calls.tiers)+len(calls.profiles))
	switch h.Stage() {
	case flow.StageUntracked: // nothing before connection tracking has a state
	case flow.StagePreDNAT:
		// What conntrack or a failsafe accepts here ends the stage only: the later stages look again.
		steps = append(steps, c.conntrack(ir.Pass))
	default:
		steps = append(steps, c.conntrack(ir.Allow))
	}
	if calls.failsafes != "" {
		steps = append(steps, ir.Call{Block: calls.failsafes})
	}
	if h.Stage() == flow.StageForward && !calls.forward {
		// Calico: both directions decide this together: policy in one direction takes the default from the other.
		return append(steps, c.then(ir.Allow, flow.Origin{Kind: flow.OriginForwardDefault}))
	}
	for _, id := range calls.tiers {
		steps = append(steps, ir.Call{Block: id, Resume: ir.OutcomesOf(ir.Pass)})
	}
	switch h.Stage() {
	case flow.StageUntracked, flow.StagePreDNAT:
		return append(steps, c.then(ir.Pass, noVerdict(h.Stage())))
	case flow.StageForward:
		return append(steps, c.then(ir.Pass, noVerdict(flow.StageNormal)))
	}
	for _, p := range calls.profiles {
		if p.missing {
			// Calico: a deny at its place. Nothing behind it can be reached.
			return append(steps, c.then(ir.Deny, flow.Origin{Kind: flow.OriginProfileMissing, Name: p.name, Pos: p.pos}))
		}
		// Deviation: a Pass ends the profile it stands in and nothing else. In Calico its mark stays set, so that
		// the next profile ends behind its first Pass rule, matched or not.
		steps = append(steps, ir.Call{Block: p.block, Resume: ir.OutcomesOf(ir.Pass)})
	}
	return append(steps, c.then(ir.Deny, flow.Origin{Kind: flow.OriginDefault, Name: name, Dir: h.Direction(), Pos: pos}))
}

// noVerdict is the origin of a stage that ends without a verdict. Where that can be the last word on a packet, at
// forwarding, it has no stage.
func noVerdict(s flow.Stage) flow.Origin { return flow.Origin{Kind: flow.OriginNoVerdict, Stage: s} }

// conntrack returns the step that decides by the state of the connection.
func (c *compiler) conntrack(established ir.Outcome) ir.Step {
	sw := ir.Switch{Key: []ir.Field{ir.State}}
	add := func(s flow.ConnState, then ir.Outcome, kind flow.OriginKind) {
		sw.Cases = append(sw.Cases, ir.Case{
			Key:    []ir.Interval{ir.Exactly(ir.Number(s))},
			Then:   ir.Target{Outcome: then},
			Origin: c.origin(flow.Origin{Kind: kind}),
		})
	}
	add(flow.Established, established, flow.OriginEstablished)
	add(flow.Related, established, flow.OriginEstablished)
	if !c.config.DisableConntrackInvalidCheck {
		add(flow.Invalid, ir.Deny, flow.OriginInvalid)
	}
	return sw
}

// profiles adds the blocks of an endpoint's profiles, up to the first that is missing.
func (c *compiler) profiles(ep *policy.Endpoint, h flow.Hook) []profileCall {
	var calls []profileCall
	for _, p := range ep.Profiles {
		if p == nil {
			c.errorf(object(ep), "spec.profiles", ep.Pos, "holds a nil profile")
			continue
		}
		if p.Missing {
			return append(calls, profileCall{missing: true, name: p.Name, pos: p.Pos})
		}
		if id, ok := c.profile(p, h); ok {
			calls = append(calls, profileCall{block: id})
		}
	}
	return calls
}

// profile adds the block of a profile in the direction of a hook. It reports false if no rule can match.
func (c *compiler) profile(p *policy.Profile, h flow.Hook) (ir.BlockID, bool) {
	key := ruleList{p, h}
	id, ok := c.done[key]
	if !ok {
		id = c.rules(profileID(p, h), directed(h, p.Ingress, p.Egress), profileSource(p, h))
		c.done[key] = id
	}
	return id, id != ""
}

func profileID(p *policy.Profile, h flow.Hook) ir.BlockID {
	return blockID("profile", p.Name, h.String())
}

func profileSource(p *policy.Profile, h flow.Hook) source {
	return source{
		object: "Profile(" + p.Name + ")",
		origin: flow.Origin{Kind: flow.OriginProfile, Name: p.Name, Dir: h.Direction(), Pos: p.Pos},
	}
}

// source says whose rules are being compiled.
type source struct {
	object string
	origin flow.Origin // of a rule, but for Index and Pos
}

func (s source) path(i int) string {
	return "spec." + s.origin.Dir.String() + "[" + strconv.Itoa(i) + "]"
}

func (c *compiler) ruleError(s source, r *policy.Rule, format string, args ...any) {
	pos := r.Pos
	if pos == (field.Pos{}) {
		pos = s.origin.Pos
	}
	c.errorf(s.object, s.path(r.Index), pos, format, args...)
}
