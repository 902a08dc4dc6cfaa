// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"errors"
	"maps"
	"os"
	"time"

	"github.com/cilium/ebpf"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// Apply implements backends.Backend. The number of generations goes on where an earlier process stopped.
//
// A few members that differ, of the same program, change in place, as ApplyMembers does it. Otherwise the new memory is complete before the programs see it, and they see it at once. Programs that the new policy needs
// stand at their hooks before, and let everything pass that the old one did not ask about; programs that it needs no
// more go afterwards.
func (b *Backend) Apply(ctx context.Context, p *ir.Program, m ir.Members) (backends.Receipt, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return backends.Receipt{}, err
	}
	start := time.Now()
	if cs, ok := b.membersChanges(p, m); ok {
		r, err := b.changeMembers(ctx, start, cs)
		if err != nil {
			return backends.Receipt{}, err
		}
		b.last.members, b.last.known = m, true
		made, err := b.provide(b.last.artifact)
		if err != nil {
			return backends.Receipt{}, err
		}
		r.Changes += len(made) + b.tidy(b.last.artifact)
		return r, nil
	}
	return b.commit(ctx, start, p, m)
}

// commit puts a generation in force, unless it is.
func (b *Backend) commit(ctx context.Context, start time.Time, p *ir.Program, m ir.Members) (backends.Receipt, error) {
	a, err := render.Render(p, m, b.opts.Render)
	if err != nil {
		return backends.Receipt{}, err
	}
	rendered := time.Now()
	if err := ctx.Err(); err != nil {
		return backends.Receipt{}, err
	}
	if err := b.provideMaps(); err != nil {
		return backends.Receipt{}, err
	}
	n, err := b.number()
	if err != nil {
		return backends.Receipt{}, err
	}
	if b.unchanged(a) {
		made, err := b.provide(a)
		if err != nil {
			return backends.Receipt{}, errors.Join(err, b.remove(made))
		}
		// Rules may stand in other lines of their files.
		b.last.program, b.last.artifact, b.last.members, b.last.known = p, a, m, true
		b.origins.Store(b.origins.Load().with(a))
		return backends.Receipt{
			Generation: b.gens, Fingerprint: a.Fingerprint(), Changes: len(made) + b.tidy(a),
			Rendered: rendered.Sub(start), Committed: time.Since(rendered),
		}, nil
	}
	slots, lost := b.slots.assign(a.Keys)
	if lost > 0 {
		b.log.Warn("not all origins are counted", "without", lost, "counters", b.slots.limit)
	}
	mem, err := newMemory(len(a.Memory))
	if err != nil {
		return backends.Receipt{}, &Error{"apply", "memory", err}
	}
	copy(mem.bytes, a.Memory)
	a.Stamp(mem.bytes, mem.id, n+1, slots)
	live, err := a.Live(mem.bytes, m)
	var made []linkID
	if err == nil {
		made, err = b.provide(a)
	}
	if err == nil {
		if err = b.maps[render.MapGeneration].Put(uint32(0), mem.m); err != nil {
			err = &Error{"apply", "map " + render.MapGeneration, err}
		}
	}
	if err != nil {
		mem.close()
		return backends.Receipt{}, errors.Join(err, b.remove(made))
	}
	b.gens = n + 1
	if b.last != nil {
		b.last.memory.close()
	}
	b.slots.keep(a.Keys, b.maps[render.MapCounters])
	b.last = &applied{program: p, artifact: a, memory: mem, live: live, members: m, known: true}
	b.origins.Store(b.origins.Load().with(a))
	spare := b.tidy(a)
	return backends.Receipt{
		Generation: b.gens, Fingerprint: a.Fingerprint(), Changes: 1 + len(made) + spare,
		Rendered: rendered.Sub(start), Committed: time.Since(rendered),
	}, nil
}

// unchanged reports whether the kernel has just what a holds.
func (b *Backend) unchanged(a *render.Artifact) bool {
	if b.last == nil || b.last.live == nil || a.Fingerprint() != b.last.live.Fingerprint() {
		return false
	}
	in, err := b.inForce()
	if err != nil || in == nil {
		return false
	}
	defer in.close()
	return b.last.live.Equal(in.bytes)
}

// tidy takes away what a generation that is in force does not need, and sees to the devices. What stays although it
// should not does no harm: it asks the generation, which has nothing to say.
func (b *Backend) tidy(a *render.Artifact) int {
	var spare []linkID
	for id := range b.links {
		if !a.Needs(id.place) {
			spare = append(spare, id)
		}
	}
	n := len(spare) + len(b.outdated)
	err := errors.Join(b.remove(spare), b.removeOutdated(), b.removeOldMaps(), b.table(a), b.syncDevices(a), b.unboot())
	b.watch(a)
	if err != nil {
		b.log.Warn("something is left that is needed no more", "error", err)
	}
	return n
}

// provide makes the programs, links and rules that a generation needs and that are not there, and returns the new links.
func (b *Backend) provide(a *render.Artifact) (made []linkID, err error) {
	for _, p := range render.Places {
		if p.Match() && a.Needs(p) {
			if err := b.program(p); err != nil {
				return nil, err
			}
		}
	}
	// What keeps connection tracking on comes before what asks for it.
	if a.Hooks != 0 {
		if err := b.table(a); err != nil {
			return nil, err
		}
	}
	for _, id := range allLinks() {
		if !a.Needs(id.place) {
			continue
		}
		if b.links[id] != nil {
			if _, err := os.Stat(b.links[id].pin); err == nil {
				continue
			}
			// Somebody took the pin away. Until the link goes with this process, a new one stands beside it.
			b.outdated = append(b.outdated, &held{Link: b.links[id].Link})
			delete(b.links, id)
		}
		if err := b.attach(id); err != nil {
			return made, err
		}
		made = append(made, id)
	}
	return made, nil
}

// program loads the program at a place, unless it is there.
func (b *Backend) program(p render.Place) error {
	if b.programs[p] != nil {
		return nil
	}
	pin := b.programPin(p)
	if p.Match() {
		if _, err := os.Stat(pin); err == nil {
			return nil
		}
	}
	prog, err := load(p, b.code[p].ins, b.maps, ebpf.ProgramOptions{})
	if err != nil {
		return lacks("what the program "+p.String()+" needs", "6.4", err)
	}
	if p.Match() {
		if err := prog.Pin(pin); err != nil {
			prog.Close()
			return &Error{"apply", "program " + p.String(), err}
		}
	}
	b.programs[p] = prog
	return nil
}

func (b *Backend) programPin(p render.Place) string {
	return b.pin("prog", p.String()+"-"+b.code[p].version)
}

// table makes our tables of nftables what a generation needs, if they are not.
func (b *Backend) table(a *render.Artifact) error {
	want := b.wantChains(a)
	have, err := tableChains(b.ns, b.opts.Table)
	if err == nil && maps.Equal(have, want) {
		return nil
	}
	if err == nil {
		err = installTables(b.ns, b.opts.Table, want)
	}
	if err != nil {
		return &Error{"apply", "table " + b.opts.Table, err}
	}
	return nil
}
