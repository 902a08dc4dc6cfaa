// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"maps"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Incremental is Compile for a policy.Resolver: Apply takes its Changes in, at a cost that grows with the changes. Its
// state depends on that of the Resolver alone: Program and Members return what Compile returns for the Snapshot.
//
// Blocks of endpoints, tiers and hooks exist as names and references; their steps are made when somebody asks for them.
// NewIncremental makes an Incremental, which is for one goroutine at a time. What it hands out is immutable.
type Incremental struct {
	rs *policy.Resolver
	c  compiler // without program

	entries   [maxHook + 1]ir.Entry
	failsafes [maxHook + 1]ir.BlockID // "" where there are none

	policies  map[*policy.Policy]*rules // those that some tier of some endpoint asks
	profiles  map[*policy.Profile]*rules
	tiers     map[string]*tier
	endpoints map[string]*endpoint
	wildcard  *endpoint
	taking    [maxHook + 1]int // how many endpoints take part at each hook, without the wildcard
	present   flow.HookSet     // the hooks that have entries
	blocks    map[ir.BlockID]*block
	sets      map[string]int // the sets that blocks name, and how many do
	ambiguous map[ir.BlockID]bool
	replaced  []*rules // what settleRules has to look at

	// Since the last Apply that returned a Delta.
	touched     map[ir.BlockID]*touch
	touchedSets map[string]bool // and whether the set was there
	wasPresent  flow.HookSet
	members     map[string]*memberDelta
	scratch     []byte
	numbers     uint32

	program *ir.Program // nil if it is out of date
	filled  *ir.Members
}

const maxHook = flow.NormalOut

// touch is what a block was before.
type touch struct {
	existed bool
	unit    *unit          // of a rule block
	calls   *endpointCalls // of an endpoint block
	changed bool           // what it calls is not what it was
	moved   bool           // where its origins stand may have changed
}

// block is a block of the program. It has several sources if several objects ask for the same.
type block struct {
	hook    flow.Hook
	source  blockSource
	sources []blockSource // more than one, or nil
}

// blockSource makes the steps of blocks.
type blockSource interface {
	steps(c *compiler, h flow.Hook) []ir.Step
}

// Delta says how a program and its members differ from an earlier one. The zero value is no difference. Everything is
// sorted. Incremental.Fragment has the contents of blocks.
type Delta struct {
	Entries        []ir.Entry // new ones; an entry that stays does not change
	RemovedEntries []flow.Hook
	Blocks         []ir.BlockID // new, or with other steps
	RemovedBlocks  []ir.BlockID
	Moved          []ir.BlockID // with the same steps, whose origins stand elsewhere
	Sets           []ir.SetDecl // new ones; a set that stays does not change its kind
	RemovedSets    []ir.SetID   // with all their members
	Members        ir.MembersChanges
}

// Empty reports whether d says nothing.
func (d *Delta) Empty() bool {
	return len(d.Entries)+len(d.RemovedEntries)+len(d.Blocks)+len(d.RemovedBlocks)+len(d.Moved)+len(d.Sets)+len(d.RemovedSets)+len(d.Members) == 0
}

// NewIncremental returns an Incremental for a Resolver that was not committed yet. It reads the Resolver whenever it is
// called, but does not change it. The error is that of Compile.
func NewIncremental(rs *policy.Resolver) (*Incremental, error) {
	x := &Incremental{
		rs: rs, c: compiler{config: rs.Config(), declared: rs.Declared},
		policies: map[*policy.Policy]*rules{}, profiles: map[*policy.Profile]*rules{}, tiers: map[string]*tier{},
		endpoints: map[string]*endpoint{}, blocks: map[ir.BlockID]*block{}, sets: map[string]int{}, ambiguous: map[ir.BlockID]bool{},
		touched: map[ir.BlockID]*touch{}, touchedSets: map[string]bool{}, members: map[string]*memberDelta{},
	}
	x.c.workloads = x.c.workloadNames()
	c := x.c
	c.prog = &ir.Program{}
	for _, h := range flow.Hooks {
		x.entries[h] = c.entry(h)
		if len(c.failsafeSteps(h)) > 0 {
			x.failsafes[h] = failsafeID(h)
		}
	}
	if err := c.errs.Err(); err != nil {
		return nil, err
	}
	return x, nil
}

// Apply takes in what the Resolver's Commit returned, which must be every time exactly once and in order, and returns
// what became of the program.
//
// An error is that of Compile: two policies have one name as far as programs know names, and different rules. The
// changes are taken in nevertheless, and the next Delta says what changed since the last one.
func (x *Incremental) Apply(ch policy.Changes) (Delta, error) {
	x.program, x.filled = nil, nil
	for _, p := range ch.Policies {
		x.replacePolicy(p.Old, p.New)
	}
	for _, p := range ch.Profiles {
		x.replaceProfile(p.Old, p.New)
	}
	for i := range ch.Endpoints {
		x.replaceEndpoint(&ch.Endpoints[i])
	}
	x.settleRules()
	for _, h := range flow.Hooks {
		x.settleHook(h)
	}
	for i := range ch.Sets {
		x.changeMembers(&ch.Sets[i])
	}
	if err := x.conflicts(); err != nil {
		return Delta{}, err
	}
	return x.delta(), nil
}

// conflicts reports blocks that two objects ask for with different contents.
func (x *Incremental) conflicts() error {
	var errs field.List
	for _, id := range slices.Sorted(maps.Keys(x.ambiguous)) {
		b := x.blocks[id]
		if b == nil || len(b.sources) < 2 {
			delete(x.ambiguous, id)
			continue
		}
		for _, s := range b.sources[1:] {
			if !b.sources[0].(*rules).unit(b.hook).equal(s.(*rules).unit(b.hook)) {
				errs = append(errs, &field.Error{Object: "Snapshot", Path: string(id), Reason: "two different objects have this name", Err: field.ErrInvalid})
				break
			}
		}
	}
	errs = append(errs, x.c.errs...)
	return errs.Err()
}

// delta returns what changed, and begins anew.
func (x *Incremental) delta() Delta {
	var d Delta
	for _, h := range flow.Hooks {
		switch was, is := x.wasPresent.Has(h), x.present.Has(h); {
		case is && !was:
			d.Entries = append(d.Entries, x.entries[h])
		case was && !is:
			d.RemovedEntries = append(d.RemovedEntries, h)
		}
	}
	x.wasPresent = x.present
	for id, t := range x.touched {
		b := x.blocks[id]
		switch {
		case b == nil:
			if t.existed {
				d.RemovedBlocks = append(d.RemovedBlocks, id)
			}
		case !t.existed || b.differs(t):
			d.Blocks = append(d.Blocks, id)
		case b.moved(t):
			d.Moved = append(d.Moved, id)
		}
	}
	slices.Sort(d.Blocks)
	slices.Sort(d.RemovedBlocks)
	slices.Sort(d.Moved)
	if len(x.touched) > 1000 {
		x.touched = map[ir.BlockID]*touch{} // a map never shrinks
	} else {
		clear(x.touched)
	}
	x.setDelta(&d)
	return d
}

// differs reports whether a block that was there before has other steps now.
func (b *block) differs(t *touch) bool {
	switch s := b.source.(type) {
	case *rules:
		return t.unit != nil && !s.unit(b.hook).equal(t.unit)
	case *endpoint:
		return t.calls != nil && !s.calls[b.hook].equal(t.calls)
	}
	return t.changed
}

// moved reports whether the origins of a block with the same steps stand elsewhere.
func (b *block) moved(t *touch) bool {
	if s, ok := b.source.(*rules); ok && t.unit != nil {
		return !slices.Equal(s.unit(b.hook).origins, t.unit.origins)
	}
	return t.moved
}

// touchBlock notes that a block may change. It must be called before it does.
func (x *Incremental) touchBlock(id ir.BlockID) *touch {
	t := x.touched[id]
	if t == nil {
		t = &touch{}
		if b := x.blocks[id]; b != nil {
			t.existed = true
			switch s := b.source.(type) {
			case *rules:
				t.unit = s.units[b.hook]
			case *endpoint:
				t.calls = s.calls[b.hook]
			}
		}
		x.touched[id] = t
	}
	return t
}

// addBlock adds a block, or one more source to it.
func (x *Incremental) addBlock(id ir.BlockID, s blockSource, h flow.Hook) {
	x.touchBlock(id)
	b := x.blocks[id]
	if b == nil {
		x.blocks[id] = &block{hook: h, source: s}
		return
	}
	if b.sources == nil {
		b.sources = []blockSource{b.source}
	}
	b.sources = append(b.sources, s)
	if _, ok := s.(*rules); ok {
		x.ambiguous[id] = true
	}
}

// dropBlock takes a source of a block away, and the block with the last one.
func (x *Incremental) dropBlock(id ir.BlockID, s blockSource) {
	x.touchBlock(id)
	b := x.blocks[id]
	if b.sources == nil {
		delete(x.blocks, id)
		return
	}
	b.sources = slices.DeleteFunc(b.sources, func(o blockSource) bool { return o == s })
	b.source = b.sources[0]
	if len(b.sources) == 1 {
		b.sources = nil
	}
}

// settleHook sees to what all endpoints of a hook share.
func (x *Incremental) settleHook(h flow.Hook) {
	some := x.taking[h] > 0 || x.wildcard != nil && x.wildcard.takes[h]
	entry := some || h.Stage() == flow.StageNormal && len(x.c.workloads) > 0
	has := func(id ir.BlockID) bool { return x.blocks[id] != nil }
	want := func(id ir.BlockID, s blockSource, want bool) {
		switch {
		case want && !has(id):
			x.addBlock(id, s, h)
		case !want && has(id):
			x.dropBlock(id, s)
		}
	}
	e := &x.entries[h]
	want(e.Block, dispatch{x}, entry)
	if e.Always != "" {
		want(e.Always, workload{}, entry)
	}
	if id := x.failsafes[h]; id != "" {
		want(id, failsafes{}, some)
	}
	if entry {
		x.present |= flow.HooksOf(h)
	} else {
		x.present &^= flow.HooksOf(h)
	}
}

// dispatch, workload and failsafes are the sources of the blocks that all endpoints share.
type (
	dispatch  struct{ x *Incremental }
	workload  struct{}
	failsafes struct{}
)

func (d dispatch) steps(c *compiler, h flow.Hook) []ir.Step {
	var cases []dispatchCase
	for _, ep := range d.x.endpoints {
		if ep.wildcard || !ep.takes[h] {
			continue
		}
		for _, name := range ep.interfaces {
			if v, ok := ir.Name(name); ok {
				cases = append(cases, dispatchCase{v, endpointID(ep.name, h)})
			}
		}
	}
	slices.SortFunc(cases, func(a, b dispatchCase) int { return a.name.Compare(b.name) })
	var other ir.BlockID
	if w := d.x.wildcard; w != nil && w.takes[h] {
		other = endpointID(w.name, h)
	}
	return c.dispatchSteps(h, cases, other)
}

func (workload) steps(c *compiler, _ flow.Hook) []ir.Step { return []ir.Step{c.workload(ir.InIface)} }

func (failsafes) steps(c *compiler, h flow.Hook) []ir.Step { return c.failsafeSteps(h) }

// Program returns the present program, as Compile does for the present Snapshot. It is made anew after changes, at a
// cost that grows with the program. After an error of Apply it is nil.
func (x *Incremental) Program() (*ir.Program, error) {
	if err := x.conflicts(); err != nil {
		return nil, err
	}
	if x.program == nil {
		p := x.Fragment(slices.Collect(maps.Keys(x.blocks))...)
		for _, h := range flow.Hooks {
			if x.present.Has(h) {
				p.Entries = append(p.Entries, x.entries[h])
			}
		}
		for _, id := range slices.Sorted(maps.Keys(x.sets)) {
			p.Sets = append(p.Sets, setDecl(x.rs.Set(id)))
		}
		x.program = p
	}
	return x.program, nil
}

// Fragment returns a canonical program that holds nothing but the blocks of the given IDs, with the origins that they
// name. Those that do not exist are left out.
func (x *Incremental) Fragment(ids ...ir.BlockID) *ir.Program {
	c := x.c
	c.prog = &ir.Program{Blocks: make([]ir.Block, 0, len(ids))}
	ids = slices.Clone(ids)
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		if b := x.blocks[id]; b != nil {
			c.prog.Blocks = append(c.prog.Blocks, ir.Block{ID: id, Steps: b.source.steps(&c, b.hook)})
		}
	}
	return ir.Canonical(c.prog)
}

// Members returns the members of the sets that the present program names, as Compile does.
func (x *Incremental) Members() ir.Members {
	if x.filled == nil {
		var m ir.Members
		for _, id := range slices.Sorted(maps.Keys(x.sets)) {
			m.Sets = append(m.Sets, ir.SetMembers{ID: ir.SetID(id), Elements: elements(x.rs.Set(id).Members)})
		}
		m = m.Canonical()
		x.filled = &m
	}
	return *x.filled
}

// elements turns members into elements, sorted.
func elements(ms []policy.Member) []ir.Element {
	out := make([]ir.Element, 0, len(ms))
	for _, m := range ms {
		if p, ok := ir.PlainPrefix(m.Prefix); ok {
			out = append(out, ir.Element{Prefix: p, Protocol: m.Protocol, Port: m.Port})
		}
	}
	if !slices.IsSortedFunc(out, ir.CompareElements) {
		slices.SortFunc(out, ir.CompareElements)
	}
	return out
}

// memberDelta adds up the changes of one set.
type memberDelta struct {
	first, last map[ir.Element]bool // whether an element came or went, at first and at last
}

// changeMembers takes in how a set changed.
func (x *Incremental) changeMembers(ch *policy.SetChange) {
	if ch.New || ch.Gone {
		return // blocks say so, too: they name it, or not
	}
	d := x.members[ch.ID]
	if d == nil {
		d = &memberDelta{map[ir.Element]bool{}, map[ir.Element]bool{}}
		x.members[ch.ID] = d
	}
	note := func(ms []policy.Member, came bool) {
		for _, e := range elements(ms) {
			if _, ok := d.first[e]; !ok {
				d.first[e] = came
			}
			d.last[e] = came
		}
	}
	note(ch.Removed, false)
	note(ch.Added, true)
}

// setDelta adds to d what became of sets.
func (x *Incremental) setDelta(d *Delta) {
	for id, was := range x.touchedSets {
		switch is := x.sets[id] > 0; {
		case is && !was:
			s := x.rs.Set(id)
			d.Sets = append(d.Sets, setDecl(s))
			if len(s.Members) > 0 {
				d.Members = append(d.Members, ir.MembersChange{ID: ir.SetID(id), Added: elements(s.Members)})
			}
			delete(x.members, id)
		case was && !is:
			d.RemovedSets = append(d.RemovedSets, ir.SetID(id))
		}
	}
	for id, m := range x.members {
		if x.sets[id] == 0 {
			continue
		}
		c := ir.MembersChange{ID: ir.SetID(id)}
		for e, first := range m.first {
			switch last := m.last[e]; {
			case first && last:
				c.Added = append(c.Added, e)
			case !first && !last:
				c.Removed = append(c.Removed, e)
			}
		}
		if len(c.Added)+len(c.Removed) > 0 {
			slices.SortFunc(c.Added, ir.CompareElements)
			slices.SortFunc(c.Removed, ir.CompareElements)
			d.Members = append(d.Members, c)
		}
	}
	clear(x.touchedSets)
	clear(x.members)
	slices.SortFunc(d.Sets, func(a, b ir.SetDecl) int { return cmp.Compare(a.ID, b.ID) })
	slices.Sort(d.RemovedSets)
	slices.SortFunc(d.Members, func(a, b ir.MembersChange) int { return cmp.Compare(a.ID, b.ID) })
}

// useSets counts the sets that a rule block names.
func (x *Incremental) useSets(u *unit, n int) {
	if u == nil {
		return
	}
	for _, id := range u.sets {
		if _, ok := x.touchedSets[id]; !ok {
			x.touchedSets[id] = x.sets[id] > 0
		}
		if x.sets[id] += n; x.sets[id] == 0 {
			delete(x.sets, id)
		}
	}
}
