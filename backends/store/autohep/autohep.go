// SPDX-License-Identifier: Apache-2.0

// Package autohep keeps a host endpoint for every node, as Calico's node controller does: on any store, and touching only
// what carries its label.
package autohep

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Options of Run. The zero value makes the endpoint of Calico 3.29 for every node.
type Options struct {
	// Nodes is where the nodes are, if not in the store of the endpoints: the API of Kubernetes, or a memory store with the
	// nodes that a program gives. nil means the same store.
	Nodes store.Store
	// Disabled deletes all endpoints that carry the label, and makes none.
	Disabled bool
	// Templates, if not nil, are those of later releases of Calico. See hostendpoint.AutoHostEndpoints.
	Templates *hostendpoint.AutoHostEndpoints
	// Resync is how often everything is compared, even if nothing changed. 0 means 5 minutes.
	Resync time.Duration
	// Retry is how long to wait after an error, doubled up to Resync after each that follows. 0 means 1 s.
	Retry time.Duration
	Log   *slog.Logger // nil for none
	Done  func(Report) // called after every pass; nil for none
}

// Report says what a pass did.
type Report struct {
	Created, Updated, Deleted []string // names of host endpoints, sorted
	Problems                  []error  // what could not be done: *store.Error, *field.Errors, *Foreign
}

// Foreign is the problem that an endpoint which should be made has the name of one that a user made.
type Foreign struct{ Name string }

// Error implements error.
func (f *Foreign) Error() string {
	return "HostEndpoint(" + f.Name + ") exists and does not carry the label " + hostendpoint.CreatedByLabel + ": it is left alone"
}

// Run keeps the endpoints of s as they should be, until ctx ends; that is its only error, unless the templates are wrong.
// It watches nodes and host endpoints, so that what others change or delete of its own is put right.
//
// Nothing is done before all nodes and endpoints have been read, nor while the datastore cannot be followed: a list that
// is not complete must not make it delete anything.
func Run(ctx context.Context, s store.Store, o Options) error {
	if o.Resync <= 0 {
		o.Resync = 5 * time.Minute
	}
	if o.Retry <= 0 {
		o.Retry = time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Templates != nil {
		if _, err := o.Templates.For(&hostendpoint.Node{Metadata: hostendpoint.ObjectMeta{Name: "any"}}); err != nil {
			return err
		}
	}
	if o.Nodes == nil {
		o.Nodes = s
	}
	ctx, cancel := context.WithCancel(ctx)
	nodes, err := store.For[*hostendpoint.Node](o.Nodes).Watch(ctx, store.WatchOptions{})
	if err != nil {
		cancel()
		return err
	}
	heps, err := store.For[*hostendpoint.HostEndpoint](s).Watch(ctx, store.WatchOptions{})
	if err != nil {
		cancel()
		<-nodes.Done()
		return err
	}
	c := &controller{opts: o, heps: store.For[*hostendpoint.HostEndpoint](s), haveNodes: map[string]*hostendpoint.Node{}, have: map[string]*hostendpoint.HostEndpoint{}}
	// One goroutine for each watch hands its events to this one.
	events := make(chan func())
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		forward(ctx, nodes, events, func(e store.Event[*hostendpoint.Node]) { apply(c.haveNodes, &c.nodes, e) })
	})
	wg.Go(func() {
		forward(ctx, heps, events, func(e store.Event[*hostendpoint.HostEndpoint]) { apply(c.have, &c.endpoints, e) })
	})
	defer func() {
		cancel()
		<-nodes.Done()
		<-heps.Done()
	}()
	return c.run(ctx, events)
}

func forward[T hostendpoint.Object](ctx context.Context, w *store.Watcher[T], to chan<- func(), do func(store.Event[T])) {
	for {
		e, err := w.Next(ctx)
		if err != nil {
			return
		}
		select {
		case to <- func() { do(e) }:
		case <-ctx.Done():
			return
		}
	}
}

// apply makes state, and the status beside it, those after an event.
func apply[T hostendpoint.Object](state map[string]T, status *store.Status, e store.Event[T]) {
	switch e.Type {
	case store.Added, store.Modified:
		state[e.Object.ID().Name] = e.Object
	case store.Deleted:
		delete(state, e.Object.ID().Name)
	default:
		*status = e.Status
	}
}

// controller is the state of one Run.
type controller struct {
	opts      Options
	heps      store.Client[*hostendpoint.HostEndpoint]
	haveNodes map[string]*hostendpoint.Node
	have      map[string]*hostendpoint.HostEndpoint
	nodes     store.Status
	endpoints store.Status
}

func (c *controller) run(ctx context.Context, events <-chan func()) error {
	const gather = 20 * time.Millisecond // many nodes change at once
	timer := time.NewTimer(c.opts.Resync)
	defer timer.Stop()
	due := time.Now().Add(c.opts.Resync)
	again := func(d time.Duration) {
		due = time.Now().Add(d)
		timer.Reset(d)
	}
	retry := c.opts.Retry
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case do := <-events:
			do()
			if time.Until(due) > gather {
				again(gather)
			}
			continue
		case <-timer.C:
		}
		if !c.nodes.Synced || !c.endpoints.Synced {
			again(c.opts.Resync)
			continue
		}
		r := c.pass(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for _, err := range r.Problems {
			c.opts.Log.Warn("automatic host endpoint", "error", err)
		}
		if c.opts.Done != nil {
			c.opts.Done(r)
		}
		if slices.ContainsFunc(r.Problems, transient) {
			again(retry)
			retry = min(retry*2, c.opts.Resync)
			continue
		}
		retry = c.opts.Retry
		again(c.opts.Resync)
	}
}

// transient reports whether trying again can help although nothing has changed. After a conflict the watch will tell.
func transient(err error) bool {
	return errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrForbidden) || errors.Is(err, store.ErrUnauthorized)
}

// pass compares what there should be with what there is, and makes it so.
func (c *controller) pass(ctx context.Context) Report {
	var r Report
	want, unknown := c.want(&r)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		w := want[name]
		h, ok := c.have[name]
		switch {
		case !ok:
			_, err := c.heps.Create(ctx, w)
			// One that exists although the watch has not said so yet is looked at when it has.
			r.note(&r.Created, name, err, store.ErrAlreadyExists)
		case !ours(h):
			// Deviation: Calico 3.29 takes an endpoint of a user over.
			r.Problems = append(r.Problems, &Foreign{Name: name})
		default:
			if next, differs := merge(h, w); differs {
				_, err := c.heps.Update(ctx, next)
				r.note(&r.Updated, name, err, store.ErrConflict, store.ErrNotFound)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.have)) {
		h := c.have[name]
		if _, ok := want[name]; ok || !ours(h) || unknown[h.Spec.Node] {
			continue
		}
		// Deviation: Calico 3.29 deletes by name, whoever made it. The version guards against a user who takes it over.
		m := h.Metadata
		_, err := c.heps.Delete(ctx, "", name, store.DeleteOptions{ResourceVersion: m.ResourceVersion, UID: m.UID})
		r.note(&r.Deleted, name, err, store.ErrConflict, store.ErrNotFound)
	}
	return r
}

// note adds the outcome of a write; errors that mean that the watch is behind are none.
func (r *Report) note(done *[]string, name string, err error, behind ...error) {
	switch {
	case err == nil:
		*done = append(*done, name)
	case !slices.ContainsFunc(behind, func(b error) bool { return errors.Is(err, b) }):
		r.Problems = append(r.Problems, err)
	}
}

// want returns the endpoints that there should be, by name, and the nodes for which that cannot be said: their endpoints
// stay as they are.
func (c *controller) want(r *Report) (map[string]*hostendpoint.HostEndpoint, map[string]bool) {
	want, unknown := map[string]*hostendpoint.HostEndpoint{}, map[string]bool{}
	if c.opts.Disabled {
		return want, unknown
	}
	for _, name := range slices.Sorted(maps.Keys(c.haveNodes)) {
		heps, err := c.forNode(c.haveNodes[name])
		for _, h := range heps {
			if err == nil {
				err = hostendpoint.Validate(h)
			}
			if _, taken := want[h.Metadata.Name]; taken && err == nil {
				err = fmt.Errorf("%v: two nodes make one endpoint", h.ID())
			}
		}
		if err != nil {
			r.Problems = append(r.Problems, fmt.Errorf("Node(%s): %w", name, err))
			unknown[name] = true
			continue
		}
		for _, h := range heps {
			want[h.Metadata.Name] = h
		}
	}
	return want, unknown
}

func (c *controller) forNode(n *hostendpoint.Node) ([]*hostendpoint.HostEndpoint, error) {
	if c.opts.Templates != nil {
		return c.opts.Templates.For(n)
	}
	h, err := hostendpoint.AutoHostEndpoint(n)
	if err != nil {
		return nil, err
	}
	return []*hostendpoint.HostEndpoint{h}, nil
}

func ours(h *hostendpoint.HostEndpoint) bool {
	return h.Metadata.Labels[hostendpoint.CreatedByLabel] == hostendpoint.CreatedByValue
}

// merge returns what h must become to be as w says, and whether that is anything new. Annotations that w does not have
// stay: others put theirs on any object.
//
// Deviation: Calico 3.29 does not see changes of profiles, ports and the node, and takes no list for another than an
// empty one, so that it rewrites endpoints without addresses for ever.
func merge(h, w *hostendpoint.HostEndpoint) (*hostendpoint.HostEndpoint, bool) {
	next := *h
	next.Spec = w.Spec
	next.Metadata.Labels = w.Metadata.Labels
	next.Metadata.Annotations = maps.Clone(h.Metadata.Annotations)
	for k, v := range w.Metadata.Annotations {
		if next.Metadata.Annotations == nil {
			next.Metadata.Annotations = map[string]string{}
		}
		next.Metadata.Annotations[k] = v
	}
	same := h.Spec.Node == w.Spec.Node && h.Spec.InterfaceName == w.Spec.InterfaceName && slices.Equal(h.Spec.ExpectedIPs, w.Spec.ExpectedIPs) &&
		slices.Equal(h.Spec.Profiles, w.Spec.Profiles) && slices.Equal(h.Spec.Ports, w.Spec.Ports) &&
		maps.Equal(h.Metadata.Labels, next.Metadata.Labels) && maps.Equal(h.Metadata.Annotations, next.Metadata.Annotations)
	return &next, !same
}
