// SPDX-License-Identifier: Apache-2.0

package ir

import (
	"cmp"
	"slices"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

func (v *validator) match(m Match) {
	for _, c := range m {
		for _, t := range c {
			v.term(t)
		}
	}
}

func (v *validator) term(t Term) {
	switch t := t.(type) {
	case InPorts:
		v.field(t.Field, "ports", SrcPort, DstPort)
		if len(t.Ranges) == 0 || !slices.Equal(t.Ranges, MergePorts(t.Ranges)) {
			v.fault("%s is not a list of sorted ports that do not touch", termText(t))
		}
	case InPrefixes:
		v.field(t.Field, "prefixes", SrcAddr, DstAddr)
		if len(t.Prefixes) == 0 || !slices.Equal(t.Prefixes, MergePrefixes(t.Prefixes)) {
			v.fault("%s is not a list of sorted prefixes, as few as possible", termText(t))
		}
	case InNames:
		v.field(t.Field, "names", InIface, OutIface)
		if len(t.Names) == 0 {
			v.fault("%s has no names", termText(t))
		}
		sorted(v, "names", t.Names, CompareNames)
		for _, n := range t.Names {
			if _, ok := Name(n.Name); !ok {
				v.fault("%q is not the name of an interface", n.Name)
			}
		}
	case InMask:
		v.field(t.Field, "small numbers", Family, Protocol, ICMPType, ICMPCode, State)
		known := allOfMask
		switch t.Field {
		case Family:
			known = MaskOf(uint8(4), 6)
		case State:
			known = MaskOf(flow.New, flow.Established, flow.Related, flow.Invalid, flow.Untracked)
		}
		if t.Mask == (Mask{}) {
			v.fault("%s has no values", termText(t))
		}
		for i := range t.Mask {
			if t.Mask[i]&^known[i] != 0 {
				v.fault("%s has values that the field cannot have", termText(t))
				break
			}
		}
	case InSet:
		v.inSet(t)
	default:
		v.fault("unknown term %T", t)
	}
}

var allOfMask = Mask{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}

func (v *validator) field(f Field, what string, allowed ...Field) {
	if !slices.Contains(allowed, f) {
		v.fault("%s has no %s", f, what)
	}
}

func (v *validator) inSet(t InSet) {
	kind, ok := v.kinds[t.Set]
	if !ok {
		v.fault("set %q is not declared", t.Set)
		return
	}
	want := [][]Field{{SrcAddr}, {DstAddr}}
	if kind == SetOfEndpoints {
		want = [][]Field{{SrcAddr, Protocol, SrcPort}, {DstAddr, Protocol, DstPort}}
	}
	if !slices.ContainsFunc(want, func(fs []Field) bool { return slices.Equal(fs, t.Fields) }) {
		v.fault("%s: the fields do not fit a set of %s", termText(t), kind)
	}
}

// overlap returns two cases whose keys have a value in common. Keys have the given number of fields and no empty
// interval.
func overlap(cases []Case, fields int) (i, j int, found bool) {
	all := make([]int, len(cases))
	for i := range all {
		all[i] = i
	}
	return overlapIn(cases, all, fields, 0)
}

// overlapIn takes the cases in group apart along any field in which they fall into separate runs, and compares pairs
// only where no field separates. It begins with the field next.
func overlapIn(cases []Case, group []int, fields, next int) (int, int, bool) {
	if len(group) < 2 {
		return 0, 0, false
	}
	for tried := 0; tried < fields; tried++ {
		f := (next + tried) % fields
		slices.SortFunc(group, func(a, b int) int {
			return cmp.Or(cases[a].Key[f].Compare(cases[b].Key[f]), cmp.Compare(a, b))
		})
		start, hi, split := 0, cases[group[0]].Key[f].Hi, false
		for k := 1; k <= len(group); k++ {
			if k < len(group) && cases[group[k]].Key[f].Lo.Compare(hi) <= 0 {
				if h := cases[group[k]].Key[f].Hi; h.Compare(hi) > 0 {
					hi = h
				}
				continue
			}
			if k-start == len(group) {
				break // one run: this field separates nothing
			}
			split = true
			if i, j, found := overlapIn(cases, slices.Clone(group[start:k]), fields, f+1); found {
				return i, j, true
			}
			if k < len(group) {
				start, hi = k, cases[group[k]].Key[f].Hi
			}
		}
		if split {
			return 0, 0, false
		}
	}
	for x, a := range group {
		for _, b := range group[x+1:] {
			if keysOverlap(cases[a].Key, cases[b].Key) {
				return a, b, true
			}
		}
	}
	return 0, 0, false
}

func keysOverlap(a, b []Interval) bool {
	for f := range a {
		if !a[f].overlaps(b[f]) {
			return false
		}
	}
	return true
}
