// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"encoding/binary"
	"math/bits"
	"slices"
)

// split calls fn for all groups of values of a field that the lines of p do not tell apart, with those lines that hold for
// them. The lists that it hands over are valid during the call. Groups without a line of the focus are passed over.
func (d *diagram) split(f *field, p pairOf, fn func(rs []ranks, p pairOf)) {
	s := splitter{d: d, f: f}
	s.number(p.a, p.b, p.focus)
	parts := [...]parted{s.part(p.a), s.part(p.b), s.part(p.focus)}
	for _, g := range s.groups() {
		if d.reason != "" || d.ended {
			fn(g.ranks, pairOf{all: p.all})
			continue
		}
		q := pairOf{all: p.all}
		s.open = s.open[:0]
		for i, w := range g.bits {
			for ; w != 0; w &= w - 1 {
				s.open = append(s.open, i<<6|bits.TrailingZeros64(w))
			}
		}
		if !p.all {
			if q.focus = parts[2].of(s.open); len(q.focus) == 0 {
				continue
			}
		}
		q.a, q.b = parts[0].of(s.open), parts[1].of(s.open)
		fn(g.ranks, q)
	}
}

// splitter divides the values of one field.
type splitter struct {
	d     *diagram
	f     *field
	named []int32 // sets, by local number minus one; 0 is the domain
	open  []int   // local numbers of the sets that hold a group
}

// splitting is scratch space of splitters until the groups are known.
type splitting struct {
	events    []uint64
	cur       []uint64
	key       []byte
	known     map[string]int32
	intervals []groupInterval
}

type groupInterval struct {
	ranks ranks
	group int32
}

// valueGroup are values that no set tells apart.
type valueGroup struct {
	bits  []uint64 // by local number
	ranks []ranks
}

// number gives the sets of the lines local numbers, and leaves them in stamp.
func (s *splitter) number(lists ...[]int32) {
	s.d.scratch.events = s.d.scratch.events[:0]
	s.add(s.f.domain, 0)
	for _, list := range lists {
		for _, r := range list {
			id := s.d.rules[r].sets[s.f.dim]
			if id != 0 && s.d.stamp[id] == 0 {
				s.named = append(s.named, id)
				s.d.stamp[id] = int32(len(s.named))
				s.add(s.f.sets[id], len(s.named))
			}
		}
	}
}

func (s *splitter) add(rs []ranks, local int) {
	x := &s.d.scratch
	for _, r := range rs {
		x.events = append(x.events, uint64(r.lo)<<32|uint64(local)<<1, uint64(r.hi)<<32|uint64(local)<<1|1)
	}
}

// groups returns the groups, in the order in which they first occur, and clears stamp.
func (s *splitter) groups() []valueGroup {
	for _, id := range s.named {
		s.d.stamp[id] = 0
	}
	x := &s.d.scratch
	slices.Sort(x.events)
	if len(x.known) > 64 || x.known == nil {
		x.known = map[string]int32{} // clearing a large one takes as long as it was ever large
	}
	clear(x.known)
	x.intervals = x.intervals[:0]
	words := len(s.named)/64 + 1
	x.cur = grown(x.cur, words)
	clear(x.cur)
	var all []uint64
	for i := 0; i < len(x.events); {
		at := x.events[i] >> 32
		for ; i < len(x.events) && x.events[i]>>32 == at; i++ {
			local := uint32(x.events[i]) >> 1
			if x.events[i]&1 == 0 {
				x.cur[local>>6] |= 1 << (local & 63)
			} else {
				x.cur[local>>6] &^= 1 << (local & 63)
			}
		}
		if i == len(x.events) || x.cur[0]&1 == 0 {
			continue
		}
		x.key = x.key[:0]
		for _, w := range x.cur {
			x.key = binary.LittleEndian.AppendUint64(x.key, w)
		}
		g, ok := x.known[string(x.key)]
		if !ok {
			g = int32(len(x.known))
			x.known[string(x.key)] = g
			all = append(all, x.cur...)
		}
		x.intervals = append(x.intervals, groupInterval{ranks{uint32(at), uint32(x.events[i] >> 32)}, g})
	}
	groups := make([]valueGroup, len(x.known))
	counts := make([]int, len(groups))
	for _, v := range x.intervals {
		counts[v.group]++
	}
	free := make([]ranks, len(x.intervals))
	for g := range groups {
		groups[g] = valueGroup{all[g*words : (g+1)*words], free[:0:counts[g]]}
		free = free[counts[g]:]
	}
	for _, v := range x.intervals {
		g := &groups[v.group]
		g.ranks = append(g.ranks, v.ranks)
	}
	return groups
}

// parted is a list by what its lines ask of a field.
type parted struct {
	any   []int32 // those that ask nothing
	from  []int32 // by local number: where its lines begin in lines
	lines []int32
	some  []int32 // scratch
	out   []int32
}

// part divides a list. The sets have their local numbers in stamp.
func (s *splitter) part(list []int32) parted {
	p := parted{from: make([]int32, len(s.named)+2)}
	for _, r := range list {
		p.from[s.d.stamp[s.d.rules[r].sets[s.f.dim]]+1]++
	}
	for i := 1; i < len(p.from); i++ {
		p.from[i] += p.from[i-1]
	}
	at := slices.Clone(p.from)
	p.lines = make([]int32, len(list))
	for _, r := range list {
		l := s.d.stamp[s.d.rules[r].sets[s.f.dim]]
		p.lines[at[l]] = r
		at[l]++
	}
	p.any = p.lines[:p.from[1]]
	return p
}

// of returns the lines that hold where the sets with the given local numbers do, in order. It is valid until the next call.
func (p *parted) of(open []int) []int32 {
	p.some = p.some[:0]
	for _, l := range open {
		if l > 0 {
			p.some = append(p.some, p.lines[p.from[l]:p.from[l+1]]...)
		}
	}
	slices.Sort(p.some)
	p.out = p.out[:0]
	i := 0
	for _, r := range p.some {
		for i < len(p.any) && p.any[i] < r {
			p.out = append(p.out, p.any[i])
			i++
		}
		p.out = append(p.out, r)
	}
	p.out = append(p.out, p.any[i:]...)
	return p.out
}
