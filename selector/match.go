// SPDX-License-Identifier: Apache-2.0

package selector

import "strings"

// Matches reports whether s holds for labels. Nil labels are no labels. It does not allocate (though making an
// interface value of your own type may), and looks at no more labels than it needs. It is fastest on MapLabels.
//
// Calico: a comparison with a label that is absent is false, except that != and "not in" are then true.
// Ref: libcalico-go/lib/selector/parser/ast.go.
func (s Selector) Matches(labels Labels) bool {
	if s.tree == nil {
		return false
	}
	switch l := labels.(type) {
	case MapLabels:
		return s.tree.matchMap(l)
	case nil:
		return s.tree.matchMap(nil)
	}
	return s.tree.match(labels)
}

// matchMap is match for MapLabels. The lookup is nearly all of the work, and through an interface it costs twice as
// much.
func (t *tree) matchMap(m MapLabels) bool {
	nodes := t.nodes
	i := int32(0)
	for uint(i) < uint(len(nodes)) {
		n := &nodes[i]
		v, ok := m[n.label]
		i = n.other
		if n.op == OpEqual { // the most common one
			if ok && v == n.value {
				i = n.then
			}
		} else if t.holds(n, v, ok) {
			i = n.then
		}
	}
	return i == accept
}

// matchMapKnowing is matchMap for labels for which one leaf is known to hold.
func (t *tree) matchMapKnowing(m MapLabels, known int32) bool {
	nodes := t.nodes
	i := int32(0)
	for uint(i) < uint(len(nodes)) {
		n := &nodes[i]
		if i == known {
			i = n.then
			continue
		}
		v, ok := m[n.label]
		i = n.other
		if t.holds(n, v, ok) {
			i = n.then
		}
	}
	return i == accept
}

// leafOf returns a leaf that says just what the atom says; none if there is none.
func (t *tree) leafOf(a atom) int32 {
	for i := range t.nodes {
		n := &t.nodes[i]
		if n.label == a.label && (!a.any && n.op == OpEqual && n.value == a.value || a.any && n.op == OpHas) {
			return int32(i)
		}
	}
	return none
}

func (t *tree) match(labels Labels) bool {
	i := int32(0)
	for i >= 0 {
		n := &t.nodes[i]
		var v string
		var ok bool
		if n.label != "" {
			v, ok = labels.Get(n.label)
		}
		if t.holds(n, v, ok) {
			i = n.then
		} else {
			i = n.other
		}
	}
	return i == accept
}

// holds evaluates a leaf for the value of its label, which is there if ok.
func (t *tree) holds(n *node, v string, ok bool) bool {
	switch n.op {
	case OpAll, OpGlobal:
		return true
	case OpHas:
		return ok
	case OpEqual:
		return ok && v == n.value
	case OpNotEqual:
		return !ok || v != n.value
	case OpIn:
		return ok && t.sets[n.set].has(v)
	case OpNotIn:
		return !ok || !t.sets[n.set].has(v)
	case OpContains:
		return ok && strings.Contains(v, n.value)
	case OpStartsWith:
		// Most values differ in the byte that is looked at first, without a call.
		return ok && (n.value == "" || v != "" && v[0] == n.value[0] && strings.HasPrefix(v, n.value))
	case OpEndsWith:
		return ok && endsWith(v, n.value)
	}
	return false
}

func endsWith(v, end string) bool {
	return end == "" || v != "" && v[len(v)-1] == end[len(end)-1] && strings.HasSuffix(v, end)
}
