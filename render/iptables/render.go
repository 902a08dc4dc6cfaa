// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
)

// Backend is the name of this renderer in errors.
const Backend = "iptables"

// Render returns the ruleset that enforces p with members m. It is a pure function. The error is a
// *render.UnsupportedError if iptables cannot express p; other errors say what is wrong with p, though not all that
// ir.Validate would find. The ruleset may share memory with p and m, which must not change.
func Render(p *ir.Program, m ir.Members, o Options) (*Ruleset, error) {
	return renderSized(p, m, o, defaultTreeSize)
}

func renderSized(p *ir.Program, m ir.Members, o Options, size treeSize) (*Ruleset, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if p == nil {
		return nil, fmt.Errorf("iptables: no program")
	}
	g := &program{
		p: p, o: o, marks: o.marks(), size: size,
		blocks:  make(map[ir.BlockID]*block, len(p.Blocks)),
		kinds:   make(map[ir.SetID]ir.SetKind, len(p.Sets)),
		used:    map[usedSet]*setUse{},
		consts:  map[string]*setUse{},
		constOf: map[string][]netip.Prefix{},
		spansOf: map[string][]span{},
		notes:   make([]string, len(p.Origins)),
	}
	if err := g.prepare(); err != nil {
		return nil, err
	}
	for limit := maxTreeDepth; ; limit-- {
		r, err := g.render(limit)
		if err == errTooDeep && limit > 0 {
			continue // without such deep trees it may do
		}
		if err == errTooDeep {
			err = &render.UnsupportedError{Backend: Backend, What: fmt.Sprintf("chains more than %d deep", maxDepth)}
		}
		if err != nil {
			return nil, err
		}
		if err := g.fill(r, m); err != nil {
			return nil, err
		}
		return r, nil
	}
}

// program is what does not depend on family and table.
type program struct {
	p      *ir.Program
	o      Options
	marks  Marks
	blocks map[ir.BlockID]*block
	kinds  map[ir.SetID]ir.SetKind
	plan   marking
	size   treeSize

	used      map[usedSet]*setUse
	consts    map[string]*setUse // by the text of their elements
	constSets []Set
	constOf   map[string][]netip.Prefix // what they hold, by name
	spansOf   map[string][]span
	inUse     map[string]bool // sets that a rule of the result names
	notes     []string        // comments by origin
}

// block is a block with what is known of it.
type block struct {
	*ir.Block
	outs  ir.OutcomeSet
	state blockState
	refs  int // places that call it
	size  int // steps, with those of the blocks below
}

// blockState says how far the visit of a block has got.
type blockState uint8

const (
	unvisited blockState = iota
	visiting
	visited
)

// prepare looks at the program as a whole.
func (g *program) prepare() error {
	all := make([]block, len(g.p.Blocks))
	for i := range g.p.Blocks {
		all[i].Block = &g.p.Blocks[i]
		g.blocks[g.p.Blocks[i].ID] = &all[i]
	}
	for _, s := range g.p.Sets {
		if s.Kind != ir.SetOfPrefixes && s.Kind != ir.SetOfEndpoints {
			return fmt.Errorf("iptables: set %q of unknown %s", s.ID, s.Kind)
		}
		g.kinds[s.ID] = s.Kind
	}
	for i := range all {
		if err := g.visit(&all[i]); err != nil {
			return err
		}
	}
	for i, e := range g.p.Entries {
		if i > 0 && g.p.Entries[i-1].Hook >= e.Hook {
			return fmt.Errorf("iptables: entries are not sorted")
		}
		if g.blocks[e.Block] == nil || e.Always != "" && g.blocks[e.Always] == nil {
			return fmt.Errorf("iptables: entry %s: a block does not exist", e.Hook)
		}
		if e.Default != ir.Undecided && e.Default != ir.Pass {
			return fmt.Errorf("iptables: entry %s: default %s", e.Hook, e.Default)
		}
		if e.NoTrack && e.Hook.Stage() != flow.StageUntracked {
			return fmt.Errorf("iptables: entry %s: notrack behind connection tracking", e.Hook)
		}
	}
	return g.planMarks()
}

// visit reports blocks that call themselves or that do not exist, counts, and finds out how blocks may end.
func (g *program) visit(b *block) error {
	switch b.state {
	case visiting:
		return fmt.Errorf("iptables: block %q calls itself", b.ID)
	case visited:
		return nil
	}
	b.state = visiting
	b.size = len(b.Steps)
	call := func(id ir.BlockID) error {
		to := g.blocks[id]
		if to == nil {
			return fmt.Errorf("iptables: block %q does not exist", id)
		}
		if err := g.visit(to); err != nil {
			return err
		}
		to.refs++
		b.size += to.size
		return nil
	}
	for _, s := range b.Steps {
		switch s := s.(type) {
		case ir.Call:
			if err := call(s.Block); err != nil {
				return err
			}
		case ir.Switch:
			for _, c := range s.Cases {
				if c.Then.Block != "" {
					if err := call(c.Then.Block); err != nil {
						return err
					}
				}
			}
		}
	}
	b.size = min(b.size, 1<<20)
	b.outs = ir.BlockOutcomes(b.Block, func(id ir.BlockID) ir.OutcomeSet { return g.blocks[id].outs })
	b.state = visited
	return nil
}

// render renders the tables of both families, with trees of at most the given depth.
func (g *program) render(treeDepth int) (*Ruleset, error) {
	r := &Ruleset{Prefix: g.o.Prefix, Insert: g.o.Insert, Marks: g.marks}
	g.inUse = map[string]bool{}
	for _, f := range [...]inet.Family{inet.IPv4, inet.IPv6} {
		for _, n := range [...]TableName{Raw, Mangle, Filter} {
			b := &builder{program: g, family: f, table: n, done: map[blockKey]*chain{}, seqs: map[string]*chain{}, treeDepth: treeDepth}
			hooks, err := b.hooks()
			if err != nil {
				return nil, err
			}
			t := Table{Family: f, Name: n}
			for _, h := range hooks {
				if err := b.finish(h.root, 2); err != nil { // below the kernel's chain and the one it jumps to
					return nil, err
				}
				t.Hooks = append(t.Hooks, Hook{Kernel: h.kernel, Chain: g.o.Prefix + h.kernel, Root: h.root.name})
			}
			if t.Chains, err = b.finished(); err != nil {
				return nil, err
			}
			if len(t.Hooks) > 0 {
				r.Tables = append(r.Tables, t)
			}
		}
	}
	return r, nil
}

// unsupported returns an UnsupportedError for the step at work.
func (b *builder) unsupported(format string, args ...any) error {
	return &render.UnsupportedError{Backend: Backend, Origin: b.p.Origin(b.origin), What: fmt.Sprintf(format, args...)}
}

// marking says which hooks use the mark that carries an Allow on.
type marking struct {
	sets, tests, clears flow.HookSet
	// One bit says that an Allow settled later hooks, another one that it has not been taken back since; they are the same
	// unless something can take it back before a hook that it settled.
	settled uint32
	bits    uint32 // both
}

// planMarks decides about the mark that carries an Allow. One bit cannot tell which hooks an Allow settles, so all hooks
// that set it before a hook that tests it must agree about that one.
func (g *program) planMarks() error {
	split := false
	for _, e := range g.p.Entries {
		var settles flow.HookSet
		for _, h := range flow.Hooks {
			if !e.Settles.Has(h) {
				continue
			}
			if !meetsAfter(e.Hook, h) {
				return fmt.Errorf("iptables: %s settles %s, which no packet meets behind it", e.Hook, h)
			}
			if _, ok := g.p.Entry(h); ok {
				settles |= 1 << h
			}
		}
		outs := g.blocks[e.Block].outs
		if e.Always != "" {
			outs |= g.blocks[e.Always].outs
		}
		if !outs.Has(ir.Allow) {
			continue
		}
		if settles != 0 {
			g.plan.sets |= 1 << e.Hook
			g.plan.tests |= settles
		}
		if e.Hook == flow.ForwardIn && g.o.AllowAction == AllowAccept {
			g.plan.sets |= 1 << e.Hook // whether the packet is accepted is known behind ForwardOut
		}
	}
	for _, p := range [...]flow.Path{flow.Input, flow.Output, flow.Forward} {
		first := flow.Hook(0)
		hooks := p.Hooks()
		for i, h := range hooks {
			if first == 0 && g.plan.sets.Has(h) {
				first = h
				g.plan.clears |= 1 << h
			}
			if !g.plan.tests.Has(h) {
				continue
			}
			for j, early := range hooks[:i] {
				e, ok := g.p.Entry(early)
				if !ok || !g.plan.sets.Has(early) {
					continue
				}
				if !e.Settles.Has(h) {
					return &render.UnsupportedError{Backend: Backend, What: fmt.Sprintf(
						"an Allow at %s does not settle %s, but one at another hook before it does: there is one mark bit for both", early, h)}
				}
				for _, between := range hooks[j+1 : i] {
					split = split || g.passes(between, e.Settles.Has(between))
				}
			}
			if e, ok := g.p.Entry(h); ok && e.Always != "" && h != flow.NormalIn && h != flow.NormalOut {
				split = split || g.passes(h, true)
			}
		}
	}
	g.plan.settled = g.marks.Allow
	if split {
		g.plan.settled = g.marks.Settled
	}
	g.plan.bits = g.marks.Allow | g.plan.settled
	if g.plan.sets != 0 && g.plan.settled == 0 {
		return &render.UnsupportedError{Backend: Backend, What: "no bit of the mark mask for an early Allow"}
	}
	return nil
}

// passes reports whether a hook can end in a Pass, settled or not.
func (g *program) passes(h flow.Hook, settled bool) bool {
	e, ok := g.p.Entry(h)
	if !ok {
		return false
	}
	if e.Always != "" && g.blocks[e.Always].outs.Has(ir.Pass) {
		return true
	}
	return !settled && (g.blocks[e.Block].outs.Has(ir.Pass) || e.Default == ir.Pass)
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
