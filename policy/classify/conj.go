// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"fmt"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// conj is what one bit stands for: a demand on each axis, all of which a packet must meet.
type conj [numAxes]demand

// conjID is an index into conjs.list. 0 demands nothing.
type conjID uint32

// conjs holds all conjunctions of a program, equal ones once.
type conjs struct {
	atoms *atoms
	list  []conj
	known map[conj]conjID
}

func newConjs(a *atoms) *conjs {
	cs := &conjs{atoms: a, list: []conj{{}}, known: make(map[conj]conjID, len(a.prog.Origins))}
	cs.known[conj{}] = 0
	return cs
}

func (cs *conjs) id(c conj) conjID {
	id, ok := cs.known[c]
	if !ok {
		id = conjID(len(cs.list))
		cs.known[c] = id
		cs.list = append(cs.list, c)
	}
	return id
}

// forget lets go of what only a build needs.
func (cs *conjs) forget() {
	cs.known = nil
	cs.atoms.forget()
}

// both returns the disjunction of all conjunctions of one of a with one of b.
func (cs *conjs) both(a, b []conjID) ([]conjID, error) {
	switch {
	case len(a) == 1 && a[0] == 0:
		return b, nil
	case len(b) == 1 && b[0] == 0:
		return a, nil
	case len(a)*len(b) > maxSplit:
		return nil, fmt.Errorf("%w: a rule becomes %d", ErrTooLarge, len(a)*len(b))
	}
	out := make([]conjID, 0, len(a)*len(b))
	for _, x := range a {
		for _, y := range b {
			c := cs.list[x]
			for axis, d := range cs.list[y] {
				c[axis] = cs.atoms.both(c[axis], d)
			}
			out = append(out, cs.id(c))
		}
	}
	return out, nil
}

// knowns is what is known of a packet before any lookup on an axis.
type knowns struct {
	field ir.Field // whose name is known: InIface, OutIface, or 0
	name  name
	state int // below States
}

// decide reports whether a test holds; not known if it must be looked up.
func (k *knowns) decide(t test) (holds, known bool) {
	switch t.field {
	case ir.State:
		value := uint8(k.state)
		if term, ok := t.term.(ir.InMask); ok {
			return (k.state != NoState && term.Mask.Has(value)) != term.Not, true
		}
		return k.state != NoState && t.interval.Contains(ir.Number(value)), true
	case ir.InIface, ir.OutIface:
		if t.field != k.field {
			return false, false
		}
		if term, ok := t.term.(ir.InNames); ok {
			return k.name.holds(term), true
		}
		return k.name.in(t.interval), true
	}
	return false, false
}

// always is the disjunction that holds for every packet.
func always() []conjID { return []conjID{0} }

func isAlways(cs []conjID) bool { return len(cs) == 1 && cs[0] == 0 }

// of returns the disjunction of conjunctions that clauses amount to; nil if no packet fulfils them.
func (cs *conjs) of(clauses [][]test) ([]conjID, error) {
	var all [numAxes][]uint32 // the atoms of clauses on one axis
	var mixed [][]conjID      // the alternatives of each other clause
	for _, clause := range clauses {
		if len(clause) == 0 {
			return nil, nil
		}
		var byAxis [numAxes][]test
		axes := 0
		for _, t := range clause {
			a := t.axis()
			if byAxis[a] == nil {
				axes++
			}
			byAxis[a] = append(byAxis[a], t)
		}
		var alternatives []conjID
		for a, tests := range byAxis {
			if tests == nil {
				continue
			}
			id, err := cs.atoms.atom(Axis(a), tests)
			if err != nil {
				return nil, err
			}
			if axes == 1 {
				all[a] = append(all[a], id)
				break
			}
			var c conj
			c[a] = cs.atoms.demand([]uint32{id})
			alternatives = append(alternatives, cs.id(c))
		}
		if axes > 1 {
			mixed = append(mixed, alternatives)
		}
	}
	var c conj
	for a, ids := range all {
		c[a] = cs.atoms.demand(ids)
	}
	out := []conjID{cs.id(c)}
	var err error
	for _, alternatives := range mixed {
		if out, err = cs.both(out, alternatives); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// match is a match in tests. What it amounts to depends on what is known of packets; the answers are kept.
type match struct {
	clauses [][]test
	dynamic bool // some test may be decided before any lookup
	done    bool // the answer is known, and always the same
	answer  []conjID
	answers map[string][]conjID // otherwise: by the tests that remain open
	key     []byte
	open    [][]test
}

// ask returns the disjunction of conjunctions that the match amounts to, given what is known; nil if no packet matches.
func (m *match) ask(cs *conjs, k *knowns) (_ []conjID, err error) {
	if !m.dynamic {
		if !m.done {
			m.answer, err = cs.of(m.clauses)
			m.done = err == nil
		}
		return m.answer, err
	}
	m.key, m.open = m.key[:0], m.open[:0]
	for _, clause := range m.clauses {
		begin, holds := len(m.key), false
		var open []test
		m.key = append(m.key, 0)
		for i, t := range clause {
			if i&7 == 0 {
				m.key = append(m.key, 0)
			}
			h, known := k.decide(t)
			holds = holds || h
			if !known {
				m.key[len(m.key)-1] |= 1 << (i & 7)
				open = append(open, t)
			}
		}
		if holds {
			m.key = append(m.key[:begin], 1)
			continue
		}
		m.open = append(m.open, open)
	}
	answer, ok := m.answers[string(m.key)]
	if ok {
		return answer, nil
	}
	if answer, err = cs.of(m.open); err != nil {
		return nil, err
	}
	if m.answers == nil {
		m.answers = map[string][]conjID{}
	}
	m.answers[string(m.key)] = answer
	return answer, nil
}
