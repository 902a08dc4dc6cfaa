// SPDX-License-Identifier: Apache-2.0

package selector

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Term is a leaf of a selector's syntax tree. The zero value is invalid.
type Term struct {
	Op     Op
	Label  string   // not of OpAll and OpGlobal
	Value  string   // of OpEqual, OpNotEqual, OpContains, OpStartsWith and OpEndsWith
	Values []string // of OpIn and OpNotIn; must not be changed
	Spaced bool     // all() or global() that was not written like that, but with space between the parentheses
}

// Selector returns the selector that consists of t alone. It is an error if it could not be written as text: an unknown
// operation, a label that no selector can name, or a value with both kinds of quotes. The Values are copied.
func (t Term) Selector() (Selector, error) {
	var b builder
	if err := b.fromTerm(t); err != nil {
		return Selector{}, err
	}
	return Selector{b.finish()}, nil
}

func (b *builder) fromTerm(t Term) error {
	n := node{op: t.Op, space: t.Spaced}
	switch t.Op {
	case OpAll, OpGlobal:
		b.term(n)
		return nil
	case OpHas:
	case OpEqual, OpNotEqual, OpContains, OpStartsWith, OpEndsWith:
		if n.value = t.Value; !quotable(t.Value) {
			return fmt.Errorf("selector: value %q has both kinds of quotes", t.Value)
		}
	case OpIn, OpNotIn:
		for _, v := range t.Values {
			if !quotable(v) {
				return fmt.Errorf("selector: value %q has both kinds of quotes", v)
			}
		}
		n.set = b.set(slices.Clone(t.Values))
	default:
		return fmt.Errorf("selector: unknown operation %d", t.Op)
	}
	if n.label = t.Label; !validLabel(t.Label) {
		return fmt.Errorf("selector: %.60q cannot be the name of a label", t.Label)
	}
	n.space = false
	b.term(n)
	return nil
}

func quotable(v string) bool {
	return strings.IndexByte(v, '"') < 0 || strings.IndexByte(v, '\'') < 0
}

// All returns all(), which holds for everything.
func All() Selector { return Selector{(&builder{nodes: []node{{op: OpAll, next: none}}}).finish()} }

// Has returns has(label). It is an error if no selector can name the label; the same goes for Eq and In.
func Has(label string) (Selector, error) { return Term{Op: OpHas, Label: label}.Selector() }

// Eq returns label == "value". A value with both kinds of quotes is an error.
func Eq(label, value string) (Selector, error) {
	return Term{Op: OpEqual, Label: label, Value: value}.Selector()
}

// In returns label in {"value", ...}. A value with both kinds of quotes is an error.
func In(label string, values ...string) (Selector, error) {
	return Term{Op: OpIn, Label: label, Values: values}.Selector()
}

// Not returns the negation of s; of the zero value the zero value. Negations do not cancel out: the text of a double one
// is !!a == "b".
func Not(s Selector) Selector {
	if s.IsZero() {
		return s
	}
	var b builder
	b.not(b.graft(s.tree))
	return Selector{b.finish()}
}

// And returns the conjunction of all of ss as one group, as "(s1) && (s2) && ..." reads. One selector alone is returned
// as it is. If one of them is the zero value, or there are none, it returns the zero value.
func And(ss ...Selector) Selector { return join(opAnd, ss) }

// Or returns the disjunction of all of ss as one group, as "(s1) || (s2) || ..." reads. One selector alone is returned
// as it is. If one of them is the zero value, or there are none, it returns the zero value.
func Or(ss ...Selector) Selector { return join(opOr, ss) }

func join(op Op, ss []Selector) Selector {
	if len(ss) == 1 {
		return ss[0]
	}
	var (
		b builder
		l list
	)
	for _, s := range ss {
		if s.IsZero() {
			return Selector{}
		}
		b.add(&l, b.graft(s.tree))
	}
	if l.n == 0 {
		return Selector{}
	}
	b.group(op, l)
	return Selector{b.finish()}
}

// Terms returns the terms of s in the order of the text, whether negated or not. The zero value has none.
func (s Selector) Terms() iter.Seq[Term] {
	return func(yield func(Term) bool) {
		if s.tree == nil {
			return
		}
		for i := range s.tree.nodes {
			if s.tree.nodes[i].op.isLeaf() && !yield(s.tree.asTerm(&s.tree.nodes[i])) {
				return
			}
		}
	}
}

func (t *tree) asTerm(n *node) Term {
	out := Term{Op: n.op, Label: n.label, Value: n.value, Spaced: n.space}
	if n.op == OpIn || n.op == OpNotIn {
		out.Values = t.sets[n.set].sorted
	}
	return out
}

// Map returns s with every term replaced by the selector that f returns for it. The first error of f ends it. If f
// returns the zero value without an error, so does Map.
func (s Selector) Map(f func(Term) (Selector, error)) (Selector, error) {
	if s.tree == nil {
		return s, nil
	}
	out, err := s.tree.rebuild(false, func(b *builder, n *node) (bool, error) {
		r, err := f(s.tree.asTerm(n))
		if err != nil || r.IsZero() {
			return false, err
		}
		b.graft(r.tree)
		return true, nil
	})
	return Selector{out}, err
}

// PrefixLabels returns s with prefix before the name of every label. It is an error if a name becomes too long or
// prefix holds a byte that names cannot.
func (s Selector) PrefixLabels(prefix string) (Selector, error) {
	return s.Map(func(t Term) (Selector, error) {
		if t.Op != OpAll && t.Op != OpGlobal {
			t.Label = prefix + t.Label
		}
		return t.Selector()
	})
}

// Reparse returns what Parse makes of s.String(), without the detour: directly nested negations cancel out in pairs, and
// all() and global() are no longer Spaced. Calico's rewriting writes and reads selectors more than once on their way.
func (s Selector) Reparse() Selector {
	if s.tree == nil {
		return s
	}
	out, _ := s.tree.rebuild(true, func(b *builder, n *node) (bool, error) {
		c := *n
		c.space = false
		if n.op == OpIn || n.op == OpNotIn {
			b.sets = append(b.sets, s.tree.sets[n.set])
			c.set = int32(len(b.sets) - 1)
		}
		b.term(c)
		return true, nil
	})
	return Selector{out}
}

// rebuild copies a tree. Leaf must append the tree that takes the place of a leaf, whose root is then the last node, and
// return true; otherwise rebuild returns nil. With cancel, negations of negations vanish.
func (t *tree) rebuild(cancel bool, leaf func(b *builder, n *node) (bool, error)) (*tree, error) {
	b := builder{nodes: make([]node, 0, len(t.nodes))}
	moved := make([]int32, len(t.nodes)) // where the nodes are now
	for i := range t.nodes {
		n := &t.nodes[i]
		switch {
		case n.op.isLeaf():
			if ok, err := leaf(&b, n); err != nil || !ok {
				return nil, err
			}
			moved[i] = int32(len(b.nodes) - 1)
		case n.op == opNot:
			c := moved[n.first]
			if cancel && b.nodes[c].op == opNot {
				// c is the last node: nothing was made since.
				moved[i] = b.nodes[c].first
				b.nodes = b.nodes[:c]
			} else {
				moved[i] = b.not(c)
			}
		default:
			var l list
			t.children(int32(i), func(k int32) { b.add(&l, moved[k]) })
			moved[i] = b.group(n.op, l)
		}
	}
	return b.finish(), nil
}
