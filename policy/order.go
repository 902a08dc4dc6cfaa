// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy/effective"
	"github.com/hostpolicy/hostpolicy/selector"
)

// tierInfo is a tier with what decides its place.
type tierInfo struct {
	tier  *Tier
	order float64
	known bool // there is an object of this name
}

// before orders tiers: known ones first, then by order, then by name. Ref: felix/calc/policy_sorter.go.
func (t *tierInfo) compare(u *tierInfo) int {
	if t.known != u.known {
		if t.known {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(t.order, u.order), strings.Compare(t.tier.Name, u.tier.Name))
}

// builtinTiers exist in every cluster. Ref: libcalico-go/lib/clientv3/client.go, EnsureInitialized.
var builtinTiers = [...]struct {
	name  string
	order float64
	pass  bool
}{{"default", defaultTierOrder, false}, {"adminnetworkpolicy", 1000, true}}

// defaultTierOrder is the order of a tier that has none. Ref: libcalico-go/lib/resources/tier.go.
const defaultTierOrder = 1_000_000

func (rs *resolver) loadTiers(in []*hostendpoint.Tier) {
	rs.tiers = map[string]*tierInfo{}
	for _, b := range builtinTiers {
		rs.tiers[b.name] = &tierInfo{tier: &Tier{Name: b.name, Pass: b.pass}, order: b.order, known: true}
	}
	for _, t := range unique(rs, in, hostendpoint.KindTier, func(t *hostendpoint.Tier) (*hostendpoint.ObjectMeta, *field.Source) { return &t.Metadata, t.Source }) {
		rs.check(t)
		i := &tierInfo{tier: &Tier{Name: t.Metadata.Name, Pos: t.Source.Pos()}, order: defaultTierOrder, known: true}
		if o := t.Spec.Order; o != nil {
			i.order = *o
		}
		// Anything but Pass denies. Ref: libcalico-go/lib/backend/syncersv1/updateprocessors/tierprocessor.go.
		i.tier.Pass = t.Spec.DefaultAction != nil && *t.Spec.DefaultAction == hostendpoint.Pass
		rs.tiers[t.Metadata.Name] = i
	}
}

// boundPolicy is a policy with what decides whom it governs and when.
type boundPolicy struct {
	policy *Policy
	tier   *tierInfo
	order  float64 // +Inf if it has none
	key    string  // breaks ties

	selector                            selector.Selector
	doNotTrack, preDNAT, applyOnForward bool
	ingress, egress                     bool // the directions that it governs

	object   string
	source   *field.Source
	specs    []setSource // of its rules
	selected bool        // it selects an endpoint of this host
	used     bool        // its sets are declared
}

// compare orders policies: by tier, then by order, those without order last, then by key. Ref:
// felix/calc/policy_sorter.go, PolKVLess.
func (p *boundPolicy) compare(q *boundPolicy) int {
	return cmp.Or(p.tier.compare(q.tier), cmp.Compare(p.order, q.order), strings.Compare(p.key, q.key))
}

func orderOf(o *float64) float64 {
	if o == nil || math.IsNaN(*o) {
		return math.Inf(1)
	}
	return *o
}

// readPolicies translates all policies and puts them in order.
func (rs *resolver) readPolicies() {
	for _, p := range rs.gnps {
		rs.check(p)
		name := hostendpoint.BackendPolicyName(p.Metadata.Name)
		b := &boundPolicy{
			key: name, order: orderOf(p.Spec.Order), source: p.Source, object: object(hostendpoint.KindGlobalNetworkPolicy, &p.Metadata),
			doNotTrack: p.Spec.DoNotTrack, preDNAT: p.Spec.PreDNAT, applyOnForward: p.Spec.ApplyOnForward,
			policy: &Policy{Kind: hostendpoint.KindGlobalNetworkPolicy, Name: hostendpoint.PolicyDisplayName("", p.Metadata.Name)},
		}
		sel, err := effective.GlobalNetworkPolicy(p)
		rs.bind(b, name, sel, err, p.Spec.Types, "", p.Spec.Ingress, p.Spec.Egress)
	}
	for _, p := range rs.nps {
		rs.check(p)
		name := hostendpoint.BackendPolicyName(p.Metadata.Name)
		b := &boundPolicy{
			key: p.Metadata.Namespace + "/" + name, order: orderOf(p.Spec.Order), source: p.Source, object: object(hostendpoint.KindNetworkPolicy, &p.Metadata),
			policy: &Policy{Kind: hostendpoint.KindNetworkPolicy, Name: hostendpoint.PolicyDisplayName(p.Metadata.Namespace, p.Metadata.Name)},
		}
		sel, err := effective.NetworkPolicy(p)
		rs.bind(b, name, sel, err, p.Spec.Types, p.Metadata.Namespace, p.Spec.Ingress, p.Spec.Egress)
	}
	slices.SortFunc(rs.policies, (*boundPolicy).compare)
}

func (rs *resolver) bind(b *boundPolicy, storedName string, sel selector.Selector, selErr error, types []hostendpoint.PolicyType, namespace string, in, out []hostendpoint.Rule) {
	if selErr != nil {
		rs.problems.add(Error, "bad-selector", b.object, "spec.selector", b.source.At("spec.selector"), "the policy selects nothing: "+selErr.Error())
		return
	}
	// Calico: the tier follows from the stored name, never from spec.tier.
	tier := hostendpoint.TierOfPolicy(storedName)
	b.tier = rs.tiers[tier]
	if b.tier == nil {
		b.tier = &tierInfo{tier: &Tier{Name: tier}}
		rs.tiers[tier] = b.tier
	}
	if !b.tier.known {
		rs.problems.add(Warning, "unknown-tier", b.object, "spec.tier", b.source.At("spec.tier"),
			"there is no tier "+tier+": the policy applies after all tiers that exist, and what it does not decide is denied")
	}
	b.selector = sel
	b.ingress, b.egress = governs(types, len(in) > 0, len(out) > 0)
	b.policy.Tier, b.policy.Pos = tier, b.source.Pos()
	t := ruleTranslator{rs: rs, object: b.object, source: b.source, namespace: namespace}
	b.policy.Ingress = t.rules("spec.ingress", in)
	b.policy.Egress = t.rules("spec.egress", out)
	b.specs = t.specs
	for _, unused := range []struct {
		path  string
		rules bool
	}{{"spec.ingress", len(in) > 0 && !b.ingress}, {"spec.egress", len(out) > 0 && !b.egress}} {
		if unused.rules {
			rs.problems.add(Warning, "unused-rules", b.object, unused.path, b.source.At(unused.path), "never used: spec.types does not list this direction")
		}
	}
	rs.policies = append(rs.policies, b)
}

// governs returns the directions of a policy, with Calico's default for empty types.
// Ref: libcalico-go/lib/clientv3/globalnetworkpolicy.go, defaultPolicyTypesField.
func governs(types []hostendpoint.PolicyType, in, out bool) (ingress, egress bool) {
	if len(types) == 0 {
		return in || !out, out
	}
	return slices.Contains(types, hostendpoint.PolicyTypeIngress), slices.Contains(types, hostendpoint.PolicyTypeEgress)
}
