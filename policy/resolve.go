// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/selector"
)

// Resolve answers every question of reference and order that resources leave open, for one host: which endpoint governs
// which interface, which policies select it and in which order they are asked, what selectors and named ports stand
// for. It never gives up on account of one object: what is wrong with an object is a Problem of the Snapshot, and the
// object is used as far as it can be understood. A rule that cannot be understood denies what reaches it; a policy
// whose selector cannot be understood selects nothing.
//
// The error is non-nil only if host or config make no sense; it is then made of *field.Error and the Snapshot is nil.
// Resolve keeps references into its arguments, which must not change afterwards.
//
// Ref: felix/calc (policy_resolver.go, policy_sorter.go, event_sequencer.go, active_rules_calculator.go),
// felix/dataplane/linux/endpoint_mgr.go.
func Resolve(r hostendpoint.Resources, h hostendpoint.Host, c Config) (*Snapshot, error) {
	var errs field.List
	c = c.withDefaults()
	errs = append(errs, c.validate()...)
	errs = append(errs, validateHost(h)...)
	if err := errs.Err(); err != nil {
		return nil, err
	}
	h.Interfaces = withLoopback(h.Interfaces)
	rs := &resolver{host: h, config: c, sets: map[string]*Set{}, specs: map[string]setSource{}}
	rs.load(r)
	rs.interfaces()
	rs.readPolicies()
	for _, ep := range rs.active {
		rs.attach(ep)
	}
	rs.fillSets()
	rs.lint()

	s := &Snapshot{Host: h, Config: c, Wildcard: rs.wildcard, Profiles: rs.usedProfiles()}
	for _, ep := range rs.active {
		if ep != rs.wildcard {
			s.Endpoints = append(s.Endpoints, ep)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(rs.sets)) {
		s.Sets = append(s.Sets, rs.sets[id])
	}
	s.Problems = rs.problems.sorted()
	return s, nil
}

// resolver is the state of one Resolve.
type resolver struct {
	host   hostendpoint.Host
	config Config

	heps     []*hep
	profiles map[string]*hostendpoint.Profile
	tiers    map[string]*tierInfo
	netsets  []*netset
	gnps     []*hostendpoint.GlobalNetworkPolicy
	nps      []*hostendpoint.NetworkPolicy

	policies []*boundPolicy // in order of evaluation: tier, order, key
	resolved map[string]*Profile

	active   []*Endpoint // sorted by name, with the wildcard
	hepOf    map[*Endpoint]*hep
	wildcard *Endpoint

	sets  map[string]*Set
	specs map[string]setSource

	problems problems
}

// hep is a host endpoint of any node with its text parsed.
type hep struct {
	obj    *hostendpoint.HostEndpoint
	object string // for problems
	labels map[string]string
	peer   // addresses and ports that it contributes to sets
}

// netset is a network set of either kind.
type netset struct {
	object string
	labels map[string]string
	peer
}

// load takes the resources in: sorted by name, duplicates and invalid objects reported, labels inherited.
func (rs *resolver) load(r hostendpoint.Resources) {
	rs.profiles = map[string]*hostendpoint.Profile{}
	for _, p := range unique(rs, r.Profiles, hostendpoint.KindProfile, func(p *hostendpoint.Profile) (*hostendpoint.ObjectMeta, *field.Source) { return &p.Metadata, p.Source }) {
		if p.Metadata.Name == hostendpoint.DefaultAllowProfileName {
			rs.problems.add(Warning, "builtin-profile", object(hostendpoint.KindProfile, &p.Metadata), "metadata.name", p.Source.At("metadata.name"), "the built-in profile of this name is used instead")
			continue
		}
		rs.check(p)
		rs.profiles[p.Metadata.Name] = p
	}
	rs.profiles[hostendpoint.DefaultAllowProfileName] = hostendpoint.DefaultAllowProfile()

	rs.loadTiers(r.Tiers)

	for _, h := range unique(rs, r.HostEndpoints, hostendpoint.KindHostEndpoint, func(h *hostendpoint.HostEndpoint) (*hostendpoint.ObjectMeta, *field.Source) {
		return &h.Metadata, h.Source
	}) {
		rs.check(h)
		rs.heps = append(rs.heps, &hep{
			obj: h, object: object(hostendpoint.KindHostEndpoint, &h.Metadata),
			labels: rs.inherit(h.Metadata.Labels, h.Spec.Profiles...), peer: endpointPeer(h),
		})
	}
	for _, n := range unique(rs, r.GlobalNetworkSets, hostendpoint.KindGlobalNetworkSet, func(n *hostendpoint.GlobalNetworkSet) (*hostendpoint.ObjectMeta, *field.Source) {
		return &n.Metadata, n.Source
	}) {
		rs.check(n)
		rs.netsets = append(rs.netsets, &netset{object(hostendpoint.KindGlobalNetworkSet, &n.Metadata), n.Metadata.Labels, netPeer(n.Spec.Nets)})
	}
	for _, n := range unique(rs, r.NetworkSets, hostendpoint.KindNetworkSet, func(n *hostendpoint.NetworkSet) (*hostendpoint.ObjectMeta, *field.Source) {
		return &n.Metadata, n.Source
	}) {
		rs.check(n)
		own := maps.Clone(n.Metadata.Labels)
		if own == nil {
			own = map[string]string{}
		}
		own["projectcalico.org/namespace"] = n.Metadata.Namespace
		rs.netsets = append(rs.netsets, &netset{object(hostendpoint.KindNetworkSet, &n.Metadata), rs.inherit(own, "kns."+n.Metadata.Namespace), netPeer(n.Spec.Nets)})
	}
	rs.gnps = unique(rs, r.GlobalNetworkPolicies, hostendpoint.KindGlobalNetworkPolicy, func(p *hostendpoint.GlobalNetworkPolicy) (*hostendpoint.ObjectMeta, *field.Source) {
		return &p.Metadata, p.Source
	})
	rs.nps = unique(rs, r.NetworkPolicies, hostendpoint.KindNetworkPolicy, func(p *hostendpoint.NetworkPolicy) (*hostendpoint.ObjectMeta, *field.Source) {
		return &p.Metadata, p.Source
	})
}

// inherit returns own labels with those that profiles add: the first profile of the list that defines a key wins, own
// labels win over all. Ref: felix/labelindex/label_inheritance_index.go.
func (rs *resolver) inherit(own map[string]string, profiles ...string) map[string]string {
	var out map[string]string
	for _, name := range profiles {
		p := rs.profiles[name]
		if p == nil {
			continue
		}
		for k, v := range p.Spec.LabelsToApply {
			if _, ok := own[k]; ok {
				continue
			}
			if _, ok := out[k]; ok {
				continue
			}
			if out == nil {
				out = maps.Clone(own)
				if out == nil {
					out = map[string]string{}
				}
			}
			out[k] = v
		}
	}
	if out == nil {
		return own
	}
	return out
}

// unique returns the objects of one kind sorted by namespace and name. Of several with one name the first of the slice
// is used, and the others are reported.
func unique[T any](rs *resolver, in []*T, kind string, meta func(*T) (*hostendpoint.ObjectMeta, *field.Source)) []*T {
	type entry struct {
		key string
		obj *T
	}
	out := make([]entry, 0, len(in))
	for _, o := range in {
		if o == nil {
			continue
		}
		m, _ := meta(o)
		out = append(out, entry{m.Namespace + "/" + storedName(kind, m.Name), o})
	}
	slices.SortStableFunc(out, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	objs := make([]*T, 0, len(out))
	for i, e := range out {
		if i > 0 && out[i-1].key == e.key {
			m, src := meta(e.obj)
			_, first := meta(objs[len(objs)-1])
			msg := "another object has this name; only the first one is used"
			if pos := first.Pos().String(); pos != "" {
				msg += " (" + pos + ")"
			}
			rs.problems.add(Error, "duplicate-object", object(kind, m), "metadata.name", src.At("metadata.name"), msg)
			continue
		}
		objs = append(objs, e.obj)
	}
	return objs
}

// storedName returns the name under which a datastore keeps an object: policies `foo` and `default.foo` are one.
func storedName(kind, name string) string {
	if kind == hostendpoint.KindGlobalNetworkPolicy || kind == hostendpoint.KindNetworkPolicy {
		return hostendpoint.BackendPolicyName(name)
	}
	return name
}

// object returns the name of an object for people: Kind(name) or Kind(namespace/name).
func object(kind string, m *hostendpoint.ObjectMeta) string {
	if m.Namespace != "" && (kind == hostendpoint.KindNetworkPolicy || kind == hostendpoint.KindNetworkSet) {
		return kind + "(" + m.Namespace + "/" + m.Name + ")"
	}
	return kind + "(" + m.Name + ")"
}

// attach finds the policies that select ep and puts them into the lists of the four stages. rs.policies is in order
// already. Ref: felix/calc/event_sequencer.go, tierInfoToProtoTierInfo.
func (rs *resolver) attach(ep *Endpoint) {
	labels := selector.MapLabels(ep.Labels)
	for _, p := range rs.policies {
		if !p.selector.Matches(labels) {
			continue
		}
		p.selected = true
		rs.use(p)
		switch {
		case p.doNotTrack:
			if ep == rs.wildcard {
				rs.problems.add(Error, "untracked-on-wildcard", p.object, "spec.doNotTrack", p.source.At("spec.doNotTrack"),
					"selects the all-interfaces endpoint "+rs.hepOf[ep].object+", where doNotTrack policy is not supported: it is not applied there; name the interface, or drop doNotTrack")
				continue
			}
			ep.Untracked = add(ep.Untracked, p, p.ingress, p.egress)
		case p.preDNAT:
			ep.PreDNAT = add(ep.PreDNAT, p, p.ingress, false)
		default:
			ep.Normal = add(ep.Normal, p, p.ingress, p.egress)
			if p.applyOnForward {
				ep.Forward = add(ep.Forward, p, p.ingress, p.egress)
			}
		}
	}
}

// add appends p to the tier it belongs to, which is the last of the list or a new one.
func add(list []TierPolicies, p *boundPolicy, ingress, egress bool) []TierPolicies {
	if n := len(list); n == 0 || list[n-1].Tier != p.tier.tier {
		list = append(list, TierPolicies{Tier: p.tier.tier})
	}
	t := &list[len(list)-1]
	if ingress {
		t.Ingress = append(t.Ingress, p.policy)
	}
	if egress {
		t.Egress = append(t.Egress, p.policy)
	}
	return list
}

// profile resolves the profile that an endpoint names.
func (rs *resolver) profile(name string, owner *hep, i int) *Profile {
	if p := rs.resolved[name]; p != nil {
		if p.Missing {
			rs.missingProfile(name, owner, i)
		}
		return p
	}
	if rs.resolved == nil {
		rs.resolved = map[string]*Profile{}
	}
	p := &Profile{Name: name}
	rs.resolved[name] = p
	src := rs.profiles[name]
	if src == nil {
		p.Missing = true
		rs.missingProfile(name, owner, i)
		return p
	}
	p.Pos = src.Source.Pos()
	t := ruleTranslator{rs: rs, object: object(hostendpoint.KindProfile, &src.Metadata), source: src.Source}
	p.Ingress = t.rules("spec.ingress", src.Spec.Ingress)
	p.Egress = t.rules("spec.egress", src.Spec.Egress)
	rs.declare(t.specs)
	return p
}

func (rs *resolver) usedProfiles() []*Profile {
	out := make([]*Profile, 0, len(rs.resolved))
	for _, name := range slices.Sorted(maps.Keys(rs.resolved)) {
		out = append(out, rs.resolved[name])
	}
	return out
}
