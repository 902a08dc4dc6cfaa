// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"slices"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// arena hands out slices of blocks of memory. Blocks double in size.
type arena[T any] struct {
	free []T
	last int
}

const (
	minBlock = 16
	maxBlock = 4096
)

// room returns a zeroed slice of n elements.
func (a *arena[T]) room(n int) []T {
	if len(a.free) < n {
		a.last = max(minBlock, min(2*a.last, maxBlock))
		if 2*n > a.last {
			return make([]T, n)
		}
		a.free = make([]T, a.last)
	}
	s := a.free[:n:n]
	a.free = a.free[n:]
	return s
}

func (a *arena[T]) copy(s []T) []T {
	if len(s) == 0 {
		return nil
	}
	c := a.room(len(s))
	copy(c, s)
	return c
}

// scratch is memory that is used again and again.
type scratch struct {
	low      lowered
	base     []Test
	products [][]Test
	pos      []alt
	list     []Target
	text     []byte
	spans    []span
}

const (
	// maxProduct is how many rules a match may become before chains take the alternatives apart.
	maxProduct = 6
	// maxAlternatives bounds what one clause may be.
	maxAlternatives = 1 << 14
)

// write writes rules that end in a for the packets that match.
func (b *builder) write(c *chain, m *lowered, a action, note string, by *flow.Origin) error {
	if len(m.clauses) == 0 {
		b.end(c, m.base, a, note, by)
		return nil
	}
	// A packet that satisfies two alternatives must not come back from the first to meet the second.
	if a.kind != resume && m.count(maxProduct) <= maxProduct {
		b.scr.products = b.scr.products[:0]
		if b.product(m.base, m.clauses) {
			for _, tests := range b.scr.products {
				b.end(c, tests, a, note, by)
			}
			return nil
		}
	}
	for i := range m.clauses {
		if len(m.clauses[i].pos)+len(m.clauses[i].neg) > maxAlternatives {
			return b.unsupported("a clause of more than %d alternatives", maxAlternatives)
		}
	}
	h := &chain{label: c.label}
	last := a
	switch a.kind {
	case resume:
		// To go there instead of jumping leads back to c. The other targets go on by themselves, and must not be met twice.
		if a.to == nil {
			last = action{to: b.seq("log", []Target{a.target}, Return), op: Goto, kind: tail}
		} else {
			last.op = Goto
		}
	case tail:
		// It is for the packet to leave c, which it cannot do from h: a mark says in c what h found out.
		if b.marks.Scratch == 0 {
			return b.unsupported("no bit of the mark mask for a rule of several lines")
		}
		b.put(h, rule{target: SetMark{0, b.marks.Scratch}})
		last = action{target: SetMark{b.marks.Scratch, b.marks.Scratch}, kind: resume}
	}
	lastNote, lastBy := note, by
	if a.kind == tail {
		lastNote, lastBy = "", nil
	}
	b.end(c, m.base, action{to: h, op: Jump}, "", nil)
	clauses := slices.Clone(m.clauses)
	at := h
	for i := range clauses {
		then, thenNote, thenBy := last, lastNote, lastBy
		var next *chain
		if i < len(clauses)-1 {
			next = &chain{label: c.label}
			then, thenNote, thenBy = action{to: next, op: Goto}, "", nil
		}
		for _, x := range clauses[i].pos {
			b.end(at, x, then, thenNote, thenBy)
		}
		if clauses[i].hasNeg {
			for _, x := range clauses[i].neg {
				b.end(at, x, action{target: Verdict{Op: Return}}, "", nil)
			}
			b.end(at, nil, then, thenNote, thenBy)
		}
		at = next
	}
	if a.kind == tail {
		tests, _ := join(slices.Clone(m.base), alt{Mark{b.marks.Scratch, b.marks.Scratch}})
		sortTests(tests)
		b.end(c, tests, a, note, by)
	}
	return nil
}

// product appends the tests of each combination of alternatives to scr.products. It reports false if one rule cannot hold
// some combination.
func (b *builder) product(base []Test, clauses []clause) bool {
	if len(clauses) == 0 {
		b.scr.products = append(b.scr.products, base)
		return true
	}
	for _, x := range clauses[0].pos {
		if contradict(base, x) {
			continue
		}
		tests, ok := join(slices.Clone(base), x)
		if !ok {
			if tests, ok = join(slices.Clone(base), b.bySets(x)); !ok {
				return false
			}
		}
		sortTests(tests)
		if !b.product(tests, clauses[1:]) {
			return false
		}
	}
	return true
}
