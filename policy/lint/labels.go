// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy/effective"
	"github.com/hostpolicy/hostpolicy/selector"
)

// universe is the labels that selectors can meet.
type universe struct {
	endpoints labelSet // of host endpoints
	all       labelSet // of network sets, too
}

// labelSet is the values that each label has.
type labelSet map[string]map[string]bool

func (s labelSet) add(labels map[string]string) {
	for k, v := range labels {
		if s[k] == nil {
			s[k] = map[string]bool{}
		}
		s[k][v] = true
	}
}

func labelsOf(r hostendpoint.Resources) universe {
	u := universe{labelSet{}, labelSet{}}
	profiles := map[string]map[string]string{}
	for _, p := range r.Profiles {
		if p != nil {
			profiles[p.Metadata.Name] = p.Spec.LabelsToApply
		}
	}
	for _, h := range r.HostEndpoints {
		if h == nil {
			continue
		}
		u.endpoints.add(h.Metadata.Labels)
		u.all.add(h.Metadata.Labels)
		for _, name := range h.Spec.Profiles {
			u.endpoints.add(profiles[name])
			u.all.add(profiles[name])
		}
	}
	for _, s := range r.GlobalNetworkSets {
		if s != nil {
			u.all.add(s.Metadata.Labels)
		}
	}
	for _, s := range r.NetworkSets {
		if s != nil {
			u.all.add(s.Metadata.Labels)
			u.all.add(map[string]string{hostendpoint.NamespaceLabel: s.Metadata.Namespace})
		}
	}
	return u
}

// policySelector returns the selector of a policy; the zero value if it is not there or cannot be read.
func (l *linter) policySelector(object string) selector.Selector {
	for _, p := range l.r.GlobalNetworkPolicies {
		if p != nil && p.ID().String() == object {
			s, _ := effective.GlobalNetworkPolicy(p)
			return s
		}
	}
	for _, p := range l.r.NetworkPolicies {
		if p != nil && p.ID().String() == object {
			s, _ := effective.NetworkPolicy(p)
			return s
		}
	}
	return selector.Selector{}
}

// ruleSelector returns the selector on one side of a rule, by a path such as "spec.ingress[0].source".
func (l *linter) ruleSelector(object, path string) selector.Selector {
	var in, out []hostendpoint.Rule
	for o := range l.r.All() {
		if o.ID().String() != object {
			continue
		}
		switch o := o.(type) {
		case *hostendpoint.GlobalNetworkPolicy:
			in, out = o.Spec.Ingress, o.Spec.Egress
		case *hostendpoint.NetworkPolicy:
			in, out = o.Spec.Ingress, o.Spec.Egress
		case *hostendpoint.Profile:
			in, out = o.Spec.Ingress, o.Spec.Egress
		}
		break
	}
	rules := in
	rest, ok := strings.CutPrefix(path, "spec.ingress[")
	if !ok {
		if rest, ok = strings.CutPrefix(path, "spec.egress["); !ok {
			return selector.Selector{}
		}
		rules = out
	}
	number, side, _ := strings.Cut(rest, "].")
	i, err := strconv.Atoi(number)
	if err != nil || i < 0 || i >= len(rules) {
		return selector.Selector{}
	}
	e := &rules[i].Source
	if strings.HasPrefix(side, "destination") {
		e = &rules[i].Destination
	}
	text := e.Selector
	if text == "" {
		text = e.NamespaceSelector
	}
	s, _ := selector.Parse(text)
	return s
}

// nearest says which label a selector that selects nothing may have meant; "" if no term of it is nearly right.
func (l *linter) nearest(s selector.Selector, have labelSet) string {
	for t := range s.Terms() {
		if t.Label == "" {
			continue
		}
		values := have[t.Label]
		if values == nil {
			if k := closest(t.Label, keys(have)); k != "" {
				return fmt.Sprintf("No endpoint has a label %s; did you mean %s?", t.Label, k)
			}
			if len(have) > 0 {
				return fmt.Sprintf("No endpoint has a label %s; there are %s.", t.Label, listed(keys(have)))
			}
			continue
		}
		if t.Op != selector.OpEqual && t.Op != selector.OpIn {
			continue
		}
		wanted := t.Values
		if t.Op == selector.OpEqual {
			wanted = []string{t.Value}
		}
		if slices.ContainsFunc(wanted, func(v string) bool { return values[v] }) {
			continue
		}
		for _, v := range wanted {
			if c := closest(v, keys(values)); c != "" {
				return fmt.Sprintf("No endpoint has %s == '%s'; did you mean %s == '%s'?", t.Label, v, t.Label, c)
			}
		}
		return fmt.Sprintf("No endpoint has %s == '%s'; the values are %s.", t.Label, strings.Join(wanted, "' or '"), listed(keys(values)))
	}
	return ""
}

func keys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// listed joins at most eight words.
func listed(words []string) string {
	if n := len(words); n > 8 {
		return strings.Join(words[:8], ", ") + fmt.Sprintf(" and %d more", n-8)
	}
	return strings.Join(words, ", ")
}

// closest returns the word that differs from s in the fewest letters, if that is at most a third of them, or in case
// alone; "" if none does.
func closest(s string, words []string) string {
	best, distance := "", 0
	for _, w := range words {
		d := editDistance(strings.ToLower(s), strings.ToLower(w))
		if 3*d <= max(len(s), len(w)) && (best == "" || d < distance) {
			best, distance = w, d
		}
	}
	return best
}

// editDistance returns how many letters must be added, removed, replaced or exchanged with the next to make b of a.
func editDistance(a, b string) int {
	if len(a) > 256 || len(b) > 256 {
		return max(len(a), len(b))
	}
	var before, last []int
	now := make([]int, len(b)+1)
	for j := range now {
		now[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, now = last, now, make([]int, len(b)+1)
		now[0] = i
		for j := 1; j <= len(b); j++ {
			cost := cmp.Compare(a[i-1], b[j-1])
			cost *= cost
			now[j] = min(last[j]+1, now[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				now[j] = min(now[j], before[j-2]+1)
			}
		}
	}
	return now[len(b)]
}
