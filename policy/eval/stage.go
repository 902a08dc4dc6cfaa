// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// stage is one endpoint being asked at one hook. Ref: felix/rules/endpoints.go, endpointIptablesChain.
type stage struct {
	w  *walk
	h  flow.Hook
	ep *policy.Endpoint
	v  view
}

// run asks connection tracking, failsafes, tiers, profiles and the end of the endpoint, in this order.
func (s *stage) run() (outcome, flow.Origin) {
	st, dir := s.h.Stage(), s.h.Direction()

	if st != flow.StageUntracked {
		switch s.v.state {
		case flow.Established, flow.Related:
			by := flow.Origin{Kind: flow.OriginEstablished}
			if st == flow.StagePreDNAT {
				// Accepted for this stage only; the stages behind it see the same state and accept for good.
				s.note(by, "belongs to a known flow; this stage has nothing to say")
				return noVerdict, by
			}
			s.note(by, "belongs to a known flow")
			return allowed, by
		case flow.Invalid:
			if !s.w.e.s.Config.DisableConntrackInvalidCheck {
				by := flow.Origin{Kind: flow.OriginInvalid}
				s.note(by, "connection tracking calls it invalid")
				return denied, by
			}
		}
	}

	if st != flow.StageForward {
		if by, ok := s.failsafe(); ok {
			if st == flow.StageNormal {
				s.note(by, "failsafe")
				return allowed, by
			}
			s.note(by, "failsafe: this stage has nothing to say")
			return noVerdict, by
		}
	}

	tiers := s.tiers()
	if st == flow.StageForward && len(tiers) == 0 {
		by := flow.Origin{Kind: flow.OriginForwardDefault}
		s.note(by, "no policy of this endpoint applies on forward")
		return allowed, by
	}
	for i := range tiers {
		t := &tiers[i]
		policies := t.Ingress
		if dir == flow.Egress {
			policies = t.Egress
		}
		if len(policies) == 0 {
			continue
		}
		out, by := s.tier(t.Tier, policies)
		if out == allowed || out == denied {
			return out, by
		}
	}

	if st != flow.StageNormal {
		by := flow.Origin{Kind: flow.OriginNoVerdict}
		s.note(by, "no tier decided, and profiles are not asked in this stage")
		return noVerdict, by
	}
	for _, p := range s.ep.Profiles {
		if out, by := s.profile(p); out == allowed || out == denied {
			return out, by
		}
	}
	by := flow.Origin{Kind: flow.OriginDefault, Name: s.ep.Name, Dir: dir, Pos: s.ep.Pos}
	s.note(by, "nothing allowed it")
	return denied, by
}

func (s *stage) tiers() []policy.TierPolicies {
	switch s.h.Stage() {
	case flow.StageUntracked:
		return s.ep.Untracked
	case flow.StagePreDNAT:
		return s.ep.PreDNAT
	case flow.StageForward:
		return s.ep.Forward
	}
	return s.ep.Normal
}

// tier asks the policies of one tier. The outcome undecided means that the next tier is to be asked.
func (s *stage) tier(t *policy.Tier, policies []*policy.Policy) (outcome, flow.Origin) {
	st, dir := s.h.Stage(), s.h.Direction()
	for _, p := range policies {
		rules := p.Ingress
		if dir == flow.Egress {
			rules = p.Egress
		}
		out, by := s.rules(rules, flow.Origin{Kind: flow.OriginPolicy, Tier: p.Tier, Name: p.Name, Dir: dir, Stage: st})
		switch out {
		case allowed, denied:
			return out, by
		case noVerdict: // Pass
			return undecided, by
		}
	}
	by := flow.Origin{Kind: flow.OriginTier, Tier: t.Name, Dir: dir, Stage: st, Pos: t.Pos}
	if t.Pass || st == flow.StageUntracked || st == flow.StagePreDNAT {
		s.note(by, "end of tier: next")
		return undecided, by
	}
	s.note(by, "end of tier: denied")
	return denied, by
}

// profile asks one profile. A Pass ends this profile only.
//
// Deviation: in Calico a leftover mark may also end later profiles behind their first Pass rule.
func (s *stage) profile(p *policy.Profile) (outcome, flow.Origin) {
	if p.Missing {
		by := flow.Origin{Kind: flow.OriginProfileMissing, Name: p.Name}
		s.note(by, "the profile does not exist: denied")
		return denied, by
	}
	dir := s.h.Direction()
	rules := p.Ingress
	if dir == flow.Egress {
		rules = p.Egress
	}
	return s.rules(rules, flow.Origin{Kind: flow.OriginProfile, Name: p.Name, Dir: dir})
}

// rules asks a list of rules; noVerdict means Pass, undecided that no rule decided.
func (s *stage) rules(rules []policy.Rule, by flow.Origin) (outcome, flow.Origin) {
	for i := range rules {
		r := &rules[i]
		by.Index, by.Pos = r.Index, r.Pos
		miss := s.w.e.match(r, &s.v)
		s.w.rec.rule(s.h, s.ep.Name, by, r, miss)
		if miss != nil {
			continue
		}
		switch r.Action {
		case hostendpoint.Allow:
			return allowed, by
		case hostendpoint.Log:
			continue
		case hostendpoint.Pass:
			return noVerdict, by
		}
		return denied, by // Deny, and anything that is not an action
	}
	return undecided, flow.Origin{}
}

// failsafe looks for a failsafe that covers the packet. Ref: felix/rules/static.go, failsafeInChain, failsafeOutChain.
func (s *stage) failsafe() (flow.Origin, bool) {
	f := &s.w.e.s.Config.Failsafes
	in := s.h.Direction() == flow.Ingress
	own, other, remote := f.Inbound, f.Outbound, s.v.src
	if !in {
		own, other, remote = f.Outbound, f.Inbound, s.v.dst
	}
	covers := func(x policy.FailsafePort, port uint16) bool {
		return s.v.hasPorts() && x.Protocol == s.v.protocol && x.Port == port && (!x.Net.IsValid() || x.Net.Contains(remote))
	}
	for _, x := range own {
		if covers(x, s.v.dstPort) {
			return flow.Origin{Kind: flow.OriginFailsafe, Dir: s.h.Direction(), Protocol: x.Protocol, Port: x.Port}, true
		}
	}
	if s.h.Stage() == flow.StageUntracked {
		// Without connection tracking the replies of the other direction's failsafes need a way, too.
		for _, x := range other {
			if covers(x, s.v.srcPort) {
				return flow.Origin{Kind: flow.OriginFailsafe, Dir: 1 - s.h.Direction(), Protocol: x.Protocol, Port: x.Port}, true
			}
		}
	}
	if f.NeighborDiscovery == policy.On && s.v.family == inet.IPv6 && s.v.isICMP() && isND(s.v.icmpType) {
		return flow.Origin{Kind: flow.OriginND}, true
	}
	return flow.Origin{}, false
}

// isND reports whether an ICMPv6 type belongs to neighbour discovery or multicast listener discovery.
// Ref: RFC 4861 (133-137), RFC 2710 (130-132), RFC 3810 (143).
func isND(t uint8) bool { return 130 <= t && t <= 136 || t == 143 }

func (s *stage) note(by flow.Origin, text string) { s.w.rec.note(s.h, s.ep.Name, by, text) }
