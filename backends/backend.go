// SPDX-License-Identifier: Apache-2.0

// Package backends holds what the kernel dataplanes have in common: the Backend interface and the values it speaks.
package backends

import (
	"context"
	"time"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Backend is one kernel dataplane in one network namespace. Implementations are safe for concurrent use; calls are
// serialised. All methods return as soon as they can after ctx ends.
type Backend interface {
	// Apply makes the kernel enforce p with the members m, all or nothing: on error, and if the process dies at any
	// instant, the kernel keeps the generation it had or has the new one.
	Apply(ctx context.Context, p *ir.Program, m ir.Members) (Receipt, error)
	// Observe reads back what the kernel enforces and compares it with what was applied last.
	Observe(ctx context.Context) (State, error)
	// Counters returns what the kernel counted for each origin, sorted by origin text.
	Counters(ctx context.Context) ([]Counter, error)
	// Teardown removes everything that this backend ever made, also by an earlier process of the same name. The host
	// is then unprotected.
	Teardown(ctx context.Context) error
}

// Receipt says what an Apply did. The zero value means that nothing was applied.
type Receipt struct {
	Generation  uint64        `json:"generation"`  // counts the successful Applies of this Backend, from 1
	Fingerprint string        `json:"fingerprint"` // of the artifact now in the kernel
	Changes     int           `json:"changes"`     // objects and elements that were sent; 0 if the kernel had it already
	Rendered    time.Duration `json:"rendered"`    // time spent on the artifact and the difference
	Committed   time.Duration `json:"committed"`   // time spent in the kernel
}

// State is what Observe found.
type State struct {
	Present     bool    `json:"present"`               // something of ours is in the kernel
	Generation  uint64  `json:"generation,omitempty"`  // of the last Apply; 0 if this process did none
	Fingerprint string  `json:"fingerprint,omitempty"` // of the artifact that should be in the kernel
	Drift       []Drift `json:"drift,omitempty"`       // sorted; empty if the kernel has exactly what was applied
}

// DriftKind says how an object differs. The zero value is invalid.
type DriftKind string

// The kinds of drift.
const (
	DriftMissing DriftKind = "missing" // applied, and not in the kernel
	DriftUnknown DriftKind = "unknown" // in the kernel, and not applied
	DriftChanged DriftKind = "changed" // in both, with different meaning
)

// Drift is one difference between what was applied and what the kernel has.
type Drift struct {
	Kind   DriftKind `json:"kind"`
	Object string    `json:"object"`           // "chain normal-in", "set s:...", "rule normal-in[3]"
	Want   string    `json:"want,omitempty"`   // what was applied
	Got    string    `json:"got,omitempty"`    // what the kernel has
	Origin string    `json:"origin,omitempty"` // of the rule, if it has one
}

// Counter is what the kernel counted for one origin.
type Counter struct {
	Origin  flow.Origin `json:"origin"`
	Packets uint64      `json:"packets"`
	Bytes   uint64      `json:"bytes"`
}

// Adopter is a Backend that can be compared with what an earlier process applied under the same options. Adopt takes p
// with m for that, and changes nothing in the kernel; the State says how far it is true. The next Apply starts from there.
type Adopter interface {
	Backend
	Adopt(ctx context.Context, p *ir.Program, m ir.Members) (State, error)
}

// MembersApplier is a Backend for which changes of members alone are cheap. ApplyMembers is Apply with the program of the
// last Apply, for what changed in its sets since the last success of either; it returns an error and changes nothing if
// there was no such Apply, or if somebody else has changed the kernel since. Then Apply will do.
type MembersApplier interface {
	Backend
	ApplyMembers(ctx context.Context, cs ir.MembersChanges) (Receipt, error)
}

// Noticer is a Backend that is told by the kernel when somebody changes rules. Notice calls changed when somebody else may
// have changed what this Backend enforces, until ctx ends; it returns then, or with an error if it cannot go on. Calls
// may be for nothing: Observe tells. They never come after Notice has returned.
type Noticer interface {
	Backend
	Notice(ctx context.Context, changed func()) error
}

// Checker is a Backend that can say without touching the kernel whether it can express something: the error is what Apply
// would return for that reason.
type Checker interface {
	Backend
	Check(p *ir.Program, m ir.Members) error
}

// Booter is a Backend whose rules can be written down for early boot, when neither a datastore nor this process is there
// yet. Boot returns an executable file, of a language of which the host has the interpreter, that has the kernel enforce
// p with m; the next Apply takes over from it without a gap.
type Booter interface {
	Backend
	Boot(p *ir.Program, m ir.Members) ([]byte, error)
}
