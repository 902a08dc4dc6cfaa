// SPDX-License-Identifier: Apache-2.0

package policytest

import (
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy"
)

// Shrink returns a smaller case for which bad still holds: fewer packets, objects, rules, and criteria of rules. It does
// not change c, for which bad must hold. Bad is called often.
func Shrink(c *Case, bad func(*Case) bool) *Case {
	best := *c
	try := func(x Case) bool {
		if bad(&x) {
			best = x
			return true
		}
		return false
	}
	for changed := true; changed; {
		changed = false
		if n := len(best.Packets); n > 1 {
			for i := range best.Packets {
				x := best
				x.Packets = best.Packets[i : i+1]
				if try(x) {
					changed = true
					break
				}
			}
		}
		x := best
		x.Config = policy.Config{WorkloadInterfacePrefixes: best.Config.WorkloadInterfacePrefixes}
		if !isZeroConfig(&best.Config) && try(x) {
			changed = true
		}
		objects := slices.Collect(best.Resources.All())
		for i := 0; i < len(objects); i++ {
			x := best
			x.Resources = hostendpoint.Resources{}
			x.Resources.Add(slices.Delete(slices.Clone(objects), i, i+1)...)
			if try(x) {
				objects = slices.Delete(objects, i, i+1)
				changed = true
				i--
			}
		}
		for i, o := range objects {
			for _, smaller := range simplerObjects(o) {
				x := best
				x.Resources = hostendpoint.Resources{}
				y := slices.Clone(objects)
				y[i] = smaller
				x.Resources.Add(y...)
				if try(x) {
					objects[i] = smaller
					changed = true
					break
				}
			}
		}
	}
	return &best
}

func isZeroConfig(c *policy.Config) bool {
	f := &c.Failsafes
	return f.Inbound == nil && f.Outbound == nil && f.NeighborDiscovery == policy.On && c.AllowAction == policy.Accept &&
		c.DenyAction == policy.Drop && !c.DisableConntrackInvalidCheck && !c.IgnoreHTTP && !c.ExemptLoopback
}

// simplerObjects returns objects that say a little less than o.
func simplerObjects(o hostendpoint.Object) []hostendpoint.Object {
	var out []hostendpoint.Object
	switch o := o.(type) {
	case *hostendpoint.GlobalNetworkPolicy:
		vary := func(f func(*hostendpoint.GlobalNetworkPolicySpec)) {
			x := *o
			f(&x.Spec)
			out = append(out, &x)
		}
		for _, rs := range simplerRules(o.Spec.Ingress) {
			vary(func(s *hostendpoint.GlobalNetworkPolicySpec) { s.Ingress = rs })
		}
		for _, rs := range simplerRules(o.Spec.Egress) {
			vary(func(s *hostendpoint.GlobalNetworkPolicySpec) { s.Egress = rs })
		}
		if o.Spec.Selector != "" {
			vary(func(s *hostendpoint.GlobalNetworkPolicySpec) { s.Selector = "" })
		}
		if o.Spec.NamespaceSelector != "" {
			vary(func(s *hostendpoint.GlobalNetworkPolicySpec) { s.NamespaceSelector = "" })
		}
		if o.Spec.Order != nil {
			vary(func(s *hostendpoint.GlobalNetworkPolicySpec) { s.Order = nil })
		}
	case *hostendpoint.NetworkPolicy:
		vary := func(f func(*hostendpoint.NetworkPolicySpec)) {
			x := *o
			f(&x.Spec)
			out = append(out, &x)
		}
		for _, rs := range simplerRules(o.Spec.Ingress) {
			vary(func(s *hostendpoint.NetworkPolicySpec) { s.Ingress = rs })
		}
		for _, rs := range simplerRules(o.Spec.Egress) {
			vary(func(s *hostendpoint.NetworkPolicySpec) { s.Egress = rs })
		}
	case *hostendpoint.Profile:
		vary := func(f func(*hostendpoint.ProfileSpec)) {
			x := *o
			f(&x.Spec)
			out = append(out, &x)
		}
		for _, rs := range simplerRules(o.Spec.Ingress) {
			vary(func(s *hostendpoint.ProfileSpec) { s.Ingress = rs })
		}
		for _, rs := range simplerRules(o.Spec.Egress) {
			vary(func(s *hostendpoint.ProfileSpec) { s.Egress = rs })
		}
	case *hostendpoint.HostEndpoint:
		vary := func(f func(*hostendpoint.HostEndpoint)) {
			x := *o
			f(&x)
			out = append(out, &x)
		}
		if len(o.Spec.Profiles) > 0 {
			vary(func(h *hostendpoint.HostEndpoint) { h.Spec.Profiles = nil })
		}
		if len(o.Spec.Ports) > 0 {
			vary(func(h *hostendpoint.HostEndpoint) { h.Spec.Ports = nil })
		}
		if len(o.Spec.ExpectedIPs) > 0 && o.Spec.InterfaceName != "" {
			vary(func(h *hostendpoint.HostEndpoint) { h.Spec.ExpectedIPs = nil })
		}
		if len(o.Metadata.Labels) > 0 {
			vary(func(h *hostendpoint.HostEndpoint) { h.Metadata.Labels = nil })
		}
	}
	return out
}

// simplerRules returns lists without one rule, and lists with one rule that has one criterion less.
func simplerRules(rs []hostendpoint.Rule) [][]hostendpoint.Rule {
	var out [][]hostendpoint.Rule
	for i := range rs {
		out = append(out, slices.Delete(slices.Clone(rs), i, i+1))
	}
	for i := range rs {
		with := func(f func(*hostendpoint.Rule)) {
			x := slices.Clone(rs)
			f(&x[i])
			out = append(out, x)
		}
		r := &rs[i]
		if r.ICMP != nil {
			with(func(r *hostendpoint.Rule) { r.ICMP = nil })
		}
		if r.NotICMP != nil {
			with(func(r *hostendpoint.Rule) { r.NotICMP = nil })
		}
		if r.NotProtocol != nil {
			with(func(r *hostendpoint.Rule) { r.NotProtocol = nil })
		}
		if r.IPVersion != nil {
			with(func(r *hostendpoint.Rule) { r.IPVersion = nil })
		}
		for _, side := range []func(*hostendpoint.Rule) *hostendpoint.EntityRule{
			func(r *hostendpoint.Rule) *hostendpoint.EntityRule { return &r.Source },
			func(r *hostendpoint.Rule) *hostendpoint.EntityRule { return &r.Destination },
		} {
			e := side(r)
			if len(e.Nets) > 0 {
				with(func(r *hostendpoint.Rule) { side(r).Nets = nil })
			}
			if len(e.NotNets) > 0 {
				with(func(r *hostendpoint.Rule) { side(r).NotNets = nil })
			}
			if e.Selector != "" {
				with(func(r *hostendpoint.Rule) { side(r).Selector = "" })
			}
			if e.NotSelector != "" {
				with(func(r *hostendpoint.Rule) { side(r).NotSelector = "" })
			}
			if e.NamespaceSelector != "" {
				with(func(r *hostendpoint.Rule) { side(r).NamespaceSelector = "" })
			}
			if len(e.Ports) > 0 {
				with(func(r *hostendpoint.Rule) { side(r).Ports = nil })
			}
			if len(e.NotPorts) > 0 {
				with(func(r *hostendpoint.Rule) { side(r).NotPorts = nil })
			}
		}
	}
	return out
}
