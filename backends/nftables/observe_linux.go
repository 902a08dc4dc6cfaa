// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

// What should be in the kernel is read from the messages that we would send, and what is there from its answers, both by
// the same code. So nothing that a rule can hold escapes the comparison, whether we would ever write it or not.

// Observe implements backends.Backend. It reads everything, elements of sets included.
func (b *Backend) Observe(ctx context.Context) (backends.State, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var st backends.State
	got, err := b.read(ctx, "observe", true)
	if err != nil {
		return st, err
	}
	st.Present = got != nil
	if b.last == nil {
		return st, nil
	}
	st.Generation, st.Fingerprint = b.gens, render.Fingerprint(b.last.structure, b.last.sum)
	if st.Drift, err = b.compare(got, true); err != nil {
		return backends.State{}, err
	}
	if len(st.Drift) > 0 {
		b.last.suspect = true
	}
	return st, nil
}

// drift reads the table, its elements only if asked to, and compares.
func (b *Backend) drift(ctx context.Context, op string, elements bool) ([]backends.Drift, error) {
	got, err := b.read(ctx, op, elements)
	if err != nil {
		return nil, err
	}
	return b.compare(got, elements)
}

// read reads our table; nil if there is none.
func (b *Backend) read(ctx context.Context, op string, elements bool) (*seenTable, error) {
	table := b.opts.Render.Table
	t := newSeen()
	err := b.sock.request(ctx, op, unix.NFT_MSG_GETTABLE, 0, familyInet, func(w *writer) { w.str(unix.NFTA_TABLE_NAME, table) }, t.table)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	inTable := func(attr uint16) func(*writer) { return func(w *writer) { w.str(attr, table) } }
	type listing struct {
		typ   uint16
		write func(*writer)
		read  func([]byte) error
	}
	flags := t.flags
	for _, l := range []listing{
		{unix.NFT_MSG_GETCHAIN, nil, func(d []byte) error { return t.chain(d, table) }},
		{unix.NFT_MSG_GETSET, inTable(unix.NFTA_SET_TABLE), func(d []byte) error { return t.set(d, table, false) }},
		{unix.NFT_MSG_GETOBJ, inTable(unix.NFTA_OBJ_TABLE), func(d []byte) error { return t.object(d, table, "object") }},
		{unix.NFT_MSG_GETFLOWTABLE, inTable(unix.NFTA_OBJ_TABLE), func(d []byte) error { return t.object(d, table, "flowtable") }},
	} {
		keep := *t
		if err := b.sock.dump(ctx, op, l.typ, familyInet, l.write, func() {
			*t = keep
			switch l.typ {
			case unix.NFT_MSG_GETCHAIN:
				t.chains = map[string]*seenChain{}
			case unix.NFT_MSG_GETSET:
				t.sets = map[string]*seenSet{}
			}
		}, l.read); err != nil {
			return nil, err
		}
	}
	t.flags = flags
	for name, s := range t.sets {
		if !elements && !s.anonymous {
			continue
		}
		if err := b.sock.dump(ctx, op, unix.NFT_MSG_GETSETELEM, familyInet, func(w *writer) {
			w.str(unix.NFTA_SET_ELEM_LIST_TABLE, table)
			w.str(unix.NFTA_SET_ELEM_LIST_SET, name)
		}, func() { s.elements = map[string]bool{} }, func(d []byte) error { return t.elements(d, table, false) }); err != nil {
			return nil, err
		}
	}
	// Rules last: their text holds that of their sets.
	if err := b.sock.dump(ctx, op, unix.NFT_MSG_GETRULE, familyInet, inTable(unix.NFTA_RULE_TABLE), func() {
		for _, c := range t.chains {
			c.rules = nil
		}
	}, func(d []byte) error { return t.rule(d, table, false) }); err != nil {
		return nil, err
	}
	return t, nil
}

// expected returns what the kernel should have, without the elements of named sets.
func (b *Backend) expected() (*seenTable, error) {
	r := *b.last.rules
	r.Sets = slices.Clone(r.Sets)
	for i := range r.Sets {
		r.Sets[i].Elements = nil
	}
	seq := b.sock.seq
	batch, err := b.whole(&r)
	b.sock.seq = seq
	if err != nil {
		return nil, err
	}
	t := newSeen()
	table := b.opts.Render.Table
	return t, messages(batch.buf, func(m message) error {
		if len(m.data) < nfgenLen || m.typ>>8 != unix.NFNL_SUBSYS_NFTABLES {
			return nil
		}
		d := m.data[nfgenLen:]
		switch m.typ & 0xff {
		case unix.NFT_MSG_NEWCHAIN:
			return t.chain(d, table)
		case unix.NFT_MSG_NEWSET:
			return t.set(d, table, true)
		case unix.NFT_MSG_NEWSETELEM:
			return t.elements(d, table, true)
		case unix.NFT_MSG_NEWRULE:
			return t.rule(d, table, true)
		}
		return nil
	})
}

// maxDrift bounds how many elements of one set, or rules of one chain, are told apart.
const maxDrift = 100

// compare returns how got differs from what should be there. A nil got is no table.
func (b *Backend) compare(got *seenTable, elements bool) ([]backends.Drift, error) {
	table := b.opts.Render.Table
	if got == nil {
		return []backends.Drift{{Kind: backends.DriftMissing, Object: "table " + table}}, nil
	}
	want, err := b.expected()
	if err != nil {
		return nil, err
	}
	var ds []backends.Drift
	add := func(kind backends.DriftKind, object, want, got string) {
		ds = append(ds, backends.Drift{Kind: kind, Object: object, Want: want, Got: got})
	}
	if got.flags != 0 {
		add(backends.DriftChanged, "table "+table, "flags 0", fmt.Sprintf("flags %#x", got.flags))
	}
	for _, o := range got.other {
		add(backends.DriftUnknown, o, "", "")
	}
	for name, g := range got.sets {
		w := want.sets[name]
		switch {
		case g.anonymous:
		case w == nil:
			add(backends.DriftUnknown, "set "+name, "", g.kind)
		case w.kind != g.kind:
			add(backends.DriftChanged, "set "+name, w.kind, g.kind)
		case elements && len(w.elements) > 0 && w.text() != g.text():
			add(backends.DriftChanged, "set "+name, w.text(), g.text())
		}
	}
	for name, w := range want.sets {
		if !w.anonymous && got.sets[name] == nil {
			add(backends.DriftMissing, "set "+name, w.kind, "")
		}
	}
	if elements {
		for _, s := range b.last.sets {
			for _, f := range s.families {
				if g := got.sets[f.set.Name]; g != nil {
					ds = append(ds, elementDrift(f, g)...)
				}
			}
		}
	}
	for name, g := range got.chains {
		w := want.chains[name]
		if w == nil {
			add(backends.DriftUnknown, "chain "+name, "", g.base)
			continue
		}
		if w.base != g.base {
			add(backends.DriftChanged, "chain "+name, w.base, g.base)
		}
		ds = append(ds, b.ruleDrift(name, w.rules, g.rules)...)
	}
	for name, w := range want.chains {
		if got.chains[name] == nil {
			add(backends.DriftMissing, "chain "+name, w.base, "")
		}
	}
	slices.SortFunc(ds, func(a, b backends.Drift) int {
		return cmp.Or(strings.Compare(a.Object, b.Object), strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Want, b.Want), strings.Compare(a.Got, b.Got))
	})
	return ds, nil
}

// ruleDrift compares the rules of one chain.
func (b *Backend) ruleDrift(chain string, w, g []seenRule) []backends.Drift {
	n := max(len(w), len(g))
	var ws, gs []int // those that have no counterpart, by index
	wt, gt := make([]string, len(w)), make([]string, len(g))
	if slices.EqualFunc(w, g, func(a, b seenRule) bool { return a.text == b.text }) {
		return nil
	}
	count := map[string]int{}
	for i := range n {
		if i < len(w) {
			wt[i] = w[i].text
			count[wt[i]]++
		}
		if i < len(g) {
			gt[i] = g[i].text
		}
	}
	for i, s := range gt {
		if count[s] > 0 {
			count[s]--
		} else {
			gs = append(gs, i)
		}
	}
	for i := len(wt) - 1; i >= 0; i-- { // of rules that occur more often than they should, the last ones are missing
		if count[wt[i]] > 0 {
			count[wt[i]]--
			ws = append(ws, i)
		}
	}
	slices.Reverse(ws)
	if len(ws)+len(gs) == 0 {
		return []backends.Drift{{Kind: backends.DriftChanged, Object: "chain " + chain, Want: "the rules in their order", Got: "the same rules in another order"}}
	}
	rules, _ := b.last.rules.Chain(chain)
	var ds []backends.Drift
	for len(ws)+len(gs) > 0 && len(ds) < maxDrift {
		var d backends.Drift
		if len(ws) > 0 {
			d.Kind, d.Object = backends.DriftMissing, fmt.Sprintf("rule %s[%d]", chain, ws[0])
			r := &rules.Rules[ws[0]]
			d.Want = r.String()
			if r.Origin != nil {
				d.Origin = r.Origin.String()
			}
		}
		if len(gs) > 0 {
			d.Got = gt[gs[0]]
			if len(ws) > 0 {
				d.Kind = backends.DriftChanged
			} else {
				d.Kind, d.Object = backends.DriftUnknown, fmt.Sprintf("rule %s[%d]", chain, gs[0])
			}
			gs = gs[1:]
		}
		if len(ws) > 0 {
			ws = ws[1:]
		}
		ds = append(ds, d)
	}
	return ds
}

// elementDrift compares the elements of a named set.
func elementDrift(f *familySet, got *seenSet) []backends.Drift {
	var ds []backends.Drift
	for _, e := range f.store.elements() {
		key, end := elementKeys(f.set, e)
		texts := [...]string{hex.EncodeToString(key), hex.EncodeToString(end) + "]"}
		n := 1
		if end != nil {
			n = 2
		}
		missing := false
		for _, t := range texts[:n] {
			missing = missing || !got.elements[t]
			delete(got.elements, t)
		}
		if missing && len(ds) < maxDrift {
			ds = append(ds, backends.Drift{Kind: backends.DriftMissing, Object: "set " + f.set.Name, Want: e.String()})
		}
	}
	for t := range got.elements {
		if !isNothing(t) {
			ds = append(ds, backends.Drift{Kind: backends.DriftUnknown, Object: "set " + f.set.Name, Got: t})
		}
	}
	slices.SortFunc(ds, func(a, b backends.Drift) int { return strings.Compare(a.Got, b.Got) })
	return ds[:min(len(ds), 2*maxDrift)]
}
