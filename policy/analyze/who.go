// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"cmp"
	"context"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// Query chooses packets for Who. Every zero field means any; the zero value asks for all packets that are allowed.
type Query struct {
	Path               flow.Path // Local is the same as Input
	In, Out            string    // names of interfaces; paths without the interface are left out
	State              *flow.ConnState
	Protocols          ir.Mask
	Src, Dst           inet.PrefixSet // Dst and DstPorts are behind NAT
	SrcPorts, DstPorts inet.PortSet   // what is not empty asks for packets that have ports
	Verdicts           []flow.Verdict // nil is flow.Allow alone
}

// Answer is what Who found: all packets of the query, those with the same decision together.
type Answer struct {
	Flows []Flow // largest first
	Extent
}

// Flow is a set of packets with one decision.
type Flow struct {
	Decision
	Boxes   []Box       // disjoint, largest first
	Witness flow.Packet // a packet of the first box
	Share   float64     // as in Change
}

// Who returns the packets of a query that have one of its verdicts, and what decides them. The answer is complete unless it
// is partial; Options.By means nothing. The error is that of Diff.
func Who(ctx context.Context, in Input, q Query, o Options) (*Answer, error) {
	a, err := newAnalysis(ctx, o, false, in)
	if err != nil {
		return nil, err
	}
	ps := newPlaces(a.sides, q.asks)
	c := newCollector(ps, a.sets, a.budget, o)
	ignored := int32(len(a.decisions))
	a.decisions = append(a.decisions, Decision{})
	for i := range ps.groups {
		g := &ps.groups[i]
		for _, g.family = range families {
			chains, err := a.chains(&g.place)
			if err != nil {
				return nil, err
			}
			asked := q.restrict(a.sides[0], chains[0], g.family, ignored)
			d := newDiagram(a.budget, a.sets, g.family, q.class(a.decisions, ignored), asked, chain{{absent: 0xff, to: ^ignored}})
			c.take(d, d.build(d.pair(len(asked))), g)
		}
	}
	r := &Answer{Extent: a.extent()}
	for p := range c.raws {
		f := Flow{Decision: a.decisions[p.a]}
		f.Boxes, f.Share = c.boxes(p)
		for i := range f.Boxes {
			f.Boxes[i].In, f.Boxes[i].Out = named(f.Boxes[i].In, q.In), named(f.Boxes[i].Out, q.Out)
		}
		f.Witness = f.Boxes[0].Packet()
		r.Flows = append(r.Flows, f)
	}
	slices.SortFunc(r.Flows, func(x, y Flow) int {
		return cmp.Or(cmp.Compare(y.Share, x.Share), compareDecisions(x.Decision, y.Decision))
	})
	return r, nil
}

// named returns the one name that was asked for, or what was found.
func named(n Names, asked string) Names {
	if v, ok := ir.Name(asked); ok {
		return Names{ir.Exactly(v)}
	}
	return n
}

// asks reports whether the query is about a place.
func (q *Query) asks(pl *place, ps *places, sp spot) bool {
	path := q.Path
	if path == flow.Local {
		path = flow.Input
	}
	switch {
	case path != 0 && path != pl.path,
		q.State != nil && *q.State != pl.state,
		q.In != "" && (pl.path == flow.Output || !ps.in[sp.in].names.Contains(q.In)),
		q.Out != "" && (pl.path == flow.Input || !ps.out[sp.out].names.Contains(q.Out)):
		return false
	}
	return true
}

// class tells the decisions that are asked for from the others.
func (q *Query) class(ds []Decision, ignored int32) []int32 {
	verdicts := q.Verdicts
	if verdicts == nil {
		verdicts = []flow.Verdict{flow.Allow}
	}
	out := make([]int32, len(ds))
	for i, d := range ds {
		if int32(i) != ignored && slices.Contains(verdicts, d.Verdict) {
			out[i] = 1
		}
	}
	return out
}

// restrict returns the chain behind lines that take away all packets that are not asked for.
func (q *Query) restrict(s *side, c chain, f inet.Family, ignored int32) chain {
	var out chain
	but := func(d dim, spans []span.Span) {
		rest := span.Minus(d.domain(f), span.Union(spans))
		if len(rest) > 0 {
			r := rule{absent: 0xff, to: ^ignored}
			r.sets[d] = s.setOf(rest, d, f)
			out = append(out, r)
		}
	}
	if q.Protocols != (ir.Mask{}) {
		var spans []span.Span
		for p := range 256 {
			if q.Protocols.Has(uint8(p)) {
				spans = append(spans, l4Of(inet.Protocol(p)))
			}
		}
		but(dimL4, spans)
	}
	for i, d := range [...]dim{dimSrc, dimDst} {
		set := [...]inet.PrefixSet{q.Src, q.Dst}[i]
		if set.IsEmpty() {
			continue
		}
		var spans []span.Span
		for _, r := range set.Family(f).Ranges() {
			spans = append(spans, span.Span{Lo: span.KeyOf(ir.Addr(r.From)), Hi: span.KeyOf(ir.Addr(r.To))})
		}
		but(d, spans)
	}
	for i, d := range [...]dim{dimSrcPort, dimDstPort} {
		set := [...]inet.PortSet{q.SrcPorts, q.DstPorts}[i]
		if set.IsEmpty() {
			continue
		}
		var spans []span.Span
		for _, r := range set.Ranges() {
			spans = append(spans, span.Numbers(uint32(r.Min), uint32(r.Max)))
		}
		but(d, spans)
		if len(span.Minus(allPorts, spans)) == 0 {
			// All ports, but of packets that have some.
			r := rule{absent: 0xff, to: ^ignored}
			r.sets[dimL4] = s.setOf(span.Minus(allL4, portProtocols), dimL4, f)
			out = append(out, r)
		}
	}
	n := int32(len(out))
	for _, r := range c {
		if r.to >= 0 {
			r.to += n
		}
		out = append(out, r)
	}
	return out
}
