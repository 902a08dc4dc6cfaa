// SPDX-License-Identifier: Apache-2.0

package policy

import "slices"

// Whether a policy selects anything at all is a question about the endpoints of all hosts, and one of them answers it: its
// witness. Only a policy without one is compared with all endpoints, by a selector in the index, until there is one.

// watchPrefix begins the names of these selectors in the index.
const watchPrefix = "W"

// findWitness looks for a witness of a policy that has none.
func (rs *Resolver) findWitness(p *boundPolicy) {
	if p.witness != nil || p.watched || p.selector.IsZero() {
		return
	}
	if n, ok := rs.index.Find(p.selector, func(n int) bool { return rs.peers[n].hep != nil }); ok {
		rs.setWitness(p, rs.peers[n].hep)
		return
	}
	p.watched = true
	rs.index.PutSelector(watchPrefix+p.indexKey, p.selector) // selects network sets at most
}

// setWitness gives p a witness, unless it has one.
func (rs *Resolver) setWitness(p *boundPolicy, h *hep) {
	if p.witness != nil {
		return
	}
	rs.forgetWitness(p)
	p.witness = h
	h.witness = append(h.witness, p)
	rs.touchPolicy(p)
}

// forgetWitness leaves p with neither a witness nor a watch.
func (rs *Resolver) forgetWitness(p *boundPolicy) {
	if p.witness != nil {
		p.witness.witness = without(p.witness.witness, p)
		p.witness = nil
	}
	if p.watched {
		p.watched = false
		rs.index.DeleteSelector(watchPrefix + p.indexKey)
	}
}

// checkWitness finds out which policies h is a witness of no more.
func (rs *Resolver) checkWitness(h *hep) {
	if len(h.witness) == 0 {
		return
	}
	labels, there := rs.index.Labels(hepKey(h.obj.Metadata.Name))
	h.witness = slices.DeleteFunc(h.witness, func(p *boundPolicy) bool {
		if there && p.selector.Matches(labels) {
			return false
		}
		p.witness = nil
		rs.touchPolicy(p)
		return true
	})
}

// checkWitnesses is checkWitness for the endpoints that inherit labels of a profile.
func (rs *Resolver) checkWitnesses(profile string) {
	seen := map[*hep]struct{}{}
	for _, p := range rs.policies {
		if h := p.witness; h != nil && slices.Contains(h.obj.Spec.Profiles, profile) {
			seen[h] = struct{}{}
		}
	}
	for h := range seen {
		rs.checkWitness(h)
	}
}
