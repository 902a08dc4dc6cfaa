// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"errors"
	"time"

	"github.com/cilium/ebpf"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// fewMembers is how many changes cost less in place than with a new generation.
const fewMembers = 256

// ApplyMembers implements backends.MembersApplier, in time that depends on the size of the change alone: it writes what
// differs beside what there is, and then one number, so that each packet meets all of the change or nothing of it. Changes
// for which there is no room are a new generation, as Apply makes it.
func (b *Backend) ApplyMembers(ctx context.Context, cs ir.MembersChanges) (backends.Receipt, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return backends.Receipt{}, err
	}
	if b.last == nil || b.last.live == nil || !b.ours() {
		return backends.Receipt{}, ErrNotApplied
	}
	r, err := b.changeMembers(ctx, time.Now(), cs)
	if err == nil {
		b.last.members, b.last.known = ir.Members{}, false
	}
	return r, err
}

// ours reports whether the generation in force is the last one of this process, unless somebody wrote into it where it
// is rarely looked at: Observe sees to that.
func (b *Backend) ours() bool {
	var id uint32
	return b.maps[render.MapGeneration].Lookup(uint32(0), &id) == nil && id == b.last.memory.id && b.last.live.InForce(b.last.memory.bytes)
}

// changeMembers changes members in place, or puts a generation in force that has them.
func (b *Backend) changeMembers(ctx context.Context, start time.Time, cs ir.MembersChanges) (backends.Receipt, error) {
	live := b.last.live
	b.makeRoom()
	d, err := live.Change(cs, b.gens+1)
	if errors.Is(err, render.ErrNotInPlace) {
		b.last.live = nil // until there is another one
		return b.commit(ctx, start, b.last.program, live.Members())
	}
	if err != nil {
		return backends.Receipt{}, err
	}
	rendered := time.Now()
	if d.Changed > 0 {
		b.last.memory.change(d)
		b.gens++
	}
	return backends.Receipt{
		Generation: b.gens, Fingerprint: live.Fingerprint(), Changes: d.Changed,
		Rendered: rendered.Sub(start), Committed: time.Since(rendered),
	}, nil
}

// makeRoom gives room back that only packets can have a use for that are under way since before.
func (b *Backend) makeRoom() {
	const (
		soon = 0.6 // of the room is left: time to wait for the packets, beside other work
		now  = 0.2
	)
	x := b.last
	left := x.live.Left()
	if x.gone == nil && left < soon {
		x.live.SetAside()
		x.gone = make(chan bool, 1)
		go func() { x.gone <- quiesce() }()
	}
	if x.gone == nil {
		return
	}
	var gone bool
	if left < now {
		gone = <-x.gone
	} else {
		select {
		case gone = <-x.gone:
		default:
			return
		}
	}
	if x.gone = nil; gone {
		x.live.Reclaim()
	}
}

// quiesce returns when all BPF programs that run when it is called have ended, or false.
func quiesce() bool {
	inner := &ebpf.MapSpec{Name: "hp_quiesce", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	m, err := ebpf.NewMap(inner)
	if err != nil {
		return false
	}
	defer m.Close()
	outer, err := ebpf.NewMap(&ebpf.MapSpec{Name: "hp_quiesce", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner})
	if err != nil {
		return false
	}
	defer outer.Close()
	// The kernel does not return from a change of a map of maps before. Ref: kernel/bpf/syscall.c, maybe_wait_bpf_programs.
	return outer.Put(uint32(0), m) == nil
}

// membersChanges returns what differs from the members in the kernel, if the program is the same and that is worth
// changing in place.
func (b *Backend) membersChanges(p *ir.Program, m ir.Members) (ir.MembersChanges, bool) {
	if b.last == nil || b.last.live == nil || b.last.program != p || !b.last.known || !b.ours() || !b.last.live.Equal(b.last.memory.bytes) {
		return nil, false
	}
	was := b.last.members
	if len(was.Sets) != len(m.Sets) {
		return nil, false
	}
	var x, y ir.Members
	for i := range m.Sets {
		s, t := was.Sets[i], m.Sets[i]
		if s.ID != t.ID {
			return nil, false
		}
		if len(s.Elements) != len(t.Elements) || len(s.Elements) > 0 && &s.Elements[0] != &t.Elements[0] {
			x.Sets, y.Sets = append(x.Sets, s), append(y.Sets, t)
		}
	}
	cs := ir.DiffMembers(x, y)
	n := 0
	for _, c := range cs {
		n += len(c.Added) + len(c.Removed)
	}
	return cs, n > 0 && n <= fewMembers
}
