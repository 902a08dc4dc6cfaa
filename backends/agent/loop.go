// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"
)

// loop is Run between its beginning and its end.
func (a *Agent) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	last := time.Duration(0) // what the last pass took
	a.recall()
	a.remember()
	for {
		timer.Reset(a.due())
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-a.in.wake:
			if !a.gather(ctx, last) {
				return
			}
		}
		began := time.Now()
		if err := a.safely("pass", func() error { a.pass(ctx); return nil }); err != nil {
			a.engine, a.suspect = nil, true // nobody knows whether what followed from the resources is right
			a.failed(err)
		}
		last = time.Since(began)
	}
}

// gather waits until changes pause. It returns false when ctx has ended.
func (a *Agent) gather(ctx context.Context, last time.Duration) bool {
	limit := time.NewTimer(max(a.opts.Limit, last))
	defer limit.Stop()
	quiet := time.NewTimer(a.opts.Quiet)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-limit.C:
			return true
		case <-quiet.C:
			return true
		case <-a.in.wake:
			quiet.Reset(a.opts.Quiet)
		}
	}
}

// safely turns a panic into an error. Nothing of what an Agent is given may end the process that enforces.
func (a *Agent) safely(what string, do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: panic: %v", what, r)
			a.log.Error("caught a panic", "in", what, "panic", r, "stack", string(debug.Stack()))
			a.update(func(s *Status) { s.Panics++ })
		}
	}()
	return do()
}

// posture returns what is to be enforced at present; Leave if the resources say it.
func (a *Agent) posture() Posture {
	switch s := a.store.StaleSince; {
	case !a.synced:
		return a.opts.Unsynced
	case !s.IsZero() && now().Sub(s) >= a.opts.StaleAfter:
		return a.opts.Stale
	}
	return Leave
}

// leastPause keeps a mistake about what is due from being a loop without end.
const leastPause = 2 * time.Millisecond

// due returns how long until something has to be done although nothing comes in.
func (a *Agent) due() time.Duration {
	next := time.Hour
	at := func(t time.Time) { next = min(next, max(0, t.Sub(now()))) }
	if a.wait > 0 {
		at(a.tried.Add(a.wait))
	}
	if a.opts.DriftEvery > 0 && a.enforced != nil {
		at(a.checked.Add(a.opts.DriftEvery))
	}
	if a.pending != nil {
		at(now().Add(pendingPoll))
	}
	if a.bootStale() {
		at(a.bootTried.Add(bootPause))
	}
	if a.recheck && a.enforced != nil {
		at(a.checked.Add(a.opts.Retry))
	}
	if s := a.store.StaleSince; !s.IsZero() && a.synced && a.wanted != a.opts.Stale {
		at(s.Add(a.opts.StaleAfter))
	}
	if len(a.held) > 0 {
		at(a.heldSince.Add(a.opts.RetryMax))
	}
	return max(next, leastPause)
}

// pass takes in what has come, and has it enforced.
func (a *Agent) pass(ctx context.Context) {
	l := a.in.take()
	a.forced = a.forced || l.force
	a.recheck = a.recheck || l.drift
	a.checkPending()
	changes := a.takeIn(ctx, &l)
	if p := a.posture(); p != a.wanted {
		a.log.Warn("other posture", "posture", p.String(), "before", a.wanted.String(), "stale since", a.store.StaleSince)
		a.wanted, changes = p, true
	}
	a.news = a.news || changes
	if a.ready(ctx) {
		if a.news || a.current() == 0 {
			a.news = false
			a.update(func(s *Status) { s.Wanted++ })
		}
		a.retryHeld(ctx)
		a.enforce(ctx, changes)
	}
	a.checkDrift(ctx)
	a.writeBoot(false)
}
