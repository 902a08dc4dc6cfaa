// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sort"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

// Backend enforces programs in one table of one network namespace. It is safe for concurrent use; calls are
// serialised. It must not be copied. Close releases its socket and leaves the table alone.
type Backend struct {
	opts Options
	log  *slog.Logger

	mu   sync.Mutex
	sock *socket
	last *applied // nil before the first success, and when nobody knows what the kernel has
	gens uint64
}

// applied is what the kernel has.
type applied struct {
	program   *ir.Program
	rules     *render.Ruleset // its Elements are those of the first Apply of this program
	structure [32]byte
	sum       render.ElementSum
	sets      map[ir.SetID]*appliedSet
	kernel    uint32 // generation of the namespace behind our transaction
	suspect   bool   // somebody changed our table
}

// appliedSet is a set of the program, of which the kernel has one for each family that rules use.
type appliedSet struct {
	source   []ir.Element // what the last Apply was given, if known: ApplyMembers may have changed the set since
	known    bool
	families []*familySet
}

type familySet struct {
	set   *render.Set
	store *store
}

var _ backends.Backend = (*Backend)(nil)

// New returns a Backend for a network namespace. It changes nothing there; the error wraps ErrUnavailable if there is no
// nftables, or no right to use it.
func New(o Options) (*Backend, error) {
	if _, err := render.Render(&ir.Program{}, ir.Members{}, o.Render); err != nil {
		return nil, err
	}
	if o.Render.Table == "" {
		o.Render.Table = render.DefaultTable
	}
	s, err := dial(o.NetNS)
	if err != nil {
		return nil, errors.Join(ErrUnavailable, err)
	}
	if _, err := s.generation(context.Background(), "probe"); err != nil {
		s.close()
		return nil, errors.Join(ErrUnavailable, err)
	}
	o.Render.Caps.ConcatRanges = true // since Linux 5.6; the package demands a later one
	b := &Backend{opts: o, sock: s, log: o.Logger}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	return b, nil
}

// Close releases what the Backend holds in this process. The table goes on to be enforced.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sock.close()
}

// Apply implements backends.Backend.
//
// A program that was applied before must be the same value and not a copy for changes of members to be cheap: then Apply
// compares members only, and those of sets whose slice of elements is the same not at all.
func (b *Backend) Apply(ctx context.Context, p *ir.Program, m ir.Members) (backends.Receipt, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return backends.Receipt{}, err
	}
	start := time.Now()
	if err := b.verify(ctx); err != nil {
		return backends.Receipt{}, err
	}
	if b.last != nil && b.last.program == p && !b.last.suspect {
		return b.commitMembers(ctx, start, b.membersChanges(m), &m)
	}
	rules, err := render.Render(p, m, b.opts.Render)
	if err != nil {
		return backends.Receipt{}, err
	}
	return b.commitRules(ctx, start, p, rules, m)
}

// ApplyMembers is Apply with the same program for what changed in its sets, in time that depends on the size of the
// change alone. Sets that no rule asks for are ignored. It fails if there was no Apply before.
func (b *Backend) ApplyMembers(ctx context.Context, cs ir.MembersChanges) (backends.Receipt, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return backends.Receipt{}, err
	}
	if b.last == nil || b.last.suspect {
		return backends.Receipt{}, ErrNotApplied
	}
	return b.commitMembers(ctx, time.Now(), cs, nil)
}

// verify looks whether somebody else has changed our table since our last transaction. It is cheap as long as nobody
// has changed any table of the namespace.
func (b *Backend) verify(ctx context.Context) error {
	if b.last == nil || b.last.suspect {
		return nil
	}
	gen, err := b.sock.generation(ctx, "apply")
	if err != nil || gen == b.last.kernel {
		return err
	}
	drift, err := b.drift(ctx, "apply", false)
	if err != nil {
		return err
	}
	if len(drift) > 0 {
		b.log.Warn("table was changed by somebody else", "table", b.opts.Render.Table, "differences", len(drift), "first", drift[0].Object)
		b.last.suspect = true
		return nil
	}
	b.last.kernel = gen
	return nil
}

// commitRules makes the kernel have rules: by what differs if it can, or by replacing the table.
func (b *Backend) commitRules(ctx context.Context, start time.Time, p *ir.Program, rules *render.Ruleset, m ir.Members) (backends.Receipt, error) {
	if b.last != nil && !b.last.suspect {
		old := b.current()
		changes := render.Diff(old, rules)
		if changes.Empty() {
			return b.applied(ctx, start, start, p, rules, m, 0), nil
		}
		if !changes.Replace {
			batch, err := b.incremental(ctx, changes, rules)
			if err == nil {
				rendered := time.Now()
				if err = b.sock.commit("apply", batch); err == nil {
					return b.applied(ctx, start, rendered, p, rules, m, batch.changes), nil
				}
			}
			if !foreign(err) {
				return backends.Receipt{}, b.failed(err)
			}
			b.log.Warn("table was changed by somebody else", "table", b.opts.Render.Table, "error", err)
		}
	}
	batch, err := b.whole(rules)
	if err != nil {
		return backends.Receipt{}, err
	}
	if err := ctx.Err(); err != nil {
		return backends.Receipt{}, err
	}
	rendered := time.Now()
	if err := b.sock.commit("apply", batch); err != nil {
		return backends.Receipt{}, b.failed(err)
	}
	return b.applied(ctx, start, rendered, p, rules, m, batch.changes), nil
}

// foreign reports whether an error of an incremental transaction means that the table is not what we left.
func foreign(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY) || errors.Is(err, errForeign)
}

// errForeign means that a chain of ours has other rules.
var errForeign = errors.New("nftables: the rules are not ours")

// failed takes note of a transaction that failed. If its answer was lost, the next Apply replaces the table.
func (b *Backend) failed(err error) error {
	if errors.Is(err, errUnknown) {
		b.last = nil
	}
	return err
}

// whole returns the transaction that replaces the table.
func (b *Backend) whole(r *render.Ruleset) (*batch, error) {
	size := 1 << 12
	for i := range r.Chains {
		size += 100 + 600*len(r.Chains[i].Rules)
	}
	for i := range r.Sets {
		size += 200 + 60*len(r.Sets[i].Elements)
	}
	t := newBatch(b.opts.Render.Table, size, b.sock.seq, 0)
	t.newTable() // so that there is one to delete
	t.delTable()
	t.newTable()
	for i := range r.Sets {
		if err := t.newSet(&r.Sets[i]); err != nil {
			return nil, err
		}
	}
	for i := range r.Chains {
		t.newChain(&r.Chains[i])
	}
	for i := range r.Chains {
		for j := range r.Chains[i].Rules {
			if err := t.newRule(r.Chains[i].Name, j, &r.Chains[i].Rules[j], 0); err != nil {
				return nil, err
			}
		}
	}
	b.finish(t)
	return t, nil
}

func (b *Backend) finish(t *batch) {
	t.finish()
	b.sock.seq = t.seq
}

// incremental returns the transaction that makes the changes.
func (b *Backend) incremental(ctx context.Context, c *render.Changes, r *render.Ruleset) (*batch, error) {
	handles := make([][]uint64, len(c.Rules))
	for i, rc := range c.Rules {
		hs, err := b.handles(ctx, rc.Old.Name)
		if err != nil {
			return nil, err
		}
		if len(hs) != len(rc.Old.Rules) {
			return nil, errForeign
		}
		handles[i] = hs
	}
	t := newBatch(b.opts.Render.Table, 1<<14, b.sock.seq, 0)
	for _, s := range c.NewSets {
		if err := t.newSet(s); err != nil {
			return nil, err
		}
	}
	for _, ch := range c.NewChains {
		t.newChain(ch)
	}
	for _, ch := range c.OldChains { // they may name one another
		t.delRules(ch.Name)
	}
	for i, rc := range c.Rules {
		for _, h := range rc.Hunks {
			for k := range h.Delete {
				t.delRule(rc.Old.Name, h.At+k, handles[i][h.At+k])
			}
			before := uint64(0)
			if n := h.At + h.Delete; n < len(handles[i]) {
				before = handles[i][n]
			}
			for k := range h.Insert {
				if err := t.newRule(rc.New.Name, h.From+k, &rc.New.Rules[h.From+k], before); err != nil {
					return nil, err
				}
			}
		}
	}
	for _, ch := range c.NewChains {
		for j := range ch.Rules {
			if err := t.newRule(ch.Name, j, &ch.Rules[j], 0); err != nil {
				return nil, err
			}
		}
	}
	for _, ch := range c.OldChains {
		t.delChain(ch.Name)
	}
	for _, e := range c.Elements {
		t.setElements(unix.NFT_MSG_DELSETELEM, e.Set, e.Removed)
		t.setElements(unix.NFT_MSG_NEWSETELEM, e.Set, e.Added)
	}
	for _, s := range c.OldSets {
		t.delSet(s)
	}
	b.finish(t)
	return t, nil
}

// handles returns the handles of the rules of a chain.
func (b *Backend) handles(ctx context.Context, chain string) ([]uint64, error) {
	var hs []uint64
	err := b.sock.dump(ctx, "apply", unix.NFT_MSG_GETRULE, familyInet, func(w *writer) {
		w.str(unix.NFTA_RULE_TABLE, b.opts.Render.Table)
		w.str(unix.NFTA_RULE_CHAIN, chain)
	}, func() { hs = hs[:0] }, func(d []byte) error {
		return attrs(d, func(typ uint16, data []byte) error {
			if typ == unix.NFTA_RULE_HANDLE {
				hs = append(hs, be64(data))
			}
			return nil
		})
	})
	return hs, err
}

// current returns the ruleset that the kernel has, with the elements it has now.
func (b *Backend) current() *render.Ruleset {
	r := *b.last.rules
	r.Sets = slices.Clone(r.Sets)
	for _, s := range b.last.sets {
		for _, f := range s.families {
			for i := range r.Sets {
				if r.Sets[i].Name == f.set.Name {
					r.Sets[i].Elements = f.store.elements()
				}
			}
		}
	}
	return &r
}

// applied takes note of a success.
func (b *Backend) applied(ctx context.Context, start, rendered time.Time, p *ir.Program, r *render.Ruleset, m ir.Members, changes int) backends.Receipt {
	committed := time.Now()
	before := b.last
	b.take(ctx, p, r, m)
	if before != nil && changes == 0 {
		b.last.kernel = before.kernel
	}
	return b.receipt(start, rendered, committed, changes)
}

// take notes p as what the kernel has.
func (b *Backend) take(ctx context.Context, p *ir.Program, r *render.Ruleset, m ir.Members) {
	a := &applied{program: p, rules: r, structure: r.StructureHash(), sets: make(map[ir.SetID]*appliedSet, len(r.Sets))}
	for i := range r.Sets {
		s := &r.Sets[i]
		if s.Values != nil {
			continue
		}
		as := a.sets[s.ID]
		if as == nil {
			as = &appliedSet{source: m.Set(s.ID), known: true}
			a.sets[s.ID] = as
		}
		as.families = append(as.families, &familySet{s, newStore(s, normal(as.source, s))})
		for _, e := range s.Elements {
			a.sum.Add(s.Name, e)
		}
	}
	a.kernel = b.generation(ctx)
	b.last = a
}

// generation returns the generation of the namespace; 0, which is never right, if it cannot be had.
func (b *Backend) generation(ctx context.Context) uint32 {
	gen, err := b.sock.generation(context.WithoutCancel(ctx), "apply")
	if err != nil {
		return 0
	}
	return gen
}

func (b *Backend) receipt(start, rendered, committed time.Time, changes int) backends.Receipt {
	b.gens++
	r := backends.Receipt{
		Generation: b.gens, Fingerprint: render.Fingerprint(b.last.structure, b.last.sum), Changes: changes,
		Rendered: rendered.Sub(start), Committed: committed.Sub(rendered),
	}
	if changes == 0 {
		r.Rendered, r.Committed = committed.Sub(start), 0
	}
	b.log.Debug("applied", "table", b.opts.Render.Table, "generation", r.Generation, "changes", r.Changes, "rendered", r.Rendered, "committed", r.Committed)
	return r
}

// membersChanges returns what differs from the members that the kernel has.
func (b *Backend) membersChanges(m ir.Members) ir.MembersChanges {
	var cs ir.MembersChanges
	for id, s := range b.last.sets {
		in := m.Set(id)
		if s.known && len(in) == len(s.source) && (len(in) == 0 || &in[0] == &s.source[0]) {
			continue
		}
		c := ir.MembersChange{ID: id}
		for _, f := range s.families {
			added, removed := f.diff(in)
			c.Added, c.Removed = append(c.Added, added...), append(c.Removed, removed...)
		}
		if len(c.Added)+len(c.Removed) > 0 {
			cs = append(cs, c)
		} else {
			s.source, s.known = in, true
		}
	}
	slices.SortFunc(cs, func(a, b ir.MembersChange) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return cs
}

// commitMembers changes elements of sets. All are the members afterwards; nil if only the backend knows them.
func (b *Backend) commitMembers(ctx context.Context, start time.Time, cs ir.MembersChanges, all *ir.Members) (backends.Receipt, error) {
	type change struct {
		f              *familySet
		added, removed []ir.Element // of the kernel
	}
	var changes []change
	var undo []func() // what takes the stores back to what the kernel has
	takeBack := func() {
		for _, f := range slices.Backward(undo) {
			f()
		}
	}
	n, otherType := 0, false
	for _, c := range cs {
		s := b.last.sets[c.ID]
		if s == nil {
			continue
		}
		for _, f := range s.families {
			in, out, added, removed := f.change(c.Added, c.Removed)
			undo = append(undo, func() { f.change(out, in) })
			if len(added)+len(removed) > 0 {
				changes = append(changes, change{f, added, removed})
				n += len(added) + len(removed)
			}
			otherType = otherType || f.set.Kind == ir.SetOfPrefixes && f.store.exact() != f.set.Exact
		}
	}
	if otherType { // the rules name other sets then
		if all == nil {
			all = b.members()
		}
		takeBack()
		rules, err := render.Render(b.last.program, *all, b.opts.Render)
		if err != nil {
			return backends.Receipt{}, err
		}
		return b.commitRules(ctx, start, b.last.program, rules, *all)
	}
	rendered := time.Now()
	if n > 0 {
		t := newBatch(b.opts.Render.Table, 1<<10+64*n, b.sock.seq, 0)
		for _, c := range changes {
			t.setElements(unix.NFT_MSG_DELSETELEM, c.f.set, c.removed)
			t.setElements(unix.NFT_MSG_NEWSETELEM, c.f.set, c.added)
		}
		b.finish(t)
		err := ctx.Err()
		if err == nil {
			err = b.sock.commit("apply", t)
		}
		if foreign(err) {
			b.log.Warn("table was changed by somebody else", "table", b.opts.Render.Table, "error", err)
			r := b.current()
			var whole *batch
			if whole, err = b.whole(r); err == nil {
				if err = b.sock.commit("apply", whole); err == nil {
					n = whole.changes
				}
			}
		}
		if err != nil {
			takeBack()
			return backends.Receipt{}, b.failed(err)
		}
	}
	committed := time.Now()
	for _, c := range changes {
		for _, e := range c.added {
			b.last.sum.Add(c.f.set.Name, e)
		}
		for _, e := range c.removed {
			b.last.sum.Remove(c.f.set.Name, e)
		}
	}
	for _, c := range cs {
		if s := b.last.sets[c.ID]; s != nil {
			s.source, s.known = nil, all != nil
			if s.known {
				s.source = all.Set(c.ID)
			}
		}
	}
	if n > 0 {
		b.last.kernel = b.generation(ctx)
	}
	return b.receipt(start, rendered, committed, n), nil
}

// members returns what the stores hold.
func (b *Backend) members() *ir.Members {
	var m ir.Members
	for id, s := range b.last.sets {
		sm := ir.SetMembers{ID: id}
		for _, f := range s.families {
			sm.Elements = append(sm.Elements, f.store.all...)
		}
		m.Sets = append(m.Sets, sm)
	}
	m = m.Canonical()
	return &m
}

// update changes the members of a set and notes in d what it means for the kernel. It returns what really came and
// went.
func (f *familySet) update(added, removed []ir.Element, d delta) (in, out []ir.Element) {
	for _, e := range removed {
		if e, ok := f.normal(e); ok && f.store.remove(e, d) {
			out = append(out, e)
		}
	}
	for _, e := range added {
		if e, ok := f.normal(e); ok && f.store.add(e, d) {
			in = append(in, e)
		}
	}
	return in, out
}

// manyMembers is how many changes cost less when all members are written anew.
const manyMembers = 64

// change changes the members of a set. It returns what really came and went, and what that means for the kernel.
func (f *familySet) change(added, removed []ir.Element) (in, out, more, less []ir.Element) {
	if len(added)+len(removed) >= manyMembers {
		return f.changeMany(added, removed)
	}
	d := delta{}
	in, out = f.update(added, removed, d)
	more, less = d.sorted()
	return in, out, more, less
}

// changeMany is change in time that depends on the number of members, but hardly on that of changes.
func (f *familySet) changeMany(added, removed []ir.Element) (in, out, more, less []ir.Element) {
	before := f.store.elements()
	gone := normal(removed, f.set)
	absent, kept := render.DiffElements(f.store.all, gone)
	_, out = render.DiffElements(gone, absent)
	in, _ = render.DiffElements(kept, normal(added, f.set))
	all := make([]ir.Element, 0, len(kept)+len(in))
	for a, b := kept, in; len(a)+len(b) > 0; {
		if len(b) == 0 || len(a) > 0 && ir.CompareElements(a[0], b[0]) < 0 {
			all, a = append(all, a[0]), a[1:]
		} else {
			all, b = append(all, b[0]), b[1:]
		}
	}
	*f.store = *newStore(f.set, all)
	more, less = render.DiffElements(before, f.store.elements())
	return in, out, more, less
}

// diff returns what the members have more and less than the store. It looks closely only where they differ.
func (f *familySet) diff(members []ir.Element) (added, removed []ir.Element) {
	// Members are sorted, IPv4 first. IPv4-mapped prefixes are not canonical, but allowed.
	six := sort.Search(len(members), func(i int) bool { return !members[i].Prefix.Addr().Is4() })
	in := members[:six]
	if f.set.Family == inet.IPv6 {
		in = members[six:]
	}
	if slices.ContainsFunc(members[six:], func(e ir.Element) bool { return e.Prefix.Addr().Is4In6() }) {
		return render.DiffElements(f.store.all, normal(members, f.set))
	}
	all := f.store.all
	for len(in) > 0 && len(all) > 0 && in[0] == all[0] {
		in, all = in[1:], all[1:]
	}
	for len(in) > 0 && len(all) > 0 && in[len(in)-1] == all[len(all)-1] {
		in, all = in[:len(in)-1], all[:len(all)-1]
	}
	return render.DiffElements(all, normal(in, f.set))
}

func (f *familySet) normal(e ir.Element) (ir.Element, bool) {
	e, ok := render.Normal(e, f.set.Kind)
	return e, ok && e.Prefix.Addr().Is4() == (f.set.Family == inet.IPv4)
}

// Teardown implements backends.Backend.
func (b *Backend) Teardown(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	t := newBatch(b.opts.Render.Table, 1<<10, b.sock.seq, 0)
	t.newTable() // so that there is one to delete
	t.delTable()
	b.finish(t)
	if err := b.sock.commit("teardown", t); err != nil {
		return err
	}
	b.last = nil
	return nil
}
