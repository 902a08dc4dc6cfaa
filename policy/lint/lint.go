// SPDX-License-Identifier: Apache-2.0

// Package lint finds what is legal in policy and probably not meant: on all hosts of a cluster at once, with a stable
// code, the file and line, a sentence on why it matters, and what to write instead. Codes lists what it looks for.
//
// A finding is never a guess about packets: rules are called dead only if no packet can reach them on any host
// (package analyze), and what policies change is computed, not sampled.
package lint

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/fleet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Finding is one thing that was found.
type Finding struct {
	Severity policy.Severity `json:"severity"`
	Code     string          `json:"code"`
	Object   string          `json:"object"` // "GlobalNetworkPolicy(web)"
	Path     string          `json:"path,omitempty"`
	Pos      field.Pos       `json:"pos,omitzero"`
	Message  string          `json:"message"`           // what, and why it matters
	Fix      string          `json:"fix"`               // what to write instead
	Related  []Related       `json:"related,omitempty"` // what else it is about: the rules that shadow, the flows that change
	Nodes    []string        `json:"nodes,omitempty"`   // where, sorted; nil if it is so whatever the host
}

// Related is something that a finding is also about.
type Related struct {
	Text string    `json:"text"`
	Pos  field.Pos `json:"pos,omitzero"`
}

// String returns the finding on one line: "FILE:LINE: severity: OBJECT PATH: message (code)".
func (f *Finding) String() string {
	s := ""
	if pos := f.Pos.String(); pos != "" {
		s = pos + ": "
	}
	s += f.Severity.String() + ": " + f.Object
	if f.Path != "" {
		s += " " + f.Path
	}
	return s + ": " + f.Message + " (" + f.Code + ")"
}

// Options bound the work. The zero value is useful.
type Options struct {
	Analyze analyze.Options // of the analysis of rules; see there
	// SkipDead leaves out the codes that need it: shadowed-rule, redundant-rule, empty-rule, dead-policy,
	// tier-never-decides, and the flows in isolates.
	SkipDead bool
}

// Report is everything that was found.
type Report struct {
	Findings []Finding // the worst first, then by file, line, object, path and code
	// Partial says why some rules were not looked at: the analysis reached its bounds. "" normally.
	Partial string
}

// Worst returns the number of findings that are at least as severe as s.
func (r *Report) Worst(s policy.Severity) int {
	n := 0
	for i := range r.Findings {
		if r.Findings[i].Severity <= s {
			n++
		}
	}
	return n
}

// Run looks at resources on the given hosts; see fleet.Hosts. The error is that of fleet.Groups or of the context.
func Run(ctx context.Context, r hostendpoint.Resources, hosts []fleet.Host, o Options) (*Report, error) {
	l := &linter{ctx: ctx, r: r, o: o, found: map[identity]*Finding{}, isolated: map[isolationKey]*isolation{}, labels: labelsOf(r), policies: policyObjects(r)}
	err := fleet.Each(r, hosts, func(h fleet.Host, s *policy.Snapshot) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		for _, p := range s.Problems {
			l.problem(h, p)
		}
		l.failsafes(h, s)
		l.translated(h, s)
		l.untracked(h, s)
		l.closed(h, s)
		l.isolates(h, s)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := l.reportIsolation(); err != nil {
		return nil, err
	}
	rep := &Report{}
	if !o.SkipDead {
		groups, err := fleet.Groups(r, hosts)
		if err != nil {
			return nil, err
		}
		if rep.Partial, err = l.dead(groups); err != nil {
			return nil, err
		}
	}
	rep.Findings = l.sorted()
	return rep, nil
}

// identity tells findings apart.
type identity struct{ code, object, path, message string }

type linter struct {
	ctx      context.Context
	r        hostendpoint.Resources
	o        Options
	found    map[identity]*Finding
	isolated map[isolationKey]*isolation
	labels   universe
	policies map[policyKey]hostendpoint.Object
}

// add notes a finding on a node; "" if it is so on any. What is found on several nodes is one finding.
func (l *linter) add(node string, f Finding) *Finding {
	id := identity{f.Code, f.Object, f.Path, f.Message}
	old := l.found[id]
	if old == nil {
		if c, ok := CodeOf(f.Code); ok && f.Fix == "" {
			f.Fix = c.Fix
		}
		old = &f
		l.found[id] = old
	}
	if node != "" && !slices.Contains(old.Nodes, node) {
		old.Nodes = append(old.Nodes, node)
	}
	return old
}

// aboutHost are the codes of problems that are about a host and not about an object as such.
var aboutHost = [...]string{"shadowed-endpoint", "unmatched-endpoint", "foreign-address", "loopback-policed"}

// problem takes in what resolving had to say.
func (l *linter) problem(h fleet.Host, p policy.Problem) {
	f := Finding{Severity: p.Severity, Code: p.Code, Object: p.Object, Path: p.Path, Pos: p.Pos, Message: p.Message}
	node := ""
	if slices.Contains(aboutHost[:], p.Code) {
		node = h.Node
	}
	switch p.Code {
	case "inert-policy":
		f.Fix = l.nearest(l.policySelector(p.Object), l.labels.endpoints)
	case "empty-set":
		f.Fix = l.nearest(l.ruleSelector(p.Object, p.Path), l.labels.all)
	}
	l.add(node, f)
}

func (l *linter) sorted() []Finding {
	out := make([]Finding, 0, len(l.found))
	for _, f := range l.found {
		slices.Sort(f.Nodes)
		out = append(out, *f)
	}
	slices.SortFunc(out, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), strings.Compare(a.Pos.File, b.Pos.File), cmp.Compare(a.Pos.Line, b.Pos.Line),
			strings.Compare(a.Object, b.Object), strings.Compare(a.Path, b.Path), strings.Compare(a.Code, b.Code), strings.Compare(a.Message, b.Message))
	})
	return out
}

// policyKey is how a resolved policy is known.
type policyKey struct{ kind, tier, name string }

// policyObjects returns the policies by what they are called when they are resolved. Of two objects of one name the
// first counts, as it does for the Resolver.
func policyObjects(r hostendpoint.Resources) map[policyKey]hostendpoint.Object {
	out := map[policyKey]hostendpoint.Object{}
	add := func(o hostendpoint.Object) {
		id := o.ID()
		stored := hostendpoint.BackendPolicyName(id.Name)
		k := policyKey{id.Kind, hostendpoint.TierOfPolicy(stored), hostendpoint.PolicyDisplayName(id.Namespace, id.Name)}
		if out[k] == nil {
			out[k] = o
		}
	}
	for _, p := range r.GlobalNetworkPolicies {
		if p != nil {
			add(p)
		}
	}
	for _, p := range r.NetworkPolicies {
		if p != nil {
			add(p)
		}
	}
	return out
}

// object returns the name of a policy as problems have it.
func (l *linter) object(p *policy.Policy) string {
	if o := l.policies[policyKey{p.Kind, p.Tier, p.Name}]; o != nil {
		return o.ID().String()
	}
	return p.Kind + "(" + p.Name + ")"
}

// rulePath returns the path of a rule.
func rulePath(dir flow.Direction, index int) string { return fmt.Sprintf("spec.%s[%d]", dir, index) }

// endpoints returns all endpoints of a host.
func endpoints(s *policy.Snapshot) []*policy.Endpoint {
	if s.Wildcard == nil {
		return s.Endpoints
	}
	return append(slices.Clone(s.Endpoints), s.Wildcard)
}

// directed returns the rules of a policy, and the policies of a tier, in a direction.
func directed[T any](d flow.Direction, ingress, egress T) T {
	if d == flow.Egress {
		return egress
	}
	return ingress
}

// directions are both of them.
var directions = [...]flow.Direction{flow.Ingress, flow.Egress}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
