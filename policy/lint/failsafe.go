// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/fleet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// wideRange is how many ports a range may have to still be about each of them.
const wideRange = 100

// failsafes compares the failsafes of a host with Calico's, and rules with the failsafes that come before them.
func (l *linter) failsafes(h fleet.Host, s *policy.Snapshot) {
	l.configuredFailsafes(h, s)
	for _, ep := range endpoints(s) {
		for _, t := range ep.Normal {
			for _, dir := range directions {
				list := directed(dir, s.Config.Failsafes.Inbound, s.Config.Failsafes.Outbound)
				for _, p := range directed(dir, t.Ingress, t.Egress) {
					for i := range directed(dir, p.Ingress, p.Egress) {
						l.failsafeRule(h, p, dir, &directed(dir, p.Ingress, p.Egress)[i], list)
					}
				}
			}
		}
	}
}

// failsafeRule reports a rule that would restrict a failsafe, if that did not come first.
func (l *linter) failsafeRule(h fleet.Host, p *policy.Policy, dir flow.Direction, r *policy.Rule, list []policy.FailsafePort) {
	if r.Protocol == nil || r.Never != "" || len(r.Dest.Ports) == 0 {
		return
	}
	remote := &r.Source
	if dir == flow.Egress {
		remote = &r.Dest
	}
	for _, f := range list {
		if f.Protocol != *r.Protocol || !names(r.Dest.Ports, f.Port) || f.Net.IsValid() && !overlaps(remote, f.Net) {
			continue
		}
		port := fmt.Sprintf("%s/%d", f.Protocol, f.Port)
		everybody := "everybody"
		if f.Net.IsValid() {
			everybody = f.Net.String()
		}
		finding := Finding{Severity: policy.Warning, Object: l.object(p), Path: rulePath(dir, r.Index), Pos: r.Pos}
		switch {
		case r.Action == hostendpoint.Deny:
			finding.Code = "failsafe-overrides"
			finding.Message = fmt.Sprintf("denies %s, but a failsafe opens it to %s before any policy is asked", port, everybody)
		case r.Action == hostendpoint.Allow && restricts(remote, f.Net):
			finding.Code = "failsafe-wider"
			finding.Message = fmt.Sprintf("allows %s to some only, but a failsafe opens it to %s before any policy is asked", port, everybody)
		default:
			continue
		}
		l.add(h.Node, finding)
	}
}

// names reports whether ports are about the given one: alone or in a short range.
func names(ports []inet.PortRange, p uint16) bool {
	return slices.ContainsFunc(ports, func(r inet.PortRange) bool { return r.Contains(p) && int(r.Max)-int(r.Min) < wideRange })
}

func overlaps(s *policy.Side, n netip.Prefix) bool {
	return len(s.Nets) == 0 || slices.ContainsFunc(s.Nets, n.Overlaps)
}

// restricts reports whether a side names some addresses only, fewer than those of net (any if it is not valid).
func restricts(s *policy.Side, net netip.Prefix) bool {
	if len(s.Sets)+len(s.NotSets)+len(s.NotNets) > 0 {
		return true
	}
	return len(s.Nets) > 0 && !slices.ContainsFunc(s.Nets, func(n netip.Prefix) bool {
		return n.Bits() == 0 || net.IsValid() && n.Bits() <= net.Bits() && n.Contains(net.Addr())
	})
}

// configuredFailsafes reports where a host's list of failsafes is not Calico's.
func (l *linter) configuredFailsafes(h fleet.Host, s *policy.Snapshot) {
	if len(endpoints(s)) == 0 {
		return // there is no policy that they could be safe from
	}
	for _, dir := range directions {
		own := directed(dir, s.Config.Failsafes.Inbound, s.Config.Failsafes.Outbound)
		usual := usualFailsafes(dir)
		var missing, added []string
		for _, f := range usual {
			if !slices.ContainsFunc(own, func(x policy.FailsafePort) bool { return x.Protocol == f.Protocol && x.Port == f.Port }) {
				missing = append(missing, fmt.Sprintf("%s/%d", f.Protocol, f.Port))
			}
		}
		for _, f := range own {
			if !slices.ContainsFunc(usual, func(x policy.FailsafePort) bool { return x.Protocol == f.Protocol && x.Port == f.Port }) {
				added = append(added, fmt.Sprintf("%s/%d", f.Protocol, f.Port))
			}
		}
		path := "failsafes." + directed(dir, "inbound", "outbound")
		if len(missing) > 0 {
			sev := policy.Info
			if slices.Contains(missing, "tcp/22") {
				sev = policy.Warning
			}
			l.add(h.Node, Finding{Severity: sev, Code: "failsafe-missing", Object: "Config", Path: path, Message: "leaves out " + strings.Join(missing, ", ") + ": a wrong policy can cut them off"})
		}
		if len(added) > 0 {
			l.add(h.Node, Finding{Severity: policy.Info, Code: "failsafe-added", Object: "Config", Path: path, Message: "opens " + strings.Join(added, ", ") + ", whatever policy says"})
		}
	}
}

// usualFailsafes returns Calico's default list.
func usualFailsafes(dir flow.Direction) []policy.FailsafePort {
	rs, err := policy.NewResolver(hostendpoint.Host{Node: "any"}, policy.Config{})
	if err != nil { // cannot be: the zero configuration is valid
		return nil
	}
	f := rs.Config().Failsafes
	return directed(dir, f.Inbound, f.Outbound)
}

// translated reports rules on ports that the host translates before the rules are asked.
func (l *linter) translated(h fleet.Host, s *policy.Snapshot) {
	if len(h.DNAT) == 0 {
		return
	}
	for _, ep := range endpoints(s) {
		for _, t := range slices.Concat(ep.Normal, ep.Forward) {
			for _, p := range t.Ingress {
				for i := range p.Ingress {
					r := &p.Ingress[i]
					for _, d := range h.DNAT {
						if !meets(r, d.Protocol, d.To) || meets(r, d.Protocol, d.Becomes) {
							continue
						}
						l.add(h.Node, Finding{Severity: policy.Warning, Code: "prednat-needed", Object: l.object(p), Path: rulePath(flow.Ingress, r.Index), Pos: r.Pos,
							Message: fmt.Sprintf("the host translates %s %s to %s before this rule is asked: it does not match that traffic", d.Protocol, d.To, d.Becomes)})
					}
				}
			}
		}
	}
}

// meets reports whether a rule that names ports can match traffic to a destination.
func meets(r *policy.Rule, p inet.Protocol, to netip.AddrPort) bool {
	in := func(nets []netip.Prefix) bool {
		return slices.ContainsFunc(nets, func(n netip.Prefix) bool { return n.Contains(to.Addr()) })
	}
	return r.Protocol != nil && *r.Protocol == p && r.Never == "" &&
		slices.ContainsFunc(r.Dest.Ports, func(x inet.PortRange) bool { return x.Contains(to.Port()) }) &&
		(len(r.Dest.Nets) == 0 || in(r.Dest.Nets)) && !in(r.Dest.NotNets) && (r.Family == 0 || r.Family == inet.FamilyOf(to.Addr()))
}
