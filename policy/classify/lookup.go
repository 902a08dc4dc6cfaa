// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"math/bits"
	"slices"
	"sort"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// child marks a value of a runs16 or a node that is the index of a node, not a class.
const child = 1 << 31

// mapped is the upper part of the lower half of the keys of IPv4 addresses.
const mapped = 0xffff

type key = span.Key

// cut is a Cut as the lookup structures want it.
type cut struct {
	from  key
	class uint32
}

// classAt returns the class of k among cuts, the first of which is at or below k.
func classAt(cuts []cut, k key) uint32 {
	return cuts[sort.Search(len(cuts), func(i int) bool { return k.Less(cuts[i].from) })-1].class
}

// between returns the cuts behind lo and not behind hi, and the class of lo.
func between(cuts []cut, lo, hi key) ([]cut, uint32) {
	i := sort.Search(len(cuts), func(i int) bool { return lo.Less(cuts[i].from) })
	j := sort.Search(len(cuts), func(j int) bool { return hi.Less(cuts[j].from) })
	return cuts[i:j], cuts[i-1].class
}

// runs16 gives each number of 16 bits a value. It holds one bit for each number, set where the value may differ from
// that of the number before, and one value for each bit set.
type runs16 struct {
	starts [1024]uint64
	before [1024]uint16 // how many bits are set in the words before
	values []uint32
}

// add gives the numbers from n on a value. Numbers ascend, the first one is 0, and none repeats.
func (r *runs16) add(n uint16, value uint32) {
	if i := len(r.values); i > 0 && r.values[i-1] == value {
		return
	}
	r.starts[n>>6] |= 1 << (n & 63)
	r.values = append(r.values, value)
}

// done must be called when all is added.
func (r *runs16) done() {
	n := 0
	for w, x := range r.starts {
		r.before[w] = uint16(n)
		n += bits.OnesCount64(x)
	}
}

func (r *runs16) get(n uint16) uint32 {
	w := n >> 6
	return r.values[int(r.before[w&1023])+bits.OnesCount64(r.starts[w&1023]<<(63-n&63))-1]
}

// newNumberRuns makes the lookup of numbers of 16 bits.
func newNumberRuns(cuts []cut) *runs16 {
	r := &runs16{}
	inside, first := between(cuts, key{}, key{Lo: 0xffff})
	r.add(0, first)
	for _, c := range inside {
		r.add(uint16(c.from.Lo), c.class)
	}
	r.done()
	return r
}

// l4Lookup finds the class on the axis L4: by protocol alone, unless packets of the protocol have several classes.
type l4Lookup struct {
	protocols [2][256]uint32 // child and an index into numbers if they have
	numbers   []*runs16
}

func newL4Lookup(cuts []cut) *l4Lookup {
	l := &l4Lookup{}
	var filed [][]cut // of numbers, from zero on
	for f, family := range [...]inet.Family{inet.IPv4, inet.IPv6} {
		for p := range l.protocols[f] {
			from := l4Key(family, inet.Protocol(p), 0, 0)
			inside, class := between(cuts, key{Lo: uint64(from)}, key{Lo: uint64(from) + 0xffff})
			if len(inside) == 0 {
				l.protocols[f][p] = class
				continue
			}
			own := []cut{{key{}, class}}
			for _, c := range inside {
				own = append(own, cut{key{Lo: c.from.Lo - uint64(from)}, c.class})
			}
			// Rules mean ports of both families, most of them.
			i := slices.IndexFunc(filed, func(other []cut) bool { return slices.Equal(own, other) })
			if i < 0 {
				i = len(filed)
				filed = append(filed, own)
				l.numbers = append(l.numbers, newNumberRuns(own))
			}
			l.protocols[f][p] = child | uint32(i)
		}
	}
	return l
}

func (l *l4Lookup) get(v *view) uint32 {
	c := l.protocols[v.family][v.protocol]
	if c&child != 0 {
		return l.numbers[c&^child].get(v.low)
	}
	return c
}

// addrLookup finds the class of an address. IPv4 takes 16 bits, then 8, then 8, as far as prefixes differ there. IPv6
// takes one byte at a time and skips those that all cuts of a node have in common.
type addrLookup struct {
	v4     runs16
	root   uint32 // of IPv6: class, or node
	nodes  []node
	values []uint32 // of all nodes
}

// node is one byte of an address: one bit for each value, set where the result differs from that of the value before.
type node struct {
	starts [4]uint64
	before [4]uint8 // how many bits are set in the words before
	depth  uint8    // which byte
	values uint32   // where its values begin
	// For an address with other bytes before depth than those of prefix, the class is below or above.
	prefix       key
	below, above uint32
}

func newAddrLookup(cuts []cut) *addrLookup {
	l := &addrLookup{}
	first, last := key{Lo: mapped << 32}, key{Lo: mapped<<32 | 0xffffffff}
	v4, class := between(cuts, first, last)
	if len(v4) == 0 || v4[0].from.Lo > first.Lo|0xffff {
		l.v4.add(0, class)
	}
	for i := 0; i < len(v4); {
		// All cuts in one block of 65536 addresses.
		lo := key{Lo: v4[i].from.Lo &^ 0xffff}
		j := i
		for j < len(v4) && v4[j].from.Lo&^0xffff == lo.Lo {
			j++
		}
		inside := v4[i:j]
		if inside[0].from == lo {
			class, inside = inside[0].class, inside[1:]
		}
		n := uint16(lo.Lo >> 16)
		l.v4.add(n, l.build(inside, class, lo, 14))
		class = v4[j-1].class
		if n < 0xffff && (j == len(v4) || uint16(v4[j].from.Lo>>16) > n+1) {
			l.v4.add(n+1, class)
		}
		i = j
	}
	l.v4.done()

	// IPv6 is what remains, without what the addresses of IPv4 differ in.
	v6, class := between(cuts, key{}, first.Prev())
	v6 = append(slices.Clone(v6), cut{last.Next(), classAt(cuts, last.Next())})
	after, _ := between(cuts, last.Next(), span.Last())
	v6 = append(v6, after...)
	before := class
	v6 = slices.DeleteFunc(v6, func(c cut) bool {
		same := c.class == before
		before = c.class
		return same
	})
	l.root = l.build(v6, class, key{}, skip)
	return l
}

// skip lets build find the first byte in which cuts differ.
const skip = -1

// build returns the class of the keys from lo on that cuts does not hold any other class for, or the node that tells
// their classes apart, by the byte at depth. All cuts are behind lo.
func (l *addrLookup) build(cuts []cut, class uint32, lo key, depth int) uint32 {
	if len(cuts) == 0 {
		return class
	}
	last := cuts[len(cuts)-1]
	n := node{below: class, above: last.class}
	next := skip
	switch depth {
	case skip:
		for depth = 0; depth < 15 && cuts[0].from.Byte(depth) == last.from.Byte(depth); depth++ {
		}
		lo = last.from.And(span.ByteMask(depth))
	case 14:
		next = 15 // IPv4 skips nothing, so that its lookup need not check
	}
	n.depth, n.prefix = uint8(depth), lo
	at := len(l.nodes)
	l.nodes = append(l.nodes, n) // its children come behind it
	var values []uint32
	rest := span.ByteMask(depth + 1).Not()
	for b := range 256 {
		from := lo.WithByte(depth, byte(b))
		to := from.Or(rest)
		if len(cuts) > 0 && !from.Less(cuts[0].from) {
			class, cuts = cuts[0].class, cuts[1:]
		}
		inside := 0
		for inside < len(cuts) && !to.Less(cuts[inside].from) {
			inside++
		}
		v := l.build(cuts[:inside], class, from, next)
		if inside > 0 {
			class, cuts = cuts[inside-1].class, cuts[inside:]
		}
		if b&63 == 0 {
			n.before[b>>6] = uint8(len(values))
		}
		if i := len(values); i == 0 || values[i-1] != v {
			n.starts[b>>6] |= 1 << (b & 63)
			values = append(values, v)
		}
	}
	n.values = uint32(len(l.values))
	l.values = append(l.values, values...)
	l.nodes[at] = n
	return child | uint32(at)
}

// step returns what follows byte b at a node.
func (l *addrLookup) step(n *node, b byte) uint32 {
	w := b >> 6
	return l.values[int(n.values)+int(n.before[w&3])+bits.OnesCount64(n.starts[w&3]<<(63-b&63))-1]
}

func (l *addrLookup) get(k key) uint32 {
	if k.Hi == 0 && k.Lo>>32 == mapped {
		v := l.v4.get(uint16(k.Lo >> 16))
		if v&child != 0 {
			if v = l.step(&l.nodes[v&^child], byte(k.Lo>>8)); v&child != 0 {
				v = l.step(&l.nodes[v&^child], byte(k.Lo))
			}
		}
		return v
	}
	v := l.root
	for v&child != 0 {
		n := &l.nodes[v&^child]
		if p := k.And(span.ByteMask(int(n.depth))); p != n.prefix {
			if p.Less(n.prefix) {
				return n.below
			}
			return n.above
		}
		v = l.step(n, k.Byte(int(n.depth)))
	}
	return v
}

// pointLookup finds the class of an endpoint: open addressing, no more than half full.
type pointLookup struct {
	slots  []pointSlot // their number is a power of two
	shift  uint8       // 64 less the logarithm of that number
	absent uint32
}

type pointSlot struct {
	addr  key
	port  uint32 // protocol<<16 | port; 0, which no point has, means that the slot is empty
	class uint32
}

func newPointLookup(d *Dimension) *pointLookup {
	width := bits.Len(uint(2 * len(d.Points)))
	l := &pointLookup{slots: make([]pointSlot, 1<<width), shift: uint8(64 - width), absent: d.Absent}
	for _, p := range d.Points {
		s := pointSlot{addrKey(p.Addr), uint32(p.Protocol)<<16 | uint32(p.Port), p.Class}
		i := l.slot(s.addr, s.port)
		for l.slots[i].port != 0 {
			i = (i + 1) & uint64(len(l.slots)-1)
		}
		l.slots[i] = s
	}
	return l
}

func (l *pointLookup) slot(addr key, port uint32) uint64 {
	h := (addr.Lo ^ uint64(port)<<32) * 0x9e3779b97f4a7c15
	h = (h ^ h>>29 ^ addr.Hi) * 0xbf58476d1ce4e5b9
	return (h ^ h>>32) * 0x94d049bb133111eb >> l.shift
}

func (l *pointLookup) get(addr key, port uint32) uint32 {
	for i := l.slot(addr, port); ; i = (i + 1) & uint64(len(l.slots)-1) {
		switch s := &l.slots[i]; {
		case s.port == 0:
			return l.absent
		case s.port == port && s.addr == addr:
			return s.class
		}
	}
}
