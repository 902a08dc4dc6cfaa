// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// feed is what stands between the sources of a watch and its reader.
//
// Invariant: seen, with the events of the queue applied, is known; or overrun is set, and the difference between the two
// is still to be computed.
type feed struct {
	ctx    context.Context
	kind   string
	buffer int
	opts   Options
	done   chan struct{}

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when there is something to read
	known   map[hostendpoint.ID]hostendpoint.Object
	seen    map[hostendpoint.ID]hostendpoint.Object
	queue   []queued
	overrun bool
	sources []sourceState
	running int
	told    *Status // the latest that was queued
}

type queued struct {
	id hostendpoint.ID
	Event[hostendpoint.Object]
}

// sourceState is what one source says of itself.
type sourceState struct {
	synced   bool
	since    time.Time
	err      error
	problems map[string]Problem
}

func newFeed(ctx context.Context, kind string, buffer int, opts Options) *feed {
	return &feed{ctx: ctx, kind: kind, buffer: buffer, opts: opts, done: make(chan struct{}), changed: make(chan struct{}),
		known: map[hostendpoint.ID]hostendpoint.Object{}, seen: map[hostendpoint.ID]hostendpoint.Object{}}
}

func (f *feed) start(n int) { f.sources, f.running = make([]sourceState, n), n }

func (f *feed) ended() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running--; f.running == 0 {
		close(f.done)
	}
}

// wake tells readers that there is something. The caller holds mu.
func (f *feed) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// push queues an event, or gives up the order of events if too many wait. The caller holds mu.
func (f *feed) push(id hostendpoint.ID, e Event[hostendpoint.Object]) {
	if !f.overrun {
		f.queue = append(f.queue, queued{id, e})
		if len(f.queue) > f.buffer {
			f.queue, f.overrun = nil, true
		}
	}
	f.wake()
}

// pop takes the next event off; without one it returns the channel that tells of the next.
func (f *feed) pop() (Event[hostendpoint.Object], bool, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx.Err() != nil {
		return Event[hostendpoint.Object]{}, false, f.changed
	}
	f.settle()
	if len(f.queue) == 0 {
		return Event[hostendpoint.Object]{}, false, f.changed
	}
	q := f.queue[0]
	f.queue[0] = queued{}
	f.queue = f.queue[1:]
	switch q.Type {
	case Added, Modified:
		f.seen[q.id] = q.Object
	case Deleted:
		delete(f.seen, q.id)
	}
	return q.Event, true, nil
}

// settle computes the difference after an overrun. The caller holds mu.
func (f *feed) settle() {
	if !f.overrun {
		return
	}
	f.overrun = false
	f.queue = difference(f.seen, f.known)
	if f.told != nil {
		f.queue = append(f.queue, queued{Event: statusEvent(*f.told)})
	}
}

// waiting returns how many events can be taken at once.
func (f *feed) waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settle()
	return len(f.queue)
}

// difference returns the events that lead from one state to another, sorted by kind and key.
func difference(from, to map[hostendpoint.ID]hostendpoint.Object) []queued {
	var out []queued
	for id, o := range to {
		switch old, ok := from[id]; {
		case !ok:
			out = append(out, queued{id, Event[hostendpoint.Object]{Type: Added, Object: o}})
		case !same(old, o):
			out = append(out, replacement(id, old, o)...)
		}
	}
	for id, old := range from {
		if _, ok := to[id]; !ok {
			out = append(out, queued{id, Event[hostendpoint.Object]{Type: Deleted, Object: old}})
		}
	}
	slices.SortStableFunc(out, func(a, b queued) int { return compareIDs(a.id, b.id) })
	return out
}

// same reports whether a and b are one version of one object.
func same(a, b hostendpoint.Object) bool {
	return a == b || a.Meta().ResourceVersion == b.Meta().ResourceVersion && a.Meta().UID == b.Meta().UID
}

// replacement returns the events for an object that is another one, if it was deleted and made again, or another version.
func replacement(id hostendpoint.ID, old, o hostendpoint.Object) []queued {
	if old.Meta().UID != o.Meta().UID {
		return []queued{{id, Event[hostendpoint.Object]{Type: Deleted, Object: old}}, {id, Event[hostendpoint.Object]{Type: Added, Object: o}}}
	}
	return []queued{{id, Event[hostendpoint.Object]{Type: Modified, Object: o, Old: old}}}
}

func compareIDs(a, b hostendpoint.ID) int {
	return cmp.Or(cmp.Compare(kindOrder(a.Kind), kindOrder(b.Kind)), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

func kindOrder(kind string) int { return slices.Index(hostendpoint.Kinds(), kind) }

func (f *feed) put(id hostendpoint.ID, o hostendpoint.Object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, ok := f.known[id]
	f.known[id] = o
	switch {
	case !ok:
		f.push(id, Event[hostendpoint.Object]{Type: Added, Object: o})
	case !same(old, o):
		for _, q := range replacement(id, old, o) {
			f.push(id, q.Event)
		}
	default:
		f.known[id] = old
	}
}

func (f *feed) remove(id hostendpoint.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old, ok := f.known[id]; ok {
		delete(f.known, id)
		f.push(id, Event[hostendpoint.Object]{Type: Deleted, Object: old})
	}
}

// replace takes a full list of a source in. An entry that cannot be read keeps its last good version.
func (f *feed) replace(index int, kind string, fresh map[hostendpoint.ID]hostendpoint.Object, problems map[string]Problem) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range problems {
		id := p.ID.Stored()
		if old, ok := f.known[id]; ok && fresh[id] == nil {
			fresh[id] = old
		}
	}
	mine := map[hostendpoint.ID]hostendpoint.Object{}
	for id, o := range f.known {
		if kind == "" || id.Kind == kind {
			mine[id] = o
		}
	}
	for _, q := range difference(mine, fresh) {
		switch q.Type {
		case Deleted:
			delete(f.known, q.id)
		default:
			f.known[q.id] = q.Object
		}
		f.push(q.id, q.Event)
	}
	f.sources[index] = sourceState{synced: true, problems: problems}
	f.tell()
}

// problem notes whether the entry of a change can be read.
func (f *feed) problem(index int, c Change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.sources[index]
	old, had := s.problems[c.Key]
	switch {
	case c.Err != nil:
		if had && old.Err.Error() == c.Err.Error() {
			return
		}
		s.problems[c.Key] = Problem{ID: c.ID, Key: c.Key, Err: c.Err}
	case had:
		delete(s.problems, c.Key)
	default:
		return
	}
	f.tell()
}

func (f *feed) stale(index int, err error, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &f.sources[index]
	if s.synced {
		s.since = now
	}
	s.synced, s.err = false, err
	f.tell()
}

// tell queues the status if it is news. The caller holds mu.
func (f *feed) tell() {
	now := f.status()
	if !now.Synced && now.Err == nil {
		return // not all sources have begun
	}
	if f.told != nil && f.told.equal(now) {
		return
	}
	f.told = &now
	if n := len(f.queue); n > 0 && !f.overrun && (f.queue[n-1].Type == Synced || f.queue[n-1].Type == Stale) {
		f.queue = f.queue[:n-1] // only the latest is of interest
	}
	f.push(hostendpoint.ID{}, statusEvent(now))
}

func statusEvent(s Status) Event[hostendpoint.Object] {
	t := Stale
	if s.Synced {
		t = Synced
	}
	return Event[hostendpoint.Object]{Type: t, Status: s}
}

// status sums up what the sources say. The caller holds mu.
func (f *feed) status() Status {
	out := Status{Synced: true}
	all := map[string]Problem{}
	for i := range f.sources {
		s := &f.sources[i]
		maps.Copy(all, s.problems)
		if s.synced {
			continue
		}
		out.Synced = false
		if out.Err == nil {
			out.Err = s.err
		}
		if !s.since.IsZero() && (out.StaleSince.IsZero() || s.since.Before(out.StaleSince)) {
			out.StaleSince = s.since
		}
	}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		out.Problems = append(out.Problems, all[k])
	}
	return out
}

func (f *feed) currentStatus() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status()
}

// equal compares what a reader can act on; the texts of errors are compared, not the errors.
func (s Status) equal(o Status) bool {
	return s.Synced == o.Synced && s.StaleSince.Equal(o.StaleSince) && text(s.Err) == text(o.Err) &&
		slices.EqualFunc(s.Problems, o.Problems, func(a, b Problem) bool { return a.ID == b.ID && a.Key == b.Key && text(a.Err) == text(b.Err) })
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// jitter spreads the retries of many clients.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

func levelOf(err error) slog.Level {
	if errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrForbidden) {
		return slog.LevelError
	}
	return slog.LevelWarn
}

func attr(key string, value any) slog.Attr { return slog.Any(key, value) }
