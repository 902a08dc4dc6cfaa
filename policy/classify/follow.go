// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"errors"
	"slices"

	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// Follower follows the members of the sets that tables ask about, and says what a change of one of them means: where in
// which dimension which bits of the rows differ. Tables themselves do not change. A Follower is not safe for concurrent
// use.
type Follower struct {
	tables *Tables
	ids    []ir.SetID
	index  map[ir.SetID]int
	sets   []*memberSet
	asks   [][]Ask // by set
	holds  []bool  // scratch, by atom
}

// Ask says that a dimension asks for the members of a set.
type Ask struct {
	Matcher, Dim int      // Tables.Matchers[Matcher].Dims[Dim]
	Axis         Axis     // of the dimension
	rules        []uint32 // those whose bits may depend on the members, ascending
	demands      []demand // of the rules
	atoms        []uint32 // of the demands, ascending
}

// ErrManyRuns is what Runs returns if a change concerns more places of a dimension than it is worth following.
var ErrManyRuns = errors.New("too many places change")

// MaxRuns bounds how many values Runs returns.
const MaxRuns = 1 << 10

// Follow returns a Follower that begins with the members with which t was built.
func (t *Tables) Follow(m ir.Members) *Follower {
	a := t.conjs.atoms
	f := &Follower{tables: t, ids: a.declared, index: make(map[ir.SetID]int, len(a.declared)), asks: make([][]Ask, len(a.declared)), holds: make([]bool, len(a.list))}
	for i, id := range f.ids {
		f.index[id] = i
		f.sets = append(f.sets, newMemberSet(m.Set(id)))
	}
	setsOf := make([][]int, len(a.demands)) // of each demand
	for d, ids := range a.demands {
		for _, x := range ids {
			for _, s := range slices.Concat(a.list[x].refs, a.list[x].sets) {
				setsOf[d] = append(setsOf[d], s.set)
			}
		}
		slices.Sort(setsOf[d])
		setsOf[d] = slices.Compact(setsOf[d])
	}
	for i := range t.Matchers {
		for j := range t.Matchers[i].Dims {
			axis := t.Matchers[i].Dims[j].Axis
			bySet := map[int]*Ask{}
			var order []int
			for r, c := range t.rules[i] {
				d := t.conjs.list[c][axis]
				for _, s := range setsOf[d] {
					x := bySet[s]
					if x == nil {
						x = &Ask{Matcher: i, Dim: j, Axis: axis}
						bySet[s] = x
						order = append(order, s)
					}
					x.rules, x.demands = append(x.rules, uint32(r)), append(x.demands, d)
				}
			}
			for _, s := range order {
				x := bySet[s]
				seen := map[demand]bool{}
				for _, d := range x.demands {
					if !seen[d] {
						seen[d] = true
						x.atoms = append(x.atoms, a.demands[d]...)
					}
				}
				slices.Sort(x.atoms)
				x.atoms = slices.Compact(x.atoms)
				f.asks[s] = append(f.asks[s], *x)
			}
		}
	}
	return f
}

// Knows reports whether the program has a set.
func (f *Follower) Knows(id ir.SetID) bool {
	_, ok := f.index[id]
	return ok
}

// Add makes e a member of a set, and reports whether it was none. Sets that the program does not have are ignored.
func (f *Follower) Add(id ir.SetID, e ir.Element) bool {
	i, ok := f.index[id]
	return ok && f.sets[i].add(memberOf(e))
}

// Remove makes e no member of a set, and reports whether it was one.
func (f *Follower) Remove(id ir.SetID, e ir.Element) bool {
	i, ok := f.index[id]
	return ok && f.sets[i].remove(memberOf(e))
}

// Members returns the members of all sets.
func (f *Follower) Members() ir.Members {
	var m ir.Members
	for i, id := range f.ids {
		m.Sets = append(m.Sets, ir.SetMembers{ID: id, Elements: f.sets[i].elements()})
	}
	return m.Canonical()
}

// Asks returns the dimensions that ask for the members of a set. They must not be changed.
func (f *Follower) Asks(id ir.SetID) []Ask {
	if i, ok := f.index[id]; ok {
		return f.asks[i]
	}
	return nil
}

// Runs returns the first value of each run of values from lo to hi, on an axis of addresses, within which no test of the
// rules of x tells values apart: sorted, beginning with lo. The error is ErrManyRuns.
func (f *Follower) Runs(x *Ask, lo, hi ir.Value) ([]ir.Value, error) {
	first, last := span.KeyOf(lo), span.KeyOf(hi)
	cuts := []key{first}
	add := func(k key) bool {
		if first.Less(k) && !last.Less(k) {
			cuts = append(cuts, k)
		}
		return len(cuts) <= 4*MaxRuns
	}
	both := func(s span.Span) bool { return add(s.Lo) && (s.Hi == span.Last() || add(s.Hi.Next())) }
	if first.Less(last) {
		done := map[int]bool{}
		for _, id := range x.atoms {
			atom := &f.tables.conjs.atoms.list[id]
			spans := atom.fixed
			if len(atom.refs) == 0 {
				spans = atom.spans
			}
			for i := span.Find(spans, first); i < len(spans) && !last.Less(spans[i].Lo); i++ {
				if !both(spans[i]) {
					return nil, ErrManyRuns
				}
			}
			for _, s := range atom.refs {
				if done[s.set] {
					continue
				}
				done[s.set] = true
				// A member that begins before lo and is a prefix ends behind hi, or before lo, or reaches as far as a
				// boundary of families, which is none of ours.
				ok := true
				f.sets[s.set].within(first, last, func(m member) bool {
					ok = both(m.span())
					return ok
				})
				if !ok {
					return nil, ErrManyRuns
				}
			}
		}
		slices.SortFunc(cuts, key.Compare)
		cuts = slices.Compact(cuts)
	}
	if len(cuts) > MaxRuns {
		return nil, ErrManyRuns
	}
	out := make([]ir.Value, len(cuts))
	for i, c := range cuts {
		out[i] = c.Value()
	}
	return out, nil
}

// Address sets the bits of the rules of x in a row to what they are for an address; the others stay.
func (f *Follower) Address(x *Ask, addr ir.Value, row []uint64) {
	k := span.KeyOf(addr)
	f.bits(x, row, func(a *atom) bool {
		spans := a.fixed
		if len(a.refs) == 0 {
			spans = a.spans
		}
		if span.Contains(spans, k) {
			return true
		}
		for _, s := range a.refs {
			if f.sets[s.set].holds(k) != s.not {
				return true
			}
		}
		return false
	})
}

// Endpoint is Address for an axis of endpoints.
func (f *Follower) Endpoint(x *Ask, e ir.Element, row []uint64) {
	m := memberOf(e)
	f.bits(x, row, func(a *atom) bool {
		return slices.ContainsFunc(a.sets, func(s setTest) bool {
			_, _, found := f.sets[s.set].find(m)
			return found != s.not
		})
	})
}

func (f *Follower) bits(x *Ask, row []uint64, holds func(*atom) bool) {
	a := f.tables.conjs.atoms
	for _, id := range x.atoms {
		f.holds[id] = holds(&a.list[id])
	}
	for i, r := range x.rules {
		bit, set := uint64(1)<<(r&63), true
		for _, id := range a.demands[x.demands[i]] {
			set = set && f.holds[id]
		}
		if row[r>>6] &^= bit; set {
			row[r>>6] |= bit
		}
	}
}

// AsksForMembers reports whether any answer depends on the members of a set.
func (t *Tables) AsksForMembers() bool {
	for i := range t.conjs.atoms.list {
		if x := &t.conjs.atoms.list[i]; len(x.refs)+len(x.sets) > 0 {
			return true
		}
	}
	return false
}
