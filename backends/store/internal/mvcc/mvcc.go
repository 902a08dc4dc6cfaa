// SPDX-License-Identifier: Apache-2.0

// Package mvcc is a small datastore in memory with a history: reads as of a revision, watches from one, compaction. The
// memory store is little else; the file store keeps in it what it read.
package mvcc

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Log holds objects and the latest changes to them. Make it with New. Safe for concurrent use. The objects inside are
// never changed; those that go in and out are copies.
type Log struct {
	history int

	mu        sync.Mutex
	changed   chan struct{} // closed and replaced by each change
	rev       int64
	compacted int64 // changes up to this revision are forgotten
	cur       map[hostendpoint.ID]hostendpoint.Object
	problems  map[string]store.Problem
	events    []event
}

// event is one change. Of an object: id, old and obj. Of the state of an entry: key and err.
type event struct {
	rev      int64
	id       hostendpoint.ID
	old, obj hostendpoint.Object
	key      string
	err      error
}

// New returns an empty Log that remembers so many changes.
func New(history int) *Log {
	return &Log{history: history, changed: make(chan struct{}), cur: map[hostendpoint.ID]hostendpoint.Object{}, problems: map[string]store.Problem{}}
}

// Tx changes a Log; it is valid inside the function that Do calls.
type Tx struct{ l *Log }

// Do calls f with exclusive access. Changes that f made stay, also if it fails.
func (l *Log) Do(f func(tx *Tx) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.rev
	err := f(&Tx{l})
	if l.rev != before {
		if over := len(l.events) - l.history; over > 0 {
			l.compacted = l.events[over-1].rev
			l.events = slices.Clone(l.events[over:])
		}
		close(l.changed)
		l.changed = make(chan struct{})
	}
	return err
}

// Get returns the object inside the log: it must not be changed.
func (tx *Tx) Get(id hostendpoint.ID) (hostendpoint.Object, bool) {
	o, ok := tx.l.cur[id]
	return o, ok
}

// All returns the identities of all objects.
func (tx *Tx) All() []hostendpoint.ID { return slices.Collect(maps.Keys(tx.l.cur)) }

// Next is the revision that the next change will have.
func (tx *Tx) Next() int64 { return tx.l.rev + 1 }

// Put sets an object, which the log keeps.
func (tx *Tx) Put(id hostendpoint.ID, o hostendpoint.Object) {
	tx.l.rev++
	tx.l.events = append(tx.l.events, event{rev: tx.l.rev, id: id, old: tx.l.cur[id], obj: o})
	tx.l.cur[id] = o
}

// Delete removes an object.
func (tx *Tx) Delete(id hostendpoint.ID) {
	if old, ok := tx.l.cur[id]; ok {
		tx.l.rev++
		tx.l.events = append(tx.l.events, event{rev: tx.l.rev, id: id, old: old})
		delete(tx.l.cur, id)
	}
}

// Problem says that an entry cannot be read, or, with a nil error, that it can.
func (tx *Tx) Problem(key string, id hostendpoint.ID, err error) {
	old, had := tx.l.problems[key]
	switch {
	case err == nil && !had, err != nil && had && old.Err.Error() == err.Error():
		return
	case err == nil:
		delete(tx.l.problems, key)
	default:
		tx.l.problems[key] = store.Problem{ID: id, Key: key, Err: err}
	}
	tx.l.rev++
	tx.l.events = append(tx.l.events, event{rev: tx.l.rev, key: key, err: err})
}

// Problems returns the entries that cannot be read.
func (tx *Tx) Problems() []store.Problem { return slices.Collect(maps.Values(tx.l.problems)) }

// Compact forgets the history up to now.
func (l *Log) Compact() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.compacted, l.events = l.rev, nil
	close(l.changed)
	l.changed = make(chan struct{})
}

// Revision returns the revision of the latest change.
func (l *Log) Revision() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rev
}

// Get returns a copy of an object.
func (l *Log) Get(id hostendpoint.ID) (hostendpoint.Object, error) {
	l.mu.Lock()
	o, ok := l.cur[id]
	l.mu.Unlock()
	if !ok {
		return nil, store.ErrNotFound
	}
	return store.Clone(o)
}

// token is what a Continue holds.
type token struct {
	Rev  int64           `json:"r"`
	Last hostendpoint.ID `json:"l"`
}

// List implements store.Driver.
func (l *Log) List(ctx context.Context, kind string, opts store.ListOptions) (store.List[hostendpoint.Object], error) {
	var out store.List[hostendpoint.Object]
	if err := ctx.Err(); err != nil {
		return out, err
	}
	var from token
	if opts.Continue != "" {
		data, err := base64.RawURLEncoding.DecodeString(opts.Continue)
		if err == nil {
			err = json.Unmarshal(data, &from)
		}
		if err != nil {
			return out, fmt.Errorf("%w: not a continue token of this store: %w", store.ErrExpired, err)
		}
	}
	l.mu.Lock()
	rev := l.rev
	if opts.Continue != "" {
		rev = from.Rev
	}
	if rev > l.rev || rev < l.compacted {
		l.mu.Unlock()
		return out, fmt.Errorf("%w: %d, compacted up to %d", store.ErrExpired, rev, l.compacted)
	}
	wanted := func(id hostendpoint.ID) bool {
		return (kind == "" || id.Kind == kind) && opts.Wants(id) && (opts.Continue == "" || Compare(id, from.Last) > 0)
	}
	view := map[hostendpoint.ID]hostendpoint.Object{}
	for id, o := range l.cur {
		if wanted(id) {
			view[id] = o
		}
	}
	for i := len(l.events) - 1; i >= 0 && l.events[i].rev > rev; i-- {
		switch e := l.events[i]; {
		case e.key != "" || !wanted(e.id):
		case e.old == nil:
			delete(view, e.id)
		default:
			view[e.id] = e.old
		}
	}
	for _, k := range slices.Sorted(maps.Keys(l.problems)) {
		if p := l.problems[k]; opts.Continue == "" && (p.ID.Kind == "" || kind == "" || p.ID.Kind == kind) {
			out.Problems = append(out.Problems, p)
		}
	}
	l.mu.Unlock()

	ids := slices.SortedFunc(maps.Keys(view), Compare)
	if opts.Limit > 0 && len(ids) > opts.Limit {
		ids = ids[:opts.Limit]
		data, err := json.Marshal(token{Rev: rev, Last: ids[len(ids)-1]})
		if err != nil {
			return store.List[hostendpoint.Object]{}, err
		}
		out.Continue = base64.RawURLEncoding.EncodeToString(data)
	}
	out.ResourceVersion = strconv.FormatInt(rev, 10)
	for _, id := range ids {
		o, err := store.Clone(view[id])
		if err != nil {
			return store.List[hostendpoint.Object]{}, err
		}
		out.Items = append(out.Items, o)
	}
	return out, nil
}

// Watch implements store.Driver. Broken, if not nil, ends the watch when it is closed.
func (l *Log) Watch(ctx context.Context, kind, revision string, broken <-chan struct{}, do func(store.Change) error) error {
	rev, err := strconv.ParseInt(revision, 10, 64)
	if err != nil {
		return fmt.Errorf("%w: %q is no revision", store.ErrExpired, revision)
	}
	if err := do(store.Change{}); err != nil {
		return err
	}
	for {
		l.mu.Lock()
		if rev < l.compacted || rev > l.rev {
			defer l.mu.Unlock()
			return fmt.Errorf("%w: %d, compacted up to %d", store.ErrExpired, rev, l.compacted)
		}
		i, _ := slices.BinarySearchFunc(l.events, rev+1, func(e event, r int64) int { return cmp.Compare(e.rev, r) })
		news := slices.Clone(l.events[i:])
		rev = l.rev
		changed := l.changed
		l.mu.Unlock()
		for _, e := range news {
			if e.key == "" && kind != "" && e.id.Kind != kind {
				continue
			}
			c := store.Change{ID: e.id, Revision: strconv.FormatInt(e.rev, 10), Key: e.key, Err: e.err}
			if e.obj != nil {
				if c.Object, err = store.Clone(e.obj); err != nil {
					return err
				}
			}
			if err := do(c); err != nil {
				return err
			}
		}
		if len(news) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-broken:
			return fmt.Errorf("%w: watch cut", store.ErrUnavailable)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Compare orders identities: by kind, namespace and name.
func Compare(a, b hostendpoint.ID) int {
	return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}
