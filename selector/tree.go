// SPDX-License-Identifier: Apache-2.0

package selector

import "slices"

// A tree is a syntax tree in one slice, and at the same time the program that Matches runs.
//
// Children stand before their parents and leaves in the order of the text, so the first node is the leftmost leaf and
// the last one the root. Nothing here recurses: text with a million parentheses must not exhaust a stack.
type tree struct {
	nodes []node
	sets  []valueSet
}

// node is a node of a tree. All indexes are into tree.nodes.
type node struct {
	label string
	value string
	op    Op    // of a leaf; opNot, opAnd and opOr mark inner nodes
	space bool  // all() or global() was written with space between its parentheses
	set   int32 // of OpIn and OpNotIn: an index into tree.sets
	first int32 // the first child of an inner node; of a leaf its own index
	next  int32 // the next sibling, or none
	leaf  int32 // the leftmost leaf below, where evaluation of this node starts
	then  int32 // where to go on once the node is known to be true: a leaf, or accept, or reject
	other int32 // the same for false
}

const (
	none   = int32(-1)
	accept = int32(-2)
	reject = int32(-3)
)

// Op is what a term of a selector does. The zero value is invalid.
type Op uint8

// The operations of terms.
const (
	OpAll        Op = iota + 1 // all()
	OpGlobal                   // global(): true, as all() is; only rewriting tells them apart
	OpHas                      // has(label)
	OpEqual                    // label == "value"
	OpNotEqual                 // label != "value"; true if there is no such label
	OpIn                       // label in {"value", ...}
	OpNotIn                    // label not in {"value", ...}; true if there is no such label
	OpContains                 // label contains "value"
	OpStartsWith               // label starts with "value"
	OpEndsWith                 // label ends with "value"

	opNot
	opAnd
	opOr
)

func (o Op) isLeaf() bool { return o < opNot }

// builder makes trees. Its methods return indexes of nodes, which must be used in order: a node may be the child of one
// parent only, and children must be made before their parent, one after the other.
type builder struct {
	nodes []node
	sets  []valueSet
}

func (b *builder) term(n node) int32 {
	i := int32(len(b.nodes))
	n.first, n.leaf, n.next = i, i, none
	b.nodes = append(b.nodes, n)
	return i
}

func (b *builder) set(vals []string) int32 {
	b.sets = append(b.sets, newValueSet(vals))
	return int32(len(b.sets) - 1)
}

func (b *builder) not(child int32) int32 {
	b.nodes = append(b.nodes, node{op: opNot, first: child, leaf: b.nodes[child].leaf, next: none})
	return int32(len(b.nodes) - 1)
}

// list is a growing list of siblings. The zero value is empty only if n is 0.
type list struct {
	first, last int32
	n           int32
}

func (b *builder) add(l *list, child int32) {
	if l.n == 0 {
		l.first = child
	} else {
		b.nodes[l.last].next = child
	}
	l.last = child
	l.n++
}

// group returns the only element of l, or a node that joins them all.
func (b *builder) group(op Op, l list) int32 {
	if l.n == 1 {
		return l.first
	}
	b.nodes = append(b.nodes, node{op: op, first: l.first, leaf: b.nodes[l.first].leaf, next: none})
	return int32(len(b.nodes) - 1)
}

// graft copies a whole tree and returns its root.
func (b *builder) graft(t *tree) int32 {
	base, sets := int32(len(b.nodes)), int32(len(b.sets))
	b.nodes = append(b.nodes, t.nodes...)
	b.sets = append(b.sets, t.sets...)
	for i := base; i < int32(len(b.nodes)); i++ {
		n := &b.nodes[i]
		n.first += base
		n.leaf += base
		if n.next != none {
			n.next += base
		}
		n.set += sets
	}
	return int32(len(b.nodes) - 1)
}

// finish returns the tree whose root is the last node. The builder is used up.
func (b *builder) finish() *tree {
	t := &tree{nodes: b.nodes, sets: b.sets}
	if n := len(b.nodes); cap(b.nodes) > n+n/2+2 {
		t.nodes = slices.Clone(b.nodes)
	}
	t.link()
	return t
}

// link computes where evaluation goes on after each node. Parents stand behind their children, so going backwards
// every node knows its own continuations when it hands them on.
func (t *tree) link() {
	root := len(t.nodes) - 1
	t.nodes[root].then, t.nodes[root].other = accept, reject
	for i := root; i >= 0; i-- {
		n := &t.nodes[i]
		switch n.op {
		case opNot:
			c := &t.nodes[n.first]
			c.then, c.other = n.other, n.then
		case opAnd:
			for k := n.first; k != none; {
				c := &t.nodes[k]
				c.then, c.other = n.then, n.other
				if c.next != none {
					c.then = t.nodes[c.next].leaf
				}
				k = c.next
			}
		case opOr:
			for k := n.first; k != none; {
				c := &t.nodes[k]
				c.then, c.other = n.then, n.other
				if c.next != none {
					c.other = t.nodes[c.next].leaf
				}
				k = c.next
			}
		}
	}
}

// children calls f for each child of an inner node, in order.
func (t *tree) children(i int32, f func(child int32)) {
	for k := t.nodes[i].first; k != none; k = t.nodes[k].next {
		f(k)
	}
}
