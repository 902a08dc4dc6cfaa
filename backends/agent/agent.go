// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy/engine"
)

// Agent connects a datastore and a host with a Backend. Make it with New and run it once; it must not be copied.
type Agent struct {
	opts Options
	log  *slog.Logger
	in   inbox

	mu           sync.Mutex // guards what follows
	status       Status
	blocked      bool // Err is what BeforeApply said
	stopped      bool
	ran          bool
	receipts     []Receipt
	receiptCount uint64
	changed      chan struct{} // closed and replaced when something did

	// What follows belongs to the goroutine of Run.

	store   store.Status // the latest
	synced  bool         // the datastore was read once
	wanted  Posture
	news    bool // the newest generation is not yet counted
	recheck bool // somebody asked to look for drift
	desired
	actual
	memory memory
}

// New returns an Agent that does nothing yet. Errors wrap ErrOptions.
func New(o Options) (*Agent, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	// Whether the configuration makes sense does not depend on the host.
	if _, err := engine.New(hostendpoint.Host{Node: "any"}, engine.Options{Config: o.Config}); err != nil {
		return nil, errors.Join(ErrOptions, err)
	}
	a := &Agent{
		opts: o, log: o.Logger, changed: make(chan struct{}),
		desired: desired{
			objects: map[hostendpoint.ID]hostendpoint.Object{}, good: map[hostendpoint.ID]hostendpoint.Object{},
			held: map[hostendpoint.ID]error{}, dirty: map[hostendpoint.ID]bool{}, stuck: map[hostendpoint.ID]string{},
		},
	}
	if o.StateDir != "" {
		a.memory.dir = filepath.Join(o.StateDir, "good")
	}
	a.in.init()
	return a, nil
}

// Run follows, and enforces, until ctx ends, and leaves what OnStop says. The error is of that last act alone, or
// ErrStopped if Run was called before.
func (a *Agent) Run(ctx context.Context) error {
	a.mu.Lock()
	again := a.ran
	a.ran = true
	a.mu.Unlock()
	if again {
		return ErrStopped
	}
	var sources sync.WaitGroup
	sources.Go(func() { a.followStore(ctx) })
	sources.Go(func() { a.followHost(ctx) })
	if n, ok := a.opts.Backend.(backends.Noticer); ok && a.opts.DriftEvery > 0 {
		sources.Go(func() { a.followKernel(ctx, n) })
	}
	a.loop(ctx)
	sources.Wait()
	err := a.stop(context.WithoutCancel(ctx))
	a.mu.Lock()
	a.stopped = true
	close(a.changed)
	a.changed = make(chan struct{})
	a.mu.Unlock()
	return err
}

// Force has what BeforeApply blocks applied, once: it is asked with Change.Forced set, and its error only logged.
func (a *Agent) Force() { a.in.put(func() { a.in.force = true }) }

// Recheck has the kernel compared with what was applied, soon.
func (a *Agent) Recheck() { a.in.put(func() { a.in.drift = true }) }
