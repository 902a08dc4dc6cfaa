// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	render "github.com/hostpolicy/hostpolicy/render/iptables"
)

// commit is one Apply.
type commit struct {
	*Backend
	ctx     context.Context
	rules   *render.Ruleset
	changes int
	commits int         // of tables
	base    uint32      // the generation of the tables that were looked at
	left    atomic.Bool // something that could not be deleted

	ahead   *ahead  // nil if it is known what the kernel has
	plans   []*plan // nil if only members change
	swaps   bool    // fill replaces sets that rules may use
	fill    script  // new sets
	early   script  // changes of members that only deny
	late    script  // changes of members that may allow
	destroy []string
}

const applyOp = "apply"

// wanted reports whether the family is in use here.
func (c *commit) wanted(f inet.Family) bool { return slices.Contains(c.families, f) }

// ahead is what the kernel has, read while rules are rendered.
type ahead struct {
	wg      sync.WaitGroup
	base    uint32 // the generation before
	sets    map[string]*savedSet
	tables  []saved // of the families of the Backend, in order
	errs    []error // of sets, and of tables
	setsEnd chan struct{}
}

// readAhead starts to read.
func (b *Backend) readAhead(ctx context.Context) *ahead {
	a := &ahead{tables: make([]saved, len(b.families)), errs: make([]error, 1+len(b.families)), setsEnd: make(chan struct{})}
	a.base, _ = b.generation() // changes from here on are noticed
	a.wg.Go(func() {
		defer close(a.setsEnd)
		a.sets, a.errs[0] = b.readSets(ctx, applyOp)
	})
	for i, f := range b.families {
		a.wg.Go(func() { a.tables[i], a.errs[1+i] = b.read(ctx, applyOp, f, false) })
	}
	return a
}

// prepare finds out what has to be done about sets.
func (c *commit) prepare(membersOnly bool) error {
	var have []render.Set
	var foreign map[string]*savedSet
	if c.ahead == nil {
		have = c.last.rules.Sets
	} else {
		<-c.ahead.setsEnd
		if err := c.ahead.errs[0]; err != nil {
			return err
		}
		foreign = c.ahead.sets
		have = c.adopt(foreign)
	}
	early, late := c.sets(have, foreign, membersOnly)
	c.early.elements(early)
	c.late.elements(late)
	return nil
}

// prepareTables finds out what has to be done about tables.
func (c *commit) prepareTables() error {
	for _, f := range c.families {
		c.plans = append(c.plans, &plan{family: f})
	}
	sure := false
	if c.ahead != nil {
		c.ahead.wg.Wait()
		c.base = c.ahead.base
		if err := errors.Join(c.ahead.errs...); err != nil {
			return err
		}
	} else {
		c.base, _ = c.generation() // changes from here on are noticed
		sure = c.undisturbed() && c.base == c.last.kernel
	}
	return c.each(func(p *plan) error {
		switch {
		case sure:
			*p = *newSurePlan(p.family, c.rules, c.last.rules)
		case c.ahead != nil:
			*p = *newPlan(p.family, c.rules, c.ahead.tables[slices.Index(c.families, p.family)])
		default:
			s, err := c.read(c.ctx, applyOp, p.family, false)
			if err != nil {
				return err
			}
			*p = *newPlan(p.family, c.rules, s)
		}
		if !p.halfway() { // the text of many rules takes its time, and sets are being filled
			p.ready = p.change()
		}
		return nil
	})
}

// undisturbed reports whether the tables are certainly as we left them.
func (b *Backend) undisturbed() bool {
	if b.last == nil || b.suspect || !b.last.counted {
		return false
	}
	gen, ok := b.generation()
	return ok && gen == b.last.kernel
}

// adopt returns the sets of the kernel as sets of a ruleset. What being in them meant is not known; that it was what it
// will mean is the best guess.
func (c *commit) adopt(sets map[string]*savedSet) []render.Set {
	var out []render.Set
	for _, name := range sortedKeys(sets) {
		x := sets[name]
		s := render.Set{Name: name, Kind: x.kind, Family: x.family, Max: x.max, Elements: x.elements}
		if want, ok := c.rules.Set(name); ok {
			s.Use = want.Use
			if !x.fits(want) {
				s.Kind = 0
			}
		}
		out = append(out, s)
	}
	return out
}

// sets finds out what has to be done to sets, and returns the changes of elements: those to make before the rules
// change, and those to make behind it.
func (c *commit) sets(have []render.Set, foreign map[string]*savedSet, membersOnly bool) (early, late []elementOp) {
	touched := 0
	for _, s := range render.DiffSets(have, c.rules.Sets) {
		switch {
		case s.New == nil:
			if foreign != nil || c.wanted(s.Old.Family) {
				c.destroy = append(c.destroy, s.Name)
			}
		case !c.wanted(s.New.Family):
		case s.Old == nil:
			c.fill.text = s.New.AppendText(c.fill.text, s.Name)
			c.fill.changes += 1 + len(s.New.Elements)
		case s.Old.Kind != s.New.Kind || s.Old.Max != s.New.Max:
			// Not what we left: a set as it should be takes its place. If the types differ, the swap fails, and so does
			// the Apply, before any table has changed.
			c.swaps = true
			tmp := s.Name + "@t"
			c.fill.text = s.New.AppendText(c.fill.text, tmp)
			c.fill.text = append(c.fill.text, "swap "+tmp+" "+s.Name+"\ndestroy "+tmp+"\n"...)
			c.fill.changes += 2 + len(s.New.Elements)
		default:
			touched++
			for _, e := range s.Added {
				early, late = place(early, late, elementOp{s.New, true, e}, s.Old.Use)
			}
			for _, e := range s.Removed {
				early, late = place(early, late, elementOp{s.New, false, e}, s.Old.Use)
			}
		}
	}
	if touched == 1 && membersOnly {
		// Nothing but one set: an address that was in it and stays in it should never be out of it.
		late = append(early, late...)
		early = nil
		slices.SortStableFunc(late, func(a, b elementOp) int { return cmp.Compare(rankOp(a), rankOp(b)) })
	}
	return early, late
}

func rankOp(o elementOp) int {
	if o.add {
		return 0
	}
	return 1
}

// place puts an operation before the change of the rules, if it can only deny more packets under the old rules, or
// behind it.
func place(early, late []elementOp, o elementOp, old render.Use) (_, _ []elementOp) {
	opens := render.Opens
	if !o.add {
		opens = render.Closes
	}
	if old&opens == 0 && old != render.Constant {
		return append(early, o), late
	}
	return early, append(late, o)
}

func (s *script) elements(ops []elementOp) {
	for _, o := range ops {
		command := "del"
		if o.add {
			command = "add"
		}
		s.text = o.set.AppendElement(s.text, command, o.set.Name, o.e)
	}
	s.ops = append(s.ops, ops...)
	s.changes += len(ops)
}

// run does everything, in an order in which every step leaves something consistent: new sets; members that close; the
// tables; members that open; and then what nothing needs any more.
func (c *commit) run(membersOnly bool) error {
	if membersOnly {
		if err := c.ipset(&c.fill); err != nil {
			return err
		}
		c.early.text = append(c.early.text, c.late.text...) // one command is faster than two
		c.early.ops = append(c.early.ops, c.late.ops...)
		c.early.changes += c.late.changes
		return c.ipset(&c.early)
	}
	if err := c.fillAndPrepare(); err != nil {
		return err
	}
	if err := c.ipset(&c.early); err != nil {
		return err
	}
	if err := c.each(c.change); err != nil {
		return err
	}
	if err := c.ipset(&c.late); err != nil {
		return err
	}
	if err := c.each(c.collect); err != nil {
		return err
	}
	return c.clean()
}

// fillAndPrepare fills new sets and prepares the tables: at the same time, if nothing uses the sets yet.
func (c *commit) fillAndPrepare() error {
	if c.swaps {
		if err := c.prepareTables(); err != nil {
			return err
		}
		return c.ipset(&c.fill)
	}
	filled := make(chan error, 1)
	go func() {
		var err error
		if len(c.fill.text) > 0 {
			err = c.tools.ipset(c.ctx, applyOp, &c.fill)
		}
		filled <- err
	}()
	err := c.prepareTables()
	c.changes += c.fill.changes
	return errors.Join(<-filled, err)
}

// clean destroys the sets that nothing needs any more. One that somebody else uses stays: it decides nothing, and the
// next Apply tries again.
func (c *commit) clean() error {
	n, err := c.destroySets(c.ctx, applyOp, c.destroy, func(name string, err error) { c.leave("set "+name, err) })
	c.changes += n
	return err
}

// leave notes that something could not be deleted.
func (c *commit) leave(what string, err error) {
	c.left.Store(true)
	c.log.Warn("cannot be deleted yet, and decides nothing", "what", what, "error", err)
}

// each runs fn for the families at the same time, and waits. Families do not depend on each other.
func (c *commit) each(fn func(*plan) error) error {
	errs := make([]error, len(c.plans))
	var wg sync.WaitGroup
	for i, p := range c.plans {
		wg.Go(func() { errs[i] = fn(p) })
	}
	wg.Wait()
	for _, p := range c.plans {
		c.changes += p.changes
		c.commits += p.commits
		p.changes, p.commits = 0, 0
		for id, x := range p.gone {
			if c.carried == nil {
				c.carried = counts{}
			}
			c.carried.addAll(counts{id: x})
		}
		p.gone = nil
	}
	return errors.Join(errs...)
}

func (c *commit) ipset(s *script) error {
	if len(s.text) == 0 {
		return nil
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	c.changes += s.changes
	if n := len(s.ops); n > 0 && n <= fewElements {
		return c.tools.elements(c.ctx, applyOp, s.ops)
	}
	return c.tools.ipset(c.ctx, applyOp, s)
}

// change changes the tables of one family.
func (c *commit) change(p *plan) error {
	if p.halfway() {
		c.log.Warn("finishing what an earlier process began", "prefix", c.rules.Prefix, "tool", toolName(p.family))
		if err := c.restore(p, p.finish()); err != nil {
			return err
		}
		s, err := c.read(c.ctx, applyOp, p.family, false)
		if err != nil {
			return err
		}
		changes, commits := p.changes, p.commits
		*p = *newPlan(p.family, c.rules, s)
		p.changes, p.commits = changes, commits
	}
	if p.ready == nil {
		p.ready = p.change()
	}
	return c.restore(p, p.ready)
}

func (c *commit) restore(p *plan, scripts []script) error {
	for i := range scripts {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		p.changes += scripts[i].changes
		p.commits += scripts[i].commits
		if err := c.tools.restore(c.ctx, applyOp, p.family, &scripts[i]); err != nil {
			return err
		}
	}
	return nil
}

// rulesPerChain is how many rules iptables-save prints in the time that it takes to start another iptables: whether
// chains are asked for their counters one by one or all together is a matter of time only.
const rulesPerChain = 200

// rulesIn returns the number of rules of a family.
func rulesIn(r *render.Ruleset, f inet.Family) int {
	n := 0
	for _, tableName := range tableOrder {
		if t, ok := r.Table(f, tableName); ok {
			for i := range t.Chains {
				n += len(t.Chains[i].Rules)
			}
		}
	}
	return n
}

// collect deletes the chains that nothing leads to any more, and keeps what they counted.
func (c *commit) collect(p *plan) error {
	if p.leaves() == 0 {
		return nil
	}
	gone := counts{}
	known := c.origins()
	if c.tools.variant == NFT && p.leaves()*rulesPerChain < rulesIn(c.rules, p.family) {
		for _, n := range tableOrder {
			for _, name := range p.stale[n] {
				out, err := c.tools.list(c.ctx, applyOp, p.family, n, name)
				if err != nil {
					return err
				}
				rules, err := parseListed(out)
				if err != nil {
					return err
				}
				gone.add(rules, known)
			}
		}
	} else {
		s, err := c.read(c.ctx, applyOp, p.family, true)
		if err != nil {
			return err
		}
		for _, n := range tableOrder {
			for _, name := range p.stale[n] {
				gone.add(s.table(n).chains[name], known)
			}
		}
	}
	err := c.restore(p, p.garbage(false))
	if err == nil {
		p.gone = gone
	}
	if err == nil || c.ctx.Err() != nil {
		return err
	}
	for i, s := range p.garbage(true) { // somebody else leads to one of them
		err := c.restore(p, []script{s})
		switch {
		case c.ctx.Err() != nil:
			return err
		case err != nil:
			c.leave(toolName(p.family)+" chains", err)
		case i == 0: // they count no more
			p.gone = gone
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
