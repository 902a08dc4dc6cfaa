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

	policies map[*boundPolicy]struct{}
	problems []Problem // of the object
}

// compare orders tiers: known ones first, then by order, then by name. Ref: felix/calc/policy_sorter.go.
func (t *tierInfo) compare(u *tierInfo) int {
	if t.known != u.known {
		if t.known {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(t.order, u.order), strings.Compare(t.tier.Name, u.tier.Name))
}

type builtinTier struct {
	name  string
	order float64
	pass  bool
}

// builtinTiers exist in every cluster. Ref: libcalico-go/lib/clientv3/client.go, EnsureInitialized.
var builtinTiers = [...]builtinTier{{"default", defaultTierOrder, false}, {"adminnetworkpolicy", 1000, true}}

// defaultTierOrder is the order of a tier that has none. Ref: libcalico-go/lib/resources/tier.go.
const defaultTierOrder = 1_000_000

// builtins puts in what exists without being stored.
func (rs *Resolver) builtins() {
	for _, b := range builtinTiers {
		rs.tiers[b.name] = b.info()
	}
	p := rs.profile(hostendpoint.DefaultAllowProfileName)
	p.obj = hostendpoint.DefaultAllowProfile()
}

func (b *builtinTier) info() *tierInfo {
	return &tierInfo{tier: &Tier{Name: b.name, Pass: b.pass}, order: b.order, known: true}
}

func (rs *Resolver) putTier(t *hostendpoint.Tier) {
	i := &tierInfo{tier: &Tier{Name: t.Metadata.Name, Pos: t.Source.Pos()}, order: defaultTierOrder, known: true}
	if o := t.Spec.Order; o != nil {
		i.order = *o
	}
	// Anything but Pass denies. Ref: libcalico-go/lib/backend/syncersv1/updateprocessors/tierprocessor.go.
	i.tier.Pass = t.Spec.DefaultAction != nil && *t.Spec.DefaultAction == hostendpoint.Pass
	rs.setTier(i, rs.check(t))
}

func (rs *Resolver) deleteTier(name string) {
	for _, b := range builtinTiers {
		if b.name == name {
			rs.setTier(b.info(), nil)
			return
		}
	}
	if rs.tiers[name] == nil {
		return
	}
	rs.setTier(&tierInfo{tier: &Tier{Name: name}}, nil)
}

// setTier puts a tier in place of the one of its name. Its policies stay in it.
func (rs *Resolver) setTier(now *tierInfo, static []Problem) {
	name := now.tier.Name
	i := rs.tiers[name]
	if i == nil {
		i = &tierInfo{tier: &Tier{}}
		rs.tiers[name] = i
	}
	i.problems = rs.problems.replace(i.problems, static)
	if *i.tier == *now.tier && i.order == now.order && i.known == now.known {
		return
	}
	i.tier, i.order, i.known = now.tier, now.order, now.known
	for p := range i.policies {
		rs.touchPolicy(p)
		for h := range p.local {
			rs.restructure(h)
		}
	}
	rs.tidyTier(i)
}

// tidyTier forgets a tier that does not exist and that no policy names.
func (rs *Resolver) tidyTier(i *tierInfo) {
	if !i.known && len(i.policies) == 0 {
		delete(rs.tiers, i.tier.Name)
	}
}

// boundPolicy is a policy with what decides whom it governs and when.
type boundPolicy struct {
	policy *Policy
	tier   *tierInfo
	order  float64 // +Inf if it has none
	key    string  // breaks ties

	indexKey string // its name in the index

	selector                            selector.Selector
	doNotTrack, preDNAT, applyOnForward bool
	ingress, egress                     bool // the directions that it governs

	object string
	source *field.Source

	untranslated *untranslated // the rules; nil if policy has them
	specs        []setSource   // of its rules
	bad          []Problem     // that translating them found

	witness  *hep              // an endpoint of any host that it selects; nil if there is none
	watched  bool              // there is none, and the index tells of the first
	local    map[*hep]struct{} // the active ones that it selects
	declared []setSource

	static, problems []Problem
	dirty            bool
	changed          bool
	published        *Policy // the last Commit knew it, and that endpoints refer to it; nil if they did not
}

// untranslated is what the rules of a policy are made of. Most policies of a cluster are asked on other hosts, where
// others need their rules.
type untranslated struct {
	namespace string
	in, out   []hostendpoint.Rule
}

// compare orders policies: by tier, then by order, those without order last, then by key. Ref:
// felix/calc/policy_sorter.go, PolKVLess.
func (p *boundPolicy) compare(q *boundPolicy) int {
	return cmp.Or(p.tier.compare(q.tier), cmp.Compare(p.order, q.order), strings.Compare(p.key, q.key),
		strings.Compare(p.indexKey, q.indexKey))
}

func orderOf(o *float64) float64 {
	if o == nil || math.IsNaN(*o) {
		return math.Inf(1)
	}
	return *o
}

func (rs *Resolver) touchPolicy(p *boundPolicy) {
	if !p.dirty {
		p.dirty = true
		rs.dirtyPolicies = append(rs.dirtyPolicies, p)
	}
}

func (rs *Resolver) putGlobalNetworkPolicy(p *hostendpoint.GlobalNetworkPolicy) {
	name := hostendpoint.BackendPolicyName(p.Metadata.Name)
	b := boundPolicy{
		key: name, indexKey: policyKey(p.ID()), order: orderOf(p.Spec.Order), source: p.Source, object: object(p),
		doNotTrack: p.Spec.DoNotTrack, preDNAT: p.Spec.PreDNAT, applyOnForward: p.Spec.ApplyOnForward,
		policy: &Policy{Kind: hostendpoint.KindGlobalNetworkPolicy, Name: hostendpoint.PolicyDisplayName("", p.Metadata.Name)},
		static: rs.check(p),
	}
	sel, err := effective.Reader{Parse: rs.parse}.GlobalNetworkPolicy(p)
	rs.bind(&b, &p.Metadata, sel, err, p.Spec.Types, p.Spec.Ingress, p.Spec.Egress)
}

func (rs *Resolver) putNetworkPolicy(p *hostendpoint.NetworkPolicy) {
	name := hostendpoint.BackendPolicyName(p.Metadata.Name)
	b := boundPolicy{
		key: p.Metadata.Namespace + "/" + name, indexKey: policyKey(p.ID()), order: orderOf(p.Spec.Order), source: p.Source, object: object(p),
		policy: &Policy{Kind: hostendpoint.KindNetworkPolicy, Name: hostendpoint.PolicyDisplayName(p.Metadata.Namespace, p.Metadata.Name)},
		static: rs.check(p),
	}
	sel, err := effective.Reader{Parse: rs.parse}.NetworkPolicy(p)
	rs.bind(&b, &p.Metadata, sel, err, p.Spec.Types, p.Spec.Ingress, p.Spec.Egress)
}

// bind translates a policy and puts it in place of the one of its name.
func (rs *Resolver) bind(b *boundPolicy, meta *hostendpoint.ObjectMeta, sel selector.Selector, selErr error, types []hostendpoint.PolicyType, in, out []hostendpoint.Rule) {
	report := func(sev Severity, code, path, message string) {
		b.static = append(b.static, Problem{Severity: sev, Code: code, Object: b.object, Path: path, Pos: positioned(b.source, path), Message: message})
	}
	if selErr != nil {
		report(Error, "bad-selector", "spec.selector", "the policy selects nothing: "+selErr.Error())
		sel, in, out = selector.Selector{}, nil, nil
	}
	// Calico: the tier follows from the stored name, never from spec.tier.
	tier := hostendpoint.TierOfPolicy(meta.Name)
	b.selector = sel
	b.ingress, b.egress = governs(types, len(in) > 0, len(out) > 0)
	if len(types) == 0 && meta.ResourceVersion != "" {
		// Calico: its client fills types in. Without them a policy was written around the client (with kubectl), and
		// Felix has it govern both directions. Ref: felix/calc/policy_sorter.go.
		b.ingress, b.egress = true, true
		report(Warning, "no-types", "spec.types", "stored without types, so that it governs both directions, with rules or without: list those that are meant")
	}
	b.policy.Tier, b.policy.Pos = tier, b.source.Pos()
	b.untranslated = &untranslated{in: in, out: out}
	if b.policy.Kind == hostendpoint.KindNetworkPolicy {
		b.untranslated.namespace = meta.Namespace
	}
	if len(b.static) > 0 || hasHTTP(in) || hasHTTP(out) { // translating them may say more about them
		rs.translate(b)
	}
	if len(in) > 0 && !b.ingress {
		report(Warning, "unused-rules", "spec.ingress", "never used: spec.types does not list this direction")
	}
	if len(out) > 0 && !b.egress {
		report(Warning, "unused-rules", "spec.egress", "never used: spec.types does not list this direction")
	}
	rs.putPolicy(b, tier)
}

// hasHTTP reports whether a rule has criteria that host endpoints know nothing of.
func hasHTTP(rules []hostendpoint.Rule) bool {
	return slices.ContainsFunc(rules, func(r hostendpoint.Rule) bool { return r.HTTP != nil })
}

// translate gives p its rules. Rules of an object without faults are translated without problems.
func (rs *Resolver) translate(p *boundPolicy) {
	u := p.untranslated
	if u == nil {
		return
	}
	p.untranslated = nil
	t := ruleTranslator{ignoreHTTP: rs.config.IgnoreHTTP, object: p.object, source: p.source, namespace: u.namespace, reader: effective.Reader{Parse: rs.parse}}
	p.policy.Ingress = t.rules("spec.ingress", u.in)
	p.policy.Egress = t.rules("spec.egress", u.out)
	p.specs, p.bad = t.specs, t.problems
}

// putPolicy puts b in place of the policy of its name, which keeps its identity.
func (rs *Resolver) putPolicy(b *boundPolicy, tier string) {
	p := rs.policies[b.indexKey]
	if p == nil {
		p = &boundPolicy{indexKey: b.indexKey}
		rs.policies[b.indexKey] = p
	}
	i := rs.tiers[tier]
	if i == nil {
		i = &tierInfo{tier: &Tier{Name: tier}}
		rs.tiers[tier] = i
	}
	if i.policies == nil {
		i.policies = map[*boundPolicy]struct{}{}
	}
	i.policies[p] = struct{}{}
	// A name belongs to one tier for ever, so that the policy cannot come from another one.
	same := p.tier == i && p.order == b.order && p.doNotTrack == b.doNotTrack && p.preDNAT == b.preDNAT &&
		p.applyOnForward == b.applyOnForward && p.ingress == b.ingress && p.egress == b.egress
	p.tier, p.order, p.key = i, b.order, b.key
	p.doNotTrack, p.preDNAT, p.applyOnForward = b.doNotTrack, b.preDNAT, b.applyOnForward
	p.ingress, p.egress = b.ingress, b.egress
	p.object, p.source, p.specs = b.object, b.source, b.specs
	p.untranslated, p.bad = b.untranslated, b.bad
	p.static = rs.problems.replace(p.static, b.static)
	rs.changePolicy(p, b.policy)
	for h := range p.local {
		if same {
			rs.refreshHep(h)
		} else {
			rs.restructure(h)
		}
	}
	if fresh := p.selector.IsZero(); fresh || !p.selector.Equal(b.selector) {
		p.selector = b.selector
		rs.forgetWitness(p)
		if p.selector.IsZero() {
			if !fresh {
				rs.matchAny(rs.index.DeleteSelector(p.indexKey))
			}
		} else {
			rs.matchAny(rs.index.PutLocalSelector(p.indexKey, p.selector))
		}
	}
	rs.touchPolicy(p)
}

func (rs *Resolver) deletePolicy(key string) {
	p := rs.policies[key]
	if p == nil {
		return
	}
	rs.matchAny(rs.index.DeleteSelector(key))
	rs.forgetWitness(p)
	delete(rs.policies, key)
	delete(p.tier.policies, p)
	rs.tidyTier(p.tier)
	p.static = rs.problems.replace(p.static, nil)
	rs.changePolicy(p, nil)
	p.selector = selector.Selector{}
	rs.touchPolicy(p)
}

// changePolicy sets the policy.
func (rs *Resolver) changePolicy(p *boundPolicy, now *Policy) {
	p.policy = now
	rs.notePolicy(p)
}

// notePolicy notes that p may be another policy than before, to those who ask it.
func (rs *Resolver) notePolicy(p *boundPolicy) {
	if !p.changed {
		p.changed = true
		rs.changedPolicies = append(rs.changedPolicies, p)
	}
}

// settlePolicy declares the sets of a policy that is asked on this host.
func (rs *Resolver) settlePolicy(p *boundPolicy) {
	p.dirty = false
	rs.findWitness(p)
	var want []setSource
	if len(p.local) > 0 {
		rs.translate(p)
		want = p.specs
	}
	if (len(p.local) > 0) != (p.published != nil) {
		rs.notePolicy(p)
	}
	old := p.declared
	p.declared = want
	if len(old) == len(want) && (len(old) == 0 || &old[0] == &want[0]) {
		return
	}
	rs.declare(want, p)
	rs.undeclare(old, p)
}

// governs returns the directions of a policy, with Calico's default for empty types.
//
// Calico: validation wants Ingress and Egress in this case; in a stored policy the case does not matter.
// Ref: libcalico-go/lib/clientv3/globalnetworkpolicy.go, defaultPolicyTypesField; felix/calc/policy_sorter.go.
func governs(types []hostendpoint.PolicyType, in, out bool) (ingress, egress bool) {
	if len(types) == 0 {
		return in || !out, out
	}
	has := func(want hostendpoint.PolicyType) bool {
		return slices.ContainsFunc(types, func(t hostendpoint.PolicyType) bool { return strings.EqualFold(string(t), string(want)) })
	}
	return has(hostendpoint.PolicyTypeIngress), has(hostendpoint.PolicyTypeEgress)
}
