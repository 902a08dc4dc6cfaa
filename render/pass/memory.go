// SPDX-License-Identifier: Apache-2.0

package pass

import "github.com/hostpolicy/hostpolicy/policy/ir"

// Memory lowers programs one after the other, and remembers what it found out about matches that the last one had too:
// those in the same place of memory, as programs of an engine have them. The results are those of Lower. It holds on to
// what the last program had. The zero value is ready; a Memory is for one goroutine at a time.
type Memory struct {
	now, before map[place]*view
}

// place is where a match is. Matches do not change, and cannot go away while they are remembered.
type place struct {
	first *ir.Clause
	n     int
}

// view returns what a match says.
func (m *Memory) view(match ir.Match) *view {
	if len(match) == 0 {
		return &view{possible: true}
	}
	at := place{&match[0], len(match)}
	v := m.now[at]
	if v != nil {
		return v
	}
	if v = m.before[at]; v == nil {
		v = look(match)
	}
	m.now[at] = v
	return v
}

// next makes what was seen what was seen before.
func (m *Memory) next() {
	m.before, m.now = m.now, make(map[place]*view, len(m.now))
}

// Lower is the function Lower.
func (m *Memory) Lower(p *ir.Program, o Options) (*ir.Program, Report) {
	m.next()
	o = o.withDefaults()
	var r Report
	if p == nil {
		return nil, r
	}
	r.Before = sizeOf(p)
	r.After = r.Before
	if o.Skip&AllPasses == AllPasses {
		return p, r
	}
	depth, err := depths(p)
	if err != nil {
		r.Notes = append(r.Notes, Note{Text: "not lowered: " + err.Error()})
		return p, r
	}
	l := &lowerer{o: o, p: p, memory: m, depth: depth, report: &r, blocks: make(map[ir.BlockID]*ir.Block, len(p.Blocks))}
	q := l.run()
	r.After = sizeOf(q)
	m.before = nil
	return q, r
}
