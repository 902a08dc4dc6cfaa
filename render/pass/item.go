// SPDX-License-Identifier: Apache-2.0

package pass

import (
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// item is a rule of a run, with what its match says of each dimension.
type item struct {
	rule   ir.Rule
	digest [16]byte   // of the rule with its origin
	block  ir.BlockID // what decides instead of the rule, unless ""; see hoist.go
	*view
}

// view is what a match says of each dimension.
type view struct {
	sets     [numDims]*valueSet // the values that can match; nil is all
	clauses  [numDims]uint64    // the clauses that hold wherever the packet is in sets
	possible bool               // some packet can match
	text     []byte             // identifies the match; only of items
}

// maxClauses is how many clauses of a match fit the bits of item.clauses.
const maxClauses = 64

// look looks at a match.
func look(m ir.Match) *view {
	it := &view{}
	it.possible = len(m) > maxClauses || it.look(m)
	return it
}

// look reports whether some packet can match.
func (it *view) look(m ir.Match) bool {
	for i, c := range m {
		if len(c) == 0 {
			return false
		}
		d, set, ok := constant(c[0])
		for _, t := range c[1:] {
			e, more, same := constant(t)
			if !ok || !same || e != d {
				ok = false
				break
			}
			set = set.union(more)
		}
		if !ok {
			continue
		}
		if old := it.sets[d]; old != nil {
			set = old.intersect(set)
		}
		if set.empty() {
			return false
		}
		it.sets[d] = &set
		it.clauses[d] |= 1 << i
	}
	return it.protocolOfPorts()
}

// protocolOfPorts uses that packets have ports or not by their protocol. No clause is worth less for it.
func (it *view) protocolOfPorts() bool {
	proto := it.sets[dimProtocol]
	if proto == nil {
		return true
	}
	with, without := proto.intersect(ported), proto.intersect(unported)
	for _, d := range [...]dim{dimDstPort, dimSrcPort} {
		s := everything(d)
		if it.sets[d] != nil {
			s = *it.sets[d]
		}
		if with.empty() {
			s.spans = nil
		}
		if without.empty() {
			s.absent = false
		}
		if s.empty() {
			return false
		}
		if it.sets[d] != nil || with.empty() {
			it.sets[d] = &s
		}
	}
	return true
}

// ref is an item of which some dimensions are known to match: the index, and a bit for each dimension.
type ref uint32

const maxItems = 1 << (32 - numDims)

func (r ref) index() int       { return int(r >> numDims) }
func (r ref) knows(d dim) bool { return r>>d&1 != 0 }
func (r ref) know(d dim) ref   { return r | 1<<d }

// set returns what the item still asks of a dimension; nil is nothing.
func (t *tree) set(r ref, d dim) *valueSet {
	if r.knows(d) {
		return nil
	}
	return t.items[r.index()].sets[d]
}

// rule returns the rule without the clauses that are known to hold.
func (t *tree) rule(r ref) ir.Rule {
	it := &t.items[r.index()]
	drop := it.dropped(r)
	if drop == 0 {
		return it.rule
	}
	rule := it.rule
	rule.Match = nil
	for i, c := range it.rule.Match {
		if drop>>i&1 == 0 {
			rule.Match = append(rule.Match, c)
		}
	}
	return rule
}

func (it *view) dropped(r ref) uint64 {
	var drop uint64
	for d := range numDims {
		if r.knows(d) {
			drop |= it.clauses[d]
		}
	}
	return drop
}

// always reports whether the rule decides for every packet that meets it.
func (t *tree) always(r ref) bool {
	it := &t.items[r.index()]
	if it.rule.Then == ir.Undecided {
		return false
	}
	n := len(it.rule.Match)
	return n == 0 || n <= maxClauses && it.dropped(r) == ^uint64(0)>>(64-n)
}

// shadows reports whether no packet that meets b behind a gets past a.
func (t *tree) shadows(a, b ref) bool {
	x := &t.items[a.index()]
	if x.rule.Then == ir.Undecided {
		return false
	}
	exact := x.dropped(a)
	for d := range numDims {
		if a.knows(d) {
			continue
		}
		exact |= x.clauses[d]
		if s := x.sets[d]; s != nil && x.clauses[d] != 0 {
			o := t.set(b, d)
			if o == nil || !s.contains(o) {
				return false
			}
		}
	}
	n := len(x.rule.Match)
	return n == 0 || n <= maxClauses && exact == ^uint64(0)>>(64-n)
}

// within returns the list of the rules that packets of a cell can match, up to the first that decides for all of them.
func (t *tree) within(out, list []ref, d dim, cell span.Span) []ref {
	for _, r := range list {
		if s := t.set(r, d); s != nil {
			switch s.relate(cell) {
			case disjoint:
				continue
			case covers:
				r = r.know(d)
			}
		}
		out = append(out, r)
		if t.always(r) {
			break
		}
	}
	return out
}
