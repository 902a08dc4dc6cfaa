// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Change is what is about to be applied, or was. Its methods are for the hook that it is passed to, and only until that
// returns; what they return is immutable and stays valid. What they return is computed when it is asked for.
type Change struct {
	Generation uint64          // of the Agent, after the change
	Objects    []ObjectVersion // what came, changed or went since the last generation that was enforced, sorted
	Host       bool            // the host is another
	Members    bool            // nothing but members of sets are others
	Posture    Posture         // FailsafesOnly or Open if it is not the resources that decide; else Leave
	Repair     bool            // what the kernel has differs from the last generation
	Forced     bool            // Force was called: a check that would block should only report

	target, before *target
}

// ObjectVersion is an object as a datastore has it.
type ObjectVersion struct {
	ID              hostendpoint.ID `json:"id"` // as stored
	ResourceVersion string          `json:"resourceVersion,omitempty"`
	Deleted         bool            `json:"deleted,omitempty"`
}

// Snapshot returns what the change makes the policy of this host; nil if Posture is not Leave.
func (c *Change) Snapshot() *policy.Snapshot { return c.target.snapshot() }

// Program returns what is to be enforced, with its members; nil if Posture is Open.
func (c *Change) Program() (*ir.Program, ir.Members) { return c.target.program, c.target.members() }

// Before returns what was enforced before, in the forms of Snapshot and Program; nil if that is not known, as it is at
// first.
func (c *Change) Before() (*policy.Snapshot, *ir.Program, ir.Members) {
	if b := c.before; b != nil {
		return b.snapshot(), b.program, b.members()
	}
	return nil, nil, ir.Members{}
}
