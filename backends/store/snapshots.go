// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Snapshot is everything that a datastore has, as of one moment; with a driver that has no common revision of all kinds
// (Traits.Joint), each kind as of a moment of its own. Its objects are shared with others: treat them as immutable.
type Snapshot struct {
	Resources hostendpoint.Resources // sorted by kind, namespace and stored name
	Status    Status
}

// SnapshotOptions bound how changes are gathered. The zero value is useful.
type SnapshotOptions struct {
	Quiet time.Duration // a snapshot waits until so long nothing changed; 0 means 50 ms
	Limit time.Duration // but at most so long after the first change; 0 means 1 s
	// Told is called with each new status before it is part of a snapshot, and at once, so that a program can say that it
	// waits for a datastore which it has never reached; nil for none. It must not block.
	Told func(Status)
}

// Snapshots returns the states of s, as they follow each other, until ctx ends: the first when all kinds have been read,
// the next after each change, of the objects or of the status. A reader that takes its time misses states, never the
// latest one. The error is that of Store.Watch; after it there is no more.
//
// Snapshots is an iterator for one loop; breaking off ends the watch behind it.
func Snapshots(ctx context.Context, s Store, o SnapshotOptions) iter.Seq2[Snapshot, error] {
	if o.Quiet <= 0 {
		o.Quiet = 50 * time.Millisecond
	}
	if o.Limit <= 0 {
		o.Limit = time.Second
	}
	return func(yield func(Snapshot, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		w, err := s.Watch(ctx, "", WatchOptions{})
		if err != nil {
			cancel()
			yield(Snapshot{}, err)
			return
		}
		defer func() {
			cancel()
			<-w.Done()
		}()
		all := map[hostendpoint.ID]hostendpoint.Object{}
		var status Status
		ready := false // everything was read once
		take := func(e Event[hostendpoint.Object]) {
			take(all, &status, &ready, e)
			if o.Told != nil && (e.Type == Synced || e.Type == Stale) {
				o.Told(e.Status)
			}
		}
		for {
			e, err := w.Next(ctx)
			if err != nil {
				return
			}
			take(e)
			if !gather(ctx, w, o, take) {
				return
			}
			if ready && !yield(Snapshot{Resources: resources(all), Status: status}, nil) {
				return
			}
		}
	}
}

// gather takes events until there is a pause. It returns false when ctx has ended.
func gather(ctx context.Context, w *Watcher[hostendpoint.Object], o SnapshotOptions, do func(Event[hostendpoint.Object])) bool {
	limit, cancel := context.WithTimeout(ctx, o.Limit)
	defer cancel()
	for {
		quiet, cancel := context.WithTimeout(limit, o.Quiet)
		e, err := w.Next(quiet)
		cancel()
		switch {
		case err == nil:
			do(e)
		case ctx.Err() != nil || errors.Is(err, ErrStopped):
			return false
		default:
			return true
		}
		if limit.Err() != nil {
			// What a resync queued at once is no consistent state before its end.
			for range w.feed.waiting() {
				if e, ok, _ := w.feed.pop(); ok {
					do(e)
				}
			}
			return ctx.Err() == nil
		}
	}
}

func take(all map[hostendpoint.ID]hostendpoint.Object, status *Status, ready *bool, e Event[hostendpoint.Object]) {
	switch e.Type {
	case Added, Modified:
		all[e.Object.ID().Stored()] = e.Object
	case Deleted:
		delete(all, e.Object.ID().Stored())
	case Synced, Stale:
		*status = e.Status
		*ready = *ready || e.Status.Synced
	}
}

func resources(all map[hostendpoint.ID]hostendpoint.Object) hostendpoint.Resources {
	var r hostendpoint.Resources
	for _, id := range slices.SortedFunc(maps.Keys(all), compareIDs) {
		r.Add(all[id])
	}
	return r
}
