// SPDX-License-Identifier: Apache-2.0

package hostendpoint

import "iter"

// Add appends the objects to the slices of their kinds. It does not copy them, nor look for duplicates.
func (r *Resources) Add(objects ...Object) {
	for _, o := range objects {
		switch o := o.(type) {
		case *HostEndpoint:
			r.HostEndpoints = append(r.HostEndpoints, o)
		case *Profile:
			r.Profiles = append(r.Profiles, o)
		case *Tier:
			r.Tiers = append(r.Tiers, o)
		case *GlobalNetworkPolicy:
			r.GlobalNetworkPolicies = append(r.GlobalNetworkPolicies, o)
		case *NetworkPolicy:
			r.NetworkPolicies = append(r.NetworkPolicies, o)
		case *GlobalNetworkSet:
			r.GlobalNetworkSets = append(r.GlobalNetworkSets, o)
		case *NetworkSet:
			r.NetworkSets = append(r.NetworkSets, o)
		case *Node:
			r.Nodes = append(r.Nodes, o)
		}
	}
}

// All returns the objects kind by kind, in the order of the slices, nil pointers left out.
func (r Resources) All() iter.Seq[Object] {
	return func(yield func(Object) bool) {
		_ = each(r.HostEndpoints, yield) && each(r.Profiles, yield) && each(r.Tiers, yield) &&
			each(r.GlobalNetworkPolicies, yield) && each(r.NetworkPolicies, yield) && each(r.GlobalNetworkSets, yield) &&
			each(r.NetworkSets, yield) && each(r.Nodes, yield)
	}
}

func each[T interface {
	comparable
	Object
}](os []T, yield func(Object) bool) bool {
	var missing T
	for _, o := range os {
		if o != missing && !yield(o) {
			return false
		}
	}
	return true
}

// Len returns the number of objects.
func (r Resources) Len() int {
	return len(r.HostEndpoints) + len(r.Profiles) + len(r.Tiers) + len(r.GlobalNetworkPolicies) + len(r.NetworkPolicies) +
		len(r.GlobalNetworkSets) + len(r.NetworkSets) + len(r.Nodes)
}
