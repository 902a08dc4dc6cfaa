// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// EventType says what an Event is. The zero value is invalid.
type EventType uint8

// The types of events.
const (
	Added    EventType = iota + 1
	Modified           // the object is another version
	Deleted            // the object is gone, or ceased to match the selector
	// Synced says that all that came before shows the datastore as it is, and as it is followed from now on. It comes after
	// the first objects, and again when the status changes: after a Stale, and when Problems are others.
	Synced
	// Stale says that the datastore cannot be followed at present: what came before may be outdated. The watch tries again
	// until it can, and then delivers what has changed and a Synced.
	Stale
)

var eventNames = [...]string{Added: "Added", Modified: "Modified", Deleted: "Deleted", Synced: "Synced", Stale: "Stale"}

// String returns the name of the type.
func (t EventType) String() string {
	if int(t) < len(eventNames) && eventNames[t] != "" {
		return eventNames[t]
	}
	return fmt.Sprintf("EventType(%d)", t)
}

// Event is a step of a Watch. Its objects are shared with the watch: treat them as immutable.
type Event[T hostendpoint.Object] struct {
	Type   EventType
	Object T      // the object; for Deleted as it was. Nil for Synced and Stale
	Old    T      // for Modified, as it was before
	Status Status // for Synced and Stale
}

// Status says how well a watch follows its datastore. The zero value means that it has not yet seen all of it.
type Status struct {
	Synced     bool
	StaleSince time.Time // when it lost the datastore; zero while it follows, and before it was first synced
	Err        error     // why it does not follow; nil while it does
	Problems   []Problem // entries that cannot be read, sorted by key; their last good versions stay
}

// Watcher is a running watch. It follows the datastore whether or not it is read: a slow reader gets the difference
// instead of every step, and never a gap. Safe for concurrent use.
type Watcher[T hostendpoint.Object] struct{ feed *feed }

// Next returns the next event, waiting for it. Errors are that of ctx, and ErrStopped when the context of the watch has
// ended.
func (w *Watcher[T]) Next(ctx context.Context) (Event[T], error) {
	for {
		e, ok, changed := w.feed.pop()
		if ok {
			out := Event[T]{Type: e.Type, Status: e.Status}
			out.Object, _ = e.Object.(T)
			out.Old, _ = e.Old.(T)
			return out, nil
		}
		select {
		case <-w.feed.ctx.Done():
			return Event[T]{}, &Error{Op: "watch", ID: hostendpoint.ID{Kind: w.feed.kind}, Err: ErrStopped, Cause: context.Cause(w.feed.ctx)}
		default:
		}
		select {
		case <-changed:
		case <-w.feed.ctx.Done():
		case <-ctx.Done():
			return Event[T]{}, ctx.Err()
		}
	}
}

// Events returns the events as they come, until the context of the watch ends.
func (w *Watcher[T]) Events() iter.Seq[Event[T]] {
	return func(yield func(Event[T]) bool) {
		for {
			e, err := w.Next(context.Background())
			if err != nil || !yield(e) {
				return
			}
		}
	}
}

// Status returns how well the watch follows at this moment, which may be later than the last event that was read.
func (w *Watcher[T]) Status() Status { return w.feed.currentStatus() }

// Done is closed when the context of the watch has ended and nothing of it runs any more.
func (w *Watcher[T]) Done() <-chan struct{} { return w.feed.done }

// Watch implements Store.
func (s *rules) Watch(ctx context.Context, kind string, opts WatchOptions) (*Watcher[hostendpoint.Object], error) {
	id := hostendpoint.ID{Kind: kind}
	if err := s.kind("watch", kind); err != nil {
		return nil, err
	}
	match, err := newMatcher("watch", id, opts.Selector)
	if err != nil {
		return nil, err
	}
	if opts.Buffer <= 0 {
		opts.Buffer = 1000
	}
	f := newFeed(ctx, kind, opts.Buffer, s.opts)
	kinds := []string{kind}
	if kind == "" && !s.traits.Joint {
		kinds = s.kinds
	}
	f.start(len(kinds))
	for i, k := range kinds {
		filter := ListOptions{Namespace: opts.Namespace, Name: opts.Name}
		if k != "" {
			if !hostendpoint.Namespaced(k) {
				filter.Namespace = ""
			}
			if filter.Name != "" {
				filter.Name = stored(hostendpoint.ID{Kind: k, Name: filter.Name}).Name
			}
		}
		go (&source{rules: s, feed: f, index: i, kind: k, filter: filter, match: match}).run(ctx)
	}
	return &Watcher[hostendpoint.Object]{f}, nil
}

// source follows one kind, or all, of a driver, for a feed.
type source struct {
	*rules
	feed   *feed
	index  int
	kind   string
	filter ListOptions
	match  matcher
	began  bool // the latest watch has
}

func (s *source) run(ctx context.Context) {
	defer s.feed.ended()
	wait := s.opts.Retry
	for ctx.Err() == nil {
		s.began = false
		err := s.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		err = classify("watch", hostendpoint.ID{Kind: s.kind}, err)
		if s.began {
			wait = s.opts.Retry
			if errors.Is(err, ErrExpired) {
				continue // nothing is wrong with the datastore: the new list tells what was missed
			}
		}
		s.opts.Log.LogAttrs(ctx, levelOf(err), "watch interrupted", attr("kind", s.kind), attr("error", err), attr("retry", wait))
		s.feed.stale(s.index, err, s.opts.Now())
		timer := time.NewTimer(jitter(wait))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		wait = min(wait*2, s.opts.RetryMax)
	}
}

// follow lists what there is, hands on what differs from what the feed knows, and then every change, until something
// breaks.
//
// After an interruption it lists anew rather than to go on where it was: a watch that goes on cannot tell when it has
// caught up, and must be able to list anyway.
func (s *source) follow(ctx context.Context) error {
	fresh := map[hostendpoint.ID]hostendpoint.Object{}
	problems := map[string]Problem{}
	ask := ListOptions{Namespace: s.filter.Namespace, Name: s.filter.Name, Limit: 500}
	revision := ""
	for {
		page, err := s.driver.List(ctx, s.kind, ask)
		if err != nil {
			return err
		}
		if revision == "" {
			revision = page.ResourceVersion
		}
		for _, o := range page.Items {
			id := o.ID().Stored()
			if o = shown(o); s.filter.Wants(id) && s.match.object(o) {
				fresh[id] = o
			}
		}
		for _, p := range page.Problems {
			problems[p.Key] = p
		}
		if ask.Continue = page.Continue; ask.Continue == "" {
			break
		}
	}
	s.feed.replace(s.index, s.kind, fresh, problems)
	return s.driver.Watch(ctx, s.kind, revision, func(c Change) error {
		s.began = true
		if c.Key != "" {
			s.feed.problem(s.index, c)
		}
		if c.ID == (hostendpoint.ID{}) || !s.filter.Wants(c.ID) || c.Err != nil {
			return nil
		}
		if c.Object != nil {
			if o := shown(c.Object); s.match.object(o) {
				s.feed.put(c.ID, o)
				return nil
			}
		}
		s.feed.remove(c.ID)
		return nil
	})
}
