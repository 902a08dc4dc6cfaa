// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Plain is a program as first-match lists whose conditions are spelled out: for those who reason about all packets at
// once. It is immutable and safe for concurrent use.
type Plain struct {
	Entries []Entry       // as in Tables, but their lists are those of Lists
	Lists   [][]PlainRule // no two are equal
	Conds   []Cond        // what rules demand; the first one demands nothing
	Atoms   []Atom

	names nameClasses
}

// PlainRule is a rule of a list: what a packet must fulfil, an index into Plain.Conds, and the consequence.
type PlainRule struct {
	Cond uint32
	Action
}

// Cond is a conjunction: a packet must fulfil all atoms, which are indices into Plain.Atoms, on each axis.
type Cond [numAxes][]uint32

// Atom is a condition on one axis.
type Atom struct {
	Spans  []ir.Interval // of L4, addresses and ports: where it holds; sorted, neither overlapping nor adjacent
	Absent bool          // of L4, addresses and ports: whether it holds for a packet without value
	Sets   []SetTest     // of endpoints: it holds if one of these does
	Names  []bool        // of interfaces: whether it holds, by the class that Plain.InterfaceClass gives
}

// SetTest asks for membership in a set of endpoints.
type SetTest struct {
	Set ir.SetID
	Not bool
}

// Flatten returns the lists of a program, without the classifier's tables. With all, the lists keep the rules that stand
// behind a rule for every packet and those that only lead to where the search goes anyway; a rule whose match holds for no
// packet of its list is never in it. The error is that of Build. The result keeps nothing of p and m.
func Flatten(p *ir.Program, m ir.Members, all bool) (*Plain, error) {
	b, err := newBuilder(p, m, maxTotalRules)
	if err != nil {
		return nil, err
	}
	b.plain, b.all = &Plain{names: b.tables.names}, all
	if err := b.entries(p); err != nil {
		return nil, err
	}
	b.plain.Entries = b.tables.Entries
	atoms := b.conjs.atoms
	b.plain.Conds = make([]Cond, len(b.conjs.list))
	for i, c := range b.conjs.list {
		for axis, d := range c {
			b.plain.Conds[i][axis] = atoms.demands[d]
		}
	}
	b.plain.Atoms = make([]Atom, len(atoms.list))
	for i := range atoms.list {
		x := &atoms.list[i]
		out := Atom{Absent: x.absent, Names: x.names}
		for _, s := range x.spans {
			out.Spans = append(out.Spans, s.Interval())
		}
		for _, s := range x.sets {
			out.Sets = append(out.Sets, SetTest{p.Sets[s.set].ID, s.not})
		}
		b.plain.Atoms[i] = out
	}
	return b.plain, nil
}

// NameCuts returns the classes of interface names as Tables.NameCuts does.
func (p *Plain) NameCuts() []NameCut { return (&Tables{names: p.names}).NameCuts() }

// InterfaceClass returns the class of an interface name; "" stands for a packet that has none.
func (p *Plain) InterfaceClass(name string) int { return int(p.names.classOf(name)) }
