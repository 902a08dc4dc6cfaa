// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	render "github.com/hostpolicy/hostpolicy/render/iptables"
)

// origins returns the origins of what was applied last, by key.
func (b *Backend) origins() map[flow.RuleKey]flow.Origin {
	if b.last == nil {
		return nil
	}
	return originsOf(b.last.program)
}

// Counters implements backends.Backend. Packets that a deleted rule counted go on to be counted for its origin, as long
// as this Backend lives.
func (b *Backend) Counters(ctx context.Context) ([]backends.Counter, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	known := b.origins()
	c := counts{}
	c.addAll(b.carried)
	for _, f := range b.families {
		s, err := b.read(ctx, "counters", f, true)
		if err != nil {
			return nil, err
		}
		for _, n := range tableOrder {
			for _, rules := range s.table(n).chains {
				c.add(rules, known)
			}
		}
	}
	return c.sorted(), nil
}

// Observe implements backends.Backend.
func (b *Backend) Observe(ctx context.Context) (backends.State, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return backends.State{}, err
	}
	return b.observe(ctx)
}

// observe is Observe without the lock.
func (b *Backend) observe(ctx context.Context) (backends.State, error) {
	const op = "observe"
	if err := b.noticeIPv6(); err != nil {
		return backends.State{}, err
	}
	want := &render.Ruleset{Prefix: b.opts.Render.Prefix}
	st := backends.State{Generation: b.gens}
	if b.last != nil {
		want = b.last.rules
		st.Fingerprint = want.Fingerprint()
	}
	o := observation{want: want, known: b.origins()}
	for _, f := range b.families {
		s, err := b.read(ctx, op, f, false)
		if err != nil {
			return backends.State{}, err
		}
		o.family(f, s)
	}
	sets, err := b.readSets(ctx, op)
	if err != nil {
		return backends.State{}, err
	}
	o.sets(sets, b.families)
	st.Present, st.Drift = o.present, o.drift
	slices.SortStableFunc(st.Drift, func(a, b backends.Drift) int {
		return cmp.Or(cmp.Compare(a.Object, b.Object), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Got, b.Got))
	})
	if len(st.Drift) > 0 {
		b.suspect = true // the next Apply looks closely
	}
	return st, nil
}

// observation compares what should be there with what is.
type observation struct {
	want    *render.Ruleset
	known   map[flow.RuleKey]flow.Origin
	present bool
	drift   []backends.Drift
}

func (o *observation) add(kind backends.DriftKind, object, want, got string) {
	d := backends.Drift{Kind: kind, Object: object, Want: want, Got: got}
	if x, ok := originOf(cmp.Or(want, got), o.known); ok {
		d.Origin = x.String()
	}
	o.drift = append(o.drift, d)
}

func (o *observation) family(f inet.Family, s saved) {
	for _, n := range tableOrder {
		t := s.table(n)
		where := toolName(f) + " " + n.String() + " "
		o.present = o.present || len(t.chains) > 0
		w, ok := o.want.Table(f, n)
		if !ok {
			w = &render.Table{}
		}
		left := make(map[string][]savedRule, len(t.chains))
		for name, rules := range t.chains {
			left[name] = rules
		}
		for i := range w.Hooks {
			h := &w.Hooks[i]
			o.chain(where, h.Chain, left, []string{"-g " + h.Root})
			o.jump(where, h, t.kernel[h.Kernel])
		}
		for i := range w.Chains {
			c := &w.Chains[i]
			rules, ok := left[c.Name]
			want := bodies(c)
			if ok && equalRules(rules, want) {
				delete(left, c.Name)
				continue
			}
			lines := make([]string, len(want))
			for j := range want {
				lines[j] = string(want[j])
			}
			o.chain(where, c.Name, left, lines)
		}
		for _, name := range sortedKeys(left) {
			o.add(backends.DriftUnknown, where+"chain "+name, "", "")
		}
		for _, k := range kernelChains[n] {
			for _, r := range t.kernel[k] {
				if isJump(r, o.want.Prefix+k) {
					o.present = true
					if !slices.ContainsFunc(w.Hooks, func(h render.Hook) bool { return h.Kernel == k }) {
						o.add(backends.DriftUnknown, where+"jump "+k, "", r)
					}
				}
			}
		}
	}
}

// chain compares a chain line by line, and takes it out of left.
func (o *observation) chain(where, name string, left map[string][]savedRule, want []string) {
	got, ok := left[name]
	delete(left, name)
	if !ok {
		o.add(backends.DriftMissing, where+"chain "+name, "", "")
		return
	}
	for i := range max(len(want), len(got)) {
		object := fmt.Sprintf("%srule %s[%d]", where, name, i)
		switch {
		case i >= len(got):
			o.add(backends.DriftMissing, object, want[i], "")
		case i >= len(want):
			o.add(backends.DriftUnknown, object, "", got[i].text)
		case !got[i].same(want[i]):
			o.add(backends.DriftChanged, object, want[i], got[i].text)
		}
	}
}

// jump looks whether the kernel's chain jumps to ours once, and at the right place.
func (o *observation) jump(where string, h *render.Hook, rules []string) {
	b := &scriptBuilder{p: &plan{rules: o.want}}
	body := string(h.AppendJumpBody(nil))
	n := 0
	for i, r := range rules {
		if !isJump(r, h.Chain) {
			continue
		}
		n++
		switch {
		case n > 1:
			o.add(backends.DriftUnknown, where+"jump "+h.Kernel, "", r)
		case r != body:
			o.add(backends.DriftChanged, where+"jump "+h.Kernel, body, r)
		case !b.wellPlaced(rules, i):
			o.add(backends.DriftChanged, where+"jump "+h.Kernel, body, fmt.Sprintf("rule %d of %d", i+1, len(rules)))
		}
	}
	if n == 0 {
		o.add(backends.DriftMissing, where+"jump "+h.Kernel, body, "")
	}
}

func (o *observation) sets(have map[string]*savedSet, families []inet.Family) {
	o.present = o.present || len(have) > 0
	for i := range o.want.Sets {
		w := &o.want.Sets[i]
		if !slices.Contains(families, w.Family) {
			continue
		}
		object := "set " + w.Name
		x, ok := have[w.Name]
		delete(have, w.Name)
		if !ok {
			o.add(backends.DriftMissing, object, "", "")
			continue
		}
		if x.kind != w.Kind || x.family != w.Family || x.max != w.Max {
			o.add(backends.DriftChanged, object, strings.TrimSuffix(string(w.AppendCreate(nil, w.Name)), "\n"), "a set of another type")
			continue
		}
		for _, e := range x.odd {
			o.add(backends.DriftUnknown, object, "", e)
		}
		for _, d := range render.DiffSets([]render.Set{{Name: w.Name, Kind: w.Kind, Max: w.Max, Elements: x.elements}}, []render.Set{*w}) {
			for _, e := range d.Added {
				o.add(backends.DriftMissing, object, string(w.AppendMember(nil, e)), "")
			}
			for _, e := range d.Removed {
				o.add(backends.DriftUnknown, object, "", string(w.AppendMember(nil, e)))
			}
		}
	}
	for _, name := range sortedKeys(have) {
		o.add(backends.DriftUnknown, "set "+name, "", "")
	}
}
