// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/confirm"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
)

func now() time.Time { return time.Now() }

// actual is what is known of the kernel. It belongs to the goroutine of Run.
type actual struct {
	enforced   *target          // nil if nobody knows
	suspect    bool             // the kernel may have something else
	pending    *confirm.Pending // what waits to be confirmed
	rejected   string           // the Key of what was reverted; "" if nothing was since the last success
	adopted    bool             // whether the Backend was asked for what was there before
	generation uint64           // that is enforced
	receipt    backends.Receipt

	noticed  time.Time     // the oldest change that is not enforced
	tried    time.Time     // when BeforeApply or the Backend last said no
	wait     time.Duration // until they are asked again; 0 if they did not
	failures int
	checked  time.Time // when drift was last looked for
	forced   bool

	booted    uint64    // the generation that the boot file has
	bootTried time.Time // when it was written, or could not be
}

// target is something that can be enforced.
type target struct {
	posture  Posture
	program  *ir.Program // nil for Open
	members  func() ir.Members
	snapshot func() *policy.Snapshot // returns nil if it is not the resources that decide
}

// target returns what is to be enforced now. Its functions must be called before the engine takes other changes in.
func (a *Agent) target() (*target, error) {
	t := &target{posture: a.wanted}
	switch a.wanted {
	case Open:
		t.members = func() ir.Members { return ir.Members{} }
		t.snapshot = func() *policy.Snapshot { return nil }
	case FailsafesOnly:
		r, c := a.failsafesOnly()
		s, err := policy.Resolve(r, *a.host, c)
		if err != nil {
			return nil, err
		}
		p, m, err := compile.Compile(s)
		if err != nil {
			return nil, err
		}
		t.program = p
		t.members = func() ir.Members { return m }
		t.snapshot = func() *policy.Snapshot { return s }
	default:
		if a.program == nil {
			p, err := a.engine.Program()
			if err != nil {
				return nil, err
			}
			a.program = p
		}
		t.program = a.program
		t.members = sync.OnceValue(a.engine.Members)
		t.snapshot = sync.OnceValue(a.engine.Snapshot)
	}
	return t, nil
}

// enforce makes the kernel what is wanted, unless it is, or has just refused.
func (a *Agent) enforce(ctx context.Context, news bool) {
	same := a.enforced != nil && a.enforced.posture == a.wanted && !a.suspect
	if same && a.wanted == Leave && !a.ahead.program && a.ahead.steps == 0 || same && a.wanted == Open {
		a.succeeded(ctx, nil, backends.Receipt{})
		return
	}
	if a.wait > 0 && !a.forced {
		pause := a.wait
		if news {
			pause = a.opts.Retry
		}
		if now().Before(a.tried.Add(pause)) {
			return
		}
	}
	t, err := a.target()
	if err != nil {
		a.failed(err)
		return
	}
	if same && a.wanted == FailsafesOnly && t.program.Fingerprint() == a.enforced.program.Fingerprint() {
		a.succeeded(ctx, nil, backends.Receipt{})
		return
	}
	if a.rejected != "" && !a.forced && t.program != nil && confirm.Key(t.program, t.members()) == a.rejected {
		a.refused(confirm.ErrReverted)
		a.wait = 0 // time does not help
		return
	}
	c := a.change(t)
	if a.opts.BeforeApply != nil {
		if err := a.opts.BeforeApply(ctx, c); err != nil && ctx.Err() != nil {
			return // the end of Run is no failure
		} else if err != nil && !a.forced {
			a.refused(err)
			return
		} else if err != nil {
			a.log.Warn("forced", "generation", c.Generation, "although", err)
		}
	}
	r, err := a.apply(ctx, t, a.within(c))
	if err != nil {
		a.suspect = a.suspect || !isUnsupported(err)
		if ctx.Err() != nil {
			return
		}
		a.failed(err)
		if a.wanted == Leave {
			a.blame(ctx, err)
		}
		return
	}
	a.succeeded(ctx, c, r)
}

// change describes what is about to happen.
func (a *Agent) change(t *target) *Change {
	c := &Change{
		Generation: a.current(), Host: a.ahead.host, Posture: t.posture, Repair: a.suspect && a.enforced != nil,
		Forced: a.forced, target: t, before: a.enforced, Members: a.membersOnly(t),
	}
	for _, id := range slices.SortedFunc(maps.Keys(a.dirty), compareIDs) {
		if a.held[id] == nil {
			c.Objects = append(c.Objects, a.version(id))
		}
	}
	return c
}

func (a *Agent) current() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status.Wanted
}

// apply has the Backend do it, in the cheapest way that there is.
func (a *Agent) apply(ctx context.Context, t *target, within time.Duration) (backends.Receipt, error) {
	b, g := a.opts.Backend, a.opts.Guard
	if t.posture == Open {
		err := b.Teardown(ctx)
		if err == nil && g != nil {
			err = g.Forget(ctx)
		}
		return backends.Receipt{}, err
	}
	if !a.adopted {
		if x, ok := b.(backends.Adopter); ok {
			st, err := x.Adopt(ctx, t.program, t.members())
			if err != nil {
				return backends.Receipt{}, err
			}
			a.log.Info("found in the kernel", "present", st.Present, "differences", len(st.Drift))
			a.update(func(s *Status) { s.Adopted = &st })
		}
		a.adopted = true
	}
	if g != nil {
		return g.Apply(ctx, t.program, t.members(), within)
	}
	if m, ok := b.(backends.MembersApplier); ok && a.membersOnly(t) && a.ahead.steps == 1 {
		if r, err := m.ApplyMembers(ctx, a.ahead.members); err == nil {
			return r, nil
		} else if ctx.Err() != nil {
			return r, err
		}
	}
	return b.Apply(ctx, t.program, t.members())
}

// membersOnly reports whether nothing but members of sets differs from what is enforced.
func (a *Agent) membersOnly(t *target) bool {
	return a.enforced != nil && a.enforced.program == t.program && !a.suspect
}

func isUnsupported(err error) bool {
	var u *render.UnsupportedError
	return errors.As(err, &u)
}

// patience is how many failures are put down to the kernel before objects are suspected.
const patience = 3

// blame looks for objects that are the reason why the Backend failed.
func (a *Agent) blame(ctx context.Context, err error) {
	x, checks := a.opts.Backend.(backends.Checker)
	found := false
	switch {
	case isUnsupported(err) && checks:
		found = a.isolate(ctx, err, func() error {
			t, err := a.target()
			if err != nil {
				return err
			}
			return x.Check(t.program, t.members())
		})
	case a.failures >= patience && a.enforced != nil && a.enforced.posture == Leave:
		// What was enforced before is safe to go back to, and so is every step between: the datastore has no
		// transactions over several objects either.
		found = a.isolate(ctx, err, func() error {
			t, err := a.target()
			if err != nil {
				return err
			}
			if a.opts.BeforeApply != nil {
				if err := a.opts.BeforeApply(ctx, a.change(t)); err != nil {
					return err
				}
			}
			_, err = a.apply(ctx, t, 0)
			return err
		})
	}
	if found {
		a.wait = time.Nanosecond // without them, at once
	}
}

// failed notes that the newest generation could not be enforced.
func (a *Agent) failed(err error) { a.notEnforced(err, false) }

// refused is failed if it was BeforeApply that said no.
func (a *Agent) refused(err error) { a.notEnforced(err, true) }

func (a *Agent) notEnforced(err error, blocked bool) {
	a.tried, a.forced = now(), false
	a.wait = min(max(2*a.wait, a.opts.Retry), a.opts.RetryMax)
	if !blocked {
		a.failures++
	}
	a.log.Error("not enforced", "generation", a.current(), "blocked", blocked, "error", err, "retry", a.wait)
	a.mu.Lock()
	a.blocked = blocked
	a.mu.Unlock()
	a.update(func(s *Status) {
		s.Err, s.Failures = err, a.failures
		s.Held = a.heldList()
		a.problems(s)
	})
}

func (a *Agent) problems(s *Status) {
	if a.ahead.problems && a.engine != nil {
		s.Problems = a.engine.Problems()
	}
}

// succeeded notes that the newest generation is enforced; nothing had to be done for it if c is nil.
func (a *Agent) succeeded(ctx context.Context, c *Change, k backends.Receipt) {
	g := a.current()
	if c == nil && g == a.generation {
		return
	}
	r := Receipt{Generation: g, Kernel: k, Posture: a.wanted, Noticed: a.noticed, Enforced: now()}
	if r.Noticed.IsZero() {
		r.Noticed = r.Enforced
	}
	if c == nil {
		c = a.change(a.enforced)
		r.Kernel = a.receipt
		r.Kernel.Changes, r.Kernel.Rendered, r.Kernel.Committed = 0, 0, 0
		r.Objects = c.Objects
	} else {
		r.Objects, r.Repair = c.Objects, c.Repair
		if a.opts.BeforeApply != nil || a.opts.AfterApply != nil || a.opts.BootFile != "" { // they may ask for it when the engine has gone on
			c.target.members()
			c.target.snapshot()
		}
		if a.enforced == nil || c.Repair {
			a.log.Info("enforced", "generation", g, "fingerprint", k.Fingerprint, "changes", k.Changes, "repair", c.Repair)
		} else {
			a.log.Debug("enforced", "generation", g, "fingerprint", k.Fingerprint, "changes", k.Changes, "latency", r.Latency())
		}
		a.enforced, a.rejected = c.target, ""
		a.startPending()
		if a.checked.IsZero() {
			a.checked = r.Enforced
		}
	}
	a.generation, a.receipt, a.suspect, a.forced = g, r.Kernel, false, false
	var better []hostendpoint.ID // whose good version is another now
	for id := range a.dirty {
		if a.held[id] != nil {
			continue
		}
		if o := a.objects[id]; o == nil {
			delete(a.good, id)
		} else if errs, _ := o.Check(); len(errs) > 0 { // the engine has kept the version before, if there was one
			continue
		} else {
			a.good[id] = o
		}
		better = append(better, id)
	}
	clear(a.dirty)
	a.wait, a.failures, a.noticed = 0, 0, time.Time{}
	if a.opts.AfterApply != nil && c.target == a.enforced && c.before != a.enforced {
		if err := a.safely("AfterApply", func() error { a.opts.AfterApply(ctx, c, r); return nil }); err != nil {
			a.log.Error("AfterApply", "error", err)
		}
	}
	a.mu.Lock()
	a.blocked = false
	a.note(r)
	a.mu.Unlock()
	a.update(func(s *Status) {
		s.Enforced, s.Receipt, s.Posture, s.Err, s.Failures = g, r, r.Posture, nil, 0
		s.Held = a.heldList()
		a.problems(s)
	})
	a.ahead = ahead{}
	for _, id := range better {
		a.keep(id)
	}
}

// stop leaves what OnStop says.
func (a *Agent) stop(ctx context.Context) error {
	a.writeBoot(true)
	if a.opts.OnStop == Leave {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, a.opts.StopTimeout)
	defer cancel()
	return a.safely("stop", func() error {
		a.wanted = a.opts.OnStop
		if a.wanted == FailsafesOnly && a.host == nil {
			return fmt.Errorf("stop: the host is not known, so nothing was changed")
		}
		t, err := a.target()
		if err == nil {
			_, err = a.apply(ctx, t, 0)
		}
		if err != nil {
			return fmt.Errorf("stop: the last generation stays in force: %w", err)
		}
		a.log.Info("stopped", "left", a.wanted.String())
		a.update(func(s *Status) { s.Posture = a.wanted })
		return nil
	})
}
