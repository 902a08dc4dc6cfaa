// SPDX-License-Identifier: Apache-2.0

package selector

import (
	"iter"
	"slices"
)

// indexLabel is what is known of one label.
type indexLabel struct {
	name   string
	values map[string]*indexValue
	any    [2][]*indexSelector // those with an atom that any value meets; those that are local
	count  [2]int              // how many endpoints have it; how many local ones
}

// indexValue is what is known of one value of a label.
type indexValue struct {
	label     *indexLabel
	text      string
	selectors [2][]*indexSelector // those with an atom for the value; those that are local
	endpoints [2][]indexSlot      // those that have the label with the value, in no order; those that are local
}

// half returns where what is local stands in pairs.
func half(local bool) int {
	if local {
		return 1
	}
	return 0
}

// indexSlot says that an endpoint is in an indexValue because of its slots[slot].
type indexSlot struct {
	endpoint *indexEndpoint
	slot     int
}

// place gives ep its labels and puts it where they can be looked up.
func (x *Index) place(ep *indexEndpoint, labels MapLabels) {
	old := ep.labels
	ep.labels = labels
	for i := len(ep.slots) - 1; i >= 0; i-- {
		s := ep.slots[i].value
		if v, ok := labels[s.label.name]; !ok || v != s.text {
			x.leave(ep, i)
		}
	}
	if len(ep.slots) == len(labels) {
		return
	}
	ep.slots = slices.Grow(ep.slots, len(labels)-len(ep.slots))
	at := half(ep.local)
	for k, v := range labels {
		if o, ok := old[k]; ok && o == v {
			continue
		}
		val := x.value(k, v)
		ep.slots = append(ep.slots, endpointSlot{val, len(val.endpoints[at])})
		val.endpoints[at] = append(val.endpoints[at], indexSlot{ep, len(ep.slots) - 1})
		val.label.count[at]++
	}
}

// leave takes ep out of the place of one of its slots, and removes the slot. The last element of either list takes the
// place of the one that goes.
func (x *Index) leave(ep *indexEndpoint, slot int) {
	s, at := ep.slots[slot], half(ep.local)
	list := s.value.endpoints[at]
	last := len(list) - 1
	list[s.pos] = list[last]
	list[s.pos].endpoint.slots[list[s.pos].slot].pos = s.pos
	list[last] = indexSlot{}
	s.value.endpoints[at] = list[:last]
	s.value.label.count[at]--

	end := len(ep.slots) - 1
	if slot != end {
		m := ep.slots[end]
		ep.slots[slot] = m
		m.value.endpoints[at][m.pos].slot = slot
	}
	ep.slots[end] = endpointSlot{}
	ep.slots = ep.slots[:end]
	x.tidy(s.value)
}

// weigh estimates what it costs to look up a selector by an atom: how many endpoints meet it, or local ones. While there
// are no endpoints yet, selectors spread over their labels, because what many of them ask for is most likely common.
func (x *Index) weigh(a atom, local bool) int64 {
	const anyValue = 16
	l := x.labels[a.label]
	switch {
	case a.any && l == nil:
		return anyValue
	case a.any:
		return anyValue + sum(l.count[0], l.count[1], local) + sum(len(l.any[0]), len(l.any[1]), local)
	case l == nil || l.values[a.value] == nil:
		return 1
	}
	v := l.values[a.value]
	return 1 + sum(len(v.endpoints[0]), len(v.endpoints[1]), local) + sum(len(v.selectors[0]), len(v.selectors[1]), local)
}

// sum adds a pair up, or returns what is local of it.
func sum(others, local int, onlyLocal bool) int64 {
	if onlyLocal {
		others = 0
	}
	return int64(others) + int64(local)
}

func (x *Index) linkSelector(sel *indexSelector) {
	at := half(sel.local)
	if sel.bounds.none {
		x.free[at][sel] = struct{}{}
		return
	}
	for _, a := range sel.bounds.atoms {
		if a.any {
			l := x.label(a.label)
			l.any[at] = append(l.any[at], sel)
		} else {
			v := x.value(a.label, a.value)
			v.selectors[at] = append(v.selectors[at], sel)
		}
	}
}

func (x *Index) unlinkSelector(sel *indexSelector) {
	at := half(sel.local)
	delete(x.free[at], sel)
	without := func(list []*indexSelector) []*indexSelector {
		return slices.DeleteFunc(list, func(o *indexSelector) bool { return o == sel })
	}
	for _, a := range sel.bounds.atoms {
		l := x.labels[a.label]
		if l == nil {
			continue // the selector names it twice, and the first time removed it
		}
		if a.any {
			l.any[at] = without(l.any[at])
			x.tidyLabel(l)
		} else if v := l.values[a.value]; v != nil {
			v.selectors[at] = without(v.selectors[at])
			x.tidy(v)
		}
	}
}

func (x *Index) label(name string) *indexLabel {
	l := x.labels[name]
	if l == nil {
		l = &indexLabel{name: name, values: map[string]*indexValue{}}
		x.labels[name] = l
	}
	return l
}

func (x *Index) value(label, value string) *indexValue {
	l := x.label(label)
	v := l.values[value]
	if v == nil {
		v = &indexValue{label: l, text: value}
		l.values[value] = v
	}
	return v
}

// tidy forgets what nobody needs any more.
func (x *Index) tidy(v *indexValue) {
	if len(v.selectors[0])+len(v.selectors[1])+len(v.endpoints[0])+len(v.endpoints[1]) == 0 {
		delete(v.label.values, v.text)
		x.tidyLabel(v.label)
	}
}

func (x *Index) tidyLabel(l *indexLabel) {
	if len(l.values)+len(l.any[0])+len(l.any[1]) == 0 {
		delete(x.labels, l.name)
	}
}

// candidateSelectors visits every selector that ep may match, each once, in no order.
func (x *Index) candidateSelectors(ep *indexEndpoint) iter.Seq[*indexSelector] {
	x.round++
	return func(yield func(*indexSelector) bool) {
		for at := range half(ep.local) + 1 {
			for sel := range x.free[at] {
				if !yield(sel) {
					return
				}
			}
			for _, s := range ep.slots {
				for _, list := range [...][]*indexSelector{s.value.selectors[at], s.value.label.any[at]} {
					for _, sel := range list {
						if sel.seen == x.round {
							continue
						}
						sel.seen = x.round
						if !yield(sel) {
							return
						}
					}
				}
			}
		}
	}
}

// candidateEndpoints visits every endpoint that sel may match, each once, in no order.
func (x *Index) candidateEndpoints(sel *indexSelector) iter.Seq[*indexEndpoint] {
	x.round++
	return func(yield func(*indexEndpoint) bool) {
		visit := func(v *indexValue) bool {
			for _, list := range v.endpoints[half(sel.local):] {
				for _, s := range list {
					if s.endpoint.seen != x.round {
						s.endpoint.seen = x.round
						if !yield(s.endpoint) {
							return false
						}
					}
				}
			}
			return true
		}
		if sel.bounds.none && sel.local {
			for ep := range x.locals {
				if !yield(ep) {
					return
				}
			}
			return
		}
		if sel.bounds.none {
			for _, ep := range x.endpoints {
				if !yield(ep) {
					return
				}
			}
			return
		}
		for _, a := range sel.bounds.atoms {
			l := x.labels[a.label]
			if l == nil {
				continue
			}
			if !a.any {
				if v := l.values[a.value]; v != nil && !visit(v) {
					return
				}
				continue
			}
			for _, v := range l.values {
				if !visit(v) {
					return
				}
			}
		}
	}
}
