// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Classifier runs Tables on packets. It is immutable and safe for concurrent use. The zero value denies every packet.
type Classifier struct {
	tables   *Tables
	origins  []flow.Origin
	matchers []matcher
	paths    [flow.Local + 1]path
}

// path is what a packet meets on its way.
type path struct {
	known   bool
	entries []*Entry
}

// New prepares a program for the questions of Verdict. The error is that of Build. The classifier keeps the origins of
// p, which must not change.
func New(p *ir.Program, m ir.Members) (*Classifier, error) {
	t, err := Build(p, m)
	if err != nil {
		return nil, err
	}
	c := &Classifier{tables: t, origins: p.Origins, matchers: make([]matcher, len(t.Matchers))}
	for i := range t.Matchers {
		c.matchers[i].init(&t.Matchers[i])
	}
	for _, way := range [...]flow.Path{flow.Input, flow.Output, flow.Forward, flow.Local} {
		c.paths[way].known = true
		for _, h := range way.Hooks() {
			for i := range t.Entries {
				if t.Entries[i].Hook == h {
					c.paths[way].entries = append(c.paths[way].entries, &t.Entries[i])
				}
			}
		}
	}
	return c, nil
}

// Tables returns the tables that c runs. They must not be changed.
func (c *Classifier) Tables() *Tables { return c.tables }

// Result is what became of a packet.
type Result struct {
	Verdict flow.Verdict
	By      flow.Origin
	Logged  []flow.Origin // the rules that logged the packet, in order
}

// Verdict returns what the host does with the packet, and what decided it. A packet without a known path or with
// invalid addresses is denied by the zero Origin. Verdict does not allocate.
func (c *Classifier) Verdict(p *flow.Packet) (flow.Verdict, flow.Origin) {
	return c.run(p, nil)
}

// Explain is Verdict with the rules that logged the packet.
func (c *Classifier) Explain(p *flow.Packet) Result {
	var r Result
	r.Verdict, r.By = c.run(p, &r.Logged)
	return r
}

// run leads the packet through the hooks of its path. What it does is what ir.Interpreter does.
func (c *Classifier) run(p *flow.Packet, logged *[]flow.Origin) (flow.Verdict, flow.Origin) {
	if int(p.Path) >= len(c.paths) || !c.paths[p.Path].known || !p.Src.IsValid() || !p.Dst.IsValid() {
		return flow.Deny, flow.Origin{}
	}
	var v view
	v.init(p)
	entries := c.paths[p.Path].entries
	allowed, allowedBy, passedBy := false, ir.OriginID(0), ir.OriginID(0)
	var settled flow.HookSet
	for i := 0; i < len(entries); i++ {
		e := entries[i]
		if settled.Has(e.Hook) && !e.HasAlways {
			continue
		}
		v.see(p, e.Hook)
		outcome, by := ir.Undecided, ir.OriginID(0)
		if e.HasAlways {
			outcome, by = c.ask(&e.Always, &v, logged)
		}
		if outcome == ir.Undecided && !settled.Has(e.Hook) {
			if outcome, by = c.ask(&e.Block, &v, logged); outcome == ir.Undecided {
				outcome, by = e.Default, 0
			}
		}
		switch outcome {
		case ir.Deny:
			return flow.Deny, c.origin(by)
		case ir.Allow:
			allowed, allowedBy = true, by
			settled |= e.Settles
			if e.NoTrack {
				v.untracked = true
				if p.Path == flow.Forward && p.NATDst.IsValid() && p.DstLocal {
					entries = c.paths[flow.Input].entries // no NAT: it goes to the address written on it; both begin alike
				}
			}
		case ir.Pass:
			allowed = false
			if st := e.Hook.Stage(); by != 0 && (st == flow.StageNormal || st == flow.StageForward) {
				if k := c.origins[by-1].Kind; k == flow.OriginNoVerdict || k == flow.OriginWorkload {
					passedBy = by
				}
			}
		}
	}
	switch {
	case allowed:
		return flow.Allow, c.origin(allowedBy)
	case passedBy != 0:
		return flow.None, c.origin(passedBy)
	}
	return flow.None, flow.Origin{Kind: flow.OriginNoEndpoint}
}

func (c *Classifier) origin(id ir.OriginID) flow.Origin {
	if id == 0 {
		return flow.Origin{}
	}
	return c.origins[id-1]
}

// ask returns what a block says.
func (c *Classifier) ask(d *Dispatch, v *view, logged *[]flow.Origin) (ir.Outcome, ir.OriginID) {
	at := uint32(0)
	switch d.Field {
	case ir.InIface:
		at = v.inClass(&c.tables.names)
	case ir.OutIface:
		at = v.outClass(&c.tables.names)
	}
	l := &c.tables.Lists[d.Lists[at][v.state]]
	if l.Decided {
		a := &l.Actions[0]
		if a.Log && logged != nil {
			*logged = append(*logged, c.origin(a.Origin))
		}
		return a.Outcome, a.Origin
	}
	if len(l.Actions) == 0 {
		return ir.Undecided, 0
	}
	m := &c.matchers[l.Matcher]
	var classes [numAxes]uint32
	m.classify(v, &c.tables.names, &classes)
	for start := uint32(0); int(start) < len(l.Actions); {
		i, ok := m.first(&classes, start)
		if !ok {
			break
		}
		a := &l.Actions[i]
		if a.Log && logged != nil {
			*logged = append(*logged, c.origin(a.Origin))
		}
		if a.Outcome != ir.Undecided {
			return a.Outcome, a.Origin
		}
		start = a.Next
	}
	return ir.Undecided, 0
}

// view is a packet as one hook sees it.
type view struct {
	src, dst     key
	sport, dport uint16
	typeCode     uint16
	protocol     uint8
	family       uint8 // 0 is IPv4, 1 is IPv6
	state        uint8 // below States
	icmp, ports  bool
	untracked    bool   // an earlier hook took the packet out of connection tracking
	in, out      string // "" if there is none
	inKnown      bool
	outKnown     bool
	inC, outC    uint32 // their classes, once known
}

func addrKey(a netip.Addr) key {
	b := a.As16()
	return key{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// init takes what all hooks see alike.
func (v *view) init(p *flow.Packet) {
	v.src = addrKey(p.Src)
	v.protocol = uint8(p.Protocol)
	v.sport = p.SrcPort
	v.ports = hasPorts(p.Protocol)
	icmp := inet.ICMP
	if v.src.hi != 0 || v.src.lo>>32 != mapped {
		v.family, icmp = 1, inet.ICMPv6
	}
	if p.Protocol == icmp {
		v.icmp, v.typeCode = true, uint16(p.ICMPType)<<8|uint16(p.ICMPCode)
	}
	if p.Path != flow.Output {
		v.in = p.In
	}
}

// see takes what hook h sees of the packet. Ref: felix/rules/static.go, for what stands before and behind NAT.
func (v *view) see(p *flow.Packet, h flow.Hook) {
	dst, dport, out := p.Dst, p.DstPort, p.Out
	switch h {
	case flow.UntrackedIn, flow.PreDNAT:
	case flow.UntrackedOut:
		if p.NATDst.IsValid() && p.RouteOut != "" {
			out = p.RouteOut
		}
	default:
		switch {
		case v.untracked:
			if p.Path == flow.Output && p.NATDst.IsValid() && p.RouteOut != "" {
				out = p.RouteOut
			}
		case p.NATDst.IsValid():
			dst, dport = p.NATDst.Addr(), p.NATDst.Port()
		}
	}
	switch h {
	case flow.ForwardIn, flow.ForwardOut, flow.UntrackedOut, flow.NormalOut:
	default:
		out = "" // not routed yet, or not at all
	}
	v.dst, v.dport = addrKey(dst), dport
	if v.out != out {
		v.out, v.outKnown = out, false
	}
	switch {
	case h.Stage() == flow.StageUntracked:
		v.state = uint8(NoState)
	case v.untracked:
		v.state = uint8(flow.Untracked)
	default:
		v.state = min(uint8(p.State), uint8(NoState))
	}
}

func (v *view) inClass(n *nameClasses) uint32 {
	if !v.inKnown {
		v.inC, v.inKnown = n.classOf(v.in), true
	}
	return v.inC
}

func (v *view) outClass(n *nameClasses) uint32 {
	if !v.outKnown {
		v.outC, v.outKnown = n.classOf(v.out), true
	}
	return v.outC
}

// matcher is a Matcher with lookup structures.
type matcher struct {
	words, sumWords, rowPages int
	dims                      []dim
}

type dim struct {
	axis   Axis
	absent uint32
	l4     *l4Lookup
	addr   *addrLookup
	port   *runs16
	point  *pointLookup
	class  []uint32 // by class of the interface
	sums   []uint64
	pages  []uint32
	pool   []uint64
}

func (m *matcher) init(t *Matcher) {
	m.words = max(1, (t.Rules+63)/64)
	m.dims = make([]dim, len(t.Dims))
	for i := range t.Dims {
		td := &t.Dims[i]
		d := &m.dims[i]
		*d = dim{axis: td.Axis, absent: td.Absent, class: td.ByInterface, sums: td.Rows.sums, pages: td.Rows.pages, pool: td.Rows.pool}
		m.sumWords, m.rowPages = td.Rows.sumWords, td.Rows.rowPages
		cuts := make([]cut, len(td.Cuts))
		for j, c := range td.Cuts {
			cuts[j] = cut{keyOf(c.From), c.Class}
		}
		switch td.Axis {
		case L4:
			d.l4 = newL4Lookup(cuts)
		case SrcAddr, DstAddr:
			d.addr = newAddrLookup(cuts)
		case SrcPort, DstPort:
			d.port = newNumberRuns(cuts, 0)
		case SrcEndpoint, DstEndpoint:
			d.point = newPointLookup(td)
		}
	}
}

// classify looks the packet up in all dimensions.
func (m *matcher) classify(v *view, names *nameClasses, classes *[numAxes]uint32) {
	for i := range m.dims {
		d := &m.dims[i]
		c := d.absent
		switch d.axis {
		case L4:
			c = d.l4.get(v)
		case SrcAddr:
			c = d.addr.get(v.src)
		case DstAddr:
			c = d.addr.get(v.dst)
		case SrcPort:
			if v.ports {
				c = d.port.get(v.sport)
			}
		case DstPort:
			if v.ports {
				c = d.port.get(v.dport)
			}
		case InIface:
			c = d.class[v.inClass(names)]
		case OutIface:
			c = d.class[v.outClass(names)]
		case SrcEndpoint:
			if v.ports {
				c = d.point.get(v.src, uint32(v.protocol)<<16|uint32(v.sport))
			}
		case DstEndpoint:
			if v.ports {
				c = d.point.get(v.dst, uint32(v.protocol)<<16|uint32(v.dport))
			}
		}
		classes[i] = c
	}
}

// first returns the first rule at or behind start that the packet matches.
func (m *matcher) first(classes *[numAxes]uint32, start uint32) (uint32, bool) {
	if m.rowPages == 0 {
		x := ^uint64(0) << start
		for i := range m.dims {
			x &= m.dims[i].sums[classes[i]]
		}
		return uint32(bits.TrailingZeros64(x)), x != 0
	}
	word := int(start >> 6)
	for s := word >> 6; s < m.sumWords; s++ {
		sum := ^uint64(0)
		for i := range m.dims {
			sum &= m.dims[i].sums[int(classes[i])*m.sumWords+s]
		}
		if s == word>>6 {
			sum &= ^uint64(0) << (word & 63)
		}
		for sum != 0 {
			w := s<<6 | bits.TrailingZeros64(sum)
			page := w / pageWords
			shift := page * pageWords & 63
			if of := sum >> shift & 0xff; of&(of-1) == 0 {
				// The usual case where rules are selective.
				x := ^uint64(0)
				for i := range m.dims {
					d := &m.dims[i]
					x &= d.pool[int(d.pages[int(classes[i])*m.rowPages+page])+w%pageWords]
				}
				if w == word {
					x &= ^uint64(0) << (start & 63)
				}
				if x != 0 {
					return uint32(w<<6 | bits.TrailingZeros64(x)), true
				}
			} else if i, ok := m.inPage(classes, page, start); ok {
				return i, true
			}
			sum &^= 0xff << shift
		}
	}
	return 0, false
}

// inPage is first in one page. Words that look promising in the summary of a dimension that does not tell much are many
// and mostly empty; all words of a page cost little more than one or two.
func (m *matcher) inPage(classes *[numAxes]uint32, page int, start uint32) (uint32, bool) {
	var x [pageWords]uint64
	for i := range m.dims {
		d := &m.dims[i]
		y := (*[pageWords]uint64)(d.pool[d.pages[int(classes[i])*m.rowPages+page]:])
		if i == 0 {
			x = *y
			continue
		}
		x[0] &= y[0]
		x[1] &= y[1]
		x[2] &= y[2]
		x[3] &= y[3]
		x[4] &= y[4]
		x[5] &= y[5]
		x[6] &= y[6]
		x[7] &= y[7]
	}
	w := 0
	if word := int(start >> 6); word/pageWords == page {
		w = word % pageWords
		x[w] &= ^uint64(0) << (start & 63)
	}
	for ; w < pageWords; w++ {
		if x[w] != 0 {
			return uint32((page*pageWords+w)<<6 | bits.TrailingZeros64(x[w])), true
		}
	}
	return 0, false
}
