// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"math/bits"
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// A trie finds the last cut at or below a key, one byte at a time; bytes that all keys below a node have in common are
// skipped. What it finds is a cell address, or the number of a line with another node. A node is one line:
//
//	starts [4]uint64  a bit for each value of the byte, set where the result differs from that of the value before
//	prefix uint32     what stands before the byte in all keys below the node, of keys with 32 bits
//	mask   uint32     which bits of the key that is
//	shift  uint32     where the byte begins, from the end of the key or its half
//	values uint32     cell of the results, one for each bit set
//	before [4]uint8   how many bits are set in the words before
//	below  uint32     the result for keys that are before the prefix
//	above  uint32     and behind it
//	half   uint32     of 128 bits: 1 if the byte is in the lower half
//
// Bits need not be counted in two kinds of nodes. One that tells many bytes apart has a result for each value of the
// byte. One that tells few apart has everything in its line, instead of starts:
//
//	behind [4]uint16  0x100 less the first byte of each result but the first; 0 if there are fewer
//	to     [5]uint32  the results
//
// A node of 32 bits has its kind where others have half. A node of 128 bits has it where others have prefix, and a second
// line with prefix and mask, two words each.
const (
	nodePrefix = 8
	nodeMask   = 9
	nodeShift  = 10
	nodeValues = 11
	nodeBefore = 12
	nodeBelow  = 13
	nodeAbove  = 14
	nodeHalf   = 15
	nodeKind   = nodeHalf // of 32 bits
	wideKind   = nodePrefix
	nodeTo     = 2 // of nodeFew

	nodeBits   = 0
	nodeDirect = 1
	nodeFew    = 2

	fewResults  = 5
	manyResults = 8
)

// isNode marks what a trie finds as the line of a node.
const isNode = 1 << 31

type key = span.Key

func keyOfAddr(a netip.Addr) key { return span.KeyOf(ir.Addr(a)) }

// cut begins a run of keys with one result.
type cut struct {
	from key
	to   uint32 // cell
}

// cutsOf returns the cuts of a dimension with the cells of their rows.
func cutsOf(d *classify.Dimension, rows []uint32) []cut {
	cs := make([]cut, len(d.Cuts))
	for i, c := range d.Cuts {
		cs[i] = cut{span.KeyOf(c.From), rows[c.Class]}
	}
	return cs
}

// between returns the cuts behind lo up to hi, and the result at lo. Neighbours differ.
func between(cuts []cut, lo, hi key) ([]cut, uint32) {
	first := uint32(0)
	i := 0
	for i < len(cuts) && !lo.Less(cuts[i].from) {
		first = cuts[i].to
		i++
	}
	j := i
	for j < len(cuts) && !hi.Less(cuts[j].from) {
		j++
	}
	return cuts[i:j], first
}

const mapped = 0xffff // above the lower half of the keys of IPv4 addresses

var (
	firstMapped = key{Lo: mapped << 32}
	lastMapped  = key{Lo: mapped<<32 | 0xffffffff}
)

// numbers makes a trie of numbers.
func (b *blob) numbers(cuts []cut) uint32 {
	inside, first := between(cuts, key{}, numbersTrie.all.Hi)
	return b.trie(inside, first, false)
}

// protocols makes what finds keys of the axis L4, for each family: the cell of the tries of what stands below a protocol,
// by protocol. Where rules mean the same in both families, they are one.
func (b *blob) protocols(cuts []cut) (v4, v6 uint32) {
	of := func(f inet.Family) ([]cut, uint32) {
		base := uint64(f) << 24
		inside, first := between(cuts, key{Lo: base}, key{Lo: base | 1<<24 - 1})
		own := slices.Clone(inside)
		for i := range own {
			own[i].from.Lo -= base
		}
		return own, first
	}
	tries := func(cuts []cut, first uint32) uint32 {
		roots := make([]uint32, 256)
		for p := range roots {
			base := uint64(p) << 16
			if len(cuts) > 0 && cuts[0].from.Lo == base {
				first, cuts = cuts[0].to, cuts[1:]
			}
			n := 0
			for n < len(cuts) && cuts[n].from.Lo>>16 == uint64(p) {
				cuts[n].from.Lo -= base
				n++
			}
			roots[p] = b.trie(cuts[:n], first, false)
			if n > 0 {
				first, cuts = cuts[n-1].to, cuts[n:]
			}
		}
		return b.array(roots)
	}
	cuts4, first4 := of(inet.IPv4)
	cuts6, first6 := of(inet.IPv6)
	same := first4 == first6 && slices.Equal(cuts4, cuts6)
	v4 = tries(cuts4, first4)
	if same {
		return v4, v4
	}
	return v4, tries(cuts6, first6)
}

// addresses makes the tries of both families.
func (b *blob) addresses(cuts []cut) (v4, v6 uint32) {
	inside, first := between(cuts, firstMapped, lastMapped)
	v4 = b.trie(inside, first, false)
	// What IPv4 addresses differ in is left out of IPv6.
	below, first := between(cuts, key{}, key{Lo: mapped<<32 - 1})
	all := append([]cut(nil), below...)
	behind := key{Lo: lastMapped.Lo + 1}
	above, at := between(cuts, behind, span.Last())
	last := first
	if len(all) > 0 {
		last = all[len(all)-1].to
	}
	if at != last {
		all = append(all, cut{behind, at})
	}
	return v4, b.trie(append(all, above...), first, true)
}

// trie returns the result for all keys, or the node that tells them apart. The cuts are sorted; first is the result
// before them.
func (b *blob) trie(cuts []cut, first uint32, wide bool) uint32 {
	if len(cuts) == 0 {
		return first
	}
	last := cuts[len(cuts)-1]
	depth := 0
	for depth < 15 && cuts[0].from.Byte(depth) == last.from.Byte(depth) {
		depth++
	}
	if !wide {
		depth = max(depth, 12)
	}
	lo := last.from.And(span.ByteMask(depth))
	return b.node(cuts, first, lo, depth, wide)
}

// node makes the node that tells keys apart by the byte at depth; what comes before it is that of lo.
func (b *blob) node(cuts []cut, first uint32, lo key, depth int, wide bool) uint32 {
	size := 1
	if wide {
		size = 2
	}
	at := b.lines(size) // before those of its children
	n := node{depth: depth, prefix: lo, below: first, above: cuts[len(cuts)-1].to}
	mask := span.ByteMask(depth + 1)
	for v := range n.to {
		from := lo.WithByte(depth, byte(v))
		to := from.Or(mask.Not())
		if len(cuts) > 0 && !from.Less(cuts[0].from) {
			first, cuts = cuts[0].to, cuts[1:]
		}
		inside := 0
		for inside < len(cuts) && !to.Less(cuts[inside].from) {
			inside++
		}
		n.to[v] = first
		if inside > 0 {
			n.to[v] = b.trie(cuts[:inside], first, wide)
			first, cuts = cuts[inside-1].to, cuts[inside:]
		}
	}
	b.writeNode(at, &n, wide)
	return isNode | at
}

// close returns what stands for a node in memory: its one result if it tells nothing apart.
func (b *blob) close(n *node, kind trieKind) uint32 {
	one := n.to[0]&isNode == 0 && n.below == n.to[0] && n.above == n.to[0]
	for _, to := range n.to[1:] {
		one = one && to == n.to[0]
	}
	if one {
		return n.to[0]
	}
	size := 1
	if kind.wide {
		size = 2
	}
	at := b.lines(size)
	b.writeNode(at, n, kind.wide)
	return isNode | at
}

// writeNode writes a node to its line or lines.
func (b *blob) writeNode(at uint32, n *node, wide bool) {
	var starts [4]uint64
	var room [256]uint32
	values := room[:0]
	for v, to := range n.to {
		if i := len(values); i == 0 || values[i-1] != to {
			starts[v>>6] |= 1 << (v & 63)
			values = append(values, to)
		}
	}
	kind := uint32(nodeBits)
	switch {
	case len(values) <= fewResults:
		kind = nodeFew
	case len(values) >= manyResults:
		kind, values = nodeDirect, n.to[:]
	}
	var cell uint32
	if kind != nodeFew {
		cell = b.array(values)
	}
	var before uint32
	count := 0
	size := 1
	if wide {
		size = 2
	}
	l := b.line(at, size)
	if kind == nodeFew {
		copy(l[nodeTo:], values)
		i := -1
		for v, to := range n.to {
			if v > 0 && to != n.to[v-1] {
				i++
				l[i/2] |= uint32(0x100-v) << (16 * (i % 2))
			}
		}
	} else {
		for w, s := range starts {
			put64(l[2*w:], s)
			before |= uint32(count) << (8 * w)
			count += bits.OnesCount64(s)
		}
	}
	mask := span.ByteMask(n.depth)
	if wide {
		put64(l[16:], n.prefix.Hi)
		put64(l[18:], n.prefix.Lo)
		put64(l[20:], mask.Hi)
		put64(l[22:], mask.Lo)
		if n.depth >= 8 {
			l[nodeHalf] = 1
		}
		l[nodeShift] = uint32(56 - 8*(n.depth%8))
		l[wideKind] = kind
	} else {
		l[nodePrefix], l[nodeMask] = uint32(n.prefix.Lo), uint32(mask.Lo)
		l[nodeShift] = uint32(120 - 8*n.depth)
		l[nodeKind] = kind
	}
	l[nodeValues], l[nodeBefore], l[nodeBelow], l[nodeAbove] = cell, before, n.below, n.above
}
