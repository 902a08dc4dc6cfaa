// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"cmp"
	"math"
	"slices"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// shadows finds, for each rule that takes nothing, a smallest set of rules that take its packets before it. It has a budget
// of its own: what it finds is for people, and does not change what is dead.
func (r *reacher) shadows() {
	of := map[int32][]shadow{}
	var origins []int32
	for _, s := range r.dead {
		if of[s.origin] == nil {
			origins = append(origins, s.origin)
		}
		of[s.origin] = append(of[s.origin], s)
	}
	b := *r.budget
	b.used, b.bytes = 0, maxBytes
	r.budget = &b
	for _, o := range origins {
		r.shadowed(o, of[o])
	}
}

func (r *reacher) shadowed(origin int32, in []shadow) {
	var veils []*veil
	var all []int32 // origins that take a packet of it, in order
	size := map[int32]float64{}
	for _, s := range in {
		for _, line := range s.lines {
			v := r.veil(&s, line)
			for _, o := range r.takers(v) {
				if !slices.Contains(all, o) {
					all = append(all, o)
				}
			}
			for i := v.first; i < v.last; i++ {
				if o := v.chain[i].origin; o != 0 {
					size[o] += r.size(&v.chain[i], v.shadow)
				}
			}
			veils = append(veils, v)
		}
	}
	// Those that take least are left out first, so that what remains are few.
	try := slices.Clone(all)
	slices.SortStableFunc(try, func(a, b int32) int { return cmp.Compare(size[a], size[b]) })
	// Others take nothing of it, unless some of these are left out.
	keep := map[int32]bool{}
	for _, o := range all {
		keep[o] = true
	}
	var leave func(some []int32)
	leave = func(some []int32) {
		for _, o := range some {
			delete(keep, o)
		}
		if !slices.ContainsFunc(veils, func(v *veil) bool { return r.shows(v, keep) }) {
			return
		}
		for _, o := range some {
			keep[o] = true
		}
		// A packet that is shown now will be shown however many more are left out, so that nobody needs to be asked again.
		if n := len(some) / 2; n > 0 {
			leave(some[:n])
			leave(some[n:])
		}
	}
	if len(try) > 1 {
		leave(try[:len(try)-1])
		leave(try[len(try)-1:])
	}
	r.rules[origin].by = slices.DeleteFunc(all, func(o int32) bool { return !keep[o] })
}

// veil is what stands before a line of a chain, for the packets that it would match: lines that take away all others, and
// from first to last those that may match some of them. Behind last all is over.
type veil struct {
	*shadow
	chain       chain
	first, last int32
	d           *diagram
}

func (r *reacher) veil(s *shadow, line int32) *veil {
	var sub chain
	at := make([]int32, line+1) // where lines are in sub
	f := &s.chain[line]
	ignored := r.decide(0, flow.Deny, 0)
	for d := range f.sets {
		if f.sets[d] == 0 && (!dim(d).isPort() || f.absent&(1<<d) != 0) {
			continue
		}
		x := rule{absent: 0xff, to: ^ignored}
		if f.absent&(1<<d) != 0 {
			x.absent &^= 1 << d
		}
		spans := dim(d).domain(s.family)
		if f.sets[d] != 0 {
			spans = r.sets.list[f.sets[d]]
		}
		x.sets[d] = r.sets.id(span.Minus(dim(d).domain(s.family), spans))
		sub = append(sub, x)
	}
	first := int32(len(sub))
	for i := range s.chain[:line] {
		at[i] = int32(len(sub))
		if r.overlap(&s.chain[i], f) {
			sub = append(sub, s.chain[i])
		}
	}
	last := int32(len(sub))
	at[line] = last
	for i := first; i < last; i++ {
		switch to := sub[i].to; {
		case to < 0:
		case to > line:
			sub[i].to = last + 1
		default:
			sub[i].to = at[to]
		}
	}
	end := rule{absent: 0xff, to: ^ignored}
	return &veil{shadow: s, chain: append(sub, end, end), first: first, last: last}
}

// takes reports whether a packet that matches a line does not come to the one behind the veil, because of a rule.
func (v *veil) takes(id int32) bool {
	l := &v.chain[id]
	return v.first <= id && id < v.last && (l.to < 0 || l.to > v.last) && l.origin != 0
}

// takers returns the rules that have the last word on some packet of a veil before its line, in order.
func (r *reacher) takers(v *veil) []int32 {
	found := map[int32]bool{}
	r.search(v, nil, func(trace []int32) {
		for _, id := range trace {
			if v.takes(id) {
				found[v.chain[id].origin] = true
			}
		}
	}, func(list []int32) bool {
		return !slices.ContainsFunc(list, func(id int32) bool { return v.takes(id) && !found[v.chain[id].origin] })
	})
	var out []int32
	for _, l := range v.chain[v.first:v.last] {
		if found[l.origin] {
			delete(found, l.origin)
			out = append(out, l.origin)
		}
	}
	return out
}

// shows reports whether some packet reaches the line of a veil if of what takes packets only some rules are kept; true if
// that is not known.
func (r *reacher) shows(v *veil, keep map[int32]bool) bool {
	shown := false
	r.search(v, keep, func(trace []int32) { shown = shown || slices.Contains(trace, v.last) }, func(list []int32) bool {
		return shown || !slices.Contains(list, v.last)
	})
	return shown || r.reason != ""
}

// search visits the packets of a veil. Unless keep is nil, of the lines that take packets only those of its rules are there.
func (r *reacher) search(v *veil, keep map[int32]bool, leaf func([]int32), done func([]int32) bool) {
	if v.d == nil {
		r.begin(v.group, v.family, v.chain)
		v.d = r.d
	}
	r.group, r.family, r.d, r.visited = v.group, v.family, v.d, map[string]bool{}
	var list []int32
	for i := range v.chain {
		if id := int32(i); keep == nil || !v.takes(id) || keep[v.chain[i].origin] {
			list = append(list, id)
		}
	}
	r.visitL4(list, leaf, done)
}

// size says how much a line matches: the logarithm of the part of all packets.
func (r *reacher) size(l *rule, s *shadow) float64 {
	total := 0.0
	for d, id := range l.sets {
		if id == 0 {
			continue
		}
		part, whole := 0.0, 0.0
		for _, x := range r.sets.list[id] {
			part += x.Size()
		}
		for _, x := range dim(d).domain(s.family) {
			whole += x.Size()
		}
		total += math.Log2(part / whole)
	}
	return math.Exp2(total)
}

// overlap reports whether a packet can match both lines, as far as each field tells by itself.
func (r *reacher) overlap(a, b *rule) bool {
	for d := range a.sets {
		x, y := a.sets[d], b.sets[d]
		if x == y || x == 0 || y == 0 || dim(d).isPort() && a.absent&b.absent&(1<<d) != 0 {
			continue
		}
		if !span.Overlap(r.sets.list[x], r.sets.list[y]) {
			return false
		}
	}
	return true
}
