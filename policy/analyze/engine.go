// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// budget is what all diagrams of an answer may cost together.
type budget struct {
	ctx    context.Context
	states int // still allowed
	bytes  int // likewise, of what is kept
	used   int // states
	reason string
}

// maxBytes bounds what diagrams keep. The collector of garbage lets as much again pile up.
const maxBytes = 144 << 20

func newBudget(ctx context.Context, o Options) *budget {
	b := &budget{ctx: ctx, states: o.MaxStates, bytes: maxBytes}
	if b.states <= 0 {
		b.states = DefaultMaxStates
	}
	return b
}

// spend takes one state and some bytes from the budget. It reports false if nothing is left.
func (b *budget) spend(bytes int) bool {
	if b.reason != "" {
		return false
	}
	b.used++
	b.bytes -= bytes
	switch {
	case b.used > b.states:
		b.stop(fmt.Sprintf("more than %d states", b.states))
	case b.bytes < 0:
		b.stop(fmt.Sprintf("more than %d MiB", maxBytes>>20))
	case b.used&15 == 1 && b.ctx.Err() != nil:
		b.stop(b.ctx.Err().Error())
	}
	return b.reason == ""
}

func (b *budget) stop(reason string) {
	if b.reason == "" {
		b.reason = reason
	}
}

func (b *budget) extent() Extent {
	return Extent{Partial: b.reason != "", Reason: b.reason, States: b.used}
}

// ranks are a closed-open range of cuts.
type ranks struct{ lo, hi uint32 }

// field is one dimension of a diagram: its values between neighbouring cuts are told apart by no rule.
type field struct {
	dim    dim
	cuts   []key             // sorted
	sets   map[int32][]ranks // of the sets that rules name
	domain []ranks
}

// diagram decides pairs of chains for all packets. Both are in rules, one behind the other.
type diagram struct {
	*budget
	sets   *spanSets
	family inet.Family
	rules  []rule
	class  []int32 // by decision: those of one class are no change
	fields [numDims]*field

	modes [2]mode // 0 with ports, 1 without

	// enough is asked of each leaf; it ends the building, and what was built means nothing then.
	enough func(a, b int32) bool
	ended  bool

	nodes  []node
	memo   map[[sha256.Size]byte]int32
	leaves map[[2]int32]int32
	buf    []byte

	keptRanks arena[ranks]
	keptEdges arena[edge]

	// Scratch.
	lists   [2 * (numDims + 1)][]int32 // by depth and chain
	work    reducer
	scratch splitting
	stamp   []int32 // by set: local number in the split that is being made, plus one
}

// mode is what the rules are for packets with ports, or without.
type mode struct {
	order []dim // the fields behind L4, in the order in which they are looked at
	// suffix identifies, by level and rule, what the rule demands of the fields from there on; 0 is nothing.
	suffix [][]int32
	dead   []bool // by rule: it demands a port of packets that have none
}

// node is a node of the diagram: a leaf, or a split on one field.
type node struct {
	leaf  bool
	a, b  int32 // of a leaf: the decisions
	dim   dim
	edges []edge
}

type edge struct {
	ranks []ranks
	to    int32
}

// How many bytes these take.
const (
	rankSize  = 8
	edgeSize  = 32
	nodeSize  = 40
	spanSize  = 32
	entrySize = 8
)

// arena keeps many short lists in few pieces.
type arena[T any] struct{ free []T }

// keep returns a copy of s, which must not be appended to.
func (a *arena[T]) keep(s []T) []T {
	const piece = 1 << 12
	if len(a.free) < len(s) {
		a.free = make([]T, max(piece, len(s)))
	}
	out := a.free[:len(s):len(s)]
	a.free = a.free[len(s):]
	copy(out, s)
	return out
}

// The nodes that stand for all packets that do not change, and for those of which nothing is known.
const (
	same    = int32(0)
	unknown = int32(-1)
)

func newDiagram(b *budget, sets *spanSets, family inet.Family, class []int32, chains ...chain) *diagram {
	d := &diagram{
		budget: b, sets: sets, family: family, class: class,
		nodes: make([]node, 1), memo: map[[sha256.Size]byte]int32{}, leaves: map[[2]int32]int32{}, stamp: make([]int32, len(sets.list)),
	}
	for _, c := range chains {
		at := int32(len(d.rules))
		d.rules = append(d.rules, c...)
		for i := range c {
			if r := &d.rules[int(at)+i]; r.to >= 0 {
				r.to += at
			}
		}
	}
	for x := range d.fields {
		d.fields[x] = d.newField(dim(x))
	}
	for m := range d.modes {
		d.modes[m] = d.newMode(m == 0)
	}
	return d
}

// newField collects the values of a field that the rules tell apart.
func (d *diagram) newField(x dim) *field {
	f := &field{dim: x, sets: map[int32][]ranks{}}
	domain := x.domain(d.family)
	add := func(s []span.Span) {
		for _, i := range s {
			f.cuts = append(f.cuts, i.Lo)
			if i.Hi != span.Last() {
				f.cuts = append(f.cuts, i.Hi.Next())
			}
		}
	}
	add(domain)
	for i := range d.rules {
		id := d.rules[i].sets[x]
		if _, ok := f.sets[id]; id != 0 && !ok {
			f.sets[id] = nil
			add(d.sets.list[id])
		}
	}
	if x == dimL4 {
		// Protocols with ports are told from those without.
		add(portProtocols)
	}
	slices.SortFunc(f.cuts, key.Compare)
	f.cuts = slices.Compact(f.cuts)
	f.domain = f.ranks(domain)
	for id := range f.sets {
		f.sets[id] = f.ranks(d.sets.list[id])
	}
	return f
}

// portProtocols are the values of L4 whose packets have ports.
var portProtocols = []span.Span{l4Of(inet.TCP), l4Of(inet.UDP), l4Of(inet.SCTP), l4Of(inet.UDPLite)}

func l4Of(p inet.Protocol) span.Span { return span.Numbers(uint32(p)<<16, uint32(p)<<16|0xffff) }

func (f *field) ranks(s []span.Span) []ranks {
	out := make([]ranks, len(s))
	for i, x := range s {
		out[i] = ranks{f.rank(x.Lo), uint32(len(f.cuts))}
		if x.Hi != span.Last() {
			out[i].hi = f.rank(x.Hi.Next())
		}
	}
	return out
}

func (f *field) rank(k key) uint32 {
	return uint32(sort.Search(len(f.cuts), func(i int) bool { return f.cuts[i].Compare(k) >= 0 }))
}

// spans is the inverse of ranks.
func (f *field) spans(rs []ranks) []span.Span {
	out := make([]span.Span, 0, len(rs))
	for _, r := range rs {
		s := span.Span{Lo: f.cuts[r.lo], Hi: span.Last()}
		if int(r.hi) < len(f.cuts) {
			s.Hi = f.cuts[r.hi].Prev()
		}
		out = append(out, s)
	}
	return span.Union(out)
}

// weight returns how many lines hold for a value of a field, on average over the values that are told apart. What looks at
// the field of the least weight first has short lists from there on.
func (d *diagram) weight(x dim) float64 {
	f := d.fields[x]
	lines := 0.0
	for i := range d.rules {
		id := d.rules[i].sets[x]
		if id == 0 {
			lines += float64(len(f.cuts))
			continue
		}
		for _, r := range f.sets[id] {
			lines += float64(r.hi - r.lo)
		}
	}
	return lines / float64(len(f.cuts))
}

func (d *diagram) newMode(ports bool) mode {
	var m mode
	for x := dimSrc; x < numDims; x++ {
		if !ports && x.isPort() {
			continue
		}
		if len(d.fields[x].sets) > 0 {
			m.order = append(m.order, x)
		}
	}
	weight := map[dim]float64{}
	for _, x := range m.order {
		weight[x] = d.weight(x)
	}
	slices.SortStableFunc(m.order, func(a, b dim) int { return cmp.Compare(weight[a], weight[b]) })
	m.dead = make([]bool, len(d.rules))
	if !ports {
		for i := range d.rules {
			for _, x := range [...]dim{dimSrcPort, dimDstPort, dimPreDstPort} {
				m.dead[i] = m.dead[i] || d.rules[i].absent&(1<<x) == 0
			}
		}
	} else {
		for i := range d.rules {
			for _, x := range [...]dim{dimSrcPort, dimDstPort, dimPreDstPort} {
				id := d.rules[i].sets[x]
				m.dead[i] = m.dead[i] || id != 0 && len(d.sets.list[id]) == 0
			}
		}
	}
	m.suffix = make([][]int32, len(m.order)+1)
	m.suffix[len(m.order)] = make([]int32, len(d.rules))
	// A number stands for a list of fields and sets, so that it means the same on every level.
	ids := map[[3]int32]int32{}
	for l := len(m.order) - 1; l >= 0; l-- {
		m.suffix[l] = slices.Clone(m.suffix[l+1])
		for i := range d.rules {
			set := d.rules[i].sets[m.order[l]]
			if set == 0 {
				continue
			}
			k := [3]int32{int32(m.order[l]), set, m.suffix[l+1][i]}
			id, ok := ids[k]
			if !ok {
				id = int32(len(ids) + 1)
				ids[k] = id
			}
			m.suffix[l][i] = id
		}
	}
	return m
}

// alive returns the rules of a list that the mode leaves.
func (m *mode) alive(list []int32) []int32 {
	out := make([]int32, 0, len(list))
	for _, r := range list {
		if !m.dead[r] {
			out = append(out, r)
		}
	}
	return out
}

// pairOf are two lists of lines, and the lines that may make a difference between them: a packet that matches none of
// focus fares alike, unless all is set.
type pairOf struct {
	a, b, focus []int32
	all         bool
}

// build decides a pair of lists for all packets.
func (d *diagram) build(p pairOf) int32 {
	if !d.spend(0) {
		return unknown
	}
	n := node{dim: dimL4}
	d.split(d.fields[dimL4], p, func(rs []ranks, p pairOf) {
		withPorts, without := d.byPorts(rs)
		for m, rs := range [...][]ranks{withPorts, without} {
			if len(rs) > 0 {
				mode := &d.modes[m]
				q := pairOf{mode.alive(p.a), mode.alive(p.b), mode.alive(p.focus), p.all}
				n.edges = append(n.edges, edge{ranks: rs, to: d.child(mode, 0, q)})
			}
		}
	})
	return d.file(n)
}

// byPorts tells the protocols with ports from the others.
func (d *diagram) byPorts(rs []ranks) (with, without []ranks) {
	f := d.fields[dimL4]
	ports := f.ranks(portProtocols)
	for _, r := range rs {
		for lo := r.lo; lo < r.hi; lo++ {
			out := &without
			if slices.ContainsFunc(ports, func(p ranks) bool { return p.lo <= lo && lo < p.hi }) {
				out = &with
			}
			*out = appendRank(*out, lo)
		}
	}
	return with, without
}

// appendRank appends an interval between neighbouring cuts.
func appendRank(rs []ranks, lo uint32) []ranks {
	if n := len(rs); n > 0 && rs[n-1].hi == lo {
		rs[n-1].hi++
		return rs
	}
	return append(rs, ranks{lo, lo + 1})
}

// file makes a node of a split, unless it is none.
func (d *diagram) file(n node) int32 {
	// Packets that end in one place belong together.
	slices.SortStableFunc(n.edges, func(a, b edge) int { return int(a.to) - int(b.to) })
	out := n.edges[:0]
	for _, e := range n.edges {
		if k := len(out); k > 0 && out[k-1].to == e.to {
			out[k-1].ranks = append(out[k-1].ranks, e.ranks...)
			continue
		}
		out = append(out, e)
	}
	n.edges = out
	for i := range out {
		rs := out[i].ranks
		slices.SortFunc(rs, func(a, b ranks) int { return int(a.lo) - int(b.lo) })
		joined := rs[:0]
		for _, r := range rs {
			if k := len(joined); k > 0 && joined[k-1].hi == r.lo {
				joined[k-1].hi = r.hi
				continue
			}
			joined = append(joined, r)
		}
		out[i].ranks = joined
	}
	if len(out) == 0 {
		return same
	}
	if len(out) == 1 && (out[0].to == same || out[0].to == unknown || slices.Equal(out[0].ranks, d.fields[n.dim].domain)) {
		return out[0].to
	}
	if out[0].to == same {
		out = out[1:]
	}
	// What was grown on the way is larger than what it holds.
	for i := range out {
		out[i].ranks = d.keptRanks.keep(out[i].ranks)
		d.bytes -= len(out[i].ranks) * rankSize
	}
	n.edges = d.keptEdges.keep(out)
	d.bytes -= len(out)*edgeSize + nodeSize
	d.nodes = append(d.nodes, n)
	return int32(len(d.nodes) - 1)
}

// child decides a pair of lists for the packets whose fields before a level are settled.
func (d *diagram) child(m *mode, level int, p pairOf) int32 {
	switch {
	case d.reason != "" || d.ended:
		return unknown
	case !p.all && len(p.focus) == 0:
		return same
	}
	depth := 2 * level
	suffix := m.suffix[level]
	la, atA := d.work.reduce(d.rules, suffix, nil, p.a, d.lists[depth][:0])
	d.lists[depth] = la
	d.buf = d.work.content(suffix, la, atA, d.buf[:0])
	lb, atB := d.work.reduce(d.rules, suffix, nil, p.b, d.lists[depth+1][:0])
	d.lists[depth+1] = lb
	d.buf = binary.LittleEndian.AppendUint32(d.buf, uint32(len(la)))
	d.buf = d.work.content(suffix, lb, atB, d.buf)
	if atA < 0 && atB < 0 {
		return d.leaf(^atA, ^atB)
	}
	for trivial(d.rules, m.order[level], la) && trivial(d.rules, m.order[level], lb) {
		level++
	}
	if m == &d.modes[1] {
		d.buf = append(d.buf, 0)
	}
	sum := sha256.Sum256(d.buf)
	if id, ok := d.memo[sum]; ok {
		return id
	}
	if d.equal(suffix, la, lb) {
		d.memo[sum] = same
		return same
	}
	if !d.spend(sha256.Size + 64) {
		return unknown
	}
	n := node{dim: m.order[level]}
	p.a, p.b = la, lb
	d.split(d.fields[n.dim], p, func(rs []ranks, p pairOf) {
		n.edges = append(n.edges, edge{ranks: rs, to: d.child(m, level+1, p)})
	})
	id := d.file(n)
	if d.reason == "" && !d.ended {
		d.memo[sum] = id
	}
	return id
}

func (d *diagram) leaf(a, b int32) int32 {
	if d.class[a] == d.class[b] {
		return same
	}
	d.ended = d.ended || d.enough != nil && d.enough(a, b)
	id, ok := d.leaves[[2]int32{a, b}]
	if !ok {
		id = int32(len(d.nodes))
		d.leaves[[2]int32{a, b}] = id
		d.nodes = append(d.nodes, node{leaf: true, a: a, b: b})
	}
	return id
}

// equal reports whether two lists are sure to decide alike, as far as classes go.
func (d *diagram) equal(suffix, a, b []int32) bool {
	x, atX := d.work.reduce(d.rules, suffix, d.class, a, d.lists[2*numDims][:0])
	d.lists[2*numDims] = x
	d.buf = d.work.content(suffix, x, atX, d.buf[:0])
	n := len(d.buf)
	y, atY := d.work.reduce(d.rules, suffix, d.class, b, d.lists[2*numDims+1][:0])
	d.lists[2*numDims+1] = y
	d.buf = d.work.content(suffix, y, atY, d.buf)
	return bytes.Equal(d.buf[:n], d.buf[n:])
}

func trivial(rules []rule, x dim, list []int32) bool {
	for _, i := range list {
		if rules[i].sets[x] != 0 {
			return false
		}
	}
	return true
}

// eachLeaf calls f with the leaves below a node.
func (d *diagram) eachLeaf(id int32, seen map[int32]bool, f func(a, b int32)) {
	if id == same || id == unknown || seen[id] {
		return
	}
	seen[id] = true
	n := &d.nodes[id]
	if n.leaf {
		f(n.a, n.b)
		return
	}
	for _, e := range n.edges {
		d.eachLeaf(e.to, seen, f)
	}
}
