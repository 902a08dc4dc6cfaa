// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"strconv"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// endpoint adds the block with everything an endpoint says at a hook: connection tracking, failsafes, tiers, profiles,
// end. Ref: felix/rules/endpoints.go, endpointIptablesChain.
func (c *compiler) endpoint(ep *policy.Endpoint, h flow.Hook) ir.BlockID {
	var steps []ir.Step
	switch h.Stage() {
	case flow.StageUntracked:
		// Nothing before connection tracking has a state.
		steps = append(steps, c.failsafes(h)...)
		steps = append(steps, c.tiers(ep, ep.Untracked, h)...)
		steps = append(steps, c.then(ir.Pass, noVerdict(flow.StageUntracked)))
	case flow.StagePreDNAT:
		// What conntrack or a failsafe accepts here ends the stage only: the later stages look again.
		steps = append(steps, c.conntrack(ir.Pass))
		steps = append(steps, c.failsafes(h)...)
		steps = append(steps, c.tiers(ep, ep.PreDNAT, h)...)
		steps = append(steps, c.then(ir.Pass, noVerdict(flow.StagePreDNAT)))
	case flow.StageForward:
		steps = append(steps, c.conntrack(ir.Allow))
		if len(ep.Forward) == 0 {
			// Calico: both directions decide this together: policy in one direction takes the default from the other.
			steps = append(steps, c.then(ir.Allow, flow.Origin{Kind: flow.OriginForwardDefault}))
			break
		}
		// Calico: forwarding has neither failsafes nor profiles.
		steps = append(steps, c.tiers(ep, ep.Forward, h)...)
		steps = append(steps, c.then(ir.Pass, noVerdict(flow.StageNormal)))
	default:
		steps = append(steps, c.conntrack(ir.Allow))
		steps = append(steps, c.failsafes(h)...)
		steps = append(steps, c.tiers(ep, ep.Normal, h)...)
		steps = append(steps, c.profiles(ep, h)...)
	}
	return c.block(blockID("endpoint", ep.Name, h.String()), steps)
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
	if !c.s.Config.DisableConntrackInvalidCheck {
		add(flow.Invalid, ir.Deny, flow.OriginInvalid)
	}
	return sw
}

// profiles returns the calls of an endpoint's profiles and its end.
func (c *compiler) profiles(ep *policy.Endpoint, h flow.Hook) []ir.Step {
	var steps []ir.Step
	for _, p := range ep.Profiles {
		if p == nil {
			c.errorf(object(ep), "spec.profiles", ep.Pos, "holds a nil profile")
			continue
		}
		if p.Missing {
			// Calico: a deny at its place. Nothing behind it can be reached.
			return append(steps, c.then(ir.Deny, flow.Origin{Kind: flow.OriginProfileMissing, Name: p.Name, Pos: p.Pos}))
		}
		if id, ok := c.profile(p, h); ok {
			// Deviation: a Pass ends the profile it stands in and nothing else. In Calico its mark stays set, so that
			// the next profile ends behind its first Pass rule, matched or not.
			steps = append(steps, ir.Call{Block: id, Resume: ir.OutcomesOf(ir.Pass)})
		}
	}
	return append(steps, c.then(ir.Deny, flow.Origin{Kind: flow.OriginDefault, Name: ep.Name, Dir: h.Direction(), Pos: ep.Pos}))
}

// profile adds the block of a profile in the direction of a hook. It reports false if no rule can match.
func (c *compiler) profile(p *policy.Profile, h flow.Hook) (ir.BlockID, bool) {
	key := ruleList{p, h}
	id, ok := c.done[key]
	if !ok {
		rules := p.Ingress
		if h.Direction() == flow.Egress {
			rules = p.Egress
		}
		id = c.rules(blockID("profile", p.Name, h.String()), rules, source{
			object: "Profile(" + p.Name + ")",
			origin: flow.Origin{Kind: flow.OriginProfile, Name: p.Name, Dir: h.Direction(), Pos: p.Pos},
		})
		c.done[key] = id
	}
	return id, id != ""
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
