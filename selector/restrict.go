// SPDX-License-Identifier: Apache-2.0

package selector

import "math"

// atom is a condition on one label that is cheap to look up: that it has a value, or that it is there at all.
type atom struct {
	label string
	value string
	any   bool // any value will do
}

// restriction is what a selector demands of labels, as far as it can be looked up.
type restriction struct {
	atoms []atom // at least one must hold; if there are none, the selector never matches
	none  bool   // the selector may match anything, and there are no atoms
	exact bool   // it matches wherever one of the atoms holds
}

// unrestricted is the weight of what may match anything.
const unrestricted = math.MaxInt64 / 4

// restriction chooses among the restrictions that follow from s the one whose atoms weigh least in sum. The choice is a
// matter of speed alone. Weights are positive and much smaller than unrestricted.
func (s Selector) restriction(weigh func(atom) int64) restriction {
	if s.tree == nil {
		return restriction{exact: true}
	}
	nodes := s.tree.nodes
	sum := func(n *node) (total int64) {
		for _, v := range s.tree.sets[n.set].sorted {
			total = min(total+weigh(atom{label: n.label, value: v}), unrestricted-1)
		}
		return total
	}
	// The weight of the restriction that each node puts on labels if it is true, and if it is false.
	type weight struct{ yes, no int64 }
	weights := make([]weight, len(nodes))
	for i := range nodes {
		n, w := &nodes[i], &weights[i]
		switch n.op {
		case opNot:
			w.yes, w.no = weights[n.first].no, weights[n.first].yes
		case opAnd:
			*w = weight{yes: unrestricted}
			s.tree.children(int32(i), func(k int32) {
				w.yes = min(w.yes, weights[k].yes)
				w.no = min(w.no+weights[k].no, unrestricted)
			})
		case opOr:
			*w = weight{no: unrestricted}
			s.tree.children(int32(i), func(k int32) {
				w.yes = min(w.yes+weights[k].yes, unrestricted)
				w.no = min(w.no, weights[k].no)
			})
		case OpEqual:
			*w = weight{weigh(atom{label: n.label, value: n.value}), unrestricted}
		case OpNotEqual:
			*w = weight{unrestricted, weigh(atom{label: n.label, value: n.value})}
		case OpIn:
			*w = weight{sum(n), unrestricted}
		case OpNotIn:
			*w = weight{unrestricted, sum(n)}
		case OpHas, OpContains, OpStartsWith, OpEndsWith:
			*w = weight{weigh(atom{label: n.label, any: true}), unrestricted}
		default: // all() and global() are never false
			*w = weight{unrestricted, 0}
		}
	}
	root := int32(len(nodes) - 1)
	if weights[root].yes >= unrestricted {
		return restriction{none: true}
	}
	// Collect them: every alternative of a disjunction, and the lightest part of a conjunction.
	out := restriction{exact: true}
	type goal struct {
		node int32
		yes  bool
	}
	for todo := []goal{{root, true}}; len(todo) > 0; {
		g := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		n := &nodes[g.node]
		switch n.op {
		case opNot:
			todo = append(todo, goal{n.first, !g.yes})
		case opAnd, opOr:
			if (n.op == opOr) == g.yes {
				s.tree.children(g.node, func(k int32) { todo = append(todo, goal{k, g.yes}) })
				break
			}
			out.exact = false
			of := func(k int32) int64 {
				if g.yes {
					return weights[k].yes
				}
				return weights[k].no
			}
			best := n.first
			s.tree.children(g.node, func(k int32) {
				if of(k) < of(best) {
					best = k
				}
			})
			todo = append(todo, goal{best, g.yes})
		case OpEqual, OpNotEqual:
			out.atoms = append(out.atoms, atom{label: n.label, value: n.value})
		case OpIn, OpNotIn:
			for _, v := range s.tree.sets[n.set].sorted {
				out.atoms = append(out.atoms, atom{label: n.label, value: v})
			}
		case OpHas, OpContains, OpStartsWith, OpEndsWith:
			out.exact = out.exact && n.op == OpHas
			out.atoms = append(out.atoms, atom{label: n.label, any: true})
		}
	}
	return out
}
