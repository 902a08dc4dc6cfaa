// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/selector"
)

// lint reports what is legal and probably not meant.
func (rs *resolver) lint() {
	for _, p := range rs.policies {
		rs.lintPolicy(p)
	}
	for _, h := range rs.heps {
		rs.lintEndpoint(h)
	}
	rs.lintLoopback()
}

func (rs *resolver) lintPolicy(p *boundPolicy) {
	if !p.selected && !slices.ContainsFunc(rs.heps, func(h *hep) bool { return p.selector.Matches(selector.MapLabels(h.labels)) }) {
		rs.problems.add(Warning, "inert-policy", p.object, "spec.selector", p.source.At("spec.selector"), "selects no host endpoint of any host: "+p.selector.String())
	}
	if !p.selected {
		return
	}
	for _, x := range p.specs {
		if s := rs.sets[x.ID]; s != nil && len(s.Members) == 0 && s.Selector != "" {
			what := "no address known here matches " + s.Selector
			if s.Ports {
				what = fmt.Sprintf("no endpoint has a port %q of %s and matches %s", x.PortName, x.Protocol, s.Selector)
			}
			rs.problems.add(Info, "empty-set", p.object, x.path, x.pos, what)
		}
	}
	if p.applyOnForward && !p.doNotTrack && !p.preDNAT && p.ingress != p.egress {
		rs.problems.add(Info, "forward-one-direction", p.object, "spec.types", p.source.At("spec.types"),
			"apply-on-forward in one direction: forwarded traffic of the other direction is no longer allowed by default, and goes on to the host's own rules")
	}
}

func (rs *resolver) lintEndpoint(h *hep) {
	if h.obj.Spec.Node != rs.host.Node || h.obj.Spec.InterfaceName == "" || h.obj.Spec.InterfaceName == allInterfaces {
		return
	}
	for _, i := range rs.host.Interfaces {
		if i.Name != h.obj.Spec.InterfaceName {
			continue
		}
		for j, a := range h.addrs {
			if !slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr().Unmap() == a.Addr() }) {
				path := fmt.Sprintf("spec.expectedIPs[%d]", j)
				rs.problems.add(Info, "foreign-address", h.object, path, h.obj.Source.At(path),
					a.Addr().String()+" is not on interface "+i.Name+"; with an interface name addresses only feed the selectors of rules")
			}
		}
	}
}

// lintLoopback warns if the all-interfaces endpoint cuts the host off from itself.
func (rs *resolver) lintLoopback() {
	w := rs.wildcard
	if w == nil || rs.config.ExemptLoopback || slices.ContainsFunc(rs.active, func(ep *Endpoint) bool { return slices.Contains(ep.Interfaces, "lo") }) {
		return
	}
	for _, dir := range []flow.Direction{flow.Ingress, flow.Egress} {
		if !rs.mayAllowLoopback(w, dir) {
			rs.problems.add(Warning, "loopback-policed", rs.hepOf[w].object, "spec.interfaceName", rs.hepOf[w].obj.Source.At("spec.interfaceName"),
				fmt.Sprintf("the all-interfaces endpoint governs lo, and no %s rule lets 127.0.0.1 talk to itself: add one, or set ExemptLoopback", dir))
		}
	}
}

// mayAllowLoopback reports whether some Allow rule could match some packet between loopback addresses.
func (rs *resolver) mayAllowLoopback(ep *Endpoint, dir flow.Direction) bool {
	allows := func(in, out []Rule) bool {
		rules := in
		if dir == flow.Egress {
			rules = out
		}
		return slices.ContainsFunc(rules, func(r Rule) bool {
			return r.Action == hostendpoint.Allow && r.Never == "" && rs.mayBeLoopback(&r.Source) && rs.mayBeLoopback(&r.Dest)
		})
	}
	for _, t := range ep.Normal {
		policies := t.Ingress
		if dir == flow.Egress {
			policies = t.Egress
		}
		if slices.ContainsFunc(policies, func(p *Policy) bool { return allows(p.Ingress, p.Egress) }) {
			return true
		}
	}
	return slices.ContainsFunc(ep.Profiles, func(p *Profile) bool { return allows(p.Ingress, p.Egress) })
}

var loopback = [...]netip.Prefix{
	netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8),
	netip.PrefixFrom(netip.IPv6Loopback(), 128),
}

func (rs *resolver) mayBeLoopback(s *Side) bool {
	overlaps := func(p netip.Prefix) bool {
		return slices.ContainsFunc(loopback[:], func(l netip.Prefix) bool { return l.Overlaps(p) })
	}
	if len(s.Nets) > 0 && !slices.ContainsFunc(s.Nets, overlaps) {
		return false
	}
	for _, id := range s.Sets {
		if !slices.ContainsFunc(rs.sets[id].Members, func(m Member) bool { return overlaps(m.Prefix) }) {
			return false
		}
	}
	return true
}
