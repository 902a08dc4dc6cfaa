// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"

	"github.com/hostpolicy/hostpolicy/backends/confirm"
)

// pendingPoll is how often to look what became of a change that waits to be confirmed.
const pendingPoll = 200 * time.Millisecond

// Confirm makes the enforced generation the confirmed one. Errors are confirm.ErrNothing and confirm.ErrReverted, and
// those of files.
func (a *Agent) Confirm(ctx context.Context) error {
	if a.opts.Guard == nil {
		return confirm.ErrNothing
	}
	err := a.opts.Guard.Confirm(ctx)
	a.in.put(func() {})
	return err
}

// within returns how long a change may take to be confirmed.
func (a *Agent) within(c *Change) time.Duration {
	if a.opts.Guard == nil || a.opts.Confirm == nil {
		return 0
	}
	return a.opts.Confirm(c)
}

// recall finds out what an earlier process left unconfirmed, and what was reverted.
func (a *Agent) recall() {
	if a.opts.Guard == nil {
		return
	}
	st, err := a.opts.Guard.State()
	if err != nil {
		a.log.Error("what waits to be confirmed cannot be read", "error", err)
		return
	}
	a.setPending(st.Pending)
	if st.Reverted != nil {
		a.rejected = st.Reverted.Key
	}
}

// startPending notes what an Apply left to be confirmed.
func (a *Agent) startPending() {
	if a.opts.Guard == nil {
		return
	}
	st, err := a.opts.Guard.State()
	if err != nil {
		a.log.Error("what waits to be confirmed cannot be read", "error", err)
		return
	}
	if st.Pending != nil && a.pending == nil {
		a.log.Warn("waits to be confirmed", "within", st.Pending.Within)
	}
	a.setPending(st.Pending)
}

func (a *Agent) setPending(p *confirm.Pending) {
	if p != a.pending {
		a.update(func(s *Status) { s.Pending = p })
	}
	a.pending = p
}

// checkPending finds out whether what waited was confirmed or reverted.
func (a *Agent) checkPending() {
	if a.pending == nil {
		return
	}
	st, err := a.opts.Guard.State()
	if err != nil || st.Pending != nil && st.Pending.ID == a.pending.ID {
		return
	}
	was := a.pending
	a.setPending(st.Pending)
	if st.Reverted == nil || st.Reverted.ID != was.ID {
		a.log.Info("confirmed")
		return
	}
	// What the kernel has now is an earlier generation, whose number nobody knows.
	a.log.Warn("not confirmed in time, and reverted")
	a.enforced, a.suspect, a.rejected = nil, true, st.Reverted.Key
	a.ahead.program = true
}
