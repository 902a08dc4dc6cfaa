// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/fleet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/picture"
)

// isolationKey is a policy that isolates, in one direction.
type isolationKey struct {
	policy string // object
	dir    flow.Direction
}

// isolation is what a policy isolates.
type isolation struct {
	policy    *policy.Policy
	endpoints []string // the names of those that it isolates, of all hosts
	nodes     []string
	snapshot  *policy.Snapshot // of the first host
	endpoint  *policy.Endpoint // of the first host
}

// isolates notes which endpoints of a host would not be denied by default if it were not for one policy: the only one
// that governs a direction, in a tier that ends in a denial, before profiles that allow something.
func (l *linter) isolates(h fleet.Host, s *policy.Snapshot) {
	for _, ep := range endpoints(s) {
		for _, dir := range directions {
			p, tier := only(ep.Normal, dir)
			if p == nil || tier.Pass || catchAll(directed(dir, p.Ingress, p.Egress)) || !profilesAllow(ep, dir) {
				continue
			}
			key := isolationKey{l.object(p), dir}
			x := l.isolated[key]
			if x == nil {
				x = &isolation{policy: p, snapshot: s, endpoint: ep}
				l.isolated[key] = x
			}
			x.endpoints = append(x.endpoints, ep.Name)
			if !slices.Contains(x.nodes, h.Node) {
				x.nodes = append(x.nodes, h.Node)
			}
		}
	}
}

// only returns the policy that alone governs a direction; nil if there is none, or more than one.
func only(tiers []policy.TierPolicies, dir flow.Direction) (*policy.Policy, *policy.Tier) {
	var p *policy.Policy
	var t *policy.Tier
	for i := range tiers {
		for _, x := range directed(dir, tiers[i].Ingress, tiers[i].Egress) {
			if p != nil {
				return nil, nil
			}
			p, t = x, tiers[i].Tier
		}
	}
	return p, t
}

// catchAll reports whether some rule ends the tier for every packet, and not by a denial.
func catchAll(rules []policy.Rule) bool {
	return slices.ContainsFunc(rules, func(r policy.Rule) bool {
		return (r.Action == hostendpoint.Allow || r.Action == hostendpoint.Pass) && r.Never == "" && r.Family == 0 && r.Protocol == nil && r.NotProtocol == nil &&
			r.ICMP == nil && r.NotICMP == nil && anywhere(&r.Source) && anywhere(&r.Dest)
	})
}

func anywhere(s *policy.Side) bool {
	return len(s.Nets)+len(s.NotNets)+len(s.Sets)+len(s.NotSets)+len(s.Ports)+len(s.NamedPorts)+len(s.NotPorts)+len(s.NotNamedPorts) == 0
}

// profilesAllow reports whether a profile of the endpoint allows anything in a direction.
func profilesAllow(ep *policy.Endpoint, dir flow.Direction) bool {
	for _, p := range ep.Profiles {
		if p.Missing {
			return false
		}
		if slices.ContainsFunc(directed(dir, p.Ingress, p.Egress), func(r policy.Rule) bool { return r.Action == hostendpoint.Allow && r.Never == "" }) {
			return true
		}
	}
	return false
}

// reportIsolation reports what isolates noted, with the flows that each policy takes away from the first endpoint.
func (l *linter) reportIsolation() error {
	order := slices.SortedFunc(maps.Keys(l.isolated), func(a, b isolationKey) int {
		return cmp.Or(cmp.Compare(len(l.isolated[b].endpoints), len(l.isolated[a].endpoints)), strings.Compare(a.policy, b.policy), cmp.Compare(a.dir, b.dir))
	})
	for n, key := range order {
		x := l.isolated[key]
		rules := directed(key.dir, x.policy.Ingress, x.policy.Egress)
		allows, logs := false, len(rules) > 0
		for _, r := range rules {
			allows = allows || r.Action == hostendpoint.Allow || r.Action == hostendpoint.Pass
			logs = logs && r.Action == hostendpoint.Log
		}
		path := "spec." + key.dir.String()
		f := Finding{Severity: policy.Info, Code: "isolates", Object: key.policy, Path: path, Pos: x.policy.Pos}
		what := fmt.Sprintf("moves %s to default deny in %s", plural(len(x.endpoints), "endpoint"), key.dir)
		slices.Sort(x.endpoints)
		what += " (" + listed(x.endpoints) + ")"
		switch {
		case logs:
			f.Severity, f.Code = policy.Warning, "log-only"
			f.Message = "only logs, and so " + what + ": what no rule decides is denied at the end of tier " + x.policy.Tier
		case len(rules) == 0:
			f.Severity, f.Path = policy.Warning, "spec.types"
			f.Message = what + " and has no rule in this direction: nothing is allowed any more"
		case !allows:
			f.Severity = policy.Warning
			f.Message = what + " and has no rule that allows anything in this direction"
		default:
			verb := "do"
			if len(rules) == 1 {
				verb = "does"
			}
			f.Message = what + ": what its " + plural(len(rules), "rule") + " " + verb + " not allow is denied at the end of tier " + x.policy.Tier
		}
		if o := l.objectOf(key.policy); o != nil {
			f.Pos = o.At(f.Path)
		}
		if !l.o.SkipDead && n < maxCompared {
			lost, err := l.lost(x, key.dir)
			if err != nil {
				return err
			}
			f.Related = lost
		}
		added := l.add("", f)
		added.Nodes = x.nodes
	}
	return nil
}

func (l *linter) objectOf(name string) hostendpoint.Object {
	for o := range l.r.All() {
		if o.ID().String() == name {
			return o
		}
	}
	return nil
}

// maxLost is how many flows a finding lists, and maxCompared for how many findings they are computed: those of the
// policies with the most endpoints.
const (
	maxLost     = 5
	maxCompared = 32
)

// lost returns the flows that the first endpoint loses because of the policy, largest first.
func (l *linter) lost(x *isolation, dir flow.Direction) ([]Related, error) {
	with, wm, err := compile.Compile(x.snapshot)
	if err != nil {
		return nil, err
	}
	without, om, err := compile.Compile(l.without(x, dir))
	if err != nil {
		return nil, err
	}
	rep, err := analyze.Diff(l.ctx, analyze.Input{Program: without, Members: om}, analyze.Input{Program: with, Members: wm}, l.o.Analyze)
	if err != nil {
		return nil, err
	}
	var out []Related
	for _, c := range rep.Changes {
		if c.After.Verdict != flow.Deny || c.Before.Verdict == flow.Deny {
			continue
		}
		for i := range c.Boxes {
			out = append(out, Related{Text: "loses access: " + picture.BoxText(&c.Boxes[i])})
		}
	}
	if n := len(out); n > maxLost {
		out = append(out[:maxLost], Related{Text: fmt.Sprintf("and %d more", n-maxLost)})
	}
	return out, nil
}

// without returns the snapshot as it would be if the policy did not govern the direction of the endpoint.
func (l *linter) without(x *isolation, dir flow.Direction) *policy.Snapshot {
	s := *x.snapshot
	ep := *x.endpoint
	drop := func(in []policy.TierPolicies) []policy.TierPolicies {
		out := slices.Clone(in)
		for i := range out {
			keep := func(list []*policy.Policy) []*policy.Policy {
				return slices.DeleteFunc(slices.Clone(list), func(p *policy.Policy) bool { return p == x.policy })
			}
			if dir == flow.Ingress {
				out[i].Ingress = keep(out[i].Ingress)
			} else {
				out[i].Egress = keep(out[i].Egress)
			}
		}
		return out
	}
	ep.Normal = drop(ep.Normal)
	if s.Wildcard == x.endpoint {
		s.Wildcard = &ep
	}
	s.Endpoints = slices.Clone(s.Endpoints)
	for i, e := range s.Endpoints {
		if e == x.endpoint {
			s.Endpoints[i] = &ep
		}
	}
	return &s
}

// closed reports the endpoints that nothing opens.
func (l *linter) closed(h fleet.Host, s *policy.Snapshot) {
	for _, ep := range endpoints(s) {
		var closed []string
		for _, dir := range directions {
			governed := slices.ContainsFunc(ep.Normal, func(t policy.TierPolicies) bool { return len(directed(dir, t.Ingress, t.Egress)) > 0 })
			if !governed && !profilesAllow(ep, dir) {
				closed = append(closed, dir.String())
			}
		}
		if len(closed) == 0 {
			continue
		}
		sev := policy.Warning
		if len(closed) == 1 {
			sev = policy.Info // often meant: a host that never answers to calls of its own
		}
		l.add(h.Node, Finding{Severity: sev, Code: "closed-endpoint", Object: "HostEndpoint(" + ep.Name + ")", Path: "spec", Pos: ep.Pos,
			Message: "no policy governs its " + strings.Join(closed, " and its ") + ", and no profile allows anything there: all but failsafes is denied"})
	}
}
