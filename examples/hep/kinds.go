// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// column is one column of a table of resources.
type column struct {
	title string
	wide  bool // with -o wide only
	text  func(hostendpoint.Object) string
}

// resourceKind is a kind as commands know it: its names on the command line, and what tables show.
type resourceKind struct {
	kind    string
	names   []string // beside the kind in lower case; the first is the plural
	columns []column
}

// on makes a column of a kind's own Go type.
func on[T hostendpoint.Object](title string, text func(T) string) column {
	return column{title: title, text: func(o hostendpoint.Object) string {
		t, ok := o.(T)
		if !ok {
			return ""
		}
		return text(t)
	}}
}

func wide(c column) column { c.wide = true; return c }

func resourceKinds() []resourceKind {
	type (
		hep  = *hostendpoint.HostEndpoint
		prof = *hostendpoint.Profile
		tier = *hostendpoint.Tier
		gnp  = *hostendpoint.GlobalNetworkPolicy
		np   = *hostendpoint.NetworkPolicy
		gns  = *hostendpoint.GlobalNetworkSet
		ns   = *hostendpoint.NetworkSet
		node = *hostendpoint.Node
	)
	return []resourceKind{
		{hostendpoint.KindHostEndpoint, []string{"hostendpoints", "hep", "heps"}, []column{
			on("NODE", func(h hep) string { return h.Spec.Node }),
			on("INTERFACE", func(h hep) string { return h.Spec.InterfaceName }),
			on("IPS", func(h hep) string { return list(h.Spec.ExpectedIPs) }),
			wide(on("PROFILES", func(h hep) string { return list(h.Spec.Profiles) })),
			wide(on("PORTS", func(h hep) string {
				var out []string
				for _, p := range h.Spec.Ports {
					out = append(out, fmt.Sprintf("%s=%v/%d", p.Name, p.Protocol, p.Port))
				}
				return list(out)
			})),
		}},
		{hostendpoint.KindProfile, []string{"profiles", "pro", "prof"}, []column{
			on("INGRESS", func(p prof) string { return strconv.Itoa(len(p.Spec.Ingress)) }),
			on("EGRESS", func(p prof) string { return strconv.Itoa(len(p.Spec.Egress)) }),
			wide(on("APPLIES", func(p prof) string { return pairs(p.Spec.LabelsToApply) })),
		}},
		{hostendpoint.KindTier, []string{"tiers"}, []column{
			on("ORDER", func(t tier) string { return number(t.Spec.Order) }),
			on("DEFAULT-ACTION", func(t tier) string {
				if t.Spec.DefaultAction == nil {
					return ""
				}
				return string(*t.Spec.DefaultAction)
			}),
		}},
		{hostendpoint.KindGlobalNetworkPolicy, []string{"globalnetworkpolicies", "gnp", "gnps"}, []column{
			on("TIER", func(p gnp) string { return p.Spec.Tier }),
			on("ORDER", func(p gnp) string { return number(p.Spec.Order) }),
			on("SELECTOR", func(p gnp) string { return p.Spec.Selector }),
			on("STAGE", func(p gnp) string { return stage(p.Spec) }),
			wide(on("TYPES", func(p gnp) string { return types(p.Spec.Types) })),
			wide(on("RULES", func(p gnp) string { return fmt.Sprintf("%d+%d", len(p.Spec.Ingress), len(p.Spec.Egress)) })),
		}},
		{hostendpoint.KindNetworkPolicy, []string{"networkpolicies", "np", "nps", "cnp"}, []column{
			on("TIER", func(p np) string { return p.Spec.Tier }),
			on("ORDER", func(p np) string { return number(p.Spec.Order) }),
			on("SELECTOR", func(p np) string { return p.Spec.Selector }),
			wide(on("TYPES", func(p np) string { return types(p.Spec.Types) })),
			wide(on("RULES", func(p np) string { return fmt.Sprintf("%d+%d", len(p.Spec.Ingress), len(p.Spec.Egress)) })),
		}},
		{hostendpoint.KindGlobalNetworkSet, []string{"globalnetworksets", "gns"}, []column{
			on("NETS", func(s gns) string { return strconv.Itoa(len(s.Spec.Nets)) }),
			wide(on("ADDRESSES", func(s gns) string { return list(s.Spec.Nets) })),
		}},
		{hostendpoint.KindNetworkSet, []string{"networksets", "netset", "netsets"}, []column{
			on("NETS", func(s ns) string { return strconv.Itoa(len(s.Spec.Nets)) }),
			wide(on("ADDRESSES", func(s ns) string { return list(s.Spec.Nets) })),
		}},
		{hostendpoint.KindNode, []string{"nodes", "no"}, []column{
			on("ADDRESSES", func(n node) string {
				var out []string
				for _, a := range n.Spec.Addresses {
					out = append(out, a.Address)
				}
				return list(out)
			}),
		}},
	}
}

// table returns the titles of a kind's columns, and the function that makes a row of an object.
func (k resourceKind) table(all bool, now time.Time) ([]string, func(hostendpoint.Object) []cell) {
	columns := []column{{title: "NAME", text: func(o hostendpoint.Object) string { return o.Meta().Name }}}
	if hostendpoint.Namespaced(k.kind) {
		columns = slices.Insert(columns, 0, column{title: "NAMESPACE", text: func(o hostendpoint.Object) string { return o.Meta().Namespace }})
	}
	columns = append(columns, k.columns...)
	columns = append(columns, wide(column{title: "LABELS", text: func(o hostendpoint.Object) string { return pairs(o.Meta().Labels) }}),
		column{title: "AGE", text: func(o hostendpoint.Object) string { return age(o, now) }})
	if !all {
		columns = slices.DeleteFunc(columns, func(c column) bool { return c.wide })
	}
	var titles []string
	for _, c := range columns {
		titles = append(titles, c.title)
	}
	return titles, func(o hostendpoint.Object) []cell {
		var row []cell
		for _, c := range columns {
			st := plain
			switch c.title {
			case "NAME":
				st = cyan
			case "AGE":
				st = dim
			}
			text := c.text(o)
			if text == "" {
				text, st = "-", dim
			}
			row = append(row, cell{text, st})
		}
		return row
	}
}

func age(o hostendpoint.Object, now time.Time) string {
	if o.Meta().CreationTimestamp == nil {
		return "-"
	}
	t, err := time.Parse(time.RFC3339, *o.Meta().CreationTimestamp)
	if err != nil {
		return "?"
	}
	return duration.HumanDuration(max(0, now.Sub(t)))
}

func list(of []string) string { return strings.Join(of, ",") }

func pairs(m map[string]string) string {
	var out []string
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return list(out)
}

func number(f *float64) string {
	if f == nil {
		return ""
	}
	return strconv.FormatFloat(*f, 'f', -1, 64)
}

func types(ts []hostendpoint.PolicyType) string {
	var out []string
	for _, t := range ts {
		out = append(out, string(t))
	}
	return list(out)
}

func stage(s hostendpoint.GlobalNetworkPolicySpec) string {
	switch {
	case s.DoNotTrack:
		return "untracked"
	case s.PreDNAT:
		return "pre-dnat"
	case s.ApplyOnForward:
		return "normal,forward"
	}
	return "normal"
}

// kindNamed finds a kind by one of its names.
func kindNamed(name string) (resourceKind, error) {
	ks := resourceKinds()
	for _, k := range ks {
		if lower := strings.ToLower(name); lower == strings.ToLower(k.kind) || slices.Contains(k.names, lower) {
			return k, nil
		}
	}
	var known []string
	for _, k := range ks {
		known = append(known, k.names[0])
	}
	return resourceKind{}, fmt.Errorf("there is no kind %q; there are %s", name, strings.Join(known, ", "))
}

// choice is what arguments say of which resources are meant.
type choice struct {
	kinds []resourceKind
	ids   []hostendpoint.ID // single objects; none means all of the kinds
}

// choose reads arguments as kubectl has them: KIND, KIND,KIND, KIND NAME..., KIND/NAME..., all.
func choose(args []string, namespace string) (choice, error) {
	var c choice
	add := func(k resourceKind, name string) error {
		id := hostendpoint.ID{Kind: k.kind, Name: name}
		if hostendpoint.Namespaced(k.kind) {
			if ns, rest, ok := strings.Cut(name, "/"); ok {
				id.Namespace, id.Name = ns, rest
			} else if id.Namespace = namespace; namespace == "" {
				return fmt.Errorf("%s %s: which namespace? Give -n NAMESPACE", k.kind, name)
			}
		}
		c.ids = append(c.ids, id)
		return nil
	}
	if len(args) == 0 {
		return c, fmt.Errorf("which resources? Give a kind (hep, gnp, ...), KIND NAME, KIND/NAME or all")
	}
	if strings.Contains(args[0], "/") {
		for _, a := range args {
			kind, name, ok := strings.Cut(a, "/")
			if !ok {
				return c, fmt.Errorf("%q: want KIND/NAME, as in the first argument", a)
			}
			k, err := kindNamed(kind)
			if err != nil {
				return c, err
			}
			if err := add(k, name); err != nil {
				return c, err
			}
		}
		return c, nil
	}
	for _, name := range strings.Split(args[0], ",") {
		if name == "all" {
			c.kinds = append(c.kinds, resourceKinds()...)
			continue
		}
		k, err := kindNamed(name)
		if err != nil {
			return c, err
		}
		c.kinds = append(c.kinds, k)
	}
	for _, name := range args[1:] {
		for _, k := range c.kinds {
			if err := add(k, name); err != nil {
				return c, err
			}
		}
	}
	return c, nil
}
