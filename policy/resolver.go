// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/selector"
)

// Resolver is Resolve for resources and a host that change. Put, Delete and SetHost take changes in; Commit says what
// became of them, at a cost that grows with the changes and not with what is there. Its state depends on the present
// resources and host alone, not on the way to them: Snapshot returns what Resolve returns for them.
//
// The zero value is not useful; NewResolver makes a Resolver. It is for one goroutine at a time. What it hands out is
// immutable and stays valid. It keeps references into objects that it is given, which must not change afterwards.
type Resolver struct {
	host   hostendpoint.Host
	config Config

	index     selector.Index // selectors of policies and sets; labels of endpoints and network sets
	peers     []peerOf       // by the numbers of the index
	heps      map[string]*hep
	netsets   map[string]*netset
	profiles  map[string]*profile // defined, or named by an active endpoint
	tiers     map[string]*tierInfo
	policies  map[string]*boundPolicy
	sets      map[string]*set
	ifaces    map[string]*hostInterface
	byName    map[string][]*hep     // endpoints of this host with an interface name
	byAddr    map[netip.Addr][]*hep // endpoints of this host without one
	wildcards []*hep                // all-interfaces endpoints of this host, sorted by name
	wildcard  *hep

	parsed   map[string]selector.Selector // what was read lately, by its text
	active   map[*hep]struct{}            // those that govern interfaces, and the wildcard
	problems problemSet
	snapshot *Snapshot // nil if it is out of date

	// What settle and Commit have to look at. Each object is in its list at most once, and says so itself.
	dirtyIfaces   []*hostInterface
	dirtyHeps     []*hep
	dirtyPolicies []*boundPolicy
	dirtyProfiles []*profile
	dirtySets     []*set
	wildcardMoved bool
	dirtyLoopback bool
	loopback      []Problem

	changedHeps     []*hep
	changedPolicies []*boundPolicy
	changedProfiles []*profile
	changedSets     []*set
}

// NewResolver returns a Resolver without resources. The error is that of Resolve.
func NewResolver(h hostendpoint.Host, c Config) (*Resolver, error) {
	c = c.withDefaults()
	errs := append(c.validate(), validateHost(h)...)
	if err := errs.Err(); err != nil {
		return nil, err
	}
	rs := &Resolver{
		config: c, heps: map[string]*hep{}, netsets: map[string]*netset{}, profiles: map[string]*profile{},
		tiers: map[string]*tierInfo{}, policies: map[string]*boundPolicy{}, sets: map[string]*set{},
		ifaces: map[string]*hostInterface{}, byName: map[string][]*hep{}, byAddr: map[netip.Addr][]*hep{},
		active: map[*hep]struct{}{}, parsed: map[string]selector.Selector{},
	}
	rs.builtins()
	rs.setHost(h)
	return rs, nil
}

// parse is selector.Parse. Every selector of an object is read twice, by its check and for its meaning, and mostly an
// object changes in something else.
func (rs *Resolver) parse(text string) (selector.Selector, error) {
	if s, ok := rs.parsed[text]; ok {
		return s, nil
	}
	s, err := selector.Parse(text)
	if err != nil {
		return s, err
	}
	if len(rs.parsed) >= mostParsed {
		clear(rs.parsed)
	}
	rs.parsed[text] = s
	return s, nil
}

// mostParsed bounds what is kept of selectors that may be no more.
const mostParsed = 1 << 14

// Config returns the configuration, with defaults filled in.
func (rs *Resolver) Config() Config { return rs.config }

// Host returns the host, with its loopback interface.
func (rs *Resolver) Host() hostendpoint.Host { return rs.host }

// Grow makes room for n host endpoints, if there are none. It changes nothing else; starting with many is faster then.
func (rs *Resolver) Grow(n int) {
	if len(rs.heps) == 0 {
		rs.heps = make(map[string]*hep, n)
		rs.peers = slices.Grow(rs.peers, n)
		rs.index.Grow(n)
	}
}

// Put takes an object in, which must not be nil, in place of the one that a datastore would keep under the same name. Nothing happens with
// kinds that policy does not read.
func (rs *Resolver) Put(o hostendpoint.Object) {
	rs.snapshot = nil
	switch o := o.(type) {
	case *hostendpoint.HostEndpoint:
		rs.putHostEndpoint(o)
	case *hostendpoint.Profile:
		rs.putProfile(o)
	case *hostendpoint.Tier:
		rs.putTier(o)
	case *hostendpoint.GlobalNetworkPolicy:
		rs.putGlobalNetworkPolicy(o)
	case *hostendpoint.NetworkPolicy:
		rs.putNetworkPolicy(o)
	case *hostendpoint.GlobalNetworkSet:
		rs.putNetworkSet(netsetKey(o.ID()), o, o.Metadata.Labels, nil, o.Spec.Nets)
	case *hostendpoint.NetworkSet:
		own := maps.Clone(o.Metadata.Labels)
		if own == nil {
			own = map[string]string{}
		}
		own[hostendpoint.NamespaceLabel] = o.Metadata.Namespace
		rs.putNetworkSet(netsetKey(o.ID()), o, own, []string{"kns." + o.Metadata.Namespace}, o.Spec.Nets)
	}
}

// Delete takes the object out that a datastore would keep under the name of id. It is no error if there is none.
func (rs *Resolver) Delete(id hostendpoint.ID) {
	rs.snapshot = nil
	switch id.Kind {
	case hostendpoint.KindHostEndpoint:
		rs.deleteHostEndpoint(id.Name)
	case hostendpoint.KindProfile:
		rs.deleteProfile(id.Name)
	case hostendpoint.KindTier:
		rs.deleteTier(id.Name)
	case hostendpoint.KindGlobalNetworkPolicy, hostendpoint.KindNetworkPolicy:
		rs.deletePolicy(policyKey(id))
	case hostendpoint.KindGlobalNetworkSet, hostendpoint.KindNetworkSet:
		rs.deleteNetworkSet(netsetKey(id))
	}
}

// SetHost takes a new host in. The error is that of Resolve, and the host then stays what it was.
func (rs *Resolver) SetHost(h hostendpoint.Host) error {
	if err := validateHost(h).Err(); err != nil {
		return err
	}
	rs.snapshot = nil
	rs.setHost(h)
	return nil
}

// Snapshot returns the present state, as Resolve would. What it shares with earlier Snapshots is what did not change.
func (rs *Resolver) Snapshot() *Snapshot {
	if rs.snapshot != nil {
		return rs.snapshot
	}
	rs.settle()
	s := &Snapshot{Host: rs.host, Config: rs.config, Profiles: []*Profile{}, Problems: rs.problems.sorted()}
	for h := range rs.active {
		if h == rs.wildcard {
			s.Wildcard = rs.endpoint(h)
		} else {
			s.Endpoints = append(s.Endpoints, rs.endpoint(h))
		}
	}
	slices.SortFunc(s.Endpoints, func(a, b *Endpoint) int { return strings.Compare(a.Name, b.Name) })
	for _, name := range slices.Sorted(maps.Keys(rs.profiles)) {
		if p := rs.profiles[name]; p.resolved != nil {
			s.Profiles = append(s.Profiles, p.resolved)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(rs.sets)) {
		if x := rs.sets[id]; x.refs > 0 {
			s.Sets = append(s.Sets, x.get())
		}
	}
	rs.snapshot = s
	return s
}

// Set returns the set of an ID that rules in use name; nil if there is none.
func (rs *Resolver) Set(id string) *Set {
	rs.settle()
	x := rs.sets[id]
	if x == nil || x.refs == 0 {
		return nil
	}
	return x.get()
}

// Declared reports whether rules in use name the set of an ID, and whether its members have ports.
func (rs *Resolver) Declared(id string) (ports, ok bool) {
	x := rs.sets[id]
	if x == nil || x.refs == 0 {
		return false, false
	}
	return x.Kind.HasPorts(), true
}

// settle makes everything that follows from the resources follow from the present ones. The order is that of the
// dependencies: interfaces, endpoints, policies and profiles, sets, problems.
func (rs *Resolver) settle() {
	for len(rs.dirtyIfaces)+len(rs.dirtyHeps)+len(rs.dirtyPolicies)+len(rs.dirtyProfiles)+len(rs.dirtySets) > 0 || rs.wildcardMoved || rs.dirtyLoopback {
		rs.settleInterfaces()
		heps := rs.dirtyHeps
		rs.dirtyHeps = nil
		for _, h := range heps {
			rs.settleEndpoint(h)
		}
		policies := rs.dirtyPolicies
		rs.dirtyPolicies = nil
		for _, p := range policies {
			rs.settlePolicy(p)
		}
		profiles := rs.dirtyProfiles
		rs.dirtyProfiles = nil
		for _, p := range profiles {
			rs.settleProfile(p)
		}
		sets := rs.dirtySets
		rs.dirtySets = nil
		for _, x := range sets {
			rs.settleSet(x)
		}
		for _, h := range heps {
			h.problems = rs.problems.replace(h.problems, rs.endpointProblems(h))
		}
		for _, p := range policies {
			p.problems = rs.problems.replace(p.problems, rs.policyProblems(p))
		}
		if rs.dirtyLoopback && len(rs.dirtyHeps)+len(rs.dirtySets)+len(rs.dirtyPolicies)+len(rs.dirtyProfiles) == 0 {
			rs.dirtyLoopback = false
			rs.loopback = rs.problems.replace(rs.loopback, rs.loopbackProblems())
		}
	}
}

// netsetKey, policyKey and hepKey are the names that objects have in the index. Those of sets begin with a lower-case
// letter.
func netsetKey(id hostendpoint.ID) string {
	if id.Kind == hostendpoint.KindNetworkSet {
		return "N" + id.Namespace + "/" + id.Name
	}
	return "G" + id.Name
}

func hepKey(name string) string { return "H" + name }

func policyKey(id hostendpoint.ID) string {
	id = id.Stored()
	if id.Kind == hostendpoint.KindNetworkPolicy {
		return "N" + id.Namespace + "/" + id.Name
	}
	return "G" + id.Name
}

// object returns the name of an object for people: Kind(name) or Kind(namespace/name).
func object(o hostendpoint.Object) string { return o.ID().String() }

// positioned returns the position of a path in s; it is a short cut for objects that come from no file.
func positioned(s *field.Source, path string) field.Pos {
	if s == nil {
		return field.Pos{}
	}
	return s.At(path)
}
