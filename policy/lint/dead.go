// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/fleet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// use is what is known of a rule on all hosts and in all stages together.
type use struct {
	origin   flow.Origin // without stage
	object   string
	policy   string // the policy's object; "" for a profile
	nodes    []string
	alive    bool          // some packet meets it somewhere
	decides  bool          // it has the last word on some packet somewhere
	unknown  bool          // the analysis stopped before it was known
	needed   bool          // without it some packet somewhere would fare differently
	shadowed bool          // dead because of others, somewhere
	by       []flow.Origin // those that take its packets
	direct   bool          // some packet reaches it that met no Pass rule
	through  []flow.Origin // Pass rules one of which every packet met that reaches it; nothing if direct
	witness  *flow.Packet  // a packet that reaches it
}

// dead reports rules, policies and tiers that never match or never decide, on none of the hosts that have them. It
// returns why the answer is not whole, if it is not.
func (l *linter) dead(groups []*fleet.Group) (partial string, err error) {
	uses := map[flow.Origin]*use{}
	tiers := map[string]*tierUse{}
	for _, g := range groups {
		in := analyze.Input{Program: g.Program, Members: g.Members}
		r, err := analyze.Reach(l.ctx, in, l.o.Analyze)
		if err != nil {
			return "", fmt.Errorf("node %s: %w", g.Nodes[0], err)
		}
		if r.Partial && partial == "" {
			partial = "node " + g.Nodes[0] + ": " + r.Reason
		}
		known := make(map[flow.Origin]*analyze.Rule, len(r.Rules))
		for i := range r.Rules {
			known[r.Rules[i].Origin.ID()] = &r.Rules[i]
		}
		l.eachRule(g.Snapshot, func(object string, o flow.Origin) {
			id := o.ID()
			id.Stage = flow.StageNormal
			u := uses[id]
			if u == nil {
				u = &use{origin: o, object: object}
				u.origin.Stage = flow.StageNormal
				if o.Kind == flow.OriginPolicy {
					u.policy = object
				}
				uses[id] = u
			}
			u.see(g, known[o.ID()], r.Partial)
		})
		tierUses(tiers, g, known, r.Partial)
	}
	l.reportDead(uses)
	l.reportPassed(uses)
	l.reportTiers(tiers)
	l.reportUndecided(uses)
	return partial, nil
}

// see takes in what one group of hosts says of the rule in one stage. A rule that the program does not have matches
// nothing: the compiler leaves out what cannot.
func (u *use) see(g *fleet.Group, r *analyze.Rule, partial bool) {
	for _, n := range g.Nodes {
		if !slices.Contains(u.nodes, n) {
			u.nodes = append(u.nodes, n)
		}
	}
	if r == nil {
		return
	}
	switch r.Status {
	case analyze.Unknown:
		u.unknown = true
	case analyze.Decides:
		u.alive, u.decides = true, true
	case analyze.Matches:
		u.alive = true
	case analyze.Shadowed:
		u.shadowed = true
	}
	if r.Witness != nil && !partial {
		u.direct = u.direct || r.Through == nil
		for _, o := range r.Through {
			if !slices.ContainsFunc(u.through, func(x flow.Origin) bool { return x.ID() == o.ID() }) {
				u.through = append(u.through, o)
			}
		}
		if u.witness == nil {
			u.witness = r.Witness
		}
	}
	u.needed = u.needed || !r.Redundant
	if r.Status.Dead() || r.Redundant {
		for _, o := range r.By {
			if len(u.by) < 64 && !slices.ContainsFunc(u.by, func(x flow.Origin) bool { return x.ID() == o.ID() }) {
				u.by = append(u.by, o)
			}
		}
	}
}

// eachRule calls do for every rule that a host asks in every stage, with the object that it is of.
func (l *linter) eachRule(s *policy.Snapshot, do func(object string, o flow.Origin)) {
	type key struct {
		p     any
		stage flow.Stage
		dir   flow.Direction
	}
	seen := map[key]bool{}
	rules := func(p any, object string, o flow.Origin, rules []policy.Rule) {
		if k := (key{p, o.Stage, o.Dir}); seen[k] {
			return
		} else {
			seen[k] = true
		}
		for i := range rules {
			o.Index, o.Pos = rules[i].Index, rules[i].Pos
			if rules[i].Never == "" { // those have been reported for what they are
				do(object, o)
			}
		}
	}
	for _, ep := range endpoints(s) {
		for _, st := range []struct {
			stage flow.Stage
			tiers []policy.TierPolicies
		}{{flow.StageUntracked, ep.Untracked}, {flow.StagePreDNAT, ep.PreDNAT}, {flow.StageNormal, ep.Normal}, {flow.StageForward, ep.Forward}} {
			for _, t := range st.tiers {
				for _, dir := range directions {
					for _, p := range directed(dir, t.Ingress, t.Egress) {
						rules(p, l.object(p), flow.Origin{Kind: flow.OriginPolicy, Tier: p.Tier, Name: p.Name, Dir: dir, Stage: st.stage}, directed(dir, p.Ingress, p.Egress))
					}
				}
			}
		}
		for _, p := range ep.Profiles {
			if p.Missing {
				break
			}
			if p.Name == hostendpoint.DefaultAllowProfileName {
				continue
			}
			for _, dir := range directions {
				rules(p, "Profile("+p.Name+")", flow.Origin{Kind: flow.OriginProfile, Name: p.Name, Dir: dir}, directed(dir, p.Ingress, p.Egress))
			}
		}
	}
}

// reportDead reports what is known of rules, and policies instead of rules where none of them can match.
func (l *linter) reportDead(uses map[flow.Origin]*use) {
	explained := l.explained()
	policies := map[string][]*use{}
	for _, u := range uses {
		if u.policy != "" {
			policies[u.policy] = append(policies[u.policy], u)
		}
	}
	whole := map[string]bool{}
	for name, list := range policies {
		if len(list) > 1 && !slices.ContainsFunc(list, func(u *use) bool {
			return u.alive || u.unknown || explained[u.object+" "+rulePath(u.origin.Dir, u.origin.Index)]
		}) {
			whole[name] = true
			f := Finding{Severity: policy.Warning, Code: "dead-policy", Object: name, Path: "spec", Message: fmt.Sprintf("none of its %s can match any packet", plural(len(list), "rule"))}
			if o := l.objectOf(name); o != nil {
				f.Pos = o.At("")
			}
			slices.SortFunc(list, func(a, b *use) int { return strings.Compare(a.origin.String(), b.origin.String()) })
			for _, u := range list {
				u.by = foremost(u.by)
				f.Related = append(f.Related, u.related()...)
			}
			f.Related = unique(f.Related)
			l.add("", f).Nodes = list[0].nodes
		}
	}
	for _, u := range uses {
		if u.unknown || whole[u.policy] || explained[u.object+" "+rulePath(u.origin.Dir, u.origin.Index)] {
			continue
		}
		u.by = foremost(u.by)
		f := Finding{Severity: policy.Warning, Object: u.object, Path: rulePath(u.origin.Dir, u.origin.Index), Pos: u.origin.Pos, Related: u.related()}
		if u.policy == "" {
			f.Severity = policy.Info // a profile is there for the endpoints that no policy governs
		}
		switch {
		case !u.alive && u.shadowed:
			f.Code, f.Message = "shadowed-rule", "never matches: "+takers(u.by)+" every packet that it would match, before it"
		case !u.alive:
			f.Code, f.Message = "empty-rule", "can match no packet at all"
		case !u.needed:
			f.Severity, f.Code, f.Message = policy.Info, "redundant-rule", "without it nothing would change: its packets would fare the same"
		default:
			continue
		}
		l.add("", f).Nodes = u.nodes
	}
}

// reportPassed reports the rules that packets reach through Pass rules alone, those of one object together.
func (l *linter) reportPassed(uses map[flow.Origin]*use) {
	type key struct{ object, through string }
	found := map[key][]*use{}
	rules := map[string]int{}
	for _, u := range uses {
		rules[u.object]++
		if u.witness == nil || u.direct || u.unknown {
			continue
		}
		slices.SortFunc(u.through, func(a, b flow.Origin) int { return strings.Compare(a.String(), b.String()) })
		k := key{u.object, fmt.Sprint(u.through)}
		found[k] = append(found[k], u)
	}
	for _, list := range found {
		slices.SortFunc(list, func(a, b *use) int { return strings.Compare(a.origin.String(), b.origin.String()) })
		u := list[0]
		f := Finding{Severity: policy.Info, Code: "pass-only", Object: u.object, Path: rulePath(u.origin.Dir, u.origin.Index), Pos: u.origin.Pos}
		what := "this rule is"
		if n := rules[u.object]; n == len(list) && n > 1 {
			f.Path, what = "spec", "all of its rules are"
			if o := l.objectOf(u.object); o != nil {
				f.Pos = o.At("")
			}
		} else if len(list) > 1 {
			what = "this and " + plural(len(list)-1, "other rule") + " of it are"
		}
		const most = 4
		var names []string
		for i, o := range u.through {
			if i == most {
				names = append(names, fmt.Sprintf("%d more", len(u.through)-most))
				break
			}
			names = append(names, o.String())
			f.Related = append(f.Related, Related{Text: "passes: " + o.String(), Pos: o.Pos})
		}
		verb := " passes"
		if len(names) > 1 {
			verb = " pass"
		}
		f.Message = what + " reached only because " + strings.Join(names, ", ") + verb + " packets on"
		f.Related = append(f.Related, Related{Text: "such as: " + packetText(u.witness)})
		nodes := map[string]bool{}
		for _, u := range list {
			for _, n := range u.nodes {
				nodes[n] = true
			}
		}
		l.add("", f).Nodes = slices.Collect(maps.Keys(nodes))
	}
}

// reportUndecided reports the policies whose rules match and never have the last word.
func (l *linter) reportUndecided(uses map[flow.Origin]*use) {
	policies := map[string][]*use{}
	for _, u := range uses {
		if u.policy != "" {
			policies[u.policy] = append(policies[u.policy], u)
		}
	}
	for id := range l.found {
		if id.code == "log-only" {
			delete(policies, id.object)
		}
		if id.code == "tier-never-decides" {
			maps.DeleteFunc(policies, func(_ string, list []*use) bool { return "Tier("+list[0].origin.Tier+")" == id.object })
		}
	}
	for name, list := range policies {
		if slices.ContainsFunc(list, func(u *use) bool { return u.decides || u.unknown }) ||
			!slices.ContainsFunc(list, func(u *use) bool { return u.alive }) {
			continue
		}
		f := Finding{Severity: policy.Info, Code: "policy-never-decides", Object: name, Path: "spec", Message: "has the last word on no packet of any host: its rules pass, log, or are overruled later"}
		if o := l.objectOf(name); o != nil {
			f.Pos = o.At("")
		}
		l.add("", f).Nodes = list[0].nodes
	}
}

// explained returns the rules, as object and path, of which a finding says already why they do not match, or why they
// are there.
func (l *linter) explained() map[string]bool {
	out := map[string]bool{}
	for id := range l.found {
		switch id.code {
		case "empty-set", "service-match", "http-criteria", "bad-rule", "failsafe-overrides", "failsafe-wider":
			rule, _, _ := strings.Cut(id.path, "].")
			out[id.object+" "+strings.TrimSuffix(rule, "]")+"]"] = true
		}
	}
	return out
}

// foremost returns the first few of those that take the packets of a rule: rules of policies and ends of tiers, and
// what comes before all policy only if it is nothing else.
func foremost(by []flow.Origin) []flow.Origin {
	const most = 4
	rank := func(o flow.Origin) int {
		switch o.Kind {
		case flow.OriginPolicy:
			return 0
		case flow.OriginTier, flow.OriginProfile, flow.OriginProfileMissing:
			return 1
		case flow.OriginFailsafe, flow.OriginND:
			return 2
		}
		return 3
	}
	out := slices.Clone(by)
	slices.SortStableFunc(out, func(a, b flow.Origin) int { return rank(a) - rank(b) })
	if len(out) > 0 {
		first := max(rank(out[0]), 1)
		out = slices.DeleteFunc(out, func(o flow.Origin) bool { return rank(o) > first })
	}
	return out[:min(len(out), most)]
}

func takers(by []flow.Origin) string {
	switch len(by) {
	case 0:
		return "other rules take"
	case 1:
		return by[0].String() + " takes"
	}
	names := make([]string, len(by))
	for i, o := range by {
		names[i] = o.String()
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1] + " together take"
}

func (u *use) related() []Related {
	var out []Related
	for _, o := range u.by {
		out = append(out, Related{Text: o.String(), Pos: o.Pos})
	}
	return out
}

func unique(in []Related) []Related {
	var out []Related
	for _, r := range in {
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// tierUse is what is known of a tier on all hosts together.
type tierUse struct {
	pos     field.Pos
	nodes   []string
	matches bool // some rule of it matches something
	decides bool // something of it has the last word, or that is not known
}

// tierUses takes in what one group of hosts says of its tiers.
func tierUses(out map[string]*tierUse, g *fleet.Group, known map[flow.Origin]*analyze.Rule, partial bool) {
	for _, ep := range endpoints(g.Snapshot) {
		for _, stage := range [][]policy.TierPolicies{ep.Untracked, ep.PreDNAT, ep.Normal, ep.Forward} {
			for _, t := range stage {
				u := out[t.Tier.Name]
				if u == nil {
					u = &tierUse{pos: t.Tier.Pos}
					out[t.Tier.Name] = u
				}
				u.decides = u.decides || partial
				for _, n := range g.Nodes {
					if !slices.Contains(u.nodes, n) {
						u.nodes = append(u.nodes, n)
					}
				}
			}
		}
	}
	for o, r := range known {
		u := out[o.Tier]
		if o.Kind != flow.OriginPolicy && o.Kind != flow.OriginTier || u == nil {
			continue
		}
		u.decides = u.decides || r.Status == analyze.Decides || r.Status == analyze.Unknown
		u.matches = u.matches || r.Status == analyze.Matches
	}
}

func (l *linter) reportTiers(tiers map[string]*tierUse) {
	for name, u := range tiers {
		if u.decides || !u.matches {
			continue
		}
		l.add("", Finding{Severity: policy.Info, Code: "tier-never-decides", Object: "Tier(" + name + ")", Path: "spec", Pos: u.pos,
			Message: "has the last word on no packet of any host: everything passes through it"}).Nodes = u.nodes
	}
}
