// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
)

// checkDrift compares the kernel with what was applied, if it is time to.
func (a *Agent) checkDrift(ctx context.Context) {
	if a.enforced == nil || a.enforced.posture == Open || a.opts.DriftEvery < 0 && !a.recheck {
		return
	}
	if !a.recheck && now().Before(a.checked.Add(a.opts.DriftEvery)) {
		return
	}
	if a.recheck && now().Sub(a.checked) < a.opts.Retry { // many changes by others are one reason to look
		return
	}
	a.recheck, a.checked = false, now()
	st, err := a.opts.Backend.Observe(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		a.log.Warn("drift could not be looked for", "error", err)
		a.update(func(s *Status) { s.Drift.Checked, s.Drift.Err = a.checked, err; s.Drift.Checks++ })
		return
	}
	if len(st.Drift) == 0 {
		a.update(func(s *Status) { s.Drift.Checked, s.Drift.Err = a.checked, nil; s.Drift.Checks++ })
		return
	}
	first := st.Drift[0]
	a.log.Warn("somebody else changed what is enforced", "differences", len(st.Drift), "kind", string(first.Kind), "object", first.Object, "origin", first.Origin, "repair", !a.opts.AlertOnly)
	repaired := false
	if !a.opts.AlertOnly {
		a.suspect = true
		a.enforce(ctx, true)
		repaired = !a.suspect
	}
	a.update(func(s *Status) {
		s.Drift.Checked, s.Drift.Found, s.Drift.At, s.Drift.Repaired, s.Drift.Err = a.checked, st.Drift, a.checked, repaired, nil
		s.Drift.Checks++
		s.Drift.Findings++
	})
}
