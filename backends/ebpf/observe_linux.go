// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// Observe implements backends.Backend.
func (b *Backend) Observe(ctx context.Context) (backends.State, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return backends.State{}, err
	}
	return b.observe()
}

func (b *Backend) observe() (backends.State, error) {
	s := backends.State{Present: len(b.links) > 0}
	in, err := b.inForce()
	if err != nil {
		return backends.State{}, err
	}
	if in != nil {
		defer in.close()
		s.Present = true
	}
	if b.last == nil {
		return s, nil
	}
	s.Generation = b.gens
	add := func(kind backends.DriftKind, object string) {
		s.Drift = append(s.Drift, backends.Drift{Kind: kind, Object: object})
	}
	if b.last.live != nil {
		s.Fingerprint = b.last.live.Fingerprint()
	}
	switch {
	case in == nil:
		add(backends.DriftMissing, "generation")
	case b.last.live == nil || !b.last.live.Equal(in.bytes):
		add(backends.DriftChanged, "generation")
	}
	if err := b.observePlaces(b.last.artifact, add); err != nil {
		return backends.State{}, err
	}
	slices.SortFunc(s.Drift, func(x, y backends.Drift) int { return strings.Compare(x.Object, y.Object) })
	return s, nil
}

// observePlaces looks for the links, pins and rules that an artifact needs.
func (b *Backend) observePlaces(a *render.Artifact, add func(backends.DriftKind, string)) error {
	for _, id := range allLinks() {
		l := b.links[id]
		switch {
		case l == nil:
			if a.Needs(id.place) {
				add(backends.DriftMissing, "link "+id.String())
			}
			continue
		case !a.Needs(id.place):
			add(backends.DriftUnknown, "link "+id.String())
			continue
		}
		if _, err := l.Info(); err != nil {
			add(backends.DriftMissing, "link "+id.String())
		}
		if _, err := os.Stat(l.pin); err != nil {
			add(backends.DriftMissing, "pin of link "+id.String())
		}
	}
	for index, l := range b.devices {
		if !l.standsAt(index) {
			add(backends.DriftMissing, "link device_"+strconv.Itoa(index))
		}
	}
	for _, l := range b.outdated {
		add(backends.DriftUnknown, l.pin)
	}
	have, err := tableChains(b.ns, b.opts.Table)
	if err != nil {
		return &Error{"observe", "table " + b.opts.Table, err}
	}
	want := b.wantChains(a)
	if a.Hooks == 0 && len(have) == 0 {
		return nil
	}
	for n, pin := range want {
		switch got, ok := have[n]; {
		case !ok:
			add(backends.DriftMissing, "chain "+n)
		case got != pin:
			add(backends.DriftChanged, "chain "+n)
		}
	}
	for n := range have {
		if _, ok := want[n]; !ok {
			add(backends.DriftUnknown, "chain "+n)
		}
	}
	return nil
}

// Adopt takes p with the members m for what an earlier process applied under the same Options, and changes nothing in
// the kernel. The State says how far that is true.
func (b *Backend) Adopt(ctx context.Context, p *ir.Program, m ir.Members) (backends.State, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return backends.State{}, err
	}
	a, err := render.Render(p, m, b.opts.Render)
	if err != nil {
		return backends.State{}, err
	}
	in, err := b.inForce()
	if err != nil {
		return backends.State{}, err
	}
	if b.last != nil {
		b.last.memory.close()
		b.last = nil
	}
	s := backends.State{Fingerprint: a.Fingerprint()}
	if in == nil {
		s.Drift = []backends.Drift{{Kind: backends.DriftMissing, Object: "generation"}}
		s.Present = len(b.links) > 0
		return s, nil
	}
	s.Present = true
	changes, err := a.Compare(in.bytes)
	if err != nil {
		in.close()
		s.Drift = []backends.Drift{{Kind: backends.DriftChanged, Object: "generation", Got: err.Error()}}
		return s, nil
	}
	for _, c := range changes {
		kind := backends.DriftChanged
		switch {
		case c.Old == "":
			kind = backends.DriftUnknown
		case c.New == "":
			kind = backends.DriftMissing
		}
		s.Drift = append(s.Drift, backends.Drift{Kind: kind, Object: c.Name, Want: c.Old, Got: c.New})
	}
	if err := b.observePlaces(a, func(kind backends.DriftKind, object string) {
		s.Drift = append(s.Drift, backends.Drift{Kind: kind, Object: object})
	}); err != nil {
		in.close()
		return backends.State{}, err
	}
	slices.SortFunc(s.Drift, func(x, y backends.Drift) int { return strings.Compare(x.Object, y.Object) })
	if len(s.Drift) > 0 {
		in.close()
		b.log.Warn("the kernel does not have what was to be adopted", "differences", len(s.Drift))
		return s, nil
	}
	live, err := a.Live(in.bytes, m)
	if err != nil {
		in.close()
		return backends.State{}, &Error{"adopt", "the generation in force", err}
	}
	b.last = &applied{program: p, artifact: a, memory: in, live: live, members: m, known: true}
	b.origins.Store(b.origins.Load().with(a))
	s.Generation = b.gens
	return s, nil
}

// Counters implements backends.Backend. Origins that were never met have a counter of 0. Without an Apply or Adopt of this
// Backend nobody knows what the numbers in the kernel stand for, and there are none.
func (b *Backend) Counters(ctx context.Context) ([]backends.Counter, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	if b.last == nil {
		return nil, nil
	}
	var out []backends.Counter
	m := b.maps[render.MapCounters]
	for i, o := range b.last.artifact.Origins {
		slot, ok := b.slots.of[b.last.artifact.Keys[i]]
		if !ok {
			continue
		}
		var each []counter
		if err := m.Lookup(slot, &each); err != nil {
			return nil, &Error{"counters", fmt.Sprintf("map %s slot %d", render.MapCounters, slot), err}
		}
		c := backends.Counter{Origin: o}
		for _, e := range each {
			c.Packets += e.Packets
			c.Bytes += e.Bytes
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(x, y backends.Counter) int { return strings.Compare(x.Origin.String(), y.Origin.String()) })
	return out, nil
}
