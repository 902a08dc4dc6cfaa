// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"context"
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
			if len(c.Added)+len(c.Removed) == 0 {
				c.Added, c.Removed = added, removed
			} else {
				c.Added, c.Removed = append(c.Added, added...), append(c.Removed, removed...)
			}
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

// manyElements is from how many elements on another goroutine is worth starting.
const manyElements = 1 << 12

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
		rules, err := b.renderer.Render(b.last.program, *all, b.opts.Render)
		if err != nil {
			return backends.Receipt{}, err
		}
		return b.commitRules(ctx, start, b.last.program, rules, *all)
	}
	rendered := time.Now()
	sum := b.last.sum
	hash := func() {
		for _, c := range changes {
			for _, e := range c.added {
				sum.Add(c.f.set.Name, e)
			}
			for _, e := range c.removed {
				sum.Remove(c.f.set.Name, e)
			}
		}
	}
	var hashed sync.WaitGroup
	if n < manyElements {
		hash()
	} else {
		hashed.Go(hash) // while the kernel works
	}
	kernel := uint32(0)
	if n > 0 {
		t := newBatch(b.opts.Render.Table, 1<<10+64*n, b.sock.seq, 0)
		for _, c := range changes {
			t.setElements(unix.NFT_MSG_DELSETELEM, c.f.set, c.removed)
			t.setElements(unix.NFT_MSG_NEWSETELEM, c.f.set, c.added)
		}
		b.finish(t)
		err := ctx.Err()
		if err == nil {
			kernel, err = b.transact(ctx, t, b.last.kernel)
		}
		if foreign(err) {
			b.log.Warn("table was changed by somebody else", "table", b.opts.Render.Table, "error", err)
			r := b.current()
			var whole *batch
			if whole, err = b.whole(r); err == nil {
				if kernel, err = b.transact(ctx, whole, b.generation(ctx)); err == nil {
					n = whole.changes
				}
			}
		}
		hashed.Wait()
		if err != nil {
			takeBack()
			return backends.Receipt{}, b.failed(err)
		}
	}
	committed := time.Now()
	b.last.sum = sum
	for _, c := range cs {
		if s := b.last.sets[c.ID]; s != nil {
			s.source, s.known = nil, all != nil
			if s.known {
				s.source = all.Set(c.ID)
			}
		}
	}
	if n > 0 {
		b.last.kernel = kernel
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
	gone := normal(removed, f.set)
	absent, kept := ir.DiffElements(f.store.all, gone)
	out = gone
	if len(absent) > 0 {
		_, out = ir.DiffElements(gone, absent)
	}
	in, _ = ir.DiffElements(kept, normal(added, f.set))
	all := in
	if len(kept) > 0 {
		all = make([]ir.Element, 0, len(kept)+len(in))
		for a, b := kept, in; len(a)+len(b) > 0; {
			if len(b) == 0 || len(a) > 0 && ir.CompareElements(a[0], b[0]) < 0 {
				all, a = append(all, a[0]), a[1:]
			} else {
				all, b = append(all, b[0]), b[1:]
			}
		}
	}
	before, after := f.store, newStore(f.set, slices.Clone(all))
	if before.apart() && after.apart() { // the kernel has them as they are
		more, less = ir.DiffElements(out, in) // what goes and comes stays
	} else {
		more, less = ir.DiffElements(before.elements(), after.elements())
	}
	*f.store = *after
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
		return ir.DiffElements(f.store.all, normal(members, f.set))
	}
	all := f.store.all
	for len(in) > 0 && len(all) > 0 && in[0] == all[0] {
		in, all = in[1:], all[1:]
	}
	for len(in) > 0 && len(all) > 0 && in[len(in)-1] == all[len(all)-1] {
		in, all = in[:len(in)-1], all[:len(all)-1]
	}
	return ir.DiffElements(all, normal(in, f.set))
}

func (f *familySet) normal(e ir.Element) (ir.Element, bool) {
	e, ok := render.Normal(e, f.set.Kind)
	return e, ok && e.Prefix.Addr().Is4() == (f.set.Family == inet.IPv4)
}
