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
	return directed(h, t.Ingress, t.Egress)
}

// tiers adds the blocks of the tiers that govern the direction of a hook. A tier that passes is left; the endpoint
// goes on with the next.
func (c *compiler) tiers(ep *policy.Endpoint, tiers []policy.TierPolicies, h flow.Hook) []ir.BlockID {
	var ids []ir.BlockID
	for _, t := range tiers {
		ps := policiesOf(t, h)
		if len(ps) == 0 {
			continue // Calico: without a policy in this direction a tier has no end either
		}
		if t.Tier == nil {
			c.errorf(object(ep), "", ep.Pos, "has a nil tier")
			continue
		}
		ids = append(ids, c.tier(ep, t.Tier, ps, h))
	}
	return ids
}

// tier adds the block of a tier with the given policies. Endpoints with the same policies share it.
func (c *compiler) tier(ep *policy.Endpoint, t *policy.Tier, ps []*policy.Policy, h flow.Hook) ir.BlockID {
	var ids []ir.BlockID
	for _, p := range ps {
		if p == nil {
			c.errorf(object(ep), "", ep.Pos, "has a nil policy in tier %s", t.Name)
			continue
		}
		if id, ok := c.policy(p, h); ok {
			ids = append(ids, id)
		}
	}
	return c.block(tierID(t, ids, h), c.tierSteps(t, ids, h))
}

// tierEnd returns what becomes of packets that no policy of a tier decided.
func tierEnd(t *policy.Tier, h flow.Hook) ir.Outcome {
	if s := h.Stage(); t.Pass || s == flow.StageUntracked || s == flow.StagePreDNAT {
		return ir.Pass // Calico: these two stages never deny at the end of a tier
	}
	return ir.Deny
}

// tierID returns the ID of a tier that asks the given policies.
func tierID(t *policy.Tier, policies []ir.BlockID, h flow.Hook) ir.BlockID {
	text := append(make([]byte, 0, 512), tierEnd(t, h).String()...)
	for _, id := range policies {
		text = append(append(text, '\n'), id...)
	}
	hash := sha256.Sum256(text)
	return blockID("tier", t.Name, h.String(), hex.EncodeToString(hash[:6]))
}

// tierSteps returns the calls of the policies of a tier, and its end.
func (c *compiler) tierSteps(t *policy.Tier, policies []ir.BlockID, h flow.Hook) []ir.Step {
	steps := make([]ir.Step, 0, len(policies)+1)
	for _, id := range policies {
		steps = append(steps, ir.Call{Block: id})
	}
	return append(steps, c.then(tierEnd(t, h), flow.Origin{Kind: flow.OriginTier, Tier: t.Name, Dir: h.Direction(), Stage: h.Stage(), Pos: t.Pos}))
}

// policy adds the block of a policy in the direction and stage of a hook. It reports false if no rule can match.
func (c *compiler) policy(p *policy.Policy, h flow.Hook) (ir.BlockID, bool) {
	key := ruleList{p, h}
	id, ok := c.done[key]
	if !ok {
		id = c.rules(policyID(p, h), directed(h, p.Ingress, p.Egress), policySource(p, h))
		c.done[key] = id
	}
	return id, id != ""
}

func policyID(p *policy.Policy, h flow.Hook) ir.BlockID {
	return blockID("policy", p.Tier, p.Name, h.String())
}

func policySource(p *policy.Policy, h flow.Hook) source {
	return source{
		object: p.Kind + "(" + p.Tier + "/" + p.Name + ")",
		origin: flow.Origin{Kind: flow.OriginPolicy, Tier: p.Tier, Name: p.Name, Dir: h.Direction(), Stage: h.Stage(), Pos: p.Pos},
	}
}

// directed returns what applies at a hook.
func directed[T any](h flow.Hook, ingress, egress T) T {
	if h.Direction() == flow.Egress {
		return egress
	}
	return ingress
}
