// SPDX-License-Identifier: Apache-2.0

package selector

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Index keeps which endpoints match which selectors while both change. An endpoint, known by a name that is the
// caller's, has labels of its own and inherits those of its parents, in order, as Inherit has it. The methods that
// change something return what became of it, so that the sum of all changes ever returned is the present state.
//
// The result depends on the present contents alone, not on the way to them. The zero value is an empty Index. An Index is
// for one goroutine at a time; unlike most of this package it is not a value: do not copy it.
//
// Endpoints and selectors may be local: local selectors are compared with local endpoints only, and all others with all
// endpoints. So who asks some questions of a few endpoints only does not pay for the others.
//
// It is fast because most pairs never meet: from each selector it derives labels that an endpoint must have, and looks
// up only endpoints that have one of them, and the other way round.
type Index struct {
	selectors map[string]*indexSelector
	endpoints map[string]*indexEndpoint
	parents   map[string]*indexParent
	labels    map[string]*indexLabel
	locals    map[*indexEndpoint]struct{}
	free      [2]map[*indexSelector]struct{} // those that may match any labels; those that are local
	round     uint64                         // marks what the current search has seen
	found     []*indexSelector               // scratch space of refresh
	hits      []*indexEndpoint               // scratch space of PutSelector
	numbers   int                            // that endpoints have or had
	unused    []int                          // those that are free again
}

// Change says that an endpoint began or ceased to match a selector.
type Change struct {
	Selector string // the name given to PutSelector
	Endpoint string // the name given to PutEndpoint
	Match    bool   // whether it matches now
	Number   int    // of the endpoint, as Index.Number has it; it had it, if this is its end
}

type indexSelector struct {
	name     string
	selector Selector
	local    bool
	bounds   restriction
	known    int32           // a leaf that holds for every candidate, or none
	matches  []selectorMatch // in no order
	seen     uint64          // by candidateSelectors
	held     uint64          // by refresh: the endpoint matched it before
	hit      uint64          // by refresh: the endpoint matches it now
}

// A match stands in two lists, that of the selector and that of the endpoint, and each entry knows where the other one
// is: so it comes and goes without a search.

// selectorMatch is an endpoint that matches a selector.
type selectorMatch struct {
	endpoint *indexEndpoint
	pos      int // in endpoint.matches
}

// endpointMatch is a selector that an endpoint matches.
type endpointMatch struct {
	selector *indexSelector
	pos      int // in selector.matches
}

type indexEndpoint struct {
	name    string
	number  int
	local   bool
	own     map[string]string
	parents []*indexParent
	labels  MapLabels // resolved
	slots   []endpointSlot
	matches []endpointMatch // in no order
	seen    uint64          // by candidateEndpoints
	held    uint64          // by PutSelector: it matched before
	hit     uint64          // by PutSelector: it matches now
}

// endpointSlot is where an endpoint stands for one of its labels.
type endpointSlot struct {
	value *indexValue
	pos   int // in value.endpoints
}

type indexParent struct {
	name     string
	defined  bool
	labels   map[string]string
	children map[*indexEndpoint]int // how often each names it
}

// PutSelector adds a selector under a name, or replaces the one of that name. The changes are sorted by endpoint.
func (x *Index) PutSelector(name string, s Selector) []Change { return x.putSelector(name, s, false) }

// PutLocalSelector is PutSelector for a local selector. Local selectors and others share their names.
func (x *Index) PutLocalSelector(name string, s Selector) []Change {
	return x.putSelector(name, s, true)
}

func (x *Index) putSelector(name string, s Selector, local bool) []Change {
	x.init()
	sel := x.selectors[name]
	if sel == nil {
		sel = &indexSelector{name: name}
		x.selectors[name] = sel
	} else {
		x.unlinkSelector(sel)
	}
	sel.set(x, s, local)
	x.linkSelector(sel)

	candidates := x.candidateEndpoints(sel) // begins a new round
	before := len(sel.matches)
	for _, m := range sel.matches {
		m.endpoint.held = x.round
	}
	come, stay := x.hits[:0], 0
	for ep := range candidates {
		if !sel.matchesCandidate(ep.labels) {
			continue
		}
		ep.hit = x.round
		if ep.held == x.round {
			stay++
		} else {
			come = append(come, ep)
		}
	}
	changes := make([]Change, 0, len(come)+before-stay)
	sel.matches = slices.Grow(sel.matches, len(come))
	for _, ep := range come {
		sel.enter(ep)
		changes = append(changes, Change{name, ep.name, true, ep.number})
	}
	x.hits = come
	clear(come) // not to keep what is deleted
	for i := before - 1; i >= 0; i-- {
		if ep := sel.matches[i].endpoint; ep.hit != x.round {
			sel.leave(i)
			changes = append(changes, Change{name, ep.name, false, ep.number})
		}
	}
	return sortByEndpoint(changes)
}

// set says what sel is.
func (sel *indexSelector) set(x *Index, s Selector, local bool) {
	sel.selector, sel.local = s, local
	sel.bounds, sel.known = s.restriction(func(a atom) int64 { return x.weigh(a, local) }), none
	if len(sel.bounds.atoms) == 1 {
		sel.known = s.tree.leafOf(sel.bounds.atoms[0])
	}
}

// Find returns the number of an endpoint that matches a selector and that ok accepts; false if there is none. It looks no
// further than the first, in an order that depends on the way to the present contents.
func (x *Index) Find(s Selector, ok func(number int) bool) (number int, found bool) {
	x.init()
	var sel indexSelector
	sel.set(x, s, false)
	for ep := range x.candidateEndpoints(&sel) {
		if ok(ep.number) && sel.matchesCandidate(ep.labels) {
			return ep.number, true
		}
	}
	return 0, false
}

// DeleteSelector removes a selector; an unknown name is no error. The changes are sorted by endpoint.
func (x *Index) DeleteSelector(name string) []Change {
	sel := x.selectors[name]
	if sel == nil {
		return nil
	}
	x.unlinkSelector(sel)
	delete(x.selectors, name)
	changes := make([]Change, 0, len(sel.matches))
	for i := len(sel.matches) - 1; i >= 0; i-- {
		ep := sel.matches[i].endpoint
		changes = append(changes, Change{name, ep.name, false, ep.number})
		sel.leave(i)
	}
	return sortByEndpoint(changes)
}

// PutEndpoint adds an endpoint with its own labels and the names of its parents, or replaces the one of that name. A
// parent need not exist, and counts from when it does. The arguments are copied. The changes are sorted by selector.
func (x *Index) PutEndpoint(name string, labels map[string]string, parents ...string) []Change {
	return x.putEndpoint(name, labels, parents, false)
}

// PutLocalEndpoint is PutEndpoint for a local endpoint. Local endpoints and others share their names.
func (x *Index) PutLocalEndpoint(name string, labels map[string]string, parents ...string) []Change {
	return x.putEndpoint(name, labels, parents, true)
}

func (x *Index) putEndpoint(name string, labels map[string]string, parents []string, local bool) []Change {
	x.init()
	ep := x.endpoints[name]
	if ep == nil {
		ep = &indexEndpoint{name: name}
		if n := len(x.unused); n > 0 {
			ep.number, x.unused = x.unused[n-1], x.unused[:n-1]
		} else {
			ep.number = x.numbers
			x.numbers++
		}
		x.endpoints[name] = ep
	}
	if ep.local != local {
		x.place(ep, nil) // where it was found
		ep.local = local
		if delete(x.locals, ep); local {
			x.locals[ep] = struct{}{}
		}
	}
	ep.own = maps.Clone(labels)
	old := ep.parents
	ep.parents = nil
	if len(parents) > 0 {
		ep.parents = make([]*indexParent, len(parents))
	}
	for i, p := range parents {
		ep.parents[i] = x.parent(p)
		ep.parents[i].children[ep]++
	}
	for _, p := range old {
		x.release(p, ep)
	}
	return x.refresh(ep, nil)
}

// DeleteEndpoint removes an endpoint; an unknown name is no error. The changes are sorted by selector.
func (x *Index) DeleteEndpoint(name string) []Change {
	ep := x.endpoints[name]
	if ep == nil {
		return nil
	}
	delete(x.endpoints, name)
	delete(x.locals, ep)
	x.unused = append(x.unused, ep.number)
	for _, p := range ep.parents {
		x.release(p, ep)
	}
	x.place(ep, nil)
	changes := make([]Change, 0, len(ep.matches))
	for i := len(ep.matches) - 1; i >= 0; i-- {
		m := ep.matches[i]
		m.selector.leave(m.pos)
		changes = append(changes, Change{m.selector.name, name, false, ep.number})
	}
	return sortBySelector(changes)
}

// PutParent sets the labels that a parent hands down. They are copied. The changes are sorted by selector and endpoint.
func (x *Index) PutParent(name string, labels map[string]string) []Change {
	x.init()
	p := x.parent(name)
	p.defined, p.labels = true, maps.Clone(labels)
	return x.refreshChildren(p)
}

// DeleteParent removes a parent's labels; an unknown name is no error. Endpoints go on naming it. The changes are sorted
// by selector and endpoint.
func (x *Index) DeleteParent(name string) []Change {
	p := x.parents[name]
	if p == nil || !p.defined {
		return nil
	}
	p.defined, p.labels = false, nil
	changes := x.refreshChildren(p)
	if len(p.children) == 0 {
		delete(x.parents, name)
	}
	return changes
}

// Number returns a number of an endpoint: small, and no other endpoint has it, so that what a caller knows of endpoints
// can be in a slice. An endpoint keeps it as long as it is there. It depends on the way to the present contents.
func (x *Index) Number(endpoint string) (n int, ok bool) {
	ep := x.endpoints[endpoint]
	if ep == nil {
		return 0, false
	}
	return ep.number, true
}

// Endpoints returns the names of the endpoints that match the selector of a name, sorted.
func (x *Index) Endpoints(selector string) []string {
	sel := x.selectors[selector]
	if sel == nil {
		return nil
	}
	out := make([]string, len(sel.matches))
	for i, m := range sel.matches {
		out[i] = m.endpoint.name
	}
	slices.Sort(out)
	return out
}

// Selectors returns the names of the selectors that match the endpoint of a name, sorted.
func (x *Index) Selectors(endpoint string) []string {
	ep := x.endpoints[endpoint]
	if ep == nil {
		return nil
	}
	out := make([]string, len(ep.matches))
	for i, m := range ep.matches {
		out[i] = m.selector.name
	}
	slices.Sort(out)
	return out
}

// Labels returns the labels of an endpoint, own and inherited. They must not be changed; later changes of the endpoint
// do not change them either.
func (x *Index) Labels(endpoint string) (MapLabels, bool) {
	ep := x.endpoints[endpoint]
	if ep == nil {
		return nil, false
	}
	return ep.labels, true
}

// Grow makes room for n endpoints, if there are none. It changes nothing else.
func (x *Index) Grow(n int) {
	x.init()
	if len(x.endpoints) == 0 {
		x.endpoints = make(map[string]*indexEndpoint, n)
	}
}

func (x *Index) init() {
	if x.selectors == nil {
		x.selectors = map[string]*indexSelector{}
		x.endpoints = map[string]*indexEndpoint{}
		x.parents = map[string]*indexParent{}
		x.labels = map[string]*indexLabel{}
		x.locals = map[*indexEndpoint]struct{}{}
		x.free = [2]map[*indexSelector]struct{}{{}, {}}
	}
}

// parent returns the parent of a name, defined or only named by an endpoint.
func (x *Index) parent(name string) *indexParent {
	p := x.parents[name]
	if p == nil {
		p = &indexParent{name: name, children: map[*indexEndpoint]int{}}
		x.parents[name] = p
	}
	return p
}

// release undoes one naming of p by ep.
func (x *Index) release(p *indexParent, ep *indexEndpoint) {
	if p.children[ep]--; p.children[ep] == 0 {
		delete(p.children, ep)
	}
	if len(p.children) == 0 && !p.defined {
		delete(x.parents, p.name)
	}
}

func (x *Index) refreshChildren(p *indexParent) []Change {
	var changes []Change
	for ep := range p.children {
		changes = x.refresh(ep, changes)
	}
	return sortChanges(changes)
}

// refresh resolves the labels of ep anew and finds out what it matches. It appends the changes, sorted by selector.
func (x *Index) refresh(ep *indexEndpoint, changes []Change) []Change {
	labels := MapLabels(ep.own)
	if len(ep.parents) > 0 {
		inherited := make([]map[string]string, len(ep.parents))
		for i, p := range ep.parents {
			inherited[i] = p.labels
		}
		labels = Inherit(ep.own, inherited...)
	}
	x.place(ep, labels)

	now := x.found[:0]
	for sel := range x.candidateSelectors(ep) { // begins a new round
		if sel.matchesCandidate(labels) {
			sel.hit = x.round
			now = append(now, sel)
		}
	}
	x.found = now
	before := len(changes)
	for i := len(ep.matches) - 1; i >= 0; i-- {
		m := ep.matches[i]
		if m.selector.hit == x.round {
			m.selector.held = x.round
			continue
		}
		m.selector.leave(m.pos)
		changes = append(changes, Change{m.selector.name, ep.name, false, ep.number})
	}
	changes = slices.Grow(changes, max(len(now)-len(ep.matches), 0))
	for _, sel := range now {
		if sel.held != x.round {
			sel.enter(ep)
			changes = append(changes, Change{sel.name, ep.name, true, ep.number})
		}
	}
	clear(now) // not to keep what is deleted
	sortBySelector(changes[before:])
	return changes
}

// matchesCandidate reports whether sel matches the labels of an endpoint that was found by its atoms.
func (sel *indexSelector) matchesCandidate(labels MapLabels) bool {
	return sel.bounds.exact || sel.selector.tree != nil && sel.selector.tree.matchMapKnowing(labels, sel.known)
}

// enter adds ep to the endpoints that match sel.
func (sel *indexSelector) enter(ep *indexEndpoint) {
	sel.matches = append(sel.matches, selectorMatch{ep, len(ep.matches)})
	if ep.matches == nil {
		ep.matches = make([]endpointMatch, 0, 8)
	}
	ep.matches = append(ep.matches, endpointMatch{sel, len(sel.matches) - 1})
}

// leave removes the match at pos of both lists. In either, the last one takes its place.
func (sel *indexSelector) leave(pos int) {
	gone := sel.matches[pos]
	ep := gone.endpoint
	last := len(sel.matches) - 1
	if pos != last {
		m := sel.matches[last]
		sel.matches[pos] = m
		m.endpoint.matches[m.pos].pos = pos
	}
	sel.matches[last] = selectorMatch{}
	sel.matches = sel.matches[:last]

	last = len(ep.matches) - 1
	if gone.pos != last {
		m := ep.matches[last]
		ep.matches[gone.pos] = m
		m.selector.matches[m.pos].pos = gone.pos
	}
	ep.matches[last] = endpointMatch{}
	ep.matches = ep.matches[:last]
}

// sortByEndpoint sorts changes of one selector.
func sortByEndpoint(c []Change) []Change {
	slices.SortFunc(c, func(a, b Change) int { return strings.Compare(a.Endpoint, b.Endpoint) })
	return c
}

// sortBySelector sorts changes of one endpoint.
func sortBySelector(c []Change) []Change {
	slices.SortFunc(c, func(a, b Change) int { return strings.Compare(a.Selector, b.Selector) })
	return c
}

func sortChanges(c []Change) []Change {
	slices.SortFunc(c, func(a, b Change) int {
		return cmp.Or(strings.Compare(a.Selector, b.Selector), strings.Compare(a.Endpoint, b.Endpoint))
	})
	return c
}
