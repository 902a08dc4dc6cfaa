// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"encoding/binary"
	"math/bits"

	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// Tries change as if they were values: an edit writes new nodes on the way from the root to what differs, and leaves the
// old ones as they are to those who still follow them.

// reader reads memory that may be damaged.
type reader struct {
	cells []uint32
	bad   bool // something was not as it must be
}

func readerOf(memory []byte) *reader {
	r := &reader{cells: make([]uint32, len(memory)/4)}
	for i := range r.cells {
		r.cells[i] = binary.LittleEndian.Uint32(memory[4*i:])
	}
	return r
}

// at returns n cells from the given one on; zeros if they are not all there.
func (r *reader) at(cell uint32, n int) []uint32 {
	if uint64(cell)+uint64(n) > uint64(len(r.cells)) {
		r.bad = true
		return make([]uint32, min(n, pointBlock*pointCells)) // nobody counts on more
	}
	return r.cells[cell:][:n]
}

// line returns n lines from the given one on.
func (r *reader) line(at uint32, n int) []uint32 {
	if at > maxCells/lineCells { // its cell has no number
		r.bad = true
		return make([]uint32, n*lineCells)
	}
	return r.at(at*lineCells, n*lineCells)
}

func get64(cells []uint32) uint64 { return uint64(cells[0]) | uint64(cells[1])<<32 }

// node is a node of a trie, opened.
type node struct {
	depth        int
	prefix       key // of depth bytes
	below, above uint32
	to           [256]uint32
	values       uint32 // cell; 0 if it is not in memory
	count        int    // of values
}

// keys returns the keys below the node.
func (n *node) keys() span.Span {
	return span.Span{Lo: n.prefix, Hi: n.prefix.Or(span.ByteMask(n.depth).Not())}
}

// child returns the keys of one byte.
func (n *node) child(v int) span.Span {
	lo := n.prefix.WithByte(n.depth, byte(v))
	return span.Span{Lo: lo, Hi: lo.Or(span.ByteMask(n.depth + 1).Not())}
}

// bytes returns which children the keys of s, which are below the node, are of.
func (n *node) bytes(s span.Span) (first, last int) {
	return int(s.Lo.Byte(n.depth)), int(s.Hi.Byte(n.depth))
}

// open opens a node whose depth is behind that of the node above it.
func (r *reader) open(ref uint32, kind trieKind, above int) *node {
	at := ref &^ isNode
	l := r.at(at*lineCells, lineCells)
	n := &node{below: l[nodeBelow], above: l[nodeAbove], values: l[nodeValues]}
	mask := key{}
	shift, half, has := int(l[nodeShift]), l[nodeHalf], l[nodeKind]
	if kind.wide {
		has = l[wideKind]
		x := r.at((at+1)*lineCells, lineCells)
		n.prefix, mask = key{Hi: get64(x), Lo: get64(x[2:])}, key{Hi: get64(x[4:]), Lo: get64(x[6:])}
		n.depth = 8*int(half) + 7 - shift/8
	} else {
		n.prefix, mask = key{Lo: kind.base | uint64(l[nodePrefix])}, span.ByteMask(12).Or(key{Lo: uint64(l[nodeMask])})
		n.depth = 15 - shift/8
	}
	if shift%8 != 0 || kind.wide && half > 1 || has > nodeFew || n.depth <= above || n.depth > 15 || mask != span.ByteMask(n.depth) || n.prefix.And(mask) != n.prefix {
		r.bad = true
		return n
	}
	if has == nodeFew {
		r.openFew(n, l)
		return n
	}
	var starts [4]uint64
	for w := range starts {
		starts[w] = get64(l[2*w:])
		if int(l[nodeBefore]>>(8*w)&0xff) != n.count {
			r.bad = true
		}
		n.count += bits.OnesCount64(starts[w])
	}
	if starts[0]&1 == 0 || r.bad {
		r.bad = true
		return n
	}
	if has == nodeDirect {
		n.count = copy(n.to[:], r.at(n.values, len(n.to)))
		return n
	}
	values := r.at(n.values, n.count)
	i := -1
	for v := range n.to {
		if starts[v>>6]>>(v&63)&1 != 0 {
			i++
		}
		n.to[v] = values[i]
	}
	return n
}

// openFew reads the results of a node that tells few bytes apart from its line.
func (r *reader) openFew(n *node, l []uint32) {
	first := func(i int) int { // the byte at which result i begins
		if i == fewResults {
			return 256
		}
		return 0x100 - int(l[(i-1)/2]>>(16*((i-1)%2))&0xffff)
	}
	i, next := 0, first(1)
	if next <= 0 {
		r.bad = true
	}
	for v := range n.to {
		if v == next {
			i++
			if next = first(i + 1); next <= v {
				r.bad = true
				return
			}
		}
		n.to[v] = l[nodeTo+i]
	}
}

// trieKind says what the keys of a trie are.
type trieKind struct {
	wide bool
	base uint64 // what stands above keys of 32 bits
	all  span.Span
}

var (
	numbersTrie = trieKind{all: span.Span{Lo: key{}, Hi: key{Lo: 1<<32 - 1}}}
	lowTrie     = trieKind{all: span.Span{Lo: key{}, Hi: key{Lo: 1<<16 - 1}}} // what stands below a protocol
	v4Trie      = trieKind{base: mapped << 32, all: span.Span{Lo: firstMapped, Hi: lastMapped}}
	v6Trie      = trieKind{wide: true, all: span.Span{Lo: key{}, Hi: span.Last()}}
)

// runs calls f for the runs of keys of a trie within s. Neighbours may have the same result.
func (r *reader) runs(ref uint32, kind trieKind, s span.Span, f func(from key, to uint32)) {
	r.runsBelow(ref, kind, -1, kind.all, s, f)
}

func (r *reader) runsBelow(ref uint32, kind trieKind, above int, all, s span.Span, f func(from key, to uint32)) {
	s = s.Intersect(all)
	if s.Empty() || r.bad {
		return
	}
	if ref&isNode == 0 {
		f(s.Lo, ref)
		return
	}
	n := r.open(ref, kind, above)
	if r.bad {
		return
	}
	own := n.keys()
	if s.Lo.Less(own.Lo) {
		f(s.Lo, n.below)
	}
	if inside := s.Intersect(own); !inside.Empty() {
		first, last := n.bytes(inside)
		for v := first; v <= last; v++ {
			if ref := n.to[v]; ref&isNode == 0 && v > first && ref == n.to[v-1] {
				continue
			}
			r.runsBelow(n.to[v], kind, n.depth, n.child(v), inside, f)
		}
	}
	if own.Hi.Less(s.Hi) {
		from := own.Hi.Next()
		if from.Less(s.Lo) {
			from = s.Lo
		}
		f(from, n.above)
	}
}

// edit is what a trie gets for some keys, which are those of a prefix.
type edit struct {
	span.Span
	cuts []cut // sorted; the first one is at the first key
}

// within returns the part of e that concerns keys of s.
func (e *edit) within(s span.Span) edit {
	out := edit{Span: e.Intersect(s)}
	for i, c := range e.cuts {
		switch {
		case out.Hi.Less(c.from):
			return out
		case out.Lo.Less(c.from):
			out.cuts = append(out.cuts, c)
		case i+1 == len(e.cuts) || out.Lo.Less(e.cuts[i+1].from):
			out.cuts = append(out.cuts, cut{out.Lo, c.to})
		}
	}
	return out
}

// edit returns the trie in which e is changed, for the keys of all. It does not change nodes, but retires them.
func (l *Live) edit(ref uint32, kind trieKind, above int, all span.Span, e edit) uint32 {
	if ref&isNode == 0 {
		return l.fresh(kind, all, e, ref, ref)
	}
	n := l.r.open(ref, kind, above)
	if l.r.bad || l.room.full {
		return ref
	}
	own := n.keys()
	switch {
	case e.Hi.Less(own.Lo) || own.Hi.Less(e.Lo):
		// Beside the node: one above both.
		d := 0
		for e.Lo.Byte(d) == own.Lo.Byte(d) {
			d++
		}
		m := node{depth: d, prefix: own.Lo.And(span.ByteMask(d)), below: n.below, above: n.above}
		for v := range m.to {
			switch at := int(own.Lo.Byte(d)); {
			case v < at:
				m.to[v] = n.below
			case v == at:
				m.to[v] = ref
			default:
				m.to[v] = n.above
			}
		}
		return l.editNode(&m, kind, e)
	case !own.Lo.Less(e.Lo) && !e.Hi.Less(own.Hi):
		l.retireAll(ref, kind, above)
		return l.fresh(kind, all, e, n.below, n.above)
	}
	out := l.editNode(n, kind, e)
	l.retireNode(ref, n, kind)
	return out
}

// fresh returns a new trie: e with other results before and behind it.
func (l *Live) fresh(kind trieKind, all span.Span, e edit, before, behind uint32) uint32 {
	first, cuts := before, e.cuts
	if !all.Lo.Less(e.Lo) {
		first, cuts = cuts[0].to, cuts[1:]
	}
	if e.Hi.Less(all.Hi) {
		cuts = append(cuts[:len(cuts):len(cuts)], cut{e.Hi.Next(), behind})
	}
	var some []cut
	last := first
	for _, c := range cuts {
		if c.to != last {
			some = append(some, c)
			last = c.to
		}
	}
	return l.trie(some, first, kind.wide)
}

// editNode changes children of n, and returns what stands for it in memory.
func (l *Live) editNode(n *node, kind trieKind, e edit) uint32 {
	first, last := n.bytes(e.Span)
	for v := first; v <= last; v++ {
		s := n.child(v)
		n.to[v] = l.edit(n.to[v], kind, n.depth, s, e.within(s))
	}
	return l.close(n, kind)
}

// retireNode retires what a node takes itself.
func (l *Live) retireNode(ref uint32, n *node, kind trieKind) {
	lines := 1
	if kind.wide {
		lines = 2
	}
	l.room.retire(ref&^isNode, lines)
	if n.values%lineCells == 0 {
		l.room.retire(n.values/lineCells, linesFor(n.count))
	}
}

func (l *Live) retireAll(ref uint32, kind trieKind, above int) {
	if ref&isNode == 0 {
		return
	}
	n := l.r.open(ref, kind, above)
	for v, to := range n.to {
		if v == 0 || to != n.to[v-1] {
			l.retireAll(to, kind, n.depth)
		}
	}
	l.retireNode(ref, n, kind)
}
