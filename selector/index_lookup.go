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
	any    []*indexSelector // those with an atom that any value meets
	count  int              // how many endpoints have it
}

// indexValue is what is known of one value of a label.
type indexValue struct {
	label     *indexLabel
	text      string
	selectors []*indexSelector // those with an atom for the value
	endpoints []indexSlot      // those that have the label with the value, in no order
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
	for k, v := range labels {
		if o, ok := old[k]; ok && o == v {
			continue
		}
		val := x.value(k, v)
		ep.slots = append(ep.slots, endpointSlot{val, len(val.endpoints)})
		val.endpoints = append(val.endpoints, indexSlot{ep, len(ep.slots) - 1})
		val.label.count++
	}
}

// leave takes ep out of the place of one of its slots, and removes the slot. The last element of either list takes the
// place of the one that goes.
func (x *Index) leave(ep *indexEndpoint, slot int) {
	s := ep.slots[slot]
	list := s.value.endpoints
	last := len(list) - 1
	list[s.pos] = list[last]
	list[s.pos].endpoint.slots[list[s.pos].slot].pos = s.pos
	list[last] = indexSlot{}
	s.value.endpoints = list[:last]
	s.value.label.count--

	end := len(ep.slots) - 1
	if slot != end {
		m := ep.slots[end]
		ep.slots[slot] = m
		m.value.endpoints[m.pos].slot = slot
	}
	ep.slots[end] = endpointSlot{}
	ep.slots = ep.slots[:end]
	x.tidy(s.value)
}

// weigh estimates what it costs to look up a selector by an atom: how many endpoints meet it. While there are no
// endpoints yet, selectors spread over their labels, because what many of them ask for is most likely common.
func (x *Index) weigh(a atom) int64 {
	const anyValue = 16
	l := x.labels[a.label]
	switch {
	case a.any && l == nil:
		return anyValue
	case a.any:
		return anyValue + int64(l.count) + int64(len(l.any))
	case l == nil || l.values[a.value] == nil:
		return 1
	}
	v := l.values[a.value]
	return 1 + int64(len(v.endpoints)) + int64(len(v.selectors))
}

func (x *Index) linkSelector(sel *indexSelector) {
	if sel.bounds.none {
		x.free[sel] = struct{}{}
		return
	}
	for _, a := range sel.bounds.atoms {
		if a.any {
			l := x.label(a.label)
			l.any = append(l.any, sel)
		} else {
			v := x.value(a.label, a.value)
			v.selectors = append(v.selectors, sel)
		}
	}
}

func (x *Index) unlinkSelector(sel *indexSelector) {
	delete(x.free, sel)
	without := func(list []*indexSelector) []*indexSelector {
		return slices.DeleteFunc(list, func(o *indexSelector) bool { return o == sel })
	}
	for _, a := range sel.bounds.atoms {
		l := x.labels[a.label]
		if l == nil {
			continue // the selector names it twice, and the first time removed it
		}
		if a.any {
			l.any = without(l.any)
			x.tidyLabel(l)
		} else if v := l.values[a.value]; v != nil {
			v.selectors = without(v.selectors)
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
	if len(v.selectors) == 0 && len(v.endpoints) == 0 {
		delete(v.label.values, v.text)
		x.tidyLabel(v.label)
	}
}

func (x *Index) tidyLabel(l *indexLabel) {
	if len(l.values) == 0 && len(l.any) == 0 {
		delete(x.labels, l.name)
	}
}

// candidateSelectors visits every selector that ep may match, each once, in no order.
func (x *Index) candidateSelectors(ep *indexEndpoint) iter.Seq[*indexSelector] {
	x.round++
	return func(yield func(*indexSelector) bool) {
		for sel := range x.free {
			if !yield(sel) {
				return
			}
		}
		for _, s := range ep.slots {
			for _, list := range [...][]*indexSelector{s.value.selectors, s.value.label.any} {
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

// candidateEndpoints visits every endpoint that sel may match, each once, in no order.
func (x *Index) candidateEndpoints(sel *indexSelector) iter.Seq[*indexEndpoint] {
	x.round++
	return func(yield func(*indexEndpoint) bool) {
		visit := func(v *indexValue) bool {
			for _, s := range v.endpoints {
				if s.endpoint.seen != x.round {
					s.endpoint.seen = x.round
					if !yield(s.endpoint) {
						return false
					}
				}
			}
			return true
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
			if !a.any {
				if v := l.values[a.value]; !visit(v) {
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
