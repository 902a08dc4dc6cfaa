// SPDX-License-Identifier: Apache-2.0

package selector

import "strings"

// Matches reports whether s holds for labels. Nil labels are no labels. It does not allocate (though making an
// interface value of your own type may), and looks at no more labels than it needs.
//
// Calico: a comparison with a label that is absent is false, except that != and "not in" are then true.
// Ref: libcalico-go/lib/selector/parser/ast.go.
func (s Selector) Matches(labels Labels) bool {
	if s.tree == nil {
		return false
	}
	if labels == nil {
		labels = MapLabels(nil)
	}
	// Calling Get through the interface costs as much as the rest of the loop.
	m, isMap := labels.(MapLabels)
	nodes := s.tree.nodes
	i := int32(0)
	for uint(i) < uint(len(nodes)) {
		n := &nodes[i]
		var v string
		var ok bool
		if isMap {
			v, ok = m[n.label]
		} else if n.label != "" {
			v, ok = labels.Get(n.label)
		}
		if n.op == OpEqual { // by far the most common
			if ok && v == n.value {
				i = n.then
			} else {
				i = n.other
			}
			continue
		}
		switch n.op {
		case OpHas:
		case OpNotEqual:
			ok = !ok || v != n.value
		case OpIn:
			ok = ok && s.tree.sets[n.set].has(v)
		case OpNotIn:
			ok = !ok || !s.tree.sets[n.set].has(v)
		case OpContains:
			ok = ok && strings.Contains(v, n.value)
		case OpStartsWith:
			ok = ok && strings.HasPrefix(v, n.value)
		case OpEndsWith:
			ok = ok && strings.HasSuffix(v, n.value)
		case OpAll, OpGlobal:
			ok = true
		default:
			return false
		}
		if ok {
			i = n.then
		} else {
			i = n.other
		}
	}
	return i == accept
}
