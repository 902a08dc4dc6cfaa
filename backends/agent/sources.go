// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// inbox is where the sources leave what the loop takes. Of each object, and of the host, it holds the latest only.
type inbox struct {
	wake chan struct{} // has one element if there is something

	mu sync.Mutex
	letters
}

type letters struct {
	objects map[hostendpoint.ID]hostendpoint.Object // nil for one that is gone
	all     map[hostendpoint.ID]bool                // if not nil, there were no others at some time before
	host    *hostendpoint.Host
	status  *store.Status
	since   time.Time // of the first change
	drift   bool
	force   bool
}

func (in *inbox) init() { in.wake = make(chan struct{}, 1) }

// put changes the letters under the lock, and wakes the loop.
func (in *inbox) put(do func()) {
	in.mu.Lock()
	do()
	in.mu.Unlock()
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

func (in *inbox) object(id hostendpoint.ID, o hostendpoint.Object) {
	in.put(func() {
		if in.objects == nil {
			in.objects = map[hostendpoint.ID]hostendpoint.Object{}
		}
		in.objects[id] = o
		in.touch()
	})
}

// touch notes that something changed. The caller holds mu.
func (in *inbox) touch() {
	if in.since.IsZero() {
		in.since = time.Now()
	}
}

// take empties the inbox.
func (in *inbox) take() letters {
	in.mu.Lock()
	defer in.mu.Unlock()
	l := in.letters
	in.letters = letters{}
	return l
}

// followStore hands on what the datastore has, until ctx ends.
func (a *Agent) followStore(ctx context.Context) {
	first := true
	a.again(ctx, "datastore", func() error {
		var all map[hostendpoint.ID]bool // of a watch that is not the first: what the one before did not tell of any more
		if !first {
			all = map[hostendpoint.ID]bool{}
		}
		first = false
		w, err := a.opts.Store.Watch(ctx, "", store.WatchOptions{})
		if err != nil {
			st := store.Status{Err: err}
			a.in.put(func() { a.in.status = &st })
			return err
		}
		defer func() { <-w.Done() }()
		for {
			e, err := w.Next(ctx)
			if err != nil {
				return err
			}
			switch e.Type {
			case store.Added, store.Modified:
				if all != nil {
					all[e.Object.ID().Stored()] = true
				}
				a.in.object(e.Object.ID().Stored(), e.Object)
			case store.Deleted:
				a.in.object(e.Object.ID().Stored(), nil)
			case store.Synced, store.Stale:
				a.in.put(func() {
					a.in.status = &e.Status
					if all != nil && e.Status.Synced {
						a.in.all, all = all, nil
					}
				})
			}
		}
	})
}

// followHost hands on what the host is, until ctx ends.
func (a *Agent) followHost(ctx context.Context) {
	a.again(ctx, "host", func() error {
		err := a.opts.Host.Follow(ctx, func(h hostendpoint.Host) {
			a.in.put(func() {
				a.in.host = &h
				a.in.touch()
			})
			a.update(func(s *Status) { s.HostErr = nil })
		})
		if err == nil {
			err = errors.New("the source of the host has ended")
		}
		if ctx.Err() == nil {
			a.update(func(s *Status) { s.HostErr = err })
		}
		return err
	})
}

// followKernel has the kernel looked at when others change it, until ctx ends.
func (a *Agent) followKernel(ctx context.Context, n backends.Noticer) {
	a.again(ctx, "changes of the kernel's rules", func() error { return n.Notice(ctx, a.Recheck) })
}

// again calls follow until ctx ends, with growing pauses.
func (a *Agent) again(ctx context.Context, what string, follow func() error) {
	wait := a.opts.Retry
	for ctx.Err() == nil {
		began := time.Now()
		err := a.safely("following "+what, follow)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > a.opts.RetryMax {
			wait = a.opts.Retry
		}
		a.log.Warn("interrupted", "following", what, "error", err, "retry", wait)
		if !sleep(ctx, wait) {
			return
		}
		wait = min(2*wait, a.opts.RetryMax)
	}
}

// sleep waits, and reports whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
