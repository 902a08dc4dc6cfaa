// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/confirm"
	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Options say what an Agent connects and how it behaves. Store, Host and Backend are required; the zero value of
// everything else is useful.
type Options struct {
	// Name tells agents of one host apart, in logs and in Status; "" is "hostpolicy". What keeps two agents apart in the
	// kernel is in the options of their Backends: table, prefix or path.
	Name string

	Store   store.Store      // where resources come from
	Host    HostSource       // where the host comes from: netif.Monitor, or FixedHost
	Backend backends.Backend // what enforces; the Agent does not close it
	Config  policy.Config

	// Quiet is how long the Agent waits for more after a change, and Limit for how long at most while changes keep
	// coming. 0 means 5 ms and 50 ms. Where a pass takes longer than Limit, the next waits as long as the last one took.
	Quiet, Limit time.Duration
	// Retry is how long the Agent waits after a failed pass, doubled up to RetryMax after each that follows. 0 means
	// 100 ms and 30 s. A change ends the wait, but not within Retry.
	Retry, RetryMax time.Duration

	// Unsynced is what is enforced until the datastore has been read for the first time. Leave, the default, keeps what
	// the kernel has, of an earlier process or of a boot ruleset.
	Unsynced Posture
	// Stale is what is enforced when the datastore could not be followed for StaleAfter; 0 means 5 minutes. Leave, the
	// default, keeps the last state.
	Stale      Posture
	StaleAfter time.Duration
	// OnStop is what Run leaves behind, and StopTimeout bounds how long that may take; 0 means 10 s.
	OnStop      Posture
	StopTimeout time.Duration

	// DriftEvery is how often the kernel is compared with what was applied; 0 means a minute, negative never. Backends
	// that notice changes by others (backends.Noticer) have it done then, too.
	DriftEvery time.Duration
	// AlertOnly makes the Agent report drift and not mend it.
	AlertOnly bool

	// BootFile is where to write what is enforced for early boot: an executable file that has the kernel enforce it before
	// this process runs (backends.Booter). The Agent takes over from it. Its directory must exist; "" is no file.
	BootFile string

	// StateDir is a directory, made if it is missing, in which the last good version of every object is kept for the next
	// process, which needs them for objects of which the datastore has only versions by then that nothing can use. It takes
	// what the documents take, and a file is written for each object that changes; "" is none. It may be that of the Guard.
	StateDir string

	// BeforeApply is asked before a change is applied. An error blocks it: the last generation stays in force, Status
	// shows the error as Blocked, and the question is put again after the next change, a retry time, or Force. It is called
	// by the goroutine of Run.
	BeforeApply func(context.Context, *Change) error
	// AfterApply is told of every change that the kernel has taken. It is called by the goroutine of Run, before
	// WaitEnforced returns.
	AfterApply func(context.Context, *Change, Receipt)

	// Gate, if it is not nil, stands before and behind every change that has a program, such as liveflow.Gate: its Before is
	// part of BeforeApply, and its After of AfterApply. An error of After is logged.
	Gate Gate

	// Guard, if it is not nil, applies in place of the Backend, which must be the Guard's. Confirm says how long a change
	// may take to be confirmed, from when the kernel has taken it, before the last confirmed generation comes back; 0, or no
	// such function, is for ever. A generation that was reverted is not applied again, also not by the next process, before
	// something changes or Force is called. OfResources is a Confirm for most.
	Guard   *confirm.Guard
	Confirm func(*Change) time.Duration

	Logger *slog.Logger // nil is silence
}

// Gate is asked before a program is applied, and told afterwards.
type Gate interface {
	Before(context.Context, *ir.Program, ir.Members) error
	After(context.Context, *ir.Program, ir.Members) (int, error)
}

// HostSource follows a host. Follow calls changed with the host as it is, and again whenever it is another, until ctx
// ends; it returns then, or with an error if it cannot go on. An Agent calls it anew after an error.
type HostSource interface {
	Follow(ctx context.Context, changed func(hostendpoint.Host)) error
}

// OfResources is for Options.Confirm: changes of objects that change rules have the given time; changes of the host, and
// of members of sets, which come by themselves, are for good.
func OfResources(within time.Duration) func(*Change) time.Duration {
	return func(c *Change) time.Duration {
		if len(c.Objects) == 0 || c.Members || c.Repair || c.Posture != Leave {
			return 0
		}
		return within
	}
}

// FixedHost is a HostSource of a host that does not change.
func FixedHost(h hostendpoint.Host) HostSource { return fixedHost{h} }

type fixedHost struct{ hostendpoint.Host }

func (f fixedHost) Follow(ctx context.Context, changed func(hostendpoint.Host)) error {
	changed(f.Host)
	<-ctx.Done()
	return ctx.Err()
}

// Posture is what is enforced when it is not the resources that say so. The zero value is Leave.
type Posture uint8

// The postures.
const (
	// Leave keeps what the kernel has.
	Leave Posture = iota
	// FailsafesOnly denies everything but the failsafes on all interfaces that endpoints govern, of what policies of the
	// stages normal, pre-DNAT and untracked could deny. Connections that exist go on. While no endpoint is known it is all
	// interfaces but lo.
	FailsafesOnly
	// Open removes everything. The host is then unprotected.
	Open
)

var postures = [...]string{Leave: "leave", FailsafesOnly: "failsafes-only", Open: "open"}

// String returns "leave", "failsafes-only" or "open".
func (p Posture) String() string {
	if int(p) < len(postures) {
		return postures[p]
	}
	return fmt.Sprintf("Posture(%d)", p)
}

// MarshalText returns the name.
func (p Posture) MarshalText() ([]byte, error) {
	if int(p) >= len(postures) {
		return nil, fmt.Errorf("unknown posture %d", p)
	}
	return []byte(postures[p]), nil
}

// UnmarshalText takes the name. On error p is unchanged.
func (p *Posture) UnmarshalText(text []byte) error {
	for i, s := range postures {
		if s == string(text) {
			*p = Posture(i)
			return nil
		}
	}
	return fmt.Errorf("%q is no posture: leave, failsafes-only or open", text)
}

// ErrOptions is what errors of New about Options wrap.
var ErrOptions = errors.New("agent: options")

func (o Options) withDefaults() (Options, error) {
	var errs []error
	missing := func(what string) { errs = append(errs, fmt.Errorf("%w: no %s", ErrOptions, what)) }
	if o.Store == nil {
		missing("Store")
	}
	if o.Host == nil {
		missing("Host")
	}
	if o.Backend == nil {
		missing("Backend")
	}
	if _, ok := o.Backend.(backends.Booter); o.BootFile != "" && o.Backend != nil && !ok {
		errs = append(errs, fmt.Errorf("%w: BootFile: %T has no boot ruleset", ErrOptions, o.Backend))
	}
	for _, p := range []Posture{o.Unsynced, o.Stale, o.OnStop} {
		if p > Open {
			errs = append(errs, fmt.Errorf("%w: unknown %v", ErrOptions, p))
		}
	}
	if len(errs) > 0 {
		return o, errors.Join(errs...)
	}
	if o.Name == "" {
		o.Name = "hostpolicy"
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.Quiet, 5*time.Millisecond)
	def(&o.Limit, 50*time.Millisecond)
	def(&o.Retry, 100*time.Millisecond)
	def(&o.RetryMax, 30*time.Second)
	def(&o.StaleAfter, 5*time.Minute)
	def(&o.StopTimeout, 10*time.Second)
	def(&o.DriftEvery, time.Minute)
	o.RetryMax = max(o.RetryMax, o.Retry)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Logger = o.Logger.With("agent", o.Name)
	if o.Gate != nil {
		o.throughGate()
	}
	return o, nil
}

// throughGate makes the Gate part of BeforeApply and AfterApply.
func (o *Options) throughGate() {
	g, log, before, after := o.Gate, o.Logger, o.BeforeApply, o.AfterApply
	o.BeforeApply = func(ctx context.Context, c *Change) error {
		if p, m := c.Program(); p != nil {
			if err := g.Before(ctx, p, m); err != nil {
				return err
			}
		}
		if before == nil {
			return nil
		}
		return before(ctx, c)
	}
	o.AfterApply = func(ctx context.Context, c *Change, r Receipt) {
		if p, m := c.Program(); p != nil {
			if _, err := g.After(ctx, p, m); err != nil {
				log.Error("flows could not be dealt with", "error", err)
			}
		}
		if after != nil {
			after(ctx, c, r)
		}
	}
}
