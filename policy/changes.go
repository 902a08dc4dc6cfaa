// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"strings"
)

// Changes is what Commit of a Resolver says: how its state differs from that of the Commit before. The zero value is no
// change. Lists are sorted, by the names of what they hold.
type Changes struct {
	Endpoints []EndpointChange
	Policies  []PolicyChange
	Profiles  []ProfileChange
	Sets      []SetChange

	Raised, Solved []Problem // problems that came and went
}

// EndpointChange says that an endpoint of this host came, went, or refers to other interfaces, policies or profiles than
// before, in another order. What is in those it refers to does not count.
type EndpointChange struct {
	Name     string
	Endpoint *Endpoint // nil if it governs nothing any more
	Wildcard bool      // whether it is the all-interfaces endpoint
}

// PolicyChange says that a policy was replaced that endpoints of this host refer to: wherever they referred to Old, they
// refer to New. One of them is nil if no endpoint referred to it, or does any more.
type PolicyChange struct {
	Old, New *Policy
}

// ProfileChange is PolicyChange for a profile that endpoints of this host name.
type ProfileChange struct {
	Old, New *Profile
}

// SetChange says how the members of a set changed.
type SetChange struct {
	ID             string
	New            bool     // nobody named it before; Added is nil, and Resolver.Set has its members
	Gone           bool     // nobody names it any more; Removed is nil
	Added, Removed []Member // sorted
}

// Commit returns what changed since the last Commit.
func (rs *Resolver) Commit() Changes {
	rs.settle()
	var c Changes
	for _, h := range rs.changedHeps {
		h.changed = false
		e := EndpointChange{Name: h.obj.Metadata.Name}
		if _, ok := rs.active[h]; ok {
			e.Endpoint, e.Wildcard = rs.endpoint(h), h == rs.wildcard
		}
		if e.Endpoint != nil || h.published {
			c.Endpoints = append(c.Endpoints, e)
		}
		h.published = e.Endpoint != nil
	}
	slices.SortFunc(c.Endpoints, func(a, b EndpointChange) int { return strings.Compare(a.Name, b.Name) })
	c.Endpoints = oneOfEach(c.Endpoints)
	slices.SortFunc(rs.changedPolicies, func(a, b *boundPolicy) int { return strings.Compare(a.indexKey, b.indexKey) })
	for _, p := range rs.changedPolicies {
		now := p.policy
		if len(p.local) == 0 {
			now = nil
		}
		if p.published != now {
			c.Policies = append(c.Policies, PolicyChange{p.published, now})
		}
		p.changed, p.published = false, now
	}
	slices.SortFunc(rs.changedProfiles, func(a, b *profile) int { return strings.Compare(a.name, b.name) })
	for _, p := range rs.changedProfiles {
		if p.old != p.resolved {
			c.Profiles = append(c.Profiles, ProfileChange{p.old, p.resolved})
		}
		p.changed, p.old = false, nil
	}
	slices.SortFunc(rs.changedSets, func(a, b *set) int { return strings.Compare(a.ID, b.ID) })
	for _, x := range rs.changedSets {
		x.changed = false
		if s, ok := x.commit(); ok {
			c.Sets = append(c.Sets, s)
		}
		if x.refs == 0 && rs.sets[x.ID] == x {
			delete(rs.sets, x.ID)
		}
	}
	rs.changedHeps, rs.changedPolicies, rs.changedProfiles, rs.changedSets = rs.changedHeps[:0], rs.changedPolicies[:0], rs.changedProfiles[:0], rs.changedSets[:0]
	c.Raised, c.Solved = rs.problems.commit()
	return c
}

// oneOfEach merges changes of one name: an endpoint that was deleted and another that took its name.
func oneOfEach(list []EndpointChange) []EndpointChange {
	out := list[:0]
	for _, e := range list {
		if n := len(out); n > 0 && out[n-1].Name == e.Name {
			if e.Endpoint != nil {
				out[n-1] = e
			}
			continue
		}
		out = append(out, e)
	}
	return out
}

// commit returns how x changed, and false if it did not.
func (x *set) commit() (SetChange, bool) {
	c := SetChange{ID: x.ID}
	switch was, is := x.known, x.refs > 0; {
	case !was && !is:
		return c, false
	case is && !was:
		c.New = true
	case was && !is:
		c.Gone = true
	default:
		for m, before := range x.touched {
			switch _, now := x.members[m]; {
			case now && !before:
				c.Added = append(c.Added, m)
			case before && !now:
				c.Removed = append(c.Removed, m)
			}
		}
		slices.SortFunc(c.Added, compareMembers)
		slices.SortFunc(c.Removed, compareMembers)
	}
	x.known, x.touched = x.refs > 0, nil
	return c, c.New || c.Gone || len(c.Added)+len(c.Removed) > 0
}
