// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

// A long chain is tested rule by rule. A tree gets a packet to the few rules that can match it: a chain of the tree tests
// one field and goes to a chain with the rules that the answer leaves, in their order; rules that the answer does not
// exclude are in several of them. A packet meets the rules that it would have met, but for those that cannot match it,
// so nothing about the outcome, the deciding rule, counters or events changes. This is the idea of HiCuts: Gupta,
// McKeown: Packet Classification using Hierarchical Intelligent Cuttings, 1999.

const (
	// maxTreeDepth is how deep a tree may be. The nft variant takes chains 16 deep, and others have to fit in, too.
	maxTreeDepth = 4
	// minFan is the least number of ways from one chain of a tree, if its depth allows.
	minFan = 4
	// maxSpans is how many addresses or ports of one rule are looked at one by one, and not as the range that holds them.
	maxSpans = 16
	// maxTail is how many rules behind the last one that names a field are copied into every leaf, instead of being a chain.
	maxTail = 2
)

// treeSize says when trees begin and end.
type treeSize struct {
	min  int // how many rules are worth a tree
	leaf int // how many rules may be tested one by one
}

var defaultTreeSize = treeSize{min: 40, leaf: 20}

// dimension is a field, or two, of which rules name an interval.
type dimension uint8

const (
	bySource dimension = iota
	byDestination
	byService    // protocol<<16 | destination port
	bySourcePort // protocol<<16 | source port
	dimensions
)

// span is a closed interval of the values of a dimension.
type span struct{ lo, hi uint64 }

func (s span) holds(t span) bool { return s.lo <= t.lo && t.hi <= s.hi }
func (s span) meets(t span) bool { return s.lo <= t.hi && t.lo <= s.hi }

// portBits is how many bits a port has in byService and bySourcePort.
const portBits = 16

// width returns the number of bits of a dimension. Of IPv6 addresses, it is the first half that counts.
func (b *builder) width(d dimension) int {
	switch {
	case d >= byService:
		return 8 + portBits
	case b.family == inet.IPv4:
		return 32
	}
	return 64
}

func (b *builder) full(d dimension) span {
	return span{0, ^uint64(0) >> (64 - b.width(d))}
}

// cut is a rule with what it names of every dimension.
type cut struct {
	r     *rule
	spans [dimensions]span
	parts *[dimensions][]span // what it names of spans that it does not name as a whole
}

// list returns what the rule names of a span; nil if that is all of it.
func (c *cut) list(d dimension) []span {
	if c.parts == nil {
		return nil
	}
	return c.parts[d]
}

// meets reports whether the rule can match packets of a part.
func (c *cut) meets(d dimension, p span) bool {
	if !c.spans[d].meets(p) {
		return false
	}
	list := c.list(d)
	for _, s := range list {
		if s.meets(p) {
			return true
		}
	}
	return len(list) == 0
}

// set makes the rule name a few spans of a dimension.
func (c *cut) set(d dimension, list []span) {
	all := list[0]
	for _, s := range list[1:] {
		all.lo, all.hi = min(all.lo, s.lo), max(all.hi, s.hi)
	}
	c.spans[d] = all
	if len(list) > 1 && len(list) <= maxSpans {
		if c.parts == nil {
			c.parts = new([dimensions][]span)
		}
		c.parts[d] = list
	}
}

// cutOf finds out what a rule names.
func (b *builder) cutOf(r *rule) cut {
	c := cut{r: r}
	for d := range dimensions {
		c.spans[d] = b.full(d)
	}
	for _, t := range r.tests {
		switch t := t.(type) {
		case Source:
			if !t.Not {
				c.spans[bySource] = prefixSpan(t.Prefix)
			}
		case Destination:
			if !t.Not {
				c.spans[byDestination] = prefixSpan(t.Prefix)
			}
		case Protocol:
			if !t.Not {
				p := uint64(t.Number) << portBits
				c.spans[byService] = span{p, p | 0xffff}
				c.spans[bySourcePort] = c.spans[byService]
			}
		// A test for a port stands behind that for the protocol.
		case SourcePort:
			if !t.Not {
				c.spans[bySourcePort] = portSpan(t.Protocol, t.Ports)
			}
		case DestinationPort:
			if !t.Not {
				c.spans[byService] = portSpan(t.Protocol, t.Ports)
			}
		case MultiPort:
			d := byService
			if t.Source {
				d = bySourcePort
			}
			p := c.spans[d]
			if !t.Not && len(t.Ranges) > 0 && p.hi-p.lo == 0xffff {
				list := b.spanA.room(len(t.Ranges))
				for i, r := range t.Ranges {
					list[i] = portSpan(inet.Protocol(p.lo>>portBits), r)
				}
				c.set(d, list)
			}
		case InSet:
			d := byDestination
			if t.Source {
				d = bySource
			}
			if list := b.constSpans(t.Set); !t.Not && !t.Port && len(list) > 0 && c.spans[d] == b.full(d) {
				c.set(d, list)
			}
		}
	}
	return c
}

// constSpans returns what a constant set holds; nil for any other set.
func (b *builder) constSpans(name string) []span {
	ps := b.constOf[name]
	if len(ps) == 0 {
		return nil
	}
	if list, ok := b.spansOf[name]; ok {
		return list
	}
	list := make([]span, len(ps))
	for i, p := range ps {
		list[i] = prefixSpan(p)
	}
	b.spansOf[name] = list
	return list
}

func portSpan(p inet.Protocol, r inet.PortRange) span {
	return span{uint64(p)<<portBits | uint64(r.Min), uint64(p)<<portBits | uint64(r.Max)}
}

func prefixSpan(p netip.Prefix) span {
	var v uint64
	n := p.Bits()
	size := 64
	if p.Addr().Is4() {
		a := p.Addr().As4()
		v, size = uint64(binary.BigEndian.Uint32(a[:])), 32
	} else {
		a := p.Addr().As16()
		v = binary.BigEndian.Uint64(a[:8])
		n = min(n, 64)
	}
	if n == 0 {
		return span{0, ^uint64(0) >> (64 - size)}
	}
	return span{v, v | (1<<(size-n) - 1)}
}

// grow makes a tree of the long part of a chain.
func (b *builder) grow(c *chain) {
	if len(c.rules) < b.size.min {
		return
	}
	rules := c.rules
	cuts := make([]cut, 0, len(rules)+maxTail)
	first, last := -1, -1
	for i := range rules {
		x := b.cutOf(&rules[i])
		cuts = append(cuts, x)
		if !b.names(&x) {
			if len(rules[i].tests) == 0 && b.ends(&rules[i]) {
				rules = rules[:i+1] // nothing gets past it
				break
			}
			continue
		}
		if first < 0 {
			first = i
		}
		last = i
	}
	if first < 0 || last+1-first < b.size.min {
		return
	}
	head, middle, tail := rules[:first:first], cuts[first:last+1], rules[last+1:]
	if len(tail) > maxTail {
		rest := &chain{label: c.label, rules: tail}
		tail = []rule{{to: rest, op: Goto}}
	}
	for i := range tail {
		middle = append(middle, b.cutOf(&tail[i]))
	}
	list := make([]*cut, len(middle))
	for i := range middle {
		list[i] = &middle[i]
	}
	c.rules = head
	b.branch(c, list, b.treeDepth)
}

// names reports whether the rule names something of some dimension.
func (b *builder) names(c *cut) bool {
	for d := range dimensions {
		if c.spans[d] != b.full(d) {
			return true
		}
	}
	return false
}

// ends reports whether no packet gets past a rule without tests.
func (b *builder) ends(r *rule) bool {
	if r.to != nil {
		return r.op == Goto
	}
	_, ok := r.target.(Verdict)
	return ok
}

// branch writes the rules of list to the end of c: as they are, or as the ways into subtrees and the rules for packets
// that take none of them.
func (b *builder) branch(c *chain, list []*cut, depth int) {
	c.split = true
	for depth > 0 && len(list) > b.size.leaf {
		fan := minFan
		for pow(fan, depth) < (len(list)+b.size.leaf-1)/b.size.leaf {
			fan++
		}
		best, ok := b.divide(list, fan)
		if !ok {
			break
		}
		for _, p := range best.parts {
			sub := &chain{label: c.label}
			b.branch(sub, b.within(list, best.d, p), depth-1)
			b.put(c, rule{tests: b.spanTests(best.d, p), to: sub, op: Goto})
		}
		list = best.without(list)
	}
	if len(c.rules) == 0 {
		c.rules = b.ruleA.room(len(list))[:0]
	}
	for _, x := range list {
		b.put(c, *x.r)
	}
}

func pow(n, k int) int {
	p := 1
	for range k {
		p *= n
	}
	return p
}

// division is a way to divide rules by one dimension. The parts are disjoint blocks.
type division struct {
	d     dimension
	parts []span
	cost  int
}

// within returns the rules that can match packets of a part.
func (b *builder) within(list []*cut, d dimension, p span) []*cut {
	n := 0
	for _, x := range list {
		if x.meets(d, p) {
			n++
		}
	}
	out := b.cutA.room(n)[:0]
	for _, x := range list {
		if x.meets(d, p) {
			out = append(out, x)
		}
	}
	return out
}

// without returns the rules that can match packets of no part.
func (v *division) without(list []*cut) []*cut {
	var out []*cut
	for _, x := range list {
		if !v.inside(x) {
			out = append(out, x)
		}
	}
	return out
}

// inside reports whether only packets of the parts can match the rule.
func (v *division) inside(x *cut) bool {
	if v.holds(x.spans[v.d]) {
		return true
	}
	list := x.list(v.d)
	for _, s := range list {
		if !v.holds(s) {
			return false
		}
	}
	return len(list) > 0
}

func (v *division) holds(s span) bool {
	for _, p := range v.parts {
		if p.holds(s) {
			return true
		}
	}
	return false
}

// divide returns the best way to divide the rules into about fan parts; false if none is worth it.
func (b *builder) divide(list []*cut, fan int) (division, bool) {
	var best division
	found := false
	for d := range dimensions {
		v := division{d: d, parts: b.parts(list, d, fan)}
		if len(v.parts) == 0 {
			continue
		}
		// What counts is how many rules a packet meets that goes one of the ways of a rule, and how many copies there are.
		n, copies, met, names := len(list), 0, 0, 0
		for _, x := range list {
			names += max(1, len(x.list(d)))
		}
		for _, p := range v.parts {
			k := 0
			for _, x := range list {
				if x.meets(d, p) {
					k++
				}
			}
			copies += k
			met += k * k
		}
		k := 0
		for _, x := range list {
			if !v.inside(x) {
				k++
			}
		}
		copies += k
		met += k * k
		v.cost = met/copies + copies/8
		if copies > n+names || met > copies*n/4*3 {
			continue
		}
		if !found || v.cost < best.cost {
			best, found = v, true
		}
	}
	return best, found
}

// tile is an aligned block of 1<<bits values, with what rules name of it.
type tile struct {
	base  uint64
	bits  int
	names []span
	whole bool // halving it leads nowhere
}

func (k *tile) span() span { return span{k.base, k.base | (uint64(1)<<k.bits - 1)} }

// parts returns at most fan disjoint blocks that hold what rules name of a dimension, each of about as many rules.
func (b *builder) parts(list []*cut, d dimension, fan int) []span {
	full := b.full(d)
	named := b.scr.spans[:0]
	defer func() { b.scr.spans = named[:0] }()
	rules := 0
	for _, x := range list {
		if x.spans[d] == full {
			continue
		}
		rules++
		if more := x.list(d); len(more) > 0 {
			named = append(named, more...)
		} else {
			named = append(named, x.spans[d])
		}
	}
	if rules < 2 || rules*2 < len(list) {
		return nil
	}
	blocks := make([]tile, 0, 2*fan)
	if d >= byService {
		// A block has one protocol.
		for rest := named; len(rest) > 0; {
			if len(blocks) == 2*fan {
				return nil
			}
			p := rest[0].lo >> portBits
			n := partition(rest, func(s span) bool { return s.lo>>portBits == p })
			blocks = append(blocks, tile{base: p << portBits, bits: portBits, names: rest[:n]})
			rest = rest[n:]
		}
		for i := range blocks {
			blocks[i].tighten(d)
		}
	} else {
		all := tile{bits: b.width(d), names: named}
		all.tighten(d)
		blocks = append(blocks, all)
	}
	for len(blocks) < fan {
		// Halve the block with the most rules.
		at := -1
		for i := range blocks {
			if k := &blocks[i]; k.bits > 0 && !k.whole && len(k.names) > b.size.leaf && b.divisible(d, k) && (at < 0 || len(k.names) > len(blocks[at].names)) {
				at = i
			}
		}
		if at < 0 {
			break
		}
		k := blocks[at]
		half := uint64(1) << (k.bits - 1)
		left, right := tile{base: k.base, bits: k.bits - 1}, tile{base: k.base | half, bits: k.bits - 1}
		n := partition(k.names, left.span().holds)
		left.names = k.names[:n]
		rest := k.names[n:] // what spans both is within both anyhow
		right.names = rest[:partition(rest, right.span().holds)]
		left.tighten(d)
		right.tighten(d)
		switch {
		case len(left.names) == 0 && len(right.names) == 0:
			blocks[at].whole = true
		case len(left.names) == 0:
			blocks[at] = right
		case len(right.names) == 0:
			blocks[at] = left
		default:
			blocks[at] = left
			blocks = append(blocks, right)
		}
	}
	out := make([]span, 0, len(blocks))
	for i := range blocks {
		out = append(out, blocks[i].span())
	}
	sortSpans(out)
	return out
}

// partition moves the spans for which in holds to the front, and returns their number.
func partition(names []span, in func(span) bool) int {
	n := 0
	for i, x := range names {
		if in(x) {
			names[i], names[n] = names[n], x
			n++
		}
	}
	return n
}

// divisible reports whether both halves of a block can be tested for.
func (b *builder) divisible(d dimension, k *tile) bool {
	return d < byService || withPorts.Has(uint8(k.base>>portBits))
}

// tighten makes the block the least that holds what is named of it.
func (k *tile) tighten(d dimension) {
	if len(k.names) == 0 {
		return
	}
	lo, hi := ^uint64(0), uint64(0)
	for _, x := range k.names {
		lo, hi = min(lo, x.lo), max(hi, x.hi)
	}
	n := bits.Len64(lo ^ hi)
	if d >= byService && n < portBits && !withPorts.Has(uint8(lo>>portBits)) {
		n = portBits
	}
	if n < k.bits {
		k.base, k.bits = lo&^(1<<n-1), n
	}
}

func sortSpans(s []span) {
	for i := 1; i < len(s); i++ {
		for j := i; j > 0 && s[j].lo < s[j-1].lo; j-- {
			s[j], s[j-1] = s[j-1], s[j]
		}
	}
}

// spanTests returns the tests for a block.
func (b *builder) spanTests(d dimension, s span) []Test {
	n := bits.Len64(s.lo ^ s.hi)
	switch d {
	case bySource:
		return []Test{Source{Prefix: b.blockPrefix(s.lo, n)}}
	case byDestination:
		return []Test{Destination{Prefix: b.blockPrefix(s.lo, n)}}
	}
	p := inet.Protocol(s.lo >> portBits)
	r := inet.PortRange{Min: uint16(s.lo), Max: uint16(s.hi)}
	switch {
	case n >= portBits:
		return []Test{protocolTest(p)}
	case p != inet.TCP && p != inet.UDP:
		return []Test{protocolTest(p), MultiPort{Source: d == bySourcePort, Ranges: []inet.PortRange{r}}}
	case d == bySourcePort:
		return []Test{protocolTest(p), SourcePort{p, r, false}}
	}
	return []Test{protocolTest(p), DestinationPort{p, r, false}}
}

// blockPrefix returns the prefix of the addresses in the block of 1<<n values that begins at base.
func (b *builder) blockPrefix(base uint64, n int) netip.Prefix {
	if b.family == inet.IPv4 {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], uint32(base))
		return netip.PrefixFrom(netip.AddrFrom4(a), 32-n)
	}
	var a [16]byte
	binary.BigEndian.PutUint64(a[:8], base)
	return netip.PrefixFrom(netip.AddrFrom16(a), 64-n)
}
