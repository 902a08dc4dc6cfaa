// SPDX-License-Identifier: Apache-2.0

package picture

import (
	"fmt"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Notes returns what an analysis of the program of s says of its rules, for Options. Rules of which it is not known
// whether they are dead have no note.
func Notes(s *policy.Snapshot, r *analyze.Reachability) map[flow.Origin]Note {
	out := map[flow.Origin]Note{}
	known := make(map[flow.Origin]bool, len(r.Rules))
	for i := range r.Rules {
		x := &r.Rules[i]
		id := x.Origin.ID()
		known[id] = true
		switch {
		case x.Status == analyze.Shadowed:
			out[id] = Note{Dead: true, Text: shadowText(x.By)}
		case x.Status == analyze.Empty:
			out[id] = Note{Dead: true, Text: "matches nothing"}
		case x.Redundant && x.Origin.Kind == flow.OriginPolicy:
			out[id] = Note{Text: "changes nothing"}
		}
	}
	if r.Partial {
		return out
	}
	// What the program does not have cannot match.
	absent := func(o flow.Origin, rules []policy.Rule) {
		for i := range rules {
			if o.Index = rules[i].Index; !known[o.ID()] {
				out[o.ID()] = Note{Dead: true, Text: "matches nothing"}
			}
		}
	}
	eps := s.Endpoints
	if s.Wildcard != nil {
		eps = append(eps[:len(eps):len(eps)], s.Wildcard)
	}
	for _, ep := range eps {
		for stage, tiers := range map[flow.Stage][]policy.TierPolicies{flow.StageUntracked: ep.Untracked, flow.StagePreDNAT: ep.PreDNAT, flow.StageNormal: ep.Normal, flow.StageForward: ep.Forward} {
			for _, t := range tiers {
				for _, p := range t.Ingress {
					absent(flow.Origin{Kind: flow.OriginPolicy, Tier: p.Tier, Name: p.Name, Dir: flow.Ingress, Stage: stage}, p.Ingress)
				}
				for _, p := range t.Egress {
					absent(flow.Origin{Kind: flow.OriginPolicy, Tier: p.Tier, Name: p.Name, Dir: flow.Egress, Stage: stage}, p.Egress)
				}
			}
		}
	}
	return out
}

// shadowText names the nearest of the rules that take the packets of another, and says how many more there are. What
// comes before all policy counts only if there is nothing else.
func shadowText(by []flow.Origin) string {
	var names, before []string
	for _, o := range by {
		switch o.Kind {
		case flow.OriginEstablished, flow.OriginInvalid:
		case flow.OriginPolicy:
			names = append(names, fmt.Sprintf("%s[%d]", o.Name, o.Index))
		case flow.OriginProfile:
			names = append(names, fmt.Sprintf("%s[%d]", o.Name, o.Index))
		case flow.OriginTier:
			names = append(names, "tier "+o.Tier)
		default:
			before = append(before, o.String())
		}
	}
	if len(names) == 0 {
		names = before
	}
	switch n := len(names); n {
	case 0:
		return "shadowed"
	case 1:
		return "by " + names[0]
	default:
		return fmt.Sprintf("by %s and %d more", names[n-1], n-1)
	}
}
