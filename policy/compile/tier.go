// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// policiesOf returns the policies of a tier that govern the direction of a hook.
func policiesOf(t policy.TierPolicies, h flow.Hook) []*policy.Policy {
	if h.Direction() == flow.Egress {
		return t.Egress
	}
	return t.Ingress
}

// tiers returns the calls of the tiers that govern the direction of a hook. A tier that passes is left; the endpoint
// goes on with the next.
func (c *compiler) tiers(ep *policy.Endpoint, tiers []policy.TierPolicies, h flow.Hook) []ir.Step {
	var steps []ir.Step
	for _, t := range tiers {
		ps := policiesOf(t, h)
		if len(ps) == 0 {
			continue // Calico: without a policy in this direction a tier has no end either
		}
		if t.Tier == nil {
			c.errorf(object(ep), "", ep.Pos, "has a nil tier")
			continue
		}
		steps = append(steps, ir.Call{Block: c.tier(ep, t.Tier, ps, h), Resume: ir.OutcomesOf(ir.Pass)})
	}
	return steps
}

// tier adds the block of a tier with the given policies. Endpoints with the same policies share it.
func (c *compiler) tier(ep *policy.Endpoint, t *policy.Tier, ps []*policy.Policy, h flow.Hook) ir.BlockID {
	stage := h.Stage()
	end := ir.Deny
	if t.Pass || stage == flow.StageUntracked || stage == flow.StagePreDNAT {
		end = ir.Pass // Calico: these two stages never deny at the end of a tier
	}
	hash := sha256.New()
	hash.Write([]byte(end.String()))
	var steps []ir.Step
	for _, p := range ps {
		if p == nil {
			c.errorf(object(ep), "", ep.Pos, "has a nil policy in tier %s", t.Name)
			continue
		}
		if id, ok := c.policy(p, h); ok {
			hash.Write([]byte("\n" + string(id)))
			steps = append(steps, ir.Call{Block: id})
		}
	}
	steps = append(steps, c.then(end, flow.Origin{Kind: flow.OriginTier, Tier: t.Name, Dir: h.Direction(), Stage: stage, Pos: t.Pos}))
	return c.block(blockID("tier", t.Name, h.String(), hex.EncodeToString(hash.Sum(nil)[:6])), steps)
}

// policy adds the block of a policy in the direction and stage of a hook. It reports false if no rule can match.
func (c *compiler) policy(p *policy.Policy, h flow.Hook) (ir.BlockID, bool) {
	key := ruleList{p, h}
	id, ok := c.done[key]
	if !ok {
		rules := p.Ingress
		if h.Direction() == flow.Egress {
			rules = p.Egress
		}
		id = c.rules(blockID("policy", p.Tier, p.Name, h.String()), rules, source{
			object: p.Kind + "(" + p.Tier + "/" + p.Name + ")",
			origin: flow.Origin{Kind: flow.OriginPolicy, Tier: p.Tier, Name: p.Name, Dir: h.Direction(), Stage: h.Stage(), Pos: p.Pos},
		})
		c.done[key] = id
	}
	return id, id != ""
}
