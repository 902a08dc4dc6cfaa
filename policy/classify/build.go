// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"encoding/binary"
	"fmt"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Build returns the tables of a program. The error is that of ir.Validate, or wraps ErrTooLarge. The tables keep nothing
// of p and m.
func Build(p *ir.Program, m ir.Members) (*Tables, error) { return build(p, m, maxTotalRules) }

func build(p *ir.Program, m ir.Members, limit int) (*Tables, error) {
	b, err := newBuilder(p, m, limit)
	if err != nil {
		return nil, err
	}
	if err := b.entries(p); err != nil {
		return nil, err
	}
	b.conjs.forget()
	b.tables.conjs = b.conjs
	return b.tables, nil
}

func newBuilder(p *ir.Program, m ir.Members, limit int) (*builder, error) {
	if err := ir.Validate(p, m); err != nil {
		return nil, err
	}
	prog, err := newProgram(p)
	if err != nil {
		return nil, err
	}
	names := newNameClasses(p)
	return &builder{
		tables: &Tables{names: names}, prog: prog, conjs: newConjs(newAtoms(p, m, names)),
		lists: map[string]uint32{}, matchers: map[string]uint32{}, room: limit,
	}, nil
}

// entries makes the lists of all hooks.
func (b *builder) entries(p *ir.Program) (err error) {
	for _, e := range p.Entries {
		out := Entry{Hook: e.Hook, Default: e.Default, Settles: e.Settles, NoTrack: e.NoTrack, HasAlways: e.Always != ""}
		if out.HasAlways {
			if out.Always, err = b.dispatch(e.Always); err != nil {
				return fmt.Errorf("entry %s: %w", e.Hook, err)
			}
		}
		if out.Block, err = b.dispatch(e.Block); err != nil {
			return fmt.Errorf("entry %s: %w", e.Hook, err)
		}
		b.tables.Entries = append(b.tables.Entries, out)
	}
	return nil
}

type builder struct {
	tables   *Tables
	prog     *program
	conjs    *conjs
	lists    map[string]uint32 // by content
	matchers map[string]uint32 // by the conjunctions of their rules
	room     int               // how many rules more the lists may have, equal lists counted each time
	plain    *Plain            // if set: lists go there, and there are no matchers
	all      bool              // of flatten
}

// dispatch makes the lists of a block for all interfaces and states.
func (b *builder) dispatch(id ir.BlockID) (Dispatch, error) {
	root := b.prog.ids[id]
	var seen knownsTests
	seen.collect(b.prog, root, make([]bool, len(b.prog.blocks)))
	d := Dispatch{Field: ir.InIface}
	classes, n := b.nameKinds(seen.in)
	if out, m := b.nameKinds(seen.out); m > n {
		d.Field, classes, n = ir.OutIface, out, m
	}
	if n == 1 {
		d.Field, classes = 0, make([]int, 1)
	}
	states := seen.stateKinds()
	d.Lists = make([][States]uint32, len(classes))
	byKind := make([][States]uint32, 0, n)
	for class, kind := range classes {
		if kind == len(byKind) {
			var lists [States]uint32
			for s := range lists {
				if states[s] != s {
					lists[s] = lists[states[s]]
					continue
				}
				k := knowns{field: d.Field, state: s}
				if d.Field != 0 {
					k.name = b.tables.names.name(uint32(class))
				}
				var err error
				if lists[s], err = b.list(k, root); err != nil {
					return Dispatch{}, err
				}
			}
			byKind = append(byKind, lists)
		}
		d.Lists[class] = byKind[kind]
	}
	return d, nil
}

// knownsTests are the tests below a block that can be decided before any lookup.
type knownsTests struct {
	in, out []knownsTest
	state   []test
}

// knownsTest is a test of an interface: a clause's, or all cases of a Switch over the interface alone.
type knownsTest struct {
	test
	cases []ir.Case
}

func (kt *knownsTests) collect(p *program, id int, seen []bool) {
	if seen[id] {
		return
	}
	seen[id] = true
	for i := range p.blocks[id].steps {
		s := &p.blocks[id].steps[i]
		if sw, ok := s.ir.(ir.Switch); ok && len(sw.Key) == 1 && (sw.Key[0] == ir.InIface || sw.Key[0] == ir.OutIface) {
			kt.add(knownsTest{test{field: sw.Key[0]}, sw.Cases})
		} else {
			for _, m := range s.matches {
				for _, clause := range m.clauses {
					for _, t := range clause {
						kt.add(knownsTest{test: t})
					}
				}
			}
		}
		for _, c := range s.callees {
			if c >= 0 {
				kt.collect(p, c, seen)
			}
		}
	}
}

func (kt *knownsTests) add(t knownsTest) {
	switch t.field {
	case ir.InIface:
		kt.in = append(kt.in, t)
	case ir.OutIface:
		kt.out = append(kt.out, t)
	case ir.State:
		kt.state = append(kt.state, t.test)
	}
}

// nameKinds numbers the classes of names so that those which no test tells apart have the same number, in the order in
// which the numbers first occur. It returns how many there are.
func (b *builder) nameKinds(tests []knownsTest) ([]int, int) {
	kinds := make([]int, b.tables.names.count())
	known := map[string]int{}
	targets := map[caseTarget]uint32{}
	var sig []byte
	for class := range kinds {
		n := b.tables.names.name(uint32(class))
		sig = sig[:0]
		for _, t := range tests {
			var v uint32
			if term, ok := t.term.(ir.InNames); ok {
				if n.holds(term) {
					v = 1
				}
			} else if t.cases == nil {
				if n.in(t.interval) {
					v = 1
				}
			} else if i := n.find(t.cases); i >= 0 {
				// Names that lead to the same place are alike, whichever case leads them there.
				at := caseTarget{t.cases[i].Then, t.cases[i].Origin}
				if v, ok = targets[at]; !ok {
					v = uint32(len(targets) + 1)
					targets[at] = v
				}
			}
			sig = binary.LittleEndian.AppendUint32(sig, v)
		}
		kind, ok := known[string(sig)]
		if !ok {
			kind = len(known)
			known[string(sig)] = kind
		}
		kinds[class] = kind
	}
	return kinds, len(known)
}

type caseTarget struct {
	then   ir.Target
	origin ir.OriginID
}

// stateKinds returns, for each state, the first state that no test tells from it.
func (kt *knownsTests) stateKinds() [States]int {
	var kinds [States]int
	alike := func(s, t int) bool {
		for _, x := range kt.state {
			a, _ := (&knowns{state: s}).decide(x)
			b, _ := (&knowns{state: t}).decide(x)
			if a != b {
				return false
			}
		}
		return true
	}
	for s := range kinds {
		kinds[s] = s
		for t := range s {
			if kinds[t] == t && alike(s, t) {
				kinds[s] = t
				break
			}
		}
	}
	return kinds
}

// list files the list of the packets of which k is known, and returns its index.
func (b *builder) list(k knowns, root int) (uint32, error) {
	rules, err := flatten(b.prog, b.conjs, k, root, b.all)
	if err != nil {
		return 0, err
	}
	if b.room -= len(rules); b.room < 0 {
		return 0, fmt.Errorf("%w: all lists together", ErrTooLarge)
	}
	l := List{Actions: make([]Action, len(rules))}
	content := make([]byte, 0, len(rules)*14)
	ids := make([]conjID, len(rules))
	for i, r := range rules {
		l.Actions[i], ids[i] = r.Action, r.conj
		content = binary.LittleEndian.AppendUint32(content, uint32(r.conj))
		content = appendBool(append(content, byte(r.Outcome)), r.Log)
		content = binary.LittleEndian.AppendUint32(content, r.Next)
		content = binary.LittleEndian.AppendUint32(content, uint32(r.Origin))
	}
	id, ok := b.lists[string(content)]
	if ok {
		return id, nil
	}
	if b.plain != nil {
		id = uint32(len(b.plain.Lists))
		b.lists[string(content)] = id
		list := make([]PlainRule, len(rules))
		for i, r := range rules {
			list[i] = PlainRule{uint32(r.conj), r.Action}
		}
		b.plain.Lists = append(b.plain.Lists, list)
		return id, nil
	}
	l.Decided = len(ids) > 0 && ids[0] == 0 && l.Actions[0].Outcome != ir.Undecided
	if len(ids) > 0 && !l.Decided {
		l.Matcher = b.matcher(ids)
	}
	id = uint32(len(b.tables.Lists))
	b.lists[string(content)] = id
	b.tables.Lists = append(b.tables.Lists, l)
	return id, nil
}

// matcher files the matcher of the given rules, and returns its index.
func (b *builder) matcher(rules []conjID) uint32 {
	content := make([]byte, 0, len(rules)*4)
	for _, c := range rules {
		content = binary.LittleEndian.AppendUint32(content, uint32(c))
	}
	id, ok := b.matchers[string(content)]
	if !ok {
		id = uint32(len(b.tables.Matchers))
		b.matchers[string(content)] = id
		b.tables.Matchers = append(b.tables.Matchers, newMatcher(b.conjs, rules))
		b.tables.rules = append(b.tables.rules, rules)
	}
	return id
}
