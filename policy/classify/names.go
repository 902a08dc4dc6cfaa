// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"slices"
	"sort"

	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// nameClasses divides interface names into classes. Class 0 is for packets without the interface. Then come two classes
// for each run of names between neighbouring cuts: one for names that an interface can have, and one for those that are
// too long or hold a zero byte. The latter are in no key of a Switch, but may well begin like a pattern.
type nameClasses struct {
	cuts []key // sorted; the first one is zero
}

const noName = 0

// newNameClasses finds all names that the program tells apart, at any hook.
func newNameClasses(p *ir.Program) nameClasses {
	cuts := []key{{}}
	add := func(i ir.Interval) {
		s := span.Of(i)
		cuts = append(cuts, s.Lo)
		if s.Hi != span.Last() {
			cuts = append(cuts, s.Hi.Next())
		}
	}
	match := func(m ir.Match) {
		for _, c := range m {
			for _, t := range c {
				if t, ok := t.(ir.InNames); ok {
					for _, n := range t.Names {
						add(patternInterval(n))
					}
				}
			}
		}
	}
	for _, b := range p.Blocks {
		for _, s := range b.Steps {
			switch s := s.(type) {
			case ir.Rule:
				match(s.Match)
			case ir.Call:
				match(s.Match)
			case ir.Switch:
				for i, f := range s.Key {
					if f != ir.InIface && f != ir.OutIface {
						continue
					}
					for _, c := range s.Cases {
						add(c.Key[i])
					}
				}
			}
		}
	}
	slices.SortFunc(cuts, key.Compare)
	return nameClasses{slices.Clip(slices.Compact(cuts))}
}

func patternInterval(n ir.NamePattern) ir.Interval {
	if n.Prefix {
		i, _ := ir.NamePrefix(n.Name) // Validate has seen to the name
		return i
	}
	v, _ := ir.Name(n.Name)
	return ir.Exactly(v)
}

func (n nameClasses) count() int { return 1 + 2*len(n.cuts) }

// classOf returns the class of a name.
func (n nameClasses) classOf(s string) uint32 {
	if s == "" {
		return noName
	}
	var k key
	valid := len(s) <= ir.MaxNameLen
	for i := 0; i < len(s) && i < ir.MaxNameLen; i++ {
		valid = valid && s[i] != 0
		k = k.WithByte(i, s[i])
	}
	lo, hi := 0, len(n.cuts) // cuts[lo] is at or below k
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; k.Less(n.cuts[mid]) {
			hi = mid
		} else {
			lo = mid
		}
	}
	class := uint32(1 + 2*lo)
	if !valid {
		class++
	}
	return class
}

// name is what all names of a class have in common, as far as a program can tell.
type name struct {
	absent, valid bool
	first         ir.Value // the beginning of their run
}

func (n nameClasses) name(class uint32) name {
	if class == noName {
		return name{absent: true}
	}
	return name{valid: class&1 == 1, first: n.cuts[(class-1)/2].Value()}
}

// in reports whether the names are in an interval of a Switch.
func (n name) in(i ir.Interval) bool { return n.valid && i.Contains(n.first) }

// holds reports whether the names fulfil a term.
func (n name) holds(t ir.InNames) bool {
	in := !n.absent && slices.ContainsFunc(t.Names, func(p ir.NamePattern) bool {
		return (n.valid || p.Prefix) && patternInterval(p).Contains(n.first)
	})
	return in != t.Not
}

// find returns the case of a Switch over an interface alone that holds the names; -1 if there is none.
func (n name) find(cases []ir.Case) int {
	if !n.valid {
		return -1
	}
	i := sort.Search(len(cases), func(i int) bool { return cases[i].Key[0].Lo.Compare(n.first) > 0 }) - 1
	if i >= 0 && n.in(cases[i].Key[0]) {
		return i
	}
	return -1
}
