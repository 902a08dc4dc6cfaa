// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy/effective"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// policyProblems returns the problems of p that depend on anything else than p: what is legal and probably not meant.
func (rs *Resolver) policyProblems(p *boundPolicy) []Problem {
	if p.policy == nil || p.selector.IsZero() {
		return nil
	}
	out := slices.Clone(p.bad)
	report := func(sev Severity, code, path, message string) {
		out = append(out, Problem{Severity: sev, Code: code, Object: p.object, Path: path, Pos: positioned(p.source, path), Message: message})
	}
	if !p.tier.known {
		report(Warning, "unknown-tier", "spec.tier",
			"there is no tier "+p.policy.Tier+": the policy applies after all tiers that exist, and what it does not decide is denied")
	}
	if p.witness == nil {
		report(Warning, "inert-policy", "spec.selector", "selects no host endpoint of any host: "+p.selector.String())
	}
	if len(p.local) == 0 {
		return out
	}
	if w := rs.wildcard; p.doNotTrack && w != nil {
		if _, ok := p.local[w]; ok {
			report(Error, "untracked-on-wildcard", "spec.doNotTrack",
				"selects the all-interfaces endpoint "+w.object+", where doNotTrack policy is not supported: it is not applied there; name the interface, or drop doNotTrack")
		}
	}
	for i := range p.declared {
		x := &p.declared[i]
		if s := rs.sets[x.ID]; len(s.members) == 0 && (s.Kind == effective.Selector || s.Kind == effective.NamedPort) {
			what := "no address known here matches " + s.Selector.String()
			if s.Kind == effective.NamedPort {
				what = fmt.Sprintf("no endpoint has a port %q of %s and matches %s", x.PortName, x.Protocol, s.Selector)
			}
			out = append(out, Problem{Severity: Info, Code: "empty-set", Object: p.object, Path: x.path(), Pos: x.pos(), Message: what})
		}
	}
	out = append(out, serviceProblems(p.object, p.declared)...)
	if p.applyOnForward && !p.doNotTrack && !p.preDNAT && p.ingress != p.egress {
		report(Info, "forward-one-direction", "spec.types",
			"apply-on-forward in one direction: forwarded traffic of the other direction is no longer allowed by default, and goes on to the host's own rules")
	}
	return out
}

// serviceProblems reports the rules of an object that match services.
func serviceProblems(object string, specs []setSource) []Problem {
	var out []Problem
	for i := range specs {
		x := &specs[i]
		if x.Kind == effective.Service || x.Kind == effective.ServiceNoPort {
			out = append(out, Problem{Severity: Error, Code: "service-match", Object: object, Path: x.path() + ".services", Pos: x.pos(),
				Message: "the rule never matches: the endpoints of service " + x.Namespace + "/" + x.Name + " are not known here"})
		}
	}
	return out
}

// loopbackProblems warns if the all-interfaces endpoint cuts the host off from itself.
func (rs *Resolver) loopbackProblems() []Problem {
	w := rs.wildcard
	if w == nil || rs.config.ExemptLoopback {
		return nil
	}
	if lo := rs.ifaces["lo"]; lo != nil && lo.winner != nil {
		return nil
	}
	var out []Problem
	for _, dir := range []flow.Direction{flow.Ingress, flow.Egress} {
		if !rs.mayAllowLoopback(rs.endpoint(w), dir) {
			out = append(out, Problem{Severity: Warning, Code: "loopback-policed", Object: w.object, Path: "spec.interfaceName", Pos: w.obj.At("spec.interfaceName"),
				Message: fmt.Sprintf("the all-interfaces endpoint governs lo, and no %s rule lets 127.0.0.1 talk to itself: add one, or set ExemptLoopback", dir)})
		}
	}
	return out
}

// mayAllowLoopback reports whether some Allow rule could match some packet between loopback addresses.
func (rs *Resolver) mayAllowLoopback(ep *Endpoint, dir flow.Direction) bool {
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

// isLoopback reports whether p holds loopback addresses.
func isLoopback(p netip.Prefix) bool { return loopback[0].Overlaps(p) || loopback[1].Overlaps(p) }

func (rs *Resolver) mayBeLoopback(s *Side) bool {
	if len(s.Nets) > 0 && !slices.ContainsFunc(s.Nets, isLoopback) {
		return false
	}
	for _, id := range s.Sets {
		if rs.sets[id].loopback == 0 {
			return false
		}
	}
	return true
}
