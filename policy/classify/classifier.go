// SPDX-License-Identifier: Apache-2.0

package classify

import (
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
