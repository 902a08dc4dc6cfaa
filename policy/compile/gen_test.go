// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"net/netip"

	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// snapshotOf makes a snapshot with every kind of rule and stage in a small universe of names and values.
func snapshotOf(t *rapid.T) *policy.Snapshot {
	s := &policy.Snapshot{Config: config()}
	s.Config.ExemptLoopback = rapid.Bool().Draw(t, "exempt lo")
	s.Config.DisableConntrackInvalidCheck = rapid.IntRange(0, 3).Draw(t, "invalid") == 0
	if rapid.IntRange(0, 3).Draw(t, "nd") == 0 {
		s.Config.Failsafes.NeighborDiscovery = policy.Off
	}
	if rapid.Bool().Draw(t, "net") {
		f := &s.Config.Failsafes.Inbound[0]
		f.Net = netPrefix(t)
	}
	s.Sets = []*policy.Set{
		{ID: "n:1", Selector: "all()", Ports: true, Members: []policy.Member{
			{Prefix: single(t), Protocol: inet.TCP, Port: 80}, {Prefix: single(t), Protocol: inet.UDP, Port: 53}}},
		{ID: "s:1", Selector: "has(a)", Members: []policy.Member{{Prefix: netPrefix(t)}, {Prefix: netPrefix(t)}}},
		{ID: "s:2", Selector: "has(b)"},
	}
	policies := make([]*policy.Policy, 4)
	for i := range policies {
		policies[i] = &policy.Policy{
			Tier: []string{"a", "default"}[i/2], Name: fmt.Sprintf("p%d", i), Kind: hostendpoint.KindGlobalNetworkPolicy,
			Ingress: rulesOf(t), Egress: rulesOf(t),
		}
	}
	profiles := []*policy.Profile{
		{Name: "q0", Ingress: rulesOf(t), Egress: rulesOf(t)},
		{Name: "q1", Ingress: rulesOf(t), Egress: rulesOf(t)},
		{Name: "q2", Missing: true},
	}
	tiers := []*policy.Tier{{Name: "a", Pass: rapid.Bool().Draw(t, "pass")}, {Name: "default", Pass: rapid.Bool().Draw(t, "pass")}}
	list := func(ingressOnly bool) []policy.TierPolicies {
		var l []policy.TierPolicies
		for i, tier := range tiers {
			tp := policy.TierPolicies{Tier: tier}
			for _, p := range policies[2*i : 2*i+2] {
				where := rapid.IntRange(0, 5).Draw(t, "types")
				if where&1 != 0 {
					tp.Ingress = append(tp.Ingress, p)
				}
				if where&2 != 0 && !ingressOnly {
					tp.Egress = append(tp.Egress, p)
				}
			}
			if len(tp.Ingress)+len(tp.Egress) > 0 {
				l = append(l, tp)
			}
		}
		return l
	}
	endpoint := func(name string, ifaces ...string) *policy.Endpoint {
		ep := &policy.Endpoint{Name: name, Interfaces: ifaces, Normal: list(false), Forward: list(false), PreDNAT: list(true)}
		if ifaces != nil {
			ep.Untracked = list(false)
		}
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, 2), 0, 3).Draw(t, "profiles") {
			ep.Profiles = append(ep.Profiles, profiles[i])
		}
		return ep
	}
	if rapid.Bool().Draw(t, "e0") {
		s.Endpoints = append(s.Endpoints, endpoint("e0", "eth0"))
	}
	if rapid.Bool().Draw(t, "e1") {
		s.Endpoints = append(s.Endpoints, endpoint("e1", "eth1", "lo"))
	}
	if rapid.Bool().Draw(t, "wildcard") {
		s.Wildcard = endpoint("w")
	}
	s.Profiles = profiles
	return s
}

func single(t *rapid.T) netip.Prefix {
	return netip.MustParsePrefix(rapid.SampledFrom([]string{"10.9.0.1/32", "10.9.0.2/32", "fd00::1/128"}).Draw(t, "address"))
}

func netPrefix(t *rapid.T) netip.Prefix {
	return netip.MustParsePrefix(rapid.SampledFrom([]string{
		"10.9.0.0/24", "10.9.0.2/32", "10.0.0.0/8", "0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "fd00::/16", "fd00::1/128", "::/0"}).Draw(t, "net"))
}

func rulesOf(t *rapid.T) []policy.Rule {
	rs := make([]policy.Rule, rapid.IntRange(0, 3).Draw(t, "rules"))
	for i := range rs {
		r := &rs[i]
		r.Index = i
		r.Action = rapid.SampledFrom([]hostendpoint.Action{hostendpoint.Allow, hostendpoint.Deny, hostendpoint.Log, hostendpoint.Pass}).Draw(t, "action")
		if one(t, "never", 12) {
			r.Never = "HTTP"
		}
		if one(t, "family", 5) {
			r.Family = rapid.SampledFrom([]inet.Family{inet.IPv4, inet.IPv6}).Draw(t, "family")
		}
		protocols := rapid.SampledFrom([]inet.Protocol{inet.TCP, inet.TCP, inet.UDP, inet.ICMP, inet.ICMPv6, 253})
		if one(t, "protocol", 2) {
			r.Protocol = ptr(protocols.Draw(t, "protocol"))
		}
		if one(t, "not protocol", 6) {
			r.NotProtocol = ptr(protocols.Draw(t, "protocol"))
		}
		if one(t, "icmp", 8) {
			r.ICMP = icmpOf(t)
		}
		if one(t, "not icmp", 8) {
			r.NotICMP = icmpOf(t)
		}
		r.Source, r.Dest = sideOf(t), sideOf(t)
	}
	return rs
}

func one(t *rapid.T, what string, in int) bool {
	return rapid.IntRange(1, in).Draw(t, what) == in
}

func icmpOf(t *rapid.T) *policy.ICMP {
	m := &policy.ICMP{Type: ptr(rapid.SampledFrom([]uint8{8, 128, 135}).Draw(t, "type"))}
	if rapid.Bool().Draw(t, "code") {
		m.Code = ptr(rapid.SampledFrom([]uint8{0, 1}).Draw(t, "code"))
	}
	return m
}

func sideOf(t *rapid.T) policy.Side {
	var s policy.Side
	nets := func(what string, in int) (ps []netip.Prefix) {
		if one(t, what, in) {
			for range rapid.IntRange(1, 3).Draw(t, "nets") {
				ps = append(ps, netPrefix(t))
			}
		}
		return ps
	}
	ports := func(what string, in int) (rs []inet.PortRange) {
		if one(t, what, in) {
			for range rapid.IntRange(1, 2).Draw(t, "ports") {
				lo := rapid.SampledFrom([]uint16{1, 22, 53, 80}).Draw(t, "lo")
				rs = append(rs, inet.PortRange{Min: lo, Max: lo + rapid.SampledFrom([]uint16{0, 0, 1, 31}).Draw(t, "size")})
			}
		}
		return rs
	}
	set := func(what, id string, in int) (ids []string) {
		if one(t, what, in) {
			ids = append(ids, id)
		}
		return ids
	}
	s.Nets, s.NotNets = nets("nets", 6), nets("not nets", 6)
	s.Ports, s.NotPorts = ports("ports", 6), ports("not ports", 6)
	s.NamedPorts, s.NotNamedPorts = set("named", "n:1", 8), set("not named", "n:1", 8)
	s.Sets, s.NotSets = append(set("set", "s:1", 8), set("set", "s:2", 20)...), set("not set", "s:1", 8)
	return s
}

// text is what two compilations are compared by, positions included.
func text(p *ir.Program, m ir.Members) string {
	s := p.String() + m.String()
	for _, o := range p.Origins {
		s += fmt.Sprintln(o, o.Pos)
	}
	return s
}
