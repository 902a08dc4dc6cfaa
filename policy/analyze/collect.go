// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"cmp"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// raw is a box in numbers: of spanSets, and of collector.names. Comparable.
type raw struct {
	path           flow.Path
	nat            NAT
	local, other   bool
	families       uint8 // bit i for families[i]
	states         States
	in, out, route int32
	sets           [numDims]int32
}

// pair are the decisions on a packet before and after.
type pair struct{ a, b int32 }

// collector takes the boxes out of diagrams.
type collector struct {
	ps     *places
	sets   *spanSets
	budget *budget
	max    int
	n      int
	raws   map[pair][]raw
	names  []nameSet // 0 is any
	known  map[string]int32
	bytes  int                      // what boxes may still take
	addrs  map[int32]inet.PrefixSet // by number in sets
	ports  map[int32]inet.PortSet   // likewise
}

// maxBoxBytes bounds what taking boxes out of diagrams keeps, beside the diagrams.
const maxBoxBytes = 64 << 20

// keep takes bytes from what boxes may take. It reports false if nothing is left; then what boxes there are will do.
func (c *collector) keep(bytes int) bool {
	if c.bytes -= bytes; c.bytes < 0 {
		c.budget.stop(fmt.Sprintf("more than %d MiB of boxes", maxBoxBytes>>20))
	}
	return c.bytes >= 0
}

type nameSet struct {
	names Names
	part  float64
}

func newCollector(ps *places, sets *spanSets, b *budget, o Options) *collector {
	c := &collector{
		ps: ps, sets: sets, budget: b, max: o.MaxBoxes, raws: map[pair][]raw{}, names: []nameSet{{part: 1}}, known: map[string]int32{},
		bytes: maxBoxBytes, addrs: map[int32]inet.PrefixSet{}, ports: map[int32]inet.PortSet{},
	}
	if c.max <= 0 {
		c.max = DefaultMaxBoxes
	}
	return c
}

// nameID numbers a set of names.
func (c *collector) nameID(s nameSet) int32 {
	if s.names == nil {
		return 0
	}
	k := fmt.Sprint([]ir.Interval(s.names))
	id, ok := c.known[k]
	if !ok {
		id = int32(len(c.names))
		c.known[k] = id
		c.names = append(c.names, s)
	}
	return id
}

// at returns the box of all packets of a family at a spot.
func (c *collector) at(g *group, s spot, f inet.Family) raw {
	r := raw{path: g.path, nat: g.nat, states: s.states, local: s.local, other: s.other, families: 1 << familyIndex(f)}
	if g.path != flow.Output {
		r.in = c.kindID(c.ps.in, s.in)
	}
	if g.path != flow.Input {
		r.out = c.kindID(c.ps.out, s.out)
	}
	if g.path == flow.Output && g.nat == Translated {
		r.route = c.kindID(c.ps.out, s.route)
	}
	return r
}

// packet returns a packet of a group whose fields are as given; those that are nil may have any value. Choose returns
// which of n spots it is at.
func (c *collector) packet(g *group, f inet.Family, at [numDims]*key, choose func(n int) int) flow.Packet {
	r := c.at(g, g.spots[choose(len(g.spots))], f)
	for d, k := range at {
		if k != nil {
			r.sets[d] = c.sets.id([]span.Span{{Lo: *k, Hi: *k}})
		}
	}
	if k := at[dimL4]; k != nil && inet.Protocol(k.Lo>>16) != icmpOf(f) {
		r.sets[dimL4] = c.sets.id([]span.Span{l4Of(inet.Protocol(k.Lo >> 16))})
	}
	return c.box(&r)[0].Packet()
}

// take files all packets below a node of a diagram.
func (c *collector) take(d *diagram, root int32, g *group) {
	if root == same || root == unknown {
		return
	}
	base := make([]raw, len(g.spots))
	for i, s := range g.spots {
		base[i] = c.at(g, s, d.family)
	}
	base = c.mergeOuter(base)
	x := extractor{c: c, d: d, entries: make([][]entry, len(d.nodes)), tails: []tail{{}}, known: map[tail]int32{}}
	for _, e := range x.of(root) {
		if c.n += len(base); c.n > c.max {
			c.budget.stop(fmt.Sprintf("more than %d boxes", c.max))
			return
		}
		leaf := &d.nodes[e.leaf]
		var sets [numDims]int32
		for t := x.tails[e.tail]; t.set != 0; t = x.tails[t.next] {
			sets[t.dim] = t.set
		}
		p := pair{leaf.a, leaf.b}
		for _, r := range base {
			r.sets = sets
			c.raws[p] = append(c.raws[p], r)
		}
	}
}

// extractor finds the boxes of a diagram from its leaves upwards: so each node is looked at once, and boxes that differ in
// one field are joined on the way.
type extractor struct {
	c       *collector
	d       *diagram
	entries [][]entry // by node; nil where not known yet
	tails   []tail    // 0 is the end
	known   map[tail]int32
}

// entry is a box below a node: a leaf, and the sets of the fields on the way.
type entry struct{ leaf, tail int32 }

// tail is what a box says of a field, and what it says of those behind. Fields that are not named may have any value.
type tail struct {
	dim       dim
	set, next int32
}

// of returns the boxes below a node.
func (x *extractor) of(id int32) []entry {
	if id == same || id == unknown {
		return nil
	}
	if x.entries[id] != nil {
		return x.entries[id]
	}
	n := &x.d.nodes[id]
	if n.leaf {
		x.entries[id] = []entry{{id, 0}}
		return x.entries[id]
	}
	x.entries[id] = []entry{} // of a node below which nothing is taken any more
	index := map[entry]int{}
	var order []entry
	var where [][]ranks
	for _, e := range n.edges {
		for _, below := range x.of(e.to) {
			i, ok := index[below]
			if !ok {
				i = len(order)
				index[below] = i
				order, where = append(order, below), append(where, nil)
			}
			where[i] = append(where[i], e.ranks...)
		}
		if len(order) > x.c.max {
			x.c.budget.stop(fmt.Sprintf("more than %d boxes", x.c.max))
		}
	}
	if !x.c.keep(len(order) * entrySize) {
		return x.entries[id]
	}
	f := x.d.fields[n.dim]
	out := make([]entry, len(order))
	for i, e := range order {
		out[i] = entry{e.leaf, x.tail(n.dim, x.c.setOf(f.spans(where[i]), n.dim, x.d.family), e.tail)}
	}
	x.entries[id] = out
	return out
}

func (x *extractor) tail(d dim, set, next int32) int32 {
	if set == 0 {
		return next
	}
	t := tail{d, set, next}
	id, ok := x.known[t]
	if !ok {
		id = int32(len(x.tails))
		x.known[t] = id
		x.tails = append(x.tails, t)
	}
	return id
}

func (c *collector) kindID(ks []kind, i int) int32 { return c.nameID(nameSet{ks[i].names, ks[i].part}) }

func (c *collector) setOf(spans []span.Span, d dim, f inet.Family) int32 {
	if slices.Equal(spans, d.domain(f)) {
		return 0
	}
	n := len(c.sets.list)
	id := c.sets.id(spans)
	if int(id) == n {
		c.keep(2 * spanSize * len(spans))
	}
	return id
}

// part is an attribute of boxes along which they can be joined.
type part struct {
	zero func(*raw)
	join func(c *collector, rs []raw) raw // rs are equal but for the attribute
}

func (c *collector) joinNames(rs []raw, at func(*raw) *int32) raw {
	out := rs[0]
	var s nameSet
	for i := range rs {
		id := *at(&rs[i])
		if id == 0 {
			s = nameSet{part: 1}
			break
		}
		n := c.names[id]
		if i == 0 {
			s = nameSet{slices.Clone(n.names), n.part}
			continue
		}
		s.names, s.part = s.names.join(n.names), s.part+n.part
		if s.names == nil {
			break
		}
	}
	*at(&out) = c.nameID(s)
	return out
}

func outerParts() []part {
	names := func(at func(*raw) *int32) part {
		return part{func(r *raw) { *at(r) = 0 }, func(c *collector, rs []raw) raw { return c.joinNames(rs, at) }}
	}
	return []part{
		{func(r *raw) { r.states = 0 }, func(_ *collector, rs []raw) raw {
			out := rs[0]
			for _, r := range rs {
				out.states |= r.states
			}
			return out
		}},
		names(func(r *raw) *int32 { return &r.in }),
		names(func(r *raw) *int32 { return &r.out }),
		names(func(r *raw) *int32 { return &r.route }),
		{func(r *raw) { r.local, r.other = false, false }, func(_ *collector, rs []raw) raw {
			out := rs[0]
			for _, r := range rs {
				out.local, out.other = out.local || r.local, out.other || r.other
			}
			return out
		}},
	}
}

func (c *collector) mergeOuter(rs []raw) []raw {
	for _, p := range outerParts() {
		rs = c.merge(rs, p)
	}
	return rs
}

// innerParts are the fields of diagrams.
func innerParts() []part {
	var ps []part
	for d := numDims; d > 0; {
		d--
		ps = append(ps, part{func(r *raw) { r.sets[d] = 0 }, func(c *collector, rs []raw) raw {
			out := rs[0]
			f := families[bits.TrailingZeros8(out.families)]
			var all []span.Span
			for _, r := range rs {
				if r.sets[d] == 0 {
					all = d.domain(f)
					break
				}
				all = append(all, c.sets.list[r.sets[d]]...)
			}
			if len(all) > 0 && slices.Equal(all, d.domain(f)) {
				out.sets[d] = 0
				return out
			}
			out.sets[d] = c.setOf(span.Union(slices.Clone(all)), d, f)
			return out
		}})
	}
	return ps
}

// merge joins the boxes that are equal but for one attribute. Boxes are disjoint, so the union is as large as they are
// together.
func (c *collector) merge(rs []raw, p part) []raw {
	if len(rs) < 2 {
		return rs
	}
	index := make(map[raw]int, len(rs))
	var groups [][]raw
	for _, r := range rs {
		k := r
		p.zero(&k)
		g, ok := index[k]
		if !ok {
			g = len(groups)
			index[k] = g
			groups = append(groups, nil)
		}
		groups[g] = append(groups[g], r)
	}
	if len(groups) == len(rs) {
		return rs
	}
	out := make([]raw, len(groups))
	for i, g := range groups {
		if len(g) == 1 {
			out[i] = g[0]
		} else {
			out[i] = p.join(c, g)
		}
	}
	return out
}

// simplify joins boxes as far as that goes.
func (c *collector) simplify(rs []raw) []raw {
	parts := append(innerParts(), outerParts()...)
	for {
		n := len(rs)
		for _, p := range parts {
			rs = c.merge(rs, p)
		}
		rs = c.mergeFamilies(rs)
		if len(rs) == n || n > 10_000 {
			return rs
		}
	}
}

// mergeFamilies joins boxes of IPv4 and of IPv6 that name no address and no message of ICMP.
func (c *collector) mergeFamilies(rs []raw) []raw {
	return c.merge(rs, part{
		func(r *raw) {
			if r.sets[dimSrc] == 0 && r.sets[dimDst] == 0 && r.sets[dimPreDst] == 0 && c.wholeProtocols(r.sets[dimL4]) {
				r.families = 0
			}
		},
		func(_ *collector, rs []raw) raw {
			out := rs[0]
			for _, r := range rs {
				out.families |= r.families
			}
			return out
		},
	})
}

func (c *collector) wholeProtocols(l4 int32) bool {
	if l4 == 0 {
		return true
	}
	for _, s := range c.sets.list[l4] {
		if s.Lo.Lo&0xffff != 0 || s.Hi.Lo&0xffff != 0xffff {
			return false
		}
	}
	return true
}

// boxes returns the boxes of a pair, largest first, and the share of all packets that they are.
func (c *collector) boxes(p pair) ([]Box, float64) {
	type sized struct {
		box   Box
		share float64
		at    int
	}
	var all []sized
	total := 0.0
	for _, r := range c.simplify(c.raws[p]) {
		for _, b := range c.box(&r) {
			share := c.share(&r, &b)
			total += share
			all = append(all, sized{b, share, len(all)})
		}
	}
	slices.SortStableFunc(all, func(a, b sized) int { return cmp.Compare(b.share, a.share) })
	out := make([]Box, len(all))
	for i := range all {
		out[i] = all[i].box
	}
	return out, total
}

// box writes a raw box out. Some messages of ICMP beside other protocols make a box of their own.
func (c *collector) box(r *raw) []Box {
	b := Box{
		Path: r.path, In: c.names[r.in].names, Out: c.names[r.out].names, States: r.states, NAT: r.nat,
		Src: c.addrSet(r, dimSrc), Dst: c.addrSet(r, dimDst), SrcPorts: c.portSet(r, dimSrcPort), DstPorts: c.portSet(r, dimDstPort),
	}
	if r.nat == Translated {
		b.PreDst, b.PreDstPorts = c.addrSet(r, dimPreDst), c.portSet(r, dimPreDstPort)
		b.PreLocal, b.PreOther, b.RouteOut = r.local, r.other, c.names[r.route].names
	}
	if r.sets[dimL4] == 0 {
		b.Protocols = allProtocols
		return []Box{b}
	}
	icmp := uint32(icmpOf(families[bits.TrailingZeros8(r.families)]))
	var some []ICMPRange
	for _, s := range c.sets.list[r.sets[dimL4]] {
		lo, hi := uint32(s.Lo.Lo), uint32(s.Hi.Lo)
		for p := lo >> 16; p <= hi>>16; p++ {
			from, to := max(lo, p<<16), min(hi, p<<16|0xffff)
			if p != icmp || to-from == 0xffff {
				if from == p<<16 {
					b.Protocols[p>>6] |= 1 << (p & 63)
				}
				continue
			}
			some = append(some, ICMPRange{uint16(from), uint16(to)})
		}
	}
	var out []Box
	if b.Protocols != (ir.Mask{}) {
		out = append(out, b)
	}
	if some != nil {
		b.Protocols, b.ICMP = ir.MaskOf(uint8(icmp)), some
		out = append(out, b)
	}
	return out
}

var allProtocols = ir.Mask{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}

func (c *collector) addrSet(r *raw, d dim) inet.PrefixSet {
	switch id := r.sets[d]; {
	case id != 0:
		set, ok := c.addrs[id]
		if !ok {
			set = prefixSet(c.sets.list[id])
			c.addrs[id] = set
		}
		return set
	case r.families == 3:
		return inet.AllAddrs(0)
	}
	return inet.AllAddrs(families[bits.TrailingZeros8(r.families)])
}

func (c *collector) portSet(r *raw, d dim) inet.PortSet {
	if set, ok := c.ports[r.sets[d]]; ok {
		return set
	}
	spans := allPorts
	if r.sets[d] != 0 {
		spans = c.sets.list[r.sets[d]]
	}
	rs := make([]inet.PortRange, len(spans))
	for i, s := range spans {
		rs[i] = inet.PortRange{Min: uint16(s.Lo.Lo), Max: uint16(s.Hi.Lo)}
	}
	set, _ := inet.NewPortSet(rs...) // no range ends before it begins
	c.ports[r.sets[d]] = set
	return set
}

// prefixSet returns the addresses of spans.
func prefixSet(spans []span.Span) inet.PrefixSet {
	var ps []netip.Prefix
	for _, s := range spans {
		ps = appendPrefixes(ps, s)
	}
	set, _ := inet.NewPrefixSet(ps...) // none is mapped, for they are of one family
	return set
}

// appendPrefixes appends the prefixes that make up a range of addresses of one family.
func appendPrefixes(ps []netip.Prefix, s span.Span) []netip.Prefix {
	for lo := s.Lo; ; {
		// The longest run of low bits that are free at lo and do not lead beyond hi.
		n := 0
		for n < 128 && !bit(lo, n) && lowBits(lo, n+1).Compare(s.Hi) <= 0 {
			n++
		}
		a := lo.Value().Addr()
		ps = append(ps, netip.PrefixFrom(a, a.BitLen()-min(n, a.BitLen())))
		end := lowBits(lo, n)
		if end.Compare(s.Hi) >= 0 {
			return ps
		}
		lo = end.Next()
	}
}

func bit(k key, n int) bool {
	if n < 64 {
		return k.Lo>>n&1 == 1
	}
	return k.Hi>>(n-64)&1 == 1
}

// lowBits returns k with the low n bits set.
func lowBits(k key, n int) key { return k.Or(span.Mask(128 - n).Not()) }

// share returns the part of all packets that is in a box.
func (c *collector) share(r *raw, b *Box) float64 {
	x := 1 / float64(len(paths)) * float64(bits.OnesCount8(uint8(r.states))) / 5
	x *= c.names[r.in].part * c.names[r.out].part
	protocols := 0
	for _, w := range b.Protocols {
		protocols += bits.OnesCount64(w)
	}
	x *= float64(protocols) / 256
	if b.ICMP != nil {
		n := 0
		for _, i := range b.ICMP {
			n += int(i.Max-i.Min) + 1
		}
		x *= float64(n) / (1 << 16)
	}
	x *= c.fraction(r, dimSrcPort) * c.fraction(r, dimDstPort)
	switch b.NAT {
	case Untranslated:
		x /= 2
	case Translated:
		x *= c.fraction(r, dimPreDstPort) * c.names[r.route].part / 2
		if !r.local || !r.other {
			x /= 2
		}
	}
	total := 0.0
	for i := range families {
		if r.families&(1<<i) == 0 {
			continue
		}
		y := c.fraction(r, dimSrc) * c.fraction(r, dimDst) / 2
		if b.NAT == Translated {
			y *= c.fraction(r, dimPreDst)
		}
		total += x * y
	}
	return total
}

func (c *collector) fraction(r *raw, d dim) float64 {
	if r.sets[d] == 0 {
		return 1
	}
	part, whole := 0.0, 0.0
	for _, s := range c.sets.list[r.sets[d]] {
		part += s.Size()
	}
	for _, s := range d.domain(families[bits.TrailingZeros8(r.families)]) {
		whole += s.Size()
	}
	return part / whole
}
