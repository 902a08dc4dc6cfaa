// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/engine"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// desired is what the sources say, and what follows from it. It belongs to the goroutine of Run.
type desired struct {
	engine  *engine.Engine // nil before host and resources are known, and after a panic
	program *ir.Program    // of the engine; nil if it is out of date
	host    *hostendpoint.Host
	objects map[hostendpoint.ID]hostendpoint.Object // as the datastore has them
	good    map[hostendpoint.ID]hostendpoint.Object // as they were enforced last
	held    map[hostendpoint.ID]error               // those whose newest version is not in the engine
	dirty   map[hostendpoint.ID]bool                // changed since the last success
	was     map[hostendpoint.ID]kept                // by the process before; nil once the datastore was read
	stuck   map[hostendpoint.ID]string              // of objects that are of was: the file they came from
	ahead   ahead

	heldSince time.Time // when those held back were last looked at
}

// ahead is how the engine is ahead of the kernel.
type ahead struct {
	host     bool              // the host is another
	program  bool              // blocks, entries or sets are
	members  ir.MembersChanges // what came and went in the last step
	steps    int               // how many steps that was
	problems bool              // those of the resources are others
}

func compareIDs(a, b hostendpoint.ID) int {
	return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// takeIn takes letters in, and reports whether the desired state may be another.
func (a *Agent) takeIn(ctx context.Context, l *letters) bool {
	if l.status != nil {
		a.store = *l.status
		a.synced = a.synced || l.status.Synced
		a.update(func(s *Status) { s.Store = *l.status })
	}
	if a.noticed.IsZero() {
		a.noticed = l.since
	}
	for _, id := range a.missing(l) {
		if l.objects == nil {
			l.objects = map[hostendpoint.ID]hostendpoint.Object{}
		}
		l.objects[id] = nil
	}
	for id, o := range l.objects {
		if o == nil {
			delete(a.objects, id)
		} else {
			a.objects[id] = o
		}
		a.dirty[id] = true
		delete(a.held, id)
		delete(a.stuck, id)
	}
	a.recover(l)
	if l.host != nil {
		a.takeHost(l.host)
	}
	if a.engine != nil && len(l.objects) > 0 {
		a.advance(ctx, slices.SortedFunc(maps.Keys(l.objects), compareIDs))
	}
	return len(l.objects) > 0 || l.host != nil
}

// missing returns the objects that a complete list did not hold.
func (a *Agent) missing(l *letters) []hostendpoint.ID {
	if l.all == nil {
		return nil
	}
	var out []hostendpoint.ID
	for id := range a.objects {
		_, stuck := a.stuck[id]
		if _, ok := l.objects[id]; !ok && !l.all[id] && !stuck {
			out = append(out, id)
		}
	}
	return out
}

// takeHost takes a host in, unless it makes no sense: then the last one stays.
func (a *Agent) takeHost(h *hostendpoint.Host) {
	var err error
	if a.engine == nil {
		_, err = engine.New(*h, engine.Options{Config: a.opts.Config})
	} else {
		err = a.feed(engine.SetHost(*h))
	}
	if err != nil {
		a.log.Error("the host cannot be used", "error", err)
		a.update(func(s *Status) { s.HostErr = err })
		return
	}
	a.host = h
	a.ahead.host = true
	a.update(func(s *Status) { s.Host, s.HostErr = *h, nil })
}

// ready reports whether enough is known to enforce what is wanted, and sees to it that there is an engine.
func (a *Agent) ready(ctx context.Context) bool {
	switch {
	case a.wanted == Open:
		return true
	case a.host == nil:
		return false
	case a.wanted == FailsafesOnly:
		return true
	case !a.synced:
		return false
	case a.engine != nil:
		return true
	}
	e, err := engine.New(*a.host, engine.Options{Config: a.opts.Config, KeepLastGood: true})
	if err != nil { // takeHost has seen to it that this cannot be
		a.failed(err)
		return false
	}
	a.engine, a.program = e, nil
	a.ahead.program = true
	// The good versions first, so that the engine can keep them.
	if err := a.set(slices.Collect(maps.Keys(a.good)), a.good); err != nil {
		a.log.Debug("good versions were refused", "error", err)
	}
	ids := maps.Clone(a.dirty)
	for id := range a.objects {
		ids[id] = true
	}
	for id := range a.held {
		delete(ids, id)
	}
	a.advance(ctx, slices.SortedFunc(maps.Keys(ids), compareIDs))
	return true
}

// advance makes objects in the engine what the datastore says. Those that no program can hold are held back.
func (a *Agent) advance(ctx context.Context, ids []hostendpoint.ID) {
	if err := a.set(ids, a.objects); err != nil {
		a.isolate(ctx, err, func() error { return nil })
	}
}

// set makes objects in the engine those of the given ones. The error says that there is no program for it all.
func (a *Agent) set(ids []hostendpoint.ID, to map[hostendpoint.ID]hostendpoint.Object) error {
	changes := make([]engine.Change, len(ids))
	for i, id := range ids {
		if o := to[id]; o != nil {
			changes[i] = engine.Upsert(o)
		} else {
			changes[i] = engine.Delete(id)
		}
	}
	return a.feed(changes...)
}

// feed has the engine take changes in, and notes how that brings it ahead of the kernel.
func (a *Agent) feed(changes ...engine.Change) error {
	d, err := a.engine.Apply(changes...)
	if err != nil {
		return err // the next delta will hold what this one would have
	}
	a.ahead.problems = a.ahead.problems || len(d.Raised)+len(d.Solved) > 0
	members := d.Members
	if d.Delta.Members = nil; !d.Delta.Empty() {
		a.ahead.program, a.program = true, nil
	} else if len(members) > 0 {
		a.ahead.members = members
		a.ahead.steps++
	}
	return nil
}

// maxTries bounds how often isolate asks.
const maxTries = 200

// isolate finds out which of the objects that changed since the last success are to blame for an error, and holds their
// newest versions back. Whether a state is good is what the engine says, and try. It reports whether it has found any.
func (a *Agent) isolate(ctx context.Context, cause error, try func() error) bool {
	var ids []hostendpoint.ID
	for id := range a.dirty {
		if a.held[id] == nil {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, compareIDs)
	tries := 0
	attempt := func(ids []hostendpoint.ID, to map[hostendpoint.ID]hostendpoint.Object) error {
		tries++
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := a.set(ids, to); err != nil {
			return err
		}
		return try()
	}
	if err := attempt(ids, a.good); len(ids) == 0 || err != nil {
		_ = a.set(ids, a.objects) // it is not their fault
		return false
	}
	var look func(ids []hostendpoint.ID, err error)
	look = func(ids []hostendpoint.ID, err error) {
		if err == nil {
			if err = attempt(ids, a.objects); err == nil {
				return
			}
			_ = a.set(ids, a.good)
		}
		if len(ids) == 1 || tries > maxTries {
			for _, id := range ids {
				a.held[id] = err
				a.log.Error("held back: the last good version stays in force", "object", id.String(), "error", err)
			}
			return
		}
		half := len(ids) / 2
		look(ids[:half], nil)
		look(ids[half:], nil)
	}
	look(ids, cause)
	a.heldSince = now()
	return len(a.held) > 0
}

// retryHeld takes up again what was held back, now and then: others may have been to blame.
func (a *Agent) retryHeld(ctx context.Context) {
	if len(a.held) == 0 || a.engine == nil || now().Sub(a.heldSince) < a.opts.RetryMax {
		return
	}
	ids := slices.SortedFunc(maps.Keys(a.held), compareIDs)
	clear(a.held)
	for _, id := range ids {
		a.dirty[id] = true
	}
	a.heldSince = now()
	a.advance(ctx, ids)
}

// heldList returns what Status says about objects that are held back.
func (a *Agent) heldList() []Held {
	var out []Held
	for _, id := range slices.SortedFunc(maps.Keys(a.held), compareIDs) {
		out = append(out, Held{a.version(id), a.held[id]})
	}
	return out
}

// version returns the version of an object that the datastore has.
func (a *Agent) version(id hostendpoint.ID) ObjectVersion {
	o := a.objects[id]
	if o == nil {
		return ObjectVersion{ID: id, Deleted: true}
	}
	return ObjectVersion{ID: id, ResourceVersion: o.Meta().ResourceVersion}
}

// failsafesOnly returns the resources of the posture of that name: the endpoints without policies and profiles.
func (a *Agent) failsafesOnly() (hostendpoint.Resources, policy.Config) {
	var r hostendpoint.Resources
	c := a.opts.Config
	for _, id := range slices.SortedFunc(maps.Keys(a.objects), compareIDs) {
		if h, ok := a.objects[id].(*hostendpoint.HostEndpoint); ok && h.Spec.Node == a.host.Node {
			bare := *h
			bare.Spec.Profiles = nil
			r.Add(&bare)
		}
	}
	if len(r.HostEndpoints) == 0 {
		all := &hostendpoint.HostEndpoint{}
		all.Metadata.Name = "failsafes-only"
		all.Spec.Node, all.Spec.InterfaceName = a.host.Node, hostendpoint.AllInterfaces
		r.Add(all)
		c.ExemptLoopback = true
	}
	return r, c
}
