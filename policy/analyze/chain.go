// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"fmt"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// place is one kind of packet, told apart before any field is looked at: what stands outside of the decision diagram.
type place struct {
	path    flow.Path // never Local
	family  inet.Family
	in, out kindClass // zero where the path has no such interface
	state   flow.ConnState
	nat     NAT
	local   bool      // Translated, on path forward: the destination before NAT is the host's own
	route   kindClass // Translated, on path output
}

// kindClass is what the names of interfaces are for each side: a class of classify.Plain.
type kindClass [2]int

// rule is one line of a chain. A packet that matches goes to to; one that does not, to the next line.
type rule struct {
	sets   [numDims]int32
	absent uint8
	to     int32 // a later rule, or ^d for decision d
	origin int32 // index into side.origins plus one; 0 if the line is no rule
	pass   bool  // a rule of policy or profile whose action is Pass
}

// chain is everything that one kind of packet can meet on its way through all hooks, as one first-match list with jumps
// forward. Every packet reaches a decision.
type chain []rule

// machine is what the interpreter knows between two hooks. Ref: ir.Interpreter.
type machine struct {
	allowed   bool
	allowedBy ir.OriginID // of allowed
	passedBy  ir.OriginID // of the last Pass that explains itself
	settled   flow.HookSet
	untracked bool
	local     bool // it took the way of a packet to the host itself, instead of being forwarded
}

// builder makes the chain of one side for one place.
type builder struct {
	s      *side
	n      int // of the side
	pl     *place
	decide func(v flow.Verdict, by ir.OriginID) int32
	chain  chain
	starts []map[machine]int32 // by hook of the path: label of the hook's first line
	labels []int32             // where labels are; jumps hold labels until everything is known
	queues [][]pending         // by hook of the path
}

// pending is a hook whose lines are still to be appended, for packets of which the interpreter knows m.
type pending struct {
	m  machine
	id int32
}

// maxChain bounds the lines of a chain.
const maxChain = 1 << 19

func buildChain(s *side, n int, pl *place, decide func(flow.Verdict, ir.OriginID) int32) (chain, error) {
	hooks := len(pl.path.Hooks())
	b := &builder{s: s, n: n, pl: pl, decide: decide, starts: make([]map[machine]int32, hooks), queues: make([][]pending, hooks)}
	first := b.start(0, machine{})
	if first < 0 {
		b.chain = append(b.chain, rule{absent: 0xff, to: first})
		return b.chain, nil
	}
	// Hook by hook, so that jumps lead forward.
	for hook := range b.queues {
		for _, p := range b.queues[hook] {
			b.labels[p.id] = int32(len(b.chain))
			if err := b.hook(hook, p.m); err != nil {
				return nil, err
			}
			if len(b.chain) > maxChain {
				return nil, fmt.Errorf("%w: more than %d rules on a packet's way", classify.ErrTooLarge, maxChain)
			}
		}
	}
	for i := range b.chain {
		if r := &b.chain[i]; r.to >= 0 {
			r.to = b.labels[r.to]
		}
	}
	return b.chain, nil
}

// hooks are those of the packet's way.
func (b *builder) hooks(m machine) []flow.Hook {
	if m.local {
		return flow.Input.Hooks()
	}
	return b.pl.path.Hooks()
}

func (b *builder) label() int32 {
	b.labels = append(b.labels, 0)
	return int32(len(b.labels) - 1)
}

// start returns where packets go that come to a hook: a label, or ^d for decision d if nothing is asked any more.
func (b *builder) start(hook int, m machine) int32 {
	hooks := b.hooks(m)
	for ; hook < len(hooks); hook++ {
		e := b.s.entries[hooks[hook]]
		if e != nil && (!m.settled.Has(e.Hook) || e.HasAlways) {
			break
		}
	}
	if hook >= len(hooks) {
		switch {
		case m.allowed:
			return ^b.decide(flow.Allow, m.allowedBy)
		default:
			return ^b.decide(flow.None, m.passedBy)
		}
	}
	if b.decides(hooks[hook], m) {
		m.allowed, m.allowedBy = false, 0 // whatever it says goes
	}
	if b.starts[hook] == nil {
		b.starts[hook] = map[machine]int32{}
	}
	id, ok := b.starts[hook][m]
	if !ok {
		id = b.label()
		b.starts[hook][m] = id
		b.queues[hook] = append(b.queues[hook], pending{m, id})
	}
	return id
}

// decides reports whether a hook is sure to deny, allow or pass.
func (b *builder) decides(h flow.Hook, m machine) bool {
	e := b.s.entries[h]
	if m.settled.Has(h) {
		return false
	}
	if e.Default != ir.Undecided {
		return true
	}
	l := b.list(&e.Block, h, m)
	n := len(l)
	if n == 0 || l[n-1].Cond != 0 || l[n-1].Outcome == ir.Undecided {
		return false
	}
	for _, r := range l {
		if r.Outcome == ir.Undecided && int(r.Next) == n {
			return false
		}
	}
	return true
}

// ifaces returns the classes of the interfaces that a hook sees.
func (b *builder) ifaces(h flow.Hook, m machine) (in, out int) {
	if b.pl.path != flow.Output {
		in = b.pl.in[b.n]
	}
	switch h {
	case flow.ForwardIn, flow.ForwardOut:
		out = b.pl.out[b.n]
	case flow.UntrackedOut, flow.NormalOut:
		out = b.pl.out[b.n]
		if b.pl.nat == Translated && (h == flow.UntrackedOut || m.untracked) {
			out = b.pl.route[b.n]
		}
	}
	return in, out
}

// listIndex returns which list speaks for the packets at a hook.
func (b *builder) listIndex(d *classify.Dispatch, h flow.Hook, m machine) uint32 {
	in, out := b.ifaces(h, m)
	at := 0
	switch d.Field {
	case ir.InIface:
		at = in
	case ir.OutIface:
		at = out
	}
	state := int(b.pl.state)
	switch {
	case h.Stage() == flow.StageUntracked:
		state = classify.NoState
	case m.untracked:
		state = int(flow.Untracked)
	}
	return d.Lists[at][state]
}

func (b *builder) list(d *classify.Dispatch, h flow.Hook, m machine) []classify.PlainRule {
	return b.s.plain.Lists[b.listIndex(d, h, m)]
}

// hook appends the lines of a hook.
func (b *builder) hook(hook int, m machine) error {
	h := b.hooks(m)[hook]
	e := b.s.entries[h]
	if e.HasAlways {
		if err := b.lines(b.list(&e.Always, h, m), e, hook, m); err != nil {
			return err
		}
	}
	def := ir.Undecided
	if !m.settled.Has(h) {
		if err := b.lines(b.list(&e.Block, h, m), e, hook, m); err != nil {
			return err
		}
		def = e.Default
	}
	b.chain = append(b.chain, rule{absent: 0xff, to: b.after(e, hook, m, def, 0)})
	return nil
}

// lines appends the rules of a list.
func (b *builder) lines(l []classify.PlainRule, e *classify.Entry, hook int, m machine) error {
	targets := make([]int32, len(l)+1) // labels, where some rule leads there
	for i, r := range l {
		if targets[i] != 0 {
			b.labels[targets[i]-1] = int32(len(b.chain))
		}
		line := rule{origin: int32(r.Origin)}
		if r.Outcome == ir.Undecided {
			if targets[r.Next] == 0 {
				targets[r.Next] = b.label() + 1
			}
			line.to, line.pass = targets[r.Next]-1, !r.Log
		} else {
			line.to = b.after(e, hook, m, r.Outcome, r.Origin)
		}
		if r.Origin != 0 && r.Outcome == ir.Undecided {
			k := b.s.origins[r.Origin-1].Kind
			line.pass = line.pass && (k == flow.OriginPolicy || k == flow.OriginProfile)
		}
		as, err := b.s.alternatives(r.Cond, b.pl.family)
		if err != nil {
			return err
		}
		in, out := b.ifaces(e.Hook, m)
		for i := range as {
			a := &as[i]
			if !b.named(a.in, in) || !b.named(a.out, out) {
				continue
			}
			line.sets = [numDims]int32{dimL4: a.sets[dimL4], dimSrc: a.sets[dimSrc], dimSrcPort: a.sets[dimSrcPort]}
			line.absent = 0xff
			if a.absent&(1<<dimSrcPort) == 0 {
				line.absent &^= 1 << dimSrcPort
			}
			dst, port := dimDst, dimDstPort
			if b.pl.nat == Translated && (m.untracked || beforeNAT(e.Hook)) {
				dst, port = dimPreDst, dimPreDstPort
			}
			line.sets[dst], line.sets[port] = a.sets[dimDst], a.sets[dimDstPort]
			if a.absent&(1<<dimDstPort) == 0 {
				line.absent &^= 1 << port
			}
			b.chain = append(b.chain, line)
		}
	}
	if t := targets[len(l)]; t != 0 {
		b.labels[t-1] = int32(len(b.chain))
	}
	return nil
}

func beforeNAT(h flow.Hook) bool {
	return h == flow.UntrackedIn || h == flow.PreDNAT || h == flow.UntrackedOut
}

// named reports whether interfaces of a class fulfil all atoms.
func (b *builder) named(atoms []uint32, class int) bool {
	for _, id := range atoms {
		if !b.s.plain.Atoms[id].Names[class] {
			return false
		}
	}
	return true
}

// after returns where packets go for which a hook has the outcome.
func (b *builder) after(e *classify.Entry, hook int, m machine, o ir.Outcome, by ir.OriginID) int32 {
	switch o {
	case ir.Deny:
		return ^b.decide(flow.Deny, by)
	case ir.Allow:
		m.allowed, m.allowedBy = true, by
		m.settled |= e.Settles
		if e.NoTrack {
			m.untracked = true
			if b.pl.path == flow.Forward && b.pl.nat == Translated && b.pl.local {
				m.local = true
			}
		}
	case ir.Pass:
		m.allowed, m.allowedBy = false, 0
		if st := e.Hook.Stage(); by != 0 && (st == flow.StageNormal || st == flow.StageForward) {
			if k := b.s.origins[by-1].Kind; k == flow.OriginNoVerdict || k == flow.OriginWorkload {
				m.passedBy = by
			}
		}
	}
	return b.start(hook+1, m)
}
