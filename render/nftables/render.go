// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
	"github.com/hostpolicy/hostpolicy/render/pass"
)

// Backend is the name of this renderer in errors.
const Backend = "nftables"

// Render returns the ruleset that enforces p with members m. It is a pure function. The error is a
// *render.UnsupportedError if nftables cannot express p; other errors say what is wrong with p, though not all that
// ir.Validate would find. The ruleset may share memory with p and m, which must not change.
func Render(p *ir.Program, m ir.Members, o Options) (*Ruleset, error) {
	return (&Renderer{once: true}).Render(p, m, o)
}

// Renderer renders programs one after the other, and remembers of the last what the next may have, too (pass.Memory). The
// zero value is ready; a Renderer is for one goroutine at a time.
type Renderer struct {
	memory pass.Memory
	text   []byte // room for the text of a chain
	once   bool   // nothing is rendered afterwards that this is compared with, most likely
}

// Render is the function Render.
func (r *Renderer) Render(p *ir.Program, m ir.Members, o Options) (*Ruleset, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, fmt.Errorf("nftables: no program")
	}
	if !o.Linear {
		p, _ = r.memory.Lower(p, o.Lowering)
	}
	b := &builder{
		p: p, m: m, o: o,
		blocks:        make(map[ir.BlockID]*ir.Block, len(p.Blocks)),
		kinds:         make(map[ir.SetID]ir.SetKind, len(p.Sets)),
		names:         make(map[string]bool, len(p.Blocks)),
		done:          make(map[blockKey]string, len(p.Blocks)),
		by:            map[byKey]string{},
		used:          map[usedSet]int{},
		protocolTests: map[ir.Mask]Expr{},
		notes:         make([]string, len(p.Origins)),
	}
	for i := range p.Blocks {
		b.blocks[p.Blocks[i].ID] = &p.Blocks[i]
	}
	for _, s := range p.Sets {
		if s.Kind != ir.SetOfPrefixes && s.Kind != ir.SetOfEndpoints {
			return nil, fmt.Errorf("nftables: set %q of unknown %s", s.ID, s.Kind)
		}
		b.kinds[s.ID] = s.Kind
	}
	if err := b.acyclic(); err != nil {
		return nil, err
	}
	b.outcomes = ir.Outcomes(p)
	if err := b.entries(); err != nil {
		return nil, err
	}
	b.settleSets()
	slices.SortFunc(b.sets, func(a, c Set) int { return strings.Compare(a.Name, c.Name) })
	out := &Ruleset{Table: o.Table, Sets: b.sets, Chains: make([]Chain, len(b.chains))}
	slices.SortFunc(b.chains, func(a, c *chain) int {
		return cmp.Or(cmp.Compare(a.rank(), c.rank()), cmp.Compare(a.Name, c.Name))
	})
	for i, c := range b.chains {
		if !r.once {
			r.text = c.appendText(r.text[:0])
			c.digest = sha256.Sum256(r.text)
		}
		out.Chains[i] = c.Chain
	}
	return out, checkDepth(out)
}

// The base chains. Ref: linux/netfilter_ipv4.h, enum nf_ip_hook_priorities: connection tracking is at -200,
// destination NAT at -100 both before routing and for packets generated here.
var baseChains = [...]struct {
	hook flow.Hook
	name string
	base Base
}{
	{flow.UntrackedIn, "untracked-in", Base{Prerouting, -300}},
	{flow.PreDNAT, "prednat", Base{Prerouting, -150}},
	{flow.NormalIn, "normal-in", Base{Input, 0}},
	{flow.ForwardIn, "forward-in", Base{Forward, 0}},
	{flow.ForwardOut, "forward-out", Base{Forward, 1}},
	{flow.UntrackedOut, "untracked-out", Base{Output, -300}},
	{flow.NormalOut, "normal-out", Base{Output, 0}},
	// At the hook above, the interface of a packet whose destination was translated is the one of the route before.
	{flow.NormalOut, translatedChain, Base{Postrouting, -150}},
}

const (
	translatedChain = "normal-out-dnat"
	rejectChain     = "by/reject"
	conntrackChain  = "conntrack"
)

// builder renders one program.
type builder struct {
	p        *ir.Program
	m        ir.Members
	o        Options
	blocks   map[ir.BlockID]*ir.Block
	outcomes map[ir.BlockID]ir.OutcomeSet
	calls    map[ir.BlockID]int // how often the program calls each block; see callsOf
	kinds    map[ir.SetID]ir.SetKind

	chains []*chain
	names  map[string]bool // of chains
	done   map[blockKey]string
	by     map[byKey]string // chains that hold what a case of a verdict map does besides its verdict

	sets []Set
	used map[usedSet]int // index of sets

	marking marking
	rules   int // emitted

	origin        ir.OriginID // of the step at work, for errors
	notes         []string    // comments by origin
	text          []byte      // of the comment at work
	protocolTests map[ir.Mask]Expr
	arena         []Expr
	tailBuf       []Expr
	testBuf       []Expr // of the alternatives in altBuf
	altBuf        []alternative
	variantBuf    []variant
}

// chain is a Chain under construction.
type chain struct {
	Chain
	order   int // of base chains, from 1
	helpers int // chains that were split off
}

func (c *chain) rank() int {
	if c.order == 0 {
		return len(baseChains) + 1
	}
	return c.order
}

// unsupported returns an UnsupportedError for the step at work.
func (b *builder) unsupported(format string, args ...any) error {
	return &render.UnsupportedError{Backend: Backend, Origin: b.p.Origin(b.origin), What: fmt.Sprintf(format, args...)}
}

// entries renders all hooks.
func (b *builder) entries() error {
	if err := b.planMark(); err != nil {
		return err
	}
	for i, e := range b.p.Entries {
		if i > 0 && b.p.Entries[i-1].Hook >= e.Hook {
			return fmt.Errorf("nftables: entries are not sorted")
		}
		if e.Settles != 0 && b.blocks[e.Block] == nil {
			return fmt.Errorf("nftables: block %q does not exist", e.Block)
		}
		known := false
		var shared *final
		for n, base := range baseChains {
			if base.hook != e.Hook {
				continue
			}
			known = true
			b.names[base.name] = true
			fin := b.final(e, base.base.Hook, base.name)
			if shared != nil && b.o.DenyAction == render.Drop {
				fin = shared // the two chains of the hook can lead to the same chains
			}
			shared = fin
			c := &chain{Chain: Chain{Name: base.name, Base: base.base}, order: n + 1}
			b.chains = append(b.chains, c)
			if err := b.entry(c, e, fin); err != nil {
				return err
			}
		}
		if !known {
			return fmt.Errorf("nftables: unknown %s", e.Hook)
		}
	}
	if len(b.p.Entries) > 0 {
		// The kernel tracks connections, and puts fragments together before any chain sees them, as long as a rule
		// somewhere asks for the state. A fragment has no ports, and an early Allow would be of no use without NAT.
		c := b.newChain(conntrackChain)
		c.Comment = "keeps connection tracking on"
		b.emitRule(c, nil, "", InStates{ctBit[flow.New]})
	}
	return nil
}

// entry renders one base chain.
func (b *builder) entry(c *chain, e ir.Entry, fin *final) error {
	if b.marking.clear.Has(e.Hook) && c.Base.Hook != Postrouting {
		b.emitRule(c, nil, "no early allow yet", SetMark{b.o.Mark, false})
	}
	switch {
	case c.Name == translatedChain:
		body := b.newChain(b.freeName(translatedChain+".policy", ""))
		b.emitRule(c, nil, "", IsGenerated{}, IsTranslated{}, Verdict{Goto, body.Name})
		c = body
	case e.Hook == flow.NormalOut:
		b.emitRule(c, nil, "decided behind routing, by the final interface", IsTranslated{}, Verdict{Op: Accept})
	}
	if b.blocks[e.Block] == nil {
		return fmt.Errorf("nftables: block %q does not exist", e.Block)
	}
	if e.Default != ir.Undecided && e.Default != ir.Pass { // both let the packet go on, as the end of a base chain does
		return fmt.Errorf("nftables: default %s at %s", e.Default, e.Hook)
	}
	cv := conv{fin: fin}
	cv.on[ir.Undecided] = back
	todo := []frame{{steps: b.blocks[e.Block].Steps}}
	if b.marking.tests.Has(e.Hook) {
		todo = append(todo, frame{settled: true})
	}
	if e.Always != "" {
		always := b.blocks[e.Always]
		if always == nil {
			return fmt.Errorf("nftables: block %q does not exist", e.Always)
		}
		todo = append(todo, frame{steps: always.Steps})
	}
	if !b.marking.tests.Has(e.Hook) {
		todo = dispatchFirst(todo)
	}
	_, err := b.emit(c, todo, cv)
	return err
}

// dispatchFirst takes the Switch that finds the endpoint of an interface in front of a rule that stands before it, if no
// packet can match both: the packets of endpoints then skip the rule.
func dispatchFirst(todo []frame) []frame {
	var before []ir.Step
	block := todo[0].steps
	for _, f := range todo[1:] {
		before = append(before, f.steps...)
	}
	before = append(before, block...)
	if len(before) < 2 {
		return todo
	}
	rule, isRule := before[0].(ir.Rule)
	sw, isSwitch := before[1].(ir.Switch)
	if !isRule || !isSwitch || len(sw.Key) != 1 || len(rule.Match) != 1 || len(rule.Match[0]) != 1 {
		return todo
	}
	names, ok := rule.Match[0][0].(ir.InNames)
	if !ok || names.Not || names.Field != sw.Key[0] {
		return todo
	}
	for _, k := range sw.Cases {
		name, exact := k.Key[0].Lo.Name()
		if !exact || k.Key[0].Lo != k.Key[0].Hi {
			return todo
		}
		for _, n := range names.Names {
			if name == n.Name || n.Prefix && strings.HasPrefix(name, n.Name) {
				return todo
			}
		}
	}
	return []frame{{steps: append([]ir.Step{sw, rule}, before[2:]...)}}
}

// marking says which hooks use the mark that carries an early Allow.
type marking struct {
	sets, tests, clear flow.HookSet
}

// planMark decides about the mark. One bit cannot tell which hooks an Allow settles, so all hooks that set it before a
// hook that tests it must agree about that one.
func (b *builder) planMark() error {
	for _, e := range b.p.Entries {
		var settles flow.HookSet
		for _, h := range flow.Hooks {
			if !e.Settles.Has(h) {
				continue
			}
			if !meetsAfter(e.Hook, h) {
				return fmt.Errorf("nftables: %s settles %s, which no packet meets behind it", e.Hook, h)
			}
			if _, ok := b.p.Entry(h); ok {
				settles |= 1 << h
			}
		}
		outs := b.outcomes[e.Block]
		if e.Always != "" {
			outs |= b.outcomes[e.Always]
		}
		if settles != 0 && outs.Has(ir.Allow) {
			b.marking.sets |= 1 << e.Hook
			b.marking.tests |= settles
		}
	}
	for _, p := range [...]flow.Path{flow.Input, flow.Output, flow.Forward} {
		var first flow.Hook
		for i, h := range p.Hooks() {
			if first == 0 && b.marking.sets.Has(h) {
				first = h
				b.marking.clear |= 1 << h
			}
			if !b.marking.tests.Has(h) {
				continue
			}
			for _, early := range p.Hooks()[:i] {
				if e, ok := b.p.Entry(early); ok && b.marking.sets.Has(early) && !e.Settles.Has(h) {
					return b.unsupported("an Allow at %s does not settle %s, but one at another hook before it does: there is one mark bit for both", early, h)
				}
			}
		}
	}
	return nil
}

// meetsAfter reports whether packets meet h after first.
func meetsAfter(first, h flow.Hook) bool {
	for _, p := range [...]flow.Path{flow.Input, flow.Output, flow.Forward} {
		hooks := p.Hooks()
		if i := slices.Index(hooks, first); i >= 0 && slices.Contains(hooks[i+1:], h) {
			return true
		}
	}
	return false
}

// acyclic reports blocks that call themselves or that do not exist.
func (b *builder) acyclic() error {
	state := make(map[ir.BlockID]int8, len(b.blocks)) // 1 while visited, 2 afterwards
	var visit func(id ir.BlockID) error
	visit = func(id ir.BlockID) error {
		switch state[id] {
		case 1:
			return fmt.Errorf("nftables: block %q calls itself", id)
		case 2:
			return nil
		}
		state[id] = 1
		blk := b.blocks[id]
		if blk == nil {
			return fmt.Errorf("nftables: block %q does not exist", id)
		}
		for _, s := range blk.Steps {
			switch s := s.(type) {
			case ir.Call:
				if err := visit(s.Block); err != nil {
					return err
				}
			case ir.Switch:
				for _, c := range s.Cases {
					if c.Then.Block == "" {
						continue
					}
					if err := visit(c.Then.Block); err != nil {
						return err
					}
				}
			}
		}
		state[id] = 2
		return nil
	}
	for i := range b.p.Blocks {
		if err := visit(b.p.Blocks[i].ID); err != nil {
			return err
		}
	}
	return nil
}
