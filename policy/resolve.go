// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Resolve answers every question of reference and order that resources leave open, for one host: which endpoint governs
// which interface, which policies select it and in which order they are asked, what selectors and named ports stand
// for. It never gives up on account of one object: what is wrong with an object is a Problem of the Snapshot, and the
// object is used as far as it can be understood. A rule that cannot be understood denies what reaches it; a policy
// whose selector cannot be understood selects nothing.
//
// The error is non-nil only if host or config make no sense; it is then made of *field.Error and the Snapshot is nil.
// Resolve keeps references into its arguments, which must not change afterwards. For resources that change, see
// Resolver.
//
// Ref: felix/calc (policy_resolver.go, policy_sorter.go, event_sequencer.go, active_rules_calculator.go),
// felix/dataplane/linux/endpoint_mgr.go.
func Resolve(r hostendpoint.Resources, h hostendpoint.Host, c Config) (*Snapshot, error) {
	rs, err := NewResolver(h, c)
	if err != nil {
		return nil, err
	}
	rs.Load(r)
	return rs.Snapshot(), nil
}

// Load puts all resources in. Of several objects with one name the first of the slice is used, and the others are
// reported: for a Resolver that is empty.
func (rs *Resolver) Load(r hostendpoint.Resources) {
	// Labels before selectors, and what is inherited before those who inherit: the index is fastest in this order.
	rs.Grow(len(r.HostEndpoints))
	loadKind(rs, r.Tiers)
	loadKind(rs, r.Profiles)
	loadKind(rs, r.HostEndpoints)
	loadKind(rs, r.GlobalNetworkSets)
	loadKind(rs, r.NetworkSets)
	loadKind(rs, r.GlobalNetworkPolicies)
	loadKind(rs, r.NetworkPolicies)
}

func loadKind[T interface {
	comparable
	hostendpoint.Object
}](rs *Resolver, in []T) {
	var missing T
	seen := make(map[hostendpoint.ID]T, len(in))
	for _, o := range in {
		if o == missing {
			continue
		}
		id := o.ID()
		if id.Kind == hostendpoint.KindGlobalNetworkPolicy || id.Kind == hostendpoint.KindNetworkPolicy {
			id = id.Stored()
		}
		first, ok := seen[id]
		if !ok {
			seen[id] = o
			rs.Put(o)
			continue
		}
		msg := "another object has this name; only the first one is used"
		if pos := first.At("").String(); pos != "" {
			msg += " (" + pos + ")"
		}
		rs.problems.replace(nil, []Problem{{Severity: Error, Code: "duplicate-object", Object: o.ID().String(), Path: "metadata.name", Pos: o.At("metadata.name"), Message: msg}})
	}
}
