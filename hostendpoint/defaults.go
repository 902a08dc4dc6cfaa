// SPDX-License-Identifier: Apache-2.0

package hostendpoint

import (
	"maps"
	"slices"
)

// Default returns a copy of o with the fields filled in that Calico's client fills in when it writes or reads an object:
// types, tier and tier label of policies, order and default action of tiers. Other kinds have no defaults; their copy is
// equal. The copy shares what did not change with o.
//
// Defaults do not make an invalid object valid, nor the other way round.
func Default(o Object) Object {
	switch o := o.(type) {
	case *Tier:
		return o.Default()
	case *GlobalNetworkPolicy:
		return o.Default()
	case *NetworkPolicy:
		return o.Default()
	case *HostEndpoint:
		c := *o
		return &c
	case *Profile:
		c := *o
		return &c
	case *GlobalNetworkSet:
		c := *o
		return &c
	case *NetworkSet:
		c := *o
		return &c
	case *Node:
		c := *o
		return &c
	}
	return o
}

// Default returns a copy of t with an order and a default action. Ref: libcalico-go/lib/resources/tier.go.
func (t *Tier) Default() *Tier {
	c := *t
	if c.Spec.Order == nil {
		order := float64(DefaultTierOrder)
		c.Spec.Order = &order
	}
	if c.Spec.DefaultAction == nil {
		action := Deny
		c.Spec.DefaultAction = &action
	}
	return &c
}

// Default returns a copy of p with types, a tier and a tier label.
// Ref: libcalico-go/lib/clientv3/globalnetworkpolicy.go.
func (p *GlobalNetworkPolicy) Default() *GlobalNetworkPolicy {
	c := *p
	c.Spec.Tier = defaultTier(p.Metadata.Name, p.Spec.Tier)
	c.Metadata.Labels = tierLabel(p.Metadata.Labels, c.Spec.Tier)
	c.Spec.Types = InferTypes(p.Spec.Types, p.Spec.Ingress, p.Spec.Egress)
	return &c
}

// Default returns a copy of p with types, a tier and a tier label.
// Ref: libcalico-go/lib/clientv3/networkpolicy.go.
func (p *NetworkPolicy) Default() *NetworkPolicy {
	c := *p
	c.Spec.Tier = defaultTier(p.Metadata.Name, p.Spec.Tier)
	c.Metadata.Labels = tierLabel(p.Metadata.Labels, c.Spec.Tier)
	c.Spec.Types = InferTypes(p.Spec.Types, p.Spec.Ingress, p.Spec.Egress)
	return &c
}

func defaultTier(name, tier string) string {
	if tier == "" {
		return TierOfPolicy(name)
	}
	return tier
}

// tierLabel returns labels with the label of the tier.
//
// Calico: a label that is there already stays if the tier is default, and is overwritten by other tiers.
func tierLabel(labels map[string]string, tier string) map[string]string {
	if v, ok := labels[TierLabel]; v == tier || ok && tier == DefaultTierName {
		return labels
	}
	out := maps.Clone(labels)
	if out == nil {
		out = map[string]string{}
	}
	out[TierLabel] = tier
	return out
}

// InferTypes returns types, or those that follow from the rules if there are none: Egress for a policy with egress rules
// only, both for one with both, and otherwise Ingress, even without any rule.
//
// Calico: types that were given stay, whatever the rules are. A policy that reaches the datastore with no types at all
// governs both directions there, as it does for policy.Resolve; every writer that goes through the client fills them in.
func InferTypes(types []PolicyType, ingress, egress []Rule) []PolicyType {
	switch {
	case len(types) > 0:
		return slices.Clip(types)
	case len(egress) == 0:
		return []PolicyType{PolicyTypeIngress}
	case len(ingress) == 0:
		return []PolicyType{PolicyTypeEgress}
	}
	return []PolicyType{PolicyTypeIngress, PolicyTypeEgress}
}
