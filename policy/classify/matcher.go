// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"encoding/binary"
	"maps"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// newMatcher makes the matcher of rules that stand for the given conjunctions.
func newMatcher(cs *conjs, rules []conjID) Matcher {
	m := Matcher{Rules: len(rules)}
	demands, ports := make([]demand, len(rules)), make([]demand, len(rules))
	for a := L4; int(a) < numAxes; a++ {
		if a == DstPort {
			continue // with L4
		}
		asked := false
		for i, id := range rules {
			demands[i], ports[i] = cs.list[id][a], 0
			if a == L4 {
				ports[i] = cs.list[id][DstPort]
			}
			asked = asked || demands[i] != 0 || ports[i] != 0
		}
		if asked {
			m.Dims = append(m.Dims, newDimension(cs.atoms, a, demands, ports))
		}
	}
	return m
}

// newDimension makes the dimension of rules that make the given demands on an axis, and on destination ports if it is L4.
func newDimension(a *atoms, axis Axis, demands, ports []demand) Dimension {
	w := newRowState(a, demands, ports)
	d := Dimension{Axis: axis}
	switch axis {
	case SrcEndpoint, DstEndpoint:
		d.Points, d.Absent = w.points()
	case InIface, OutIface:
		d.ByInterface = make([]uint32, a.names.count())
		for class := range d.ByInterface {
			d.ByInterface[class] = w.evaluate(func(x *atom) bool { return x.names[class] })
		}
		d.Absent = d.ByInterface[noName]
	default:
		d.Absent = w.evaluate(func(x *atom) bool { return x.absent })
		d.Cuts = w.cuts(axis)
	}
	d.Rows = w.out.finish()
	return d
}

// rowState is a row that changes as atoms begin and cease to hold. A demand of several atoms takes several layers: in
// layer k stands whether the k-th atom of a rule holds, and the row is what all layers have in common.
type rowState struct {
	atoms  *atoms
	uses   []use
	layers [][]uint64
	out    *rowWriter
}

// use is one atom in one layer, with the rules whose demand it belongs to.
type use struct {
	atom  uint32
	layer int
	words []maskedWord
	ports portProtocols // of an atom of destination ports on L4: of which protocols its rules may be
}

type maskedWord struct {
	word int
	mask uint64
}

func newRowState(a *atoms, demands, ports []demand) *rowState {
	w := &rowState{atoms: a, out: newRowWriter(len(demands))}
	depth := 1
	for i, d := range demands {
		depth = max(depth, len(a.demands[d])+len(a.demands[ports[i]]))
	}
	// A layer holds for the rules that have no atom in it.
	w.layers = make([][]uint64, depth)
	for k := range w.layers {
		w.layers[k] = make([]uint64, len(w.out.cur))
		for i := range demands {
			w.layers[k][i>>6] |= 1 << (i & 63)
		}
	}
	type place struct {
		atom  uint32
		layer int
	}
	index := map[place]int{}
	protocols := map[demand]portProtocols{} // of demands on L4
	for i, d := range demands {
		l4, all := a.demands[d], a.demands[d]
		var of portProtocols
		if p := ports[i]; p != 0 {
			all = slices.Concat(l4, a.demands[p])
			var ok bool
			if of, ok = protocols[d]; !ok {
				of = a.portProtocols(d)
				protocols[d] = of
			}
		}
		for k, id := range all {
			u, ok := index[place{id, k}]
			if !ok {
				u = len(w.uses)
				index[place{id, k}] = u
				w.uses = append(w.uses, use{atom: id, layer: k})
			}
			if k >= len(l4) {
				w.uses[u].ports |= of
			}
			mask := uint64(1) << (i & 63)
			w.layers[k][i>>6] &^= mask
			words := w.uses[u].words
			if n := len(words); n > 0 && words[n-1].word == i>>6 {
				words[n-1].mask |= mask
			} else {
				w.uses[u].words = append(words, maskedWord{i >> 6, mask})
			}
		}
	}
	for word := range w.layers[0] {
		w.refresh(word)
	}
	return w
}

// refresh brings a word of the row up to date.
func (w *rowState) refresh(word int) {
	x := w.layers[0][word]
	for _, l := range w.layers[1:] {
		x &= l[word]
	}
	w.out.set(word, x)
}

// toggle changes whether the atom of a use holds.
func (w *rowState) toggle(u *use) {
	layer := w.layers[u.layer]
	for _, m := range u.words {
		layer[m.word] ^= m.mask
		w.refresh(m.word)
	}
}

// evaluate returns the class of a value for which those atoms hold that holds names. No atom may hold before, and none
// does after.
func (w *rowState) evaluate(holds func(*atom) bool) uint32 {
	var on []*use
	for i := range w.uses {
		if u := &w.uses[i]; holds(&w.atoms.list[u.atom]) {
			w.toggle(u)
			on = append(on, u)
		}
	}
	class := w.out.row()
	for _, u := range on {
		w.toggle(u)
	}
	return class
}

// cuts sweeps over the values of an ordered axis.
func (w *rowState) cuts(axis Axis) []Cut {
	last := span.Last()
	if axis != SrcAddr && axis != DstAddr {
		last = key{Lo: 1<<32 - 1}
	}
	type event struct {
		at  key
		use int
	}
	var events []event
	for i := range w.uses {
		x := &w.atoms.list[w.uses[i].atom]
		spans := x.spans
		if of := w.uses[i].ports; of != 0 {
			spans = x.onL4(of)
		}
		for _, s := range spans {
			events = append(events, event{s.Lo, i})
			if s.Hi.Less(last) {
				events = append(events, event{s.Hi.Next(), i})
			}
		}
	}
	slices.SortFunc(events, func(x, y event) int { return x.at.Compare(y.at) })
	first := 0
	for first < len(events) && events[first].at == (key{}) {
		w.toggle(&w.uses[events[first].use])
		first++
	}
	sweep := newSweep(w)
	cuts := []Cut{{Class: sweep.class()}}
	for i := first; i < len(events); i++ {
		at := events[i].at
		sweep.toggle(events[i].use)
		if i+1 < len(events) && events[i+1].at == at {
			continue
		}
		if class := sweep.class(); cuts[len(cuts)-1].Class != class {
			cuts = append(cuts, Cut{at.Value(), class})
		}
	}
	return slices.Clip(cuts)
}

// sweep puts off changes to the row until it is needed: most values lie in few sets, and in the same ones as values
// seen before. Without that, a set that is in many rules would cost time for each rule and member. What it keeps is how
// values differ from the first ones, for which all negated atoms hold.
type sweep struct {
	w       *rowState
	on      []bool   // by use: whether the atom holds now as it does not at first, or the other way about
	applied []bool   // by use: likewise for the row
	pending []int    // uses for which the two may differ
	list    []uint32 // the uses that are on, sorted, if they are few; otherwise it means nothing
	few     bool
	count   int
	known   map[string]uint32 // classes by list
	key     []byte
}

// few is how many uses may be on for their class to be remembered.
const few = 24

func newSweep(w *rowState) *sweep {
	return &sweep{w: w, on: make([]bool, len(w.uses)), applied: make([]bool, len(w.uses)), few: true, known: map[string]uint32{}}
}

func (s *sweep) toggle(use int) {
	s.on[use] = !s.on[use]
	s.pending = append(s.pending, use)
	if s.on[use] {
		s.count++
	} else {
		s.count--
	}
	switch {
	case s.count > few, !s.few && s.count > few/2:
		s.few = false
	case !s.few: // the sweep has left a crowded place
		s.few, s.list = true, s.list[:0]
		for i, on := range s.on {
			if on {
				s.list = append(s.list, uint32(i))
			}
		}
	default:
		i, found := slices.BinarySearch(s.list, uint32(use))
		if found {
			s.list = slices.Delete(s.list, i, i+1)
		} else {
			s.list = slices.Insert(s.list, i, uint32(use))
		}
	}
}

// class returns the class of the values for which those atoms hold that are on.
func (s *sweep) class() uint32 {
	if s.few {
		s.key = s.key[:0]
		for _, u := range s.list {
			s.key = binary.LittleEndian.AppendUint32(s.key, u)
		}
		if class, ok := s.known[string(s.key)]; ok {
			return class
		}
	}
	for _, u := range s.pending {
		if s.on[u] != s.applied[u] {
			s.w.toggle(&s.w.uses[u])
			s.applied[u] = s.on[u]
		}
	}
	s.pending = s.pending[:0]
	class := s.w.out.row()
	if s.few {
		s.known[string(s.key)] = class
	}
	return class
}

// points finds the endpoints that the sets of the axis tell apart, and the class of all others.
func (w *rowState) points() ([]Point, uint32) {
	local := map[int]int{} // sets, numbered in the order in which atoms name them
	for _, u := range w.uses {
		for _, s := range w.atoms.list[u.atom].sets {
			if _, ok := local[s.set]; !ok {
				local[s.set] = len(local)
			}
		}
	}
	words := (len(local) + 63) / 64
	memberOf := map[ir.Element]bitset{}
	for _, set := range slices.Sorted(maps.Keys(local)) {
		for _, e := range w.atoms.members[set] {
			if memberOf[e] == nil {
				memberOf[e] = make(bitset, words)
			}
			memberOf[e].add(local[set])
		}
	}
	class := func(in bitset) uint32 {
		return w.evaluate(func(x *atom) bool {
			return slices.ContainsFunc(x.sets, func(s setTest) bool { return in.has(local[s.set]) != s.not })
		})
	}
	others := class(make(bitset, words))
	byMembership := map[string]uint32{}
	var points []Point
	for _, e := range slices.SortedFunc(maps.Keys(memberOf), ir.CompareElements) {
		if !hasPorts(e.Protocol) {
			continue // a set may say so, but a packet cannot
		}
		k := membership(memberOf[e])
		c, ok := byMembership[k]
		if !ok {
			c = class(memberOf[e])
			byMembership[k] = c
		}
		if c != others {
			points = append(points, Point{e.Prefix.Addr(), e.Protocol, e.Port, c})
		}
	}
	return slices.Clip(points), others
}

func membership(b bitset) string {
	k := make([]byte, 0, len(b)*8)
	for _, w := range b {
		k = binary.LittleEndian.AppendUint64(k, w)
	}
	return string(k)
}

// hasPorts reports whether packets of a protocol have ports, as ir sees it.
func hasPorts(p inet.Protocol) bool { return p.HasPorts() || p == inet.UDPLite }
