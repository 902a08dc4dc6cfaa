// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy/effective"
	"github.com/hostpolicy/hostpolicy/selector"
)

// hep is a host endpoint of any node.
type hep struct {
	obj    *hostendpoint.HostEndpoint
	object string // for problems
	local  bool   // it is of this host
	peer          // addresses and ports that it contributes to sets

	matched []*boundPolicy // the policies that select it, in no order, if it is local
	witness []*boundPolicy // those that select it and know by it that they select anything, in no order

	claims []*hostInterface // those that it matches, in no order
	won    []string         // those of them that it governs, sorted
	using  []*profile       // the profiles of an active endpoint, in order

	ep *Endpoint // nil if it is out of date

	static, problems []Problem
	dirty            bool // in dirtyHeps
	changed          bool // in changedHeps
	gone             bool
	published        bool // the last Commit knew it as active
}

func (rs *Resolver) touchHep(h *hep) {
	if !h.dirty {
		h.dirty = true
		rs.dirtyHeps = append(rs.dirtyHeps, h)
	}
}

// restructure notes that the Endpoint of h must be made anew, and that it is not the same any more.
func (rs *Resolver) restructure(h *hep) {
	rs.refreshHep(h)
	if !h.changed {
		h.changed = true
		rs.changedHeps = append(rs.changedHeps, h)
	}
}

// refreshHep notes that the Endpoint of h must be made anew because something that it refers to was.
func (rs *Resolver) refreshHep(h *hep) {
	h.ep = nil
	if h == rs.wildcard {
		rs.dirtyLoopback = true
	}
}

func (rs *Resolver) putHostEndpoint(o *hostendpoint.HostEndpoint) {
	name := o.Metadata.Name
	h := rs.heps[name]
	if h == nil {
		h = &hep{object: object(o)}
		rs.heps[name] = h
	} else {
		rs.unclaim(h)
	}
	h.obj, h.local = o, o.Spec.Node == rs.host.Node
	h.static = rs.problems.replace(h.static, rs.check(o))
	key := hepKey(name)
	rs.setPeer(key, &h.peer, endpointPeer(o), h)
	rs.match(h, rs.indexEndpoint(h))
	rs.setNumber(key, h, &h.peer)
	rs.checkWitness(h)
	rs.claim(h)
	rs.restructure(h)
	rs.touchHep(h)
}

func (rs *Resolver) deleteHostEndpoint(name string) {
	h := rs.heps[name]
	if h == nil {
		return
	}
	delete(rs.heps, name)
	rs.unclaim(h)
	key := hepKey(name)
	n, _ := rs.index.Number(key)
	rs.match(h, rs.index.DeleteEndpoint(key))
	rs.peers[n] = peerOf{}
	rs.checkWitness(h)
	h.static = rs.problems.replace(h.static, nil)
	h.gone, h.local = true, false
	rs.restructure(h)
	rs.touchHep(h)
}

// indexEndpoint puts h into the index. Policies are asked on this host alone, so that only its own endpoints are compared
// with them.
func (rs *Resolver) indexEndpoint(h *hep) []selector.Change {
	put := rs.index.PutEndpoint
	if h.local {
		put = rs.index.PutLocalEndpoint
	}
	return put(hepKey(h.obj.Metadata.Name), h.obj.Metadata.Labels, h.obj.Spec.Profiles...)
}

// match takes in what the index says of changes of h.
func (rs *Resolver) match(h *hep, changes []selector.Change) {
	for _, c := range changes {
		rs.indexed(c.Selector).match(rs, &h.peer, h, c.Match)
	}
}

// matchAny takes in changes of anything. Those of one selector mostly come one behind the other.
func (rs *Resolver) matchAny(changes []selector.Change) {
	var s indexed
	for i, c := range changes {
		if i == 0 || changes[i-1].Selector != c.Selector {
			s = rs.indexed(c.Selector)
		}
		s.match(rs, rs.peers[c.Number].peer, rs.peers[c.Number].hep, c.Match)
	}
}

// indexed is what a selector of the index stands for.
type indexed struct {
	set   *set
	watch *boundPolicy // waits for an endpoint that it selects
	of    *boundPolicy
}

func (rs *Resolver) indexed(name string) indexed {
	if x := rs.sets[name]; x != nil {
		return indexed{set: x}
	}
	if key, ok := strings.CutPrefix(name, watchPrefix); ok {
		return indexed{watch: rs.policies[key]}
	}
	return indexed{of: rs.policies[name]}
}

// match notes that the selector begins or ceases to select a peer. H is the endpoint that it is of; nil for a network
// set.
func (s indexed) match(rs *Resolver, p *peer, h *hep, match bool) {
	switch {
	case s.set != nil:
		rs.matchSet(s.set, p, h, match)
	case h == nil:
	case s.of != nil:
		rs.matchPolicy(s.of, h, match)
	case s.watch != nil && match:
		rs.setWitness(s.watch, h)
	}
}

// peerOf is what an endpoint of the index stands for. The hep is nil for a network set.
type peerOf struct {
	hep  *hep
	peer *peer
}

// setNumber notes what an endpoint of the index stands for. It must be called before matchAny hears of it.
func (rs *Resolver) setNumber(key string, h *hep, p *peer) {
	n, ok := rs.index.Number(key)
	if !ok {
		return
	}
	for len(rs.peers) <= n {
		rs.peers = append(rs.peers, peerOf{})
	}
	rs.peers[n] = peerOf{h, p}
}

// matchPolicy notes that p begins or ceases to select h.
func (rs *Resolver) matchPolicy(p *boundPolicy, h *hep, match bool) {
	if match {
		if h.matched == nil {
			h.matched = make([]*boundPolicy, 0, 8)
		}
		h.matched = append(h.matched, p)
	} else {
		h.matched = without(h.matched, p)
	}
	if _, ok := rs.active[h]; ok {
		rs.attach(p, h, match)
		rs.restructure(h)
	}
}

// attach notes that p begins or ceases to govern an active endpoint.
func (rs *Resolver) attach(p *boundPolicy, h *hep, match bool) {
	if match {
		if p.local == nil {
			p.local = map[*hep]struct{}{}
		}
		p.local[h] = struct{}{}
	} else {
		delete(p.local, h)
	}
	if len(p.local) == 0 || match && len(p.local) == 1 || p.doNotTrack && h == rs.wildcard {
		rs.touchPolicy(p)
	}
}

// settleEndpoint finds out whether h governs anything, and what follows from that for policies and profiles.
func (rs *Resolver) settleEndpoint(h *hep) {
	h.dirty = false
	var won []string
	for _, i := range h.claims {
		if i.winner == h {
			won = append(won, i.Name)
		}
	}
	slices.Sort(won)
	if !slices.Equal(won, h.won) {
		h.won = won
		rs.restructure(h)
	}
	_, was := rs.active[h]
	is := len(won) > 0 || h == rs.wildcard
	if was != is {
		rs.restructure(h)
		if is {
			rs.active[h] = struct{}{}
		} else {
			delete(rs.active, h)
		}
		for _, p := range h.matched {
			rs.attach(p, h, is)
		}
	}
	var names []string
	if is {
		names = h.obj.Spec.Profiles
	}
	if slices.EqualFunc(h.using, names, func(p *profile, name string) bool { return p.name == name }) {
		return
	}
	rs.restructure(h)
	old := h.using
	h.using = nil
	for _, name := range names {
		p := rs.profile(name)
		p.users[h]++
		h.using = append(h.using, p)
		rs.touchProfile(p)
	}
	for _, p := range old {
		if p.users[h]--; p.users[h] == 0 {
			delete(p.users, h)
		}
		rs.touchProfile(p)
	}
}

// endpoint returns the Endpoint of h, which must be active.
func (rs *Resolver) endpoint(h *hep) *Endpoint {
	if h.ep != nil {
		return h.ep
	}
	labels, _ := rs.index.Labels(hepKey(h.obj.Metadata.Name))
	ep := &Endpoint{Name: h.obj.Metadata.Name, Interfaces: h.won, Labels: labels, Pos: h.obj.Source.Pos()}
	for _, p := range h.using {
		ep.Profiles = append(ep.Profiles, p.resolved)
	}
	slices.SortFunc(h.matched, (*boundPolicy).compare)
	for _, p := range h.matched {
		switch {
		case p.doNotTrack:
			if h != rs.wildcard {
				ep.Untracked = add(ep.Untracked, p, p.ingress, p.egress)
			}
		case p.preDNAT:
			ep.PreDNAT = add(ep.PreDNAT, p, p.ingress, false)
		default:
			ep.Normal = add(ep.Normal, p, p.ingress, p.egress)
			if p.applyOnForward {
				ep.Forward = add(ep.Forward, p, p.ingress, p.egress)
			}
		}
	}
	h.ep = ep
	return ep
}

// add appends p to the tier it belongs to, which is the last of the list or a new one. A policy that governs neither
// direction, as only a stored one without validation can, makes no tier.
// Ref: felix/calc/event_sequencer.go, tierInfoToProtoTierInfo.
func add(list []TierPolicies, p *boundPolicy, ingress, egress bool) []TierPolicies {
	if !ingress && !egress {
		return list
	}
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

// without removes one x from list, whose order does not matter.
func without[T comparable](list []T, x T) []T {
	i := slices.Index(list, x)
	if i < 0 {
		return list
	}
	var zero T
	last := len(list) - 1
	list[i] = list[last]
	list[last] = zero
	return list[:last]
}

// profile is a profile that exists or that an active endpoint names.
type profile struct {
	name     string
	obj      *hostendpoint.Profile // nil if it does not exist
	users    map[*hep]int          // active endpoints, and how often each names it
	resolved *Profile              // nil while nobody uses it
	stale    bool                  // resolved is out of date
	declared []setSource
	static   []Problem // of the object
	rules    []Problem // of its rules, while it is in use

	dirty   bool
	changed bool
	old     *Profile // resolved at the last Commit, if changed
}

// profile returns the profile of a name, existing or not.
func (rs *Resolver) profile(name string) *profile {
	p := rs.profiles[name]
	if p == nil {
		p = &profile{name: name, users: map[*hep]int{}}
		rs.profiles[name] = p
	}
	return p
}

func (rs *Resolver) touchProfile(p *profile) {
	if !p.dirty {
		p.dirty = true
		rs.dirtyProfiles = append(rs.dirtyProfiles, p)
	}
}

func (rs *Resolver) putProfile(o *hostendpoint.Profile) {
	p := rs.profile(o.Metadata.Name)
	if p.name == hostendpoint.DefaultAllowProfileName {
		p.static = rs.problems.replace(p.static, []Problem{{Severity: Warning, Code: "builtin-profile", Object: object(o), Path: "metadata.name",
			Pos: o.At("metadata.name"), Message: "the built-in profile of this name is used instead"}})
		return
	}
	rs.setProfile(p, o, rs.check(o))
	rs.matchAny(rs.index.PutParent(p.name, o.Spec.LabelsToApply))
	rs.checkWitnesses(p.name)
}

func (rs *Resolver) deleteProfile(name string) {
	p := rs.profiles[name]
	if p == nil {
		return
	}
	if name == hostendpoint.DefaultAllowProfileName {
		p.static = rs.problems.replace(p.static, nil)
		return
	}
	rs.setProfile(p, nil, nil)
	rs.matchAny(rs.index.DeleteParent(name))
	rs.checkWitnesses(name)
}

func (rs *Resolver) setProfile(p *profile, o *hostendpoint.Profile, static []Problem) {
	if (p.obj == nil) != (o == nil) {
		for h := range p.users { // they report missing profiles
			rs.touchHep(h)
		}
	}
	// Labels that are handed down are part of the endpoints, even where they change no match.
	if labels := labelsToApply(o); !maps.Equal(labelsToApply(p.obj), labels) {
		for h := range rs.active {
			if slices.Contains(h.obj.Spec.Profiles, p.name) {
				rs.refreshHep(h)
			}
		}
	}
	p.obj, p.stale = o, true
	p.static = rs.problems.replace(p.static, static)
	rs.touchProfile(p)
}

func labelsToApply(o *hostendpoint.Profile) map[string]string {
	if o == nil {
		return nil
	}
	return o.Spec.LabelsToApply
}

// settleProfile resolves a profile that is in use, and forgets one that is not.
func (rs *Resolver) settleProfile(p *profile) {
	p.dirty = false
	var sets []setSource
	switch {
	case len(p.users) == 0:
		rs.changeProfile(p, nil)
		p.rules = rs.problems.replace(p.rules, nil)
		if p.obj == nil {
			delete(rs.profiles, p.name)
		}
	case p.resolved != nil && !p.stale:
		return
	case p.obj == nil:
		rs.changeProfile(p, &Profile{Name: p.name, Missing: true})
		p.rules = rs.problems.replace(p.rules, nil)
	default:
		t := ruleTranslator{ignoreHTTP: rs.config.IgnoreHTTP, object: object(p.obj), source: p.obj.Source, reader: effective.Reader{Parse: rs.parse}}
		rs.changeProfile(p, &Profile{
			Name: p.name, Pos: p.obj.Source.Pos(),
			Ingress: t.rules("spec.ingress", p.obj.Spec.Ingress), Egress: t.rules("spec.egress", p.obj.Spec.Egress),
		})
		sets = t.specs
		p.rules = rs.problems.replace(p.rules, append(t.problems, serviceProblems(t.object, t.specs)...))
	}
	p.stale = false
	old := p.declared
	p.declared = sets
	rs.declare(sets, nil)
	rs.undeclare(old, nil)
}

// changeProfile sets the resolved profile, and notes what it was.
func (rs *Resolver) changeProfile(p *profile, now *Profile) {
	if p.resolved == now {
		return
	}
	if !p.changed {
		p.changed, p.old = true, p.resolved
		rs.changedProfiles = append(rs.changedProfiles, p)
	}
	p.resolved = now
	for h := range p.users {
		rs.refreshHep(h)
	}
}

// endpointProblems returns the problems of h that depend on anything else than h.
func (rs *Resolver) endpointProblems(h *hep) []Problem {
	if h.gone {
		return nil
	}
	var out []Problem
	report := func(sev Severity, code, path, at, message string) {
		out = append(out, Problem{Severity: sev, Code: code, Object: h.object, Path: path, Pos: positioned(h.obj.Source, at), Message: message})
	}
	if len(h.addrs) == 0 {
		for x := range rs.setsOf(hepKey(h.obj.Metadata.Name)) {
			if h.wouldFill(x) {
				report(Warning, "peer-without-ips", "spec.expectedIPs", "spec",
					"rules select it, but without expectedIPs no address of it is known: they do not match its traffic")
				break
			}
		}
	}
	if !h.local {
		return out
	}
	for i, p := range h.using {
		if p.obj == nil {
			path := "spec.profiles[" + strconv.Itoa(i) + "]"
			report(Error, "missing-profile", path, path, fmt.Sprintf("profile %q does not exist: everything that reaches it is denied", p.name))
		}
	}
	if h.obj.Spec.InterfaceName == hostendpoint.AllInterfaces {
		if h != rs.wildcard {
			report(Warning, "shadowed-endpoint", "metadata.name", "metadata.name",
				"never used: the all-interfaces endpoint "+rs.wildcard.object+" comes first by name")
		}
		return out
	}
	for _, i := range h.claims {
		if i.winner != h {
			report(Warning, "shadowed-endpoint", "metadata.name", "metadata.name",
				fmt.Sprintf("matches interface %s, which %s governs: of several endpoints the one whose name is first wins", i.Name, i.winner.object))
		}
	}
	n := h.obj.Spec.InterfaceName
	if len(h.claims) == 0 {
		msg := "matches no interface of this host"
		switch {
		case n == "":
			msg += ": none of its expectedIPs is on one"
		case rs.isWorkload(n):
			msg += ": " + n + " belongs to a workload, which no host endpoint governs"
		case n == excludedInterface:
			msg += ": " + n + " is never governed"
		default:
			msg += ": there is no " + n
		}
		report(Warning, "unmatched-endpoint", "spec.interfaceName", "spec.interfaceName", msg)
	}
	if i := rs.ifaces[n]; i != nil {
		for j, a := range h.addrs {
			if !i.has(a.Addr()) {
				path := "spec.expectedIPs[" + strconv.Itoa(j) + "]"
				report(Info, "foreign-address", path, path,
					a.Addr().String()+" is not on interface "+i.Name+"; with an interface name addresses only feed the selectors of rules")
			}
		}
	}
	return out
}
