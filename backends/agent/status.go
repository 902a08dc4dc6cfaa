// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"time"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/confirm"
	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy"
)

// Phase says in one word how an Agent is. The zero value is Starting.
type Phase string

// The phases.
const (
	Starting  Phase = "starting"  // host or datastore were not yet seen, or not yet enforced
	Enforcing Phase = "enforcing" // the kernel enforces the newest generation
	Changing  Phase = "changing"  // a newer generation is on its way
	Blocked   Phase = "blocked"   // BeforeApply refuses the newest generation, or it was reverted; the last one is enforced
	Failing   Phase = "failing"   // the newest generation could not be applied; the last one is enforced, and it is tried again
	Stopped   Phase = "stopped"
)

// Status is what an Agent says of itself. It is a value of its own, and its lists are shared and immutable.
type Status struct {
	Name     string
	Phase    Phase
	Enforced uint64  // the generation that the kernel enforces; 0 if this process has not yet enforced any
	Wanted   uint64  // the newest generation
	Receipt  Receipt // of Enforced
	Posture  Posture // what is enforced in place of the resources; Leave if nothing is
	Err      error   // why Wanted is not enforced; nil if it is, or is on its way
	Failures int     // how many attempts for it failed

	Store    store.Status // how well the datastore is followed
	Host     hostendpoint.Host
	HostErr  error            // why the host is not followed; nil while it is
	Problems []policy.Problem // of the resources, the worst first; see Held, too
	Held     []Held           // objects whose newest version is kept out, sorted

	Pending *confirm.Pending // what is enforced and waits to be confirmed; nil if nothing does

	Adopted  *backends.State // what was found in the kernel at the start; nil if the Backend does not say
	Drift    Drift
	StateErr error // why StateDir lacks a good version; nil if the last was kept
	BootErr  error // why BootFile is out of date; nil if it is not, or not for long
	Panics   int   // how many were caught; each is a defect
}

// Held is an object whose newest version no dataplane program can hold. The last version that was enforced stays in force.
type Held struct {
	ObjectVersion
	Err error // never nil
}

// Drift is what the last comparison of the kernel with what was applied has shown.
type Drift struct {
	Checked  time.Time        `json:"checked"`         // zero if there was none yet
	Found    []backends.Drift `json:"found,omitempty"` // of the last check that found any
	At       time.Time        `json:"at"`              // of that check
	Repaired bool             `json:"repaired"`        // whether that was mended
	Checks   int              `json:"checks"`
	Findings int              `json:"findings"` // how many checks found something
	Err      error            `json:"-"`        // of the last check
}

// Status returns how the Agent is. It takes no time and needs no kernel.
func (a *Agent) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	s.Name = a.opts.Name
	switch {
	case a.stopped:
		s.Phase = Stopped
	case s.Enforced == 0 && s.Err == nil:
		s.Phase = Starting
	case s.Err == nil && s.Enforced == s.Wanted:
		s.Phase = Enforcing
	case s.Err == nil:
		s.Phase = Changing
	case a.blocked:
		s.Phase = Blocked
	default:
		s.Phase = Failing
	}
	return s
}

// Changed returns a channel that is closed when Status is another.
func (a *Agent) Changed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}

// update changes the status, and tells those who wait for that.
func (a *Agent) update(do func(*Status)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	do(&a.status)
	close(a.changed)
	a.changed = make(chan struct{})
}
