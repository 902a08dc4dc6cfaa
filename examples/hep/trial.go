// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// trial is a driver that keeps what is written to itself: the datastore behind it is only read. What is written is seen
// by later reads, so that one write may need another.
type trial struct {
	store.Driver
	mu  sync.Mutex
	now map[hostendpoint.ID]hostendpoint.Object // nil for what was deleted
	rev int
}

func newTrial(d store.Driver) *trial {
	return &trial{Driver: d, now: map[hostendpoint.ID]hostendpoint.Object{}}
}

// checker is a driver that knows what its datastore refuses.
type checker interface {
	Accepts(hostendpoint.Object) error
}

// Get implements store.Driver.
func (d *trial) Get(ctx context.Context, id hostendpoint.ID) (hostendpoint.Object, error) {
	d.mu.Lock()
	o, ok := d.now[id]
	d.mu.Unlock()
	switch {
	case !ok:
		return d.Driver.Get(ctx, id)
	case o == nil:
		return nil, store.ErrNotFound
	}
	return store.Clone(o)
}

func (d *trial) put(o hostendpoint.Object) (hostendpoint.Object, error) {
	if c, ok := d.Driver.(checker); ok {
		if err := c.Accepts(o); err != nil {
			return nil, err
		}
	}
	c, err := store.Clone(o)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rev++
	c.Meta().ResourceVersion = fmt.Sprintf("trial-%d", d.rev)
	d.now[o.ID().Stored()] = c
	return store.Clone(c)
}

// Create implements store.Driver.
func (d *trial) Create(ctx context.Context, o hostendpoint.Object) (hostendpoint.Object, error) {
	if err := missing(d.Get(ctx, o.ID().Stored())); err != nil {
		return nil, err
	}
	return d.put(o)
}

// missing returns nil for an object that does not exist.
func missing(o hostendpoint.Object, err error) error {
	switch {
	case err == nil:
		return &store.Error{ID: o.ID(), Err: store.ErrAlreadyExists, Current: o}
	case isNotFound(err):
		return nil
	}
	return err
}

// Update implements store.Driver.
func (d *trial) Update(ctx context.Context, o hostendpoint.Object) (hostendpoint.Object, error) {
	cur, err := d.Get(ctx, o.ID().Stored())
	if err != nil {
		return nil, err
	}
	if cur.Meta().ResourceVersion != o.Meta().ResourceVersion {
		return nil, &store.Error{ID: o.ID(), Err: store.ErrConflict, Current: cur}
	}
	return d.put(o)
}

// Delete implements store.Driver.
func (d *trial) Delete(ctx context.Context, id hostendpoint.ID, opts store.DeleteOptions) (hostendpoint.Object, error) {
	cur, err := d.Get(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case opts.UID != "" && opts.UID != cur.Meta().UID:
		return nil, store.ErrNotFound
	case opts.ResourceVersion != "" && opts.ResourceVersion != cur.Meta().ResourceVersion:
		return nil, &store.Error{ID: id, Err: store.ErrConflict, Current: cur}
	}
	if c, ok := d.Driver.(checker); ok {
		if err := c.Accepts(cur); err != nil {
			return nil, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.now[id] = nil
	return cur, nil
}

// List implements store.Driver: everything on one page.
func (d *trial) List(ctx context.Context, kind string, opts store.ListOptions) (store.List[hostendpoint.Object], error) {
	opts.Limit = 0
	l, err := d.Driver.List(ctx, kind, opts)
	if err != nil {
		return l, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	l.Items = slices.DeleteFunc(l.Items, func(o hostendpoint.Object) bool { _, ok := d.now[o.ID().Stored()]; return ok })
	for id, o := range d.now {
		if o != nil && (kind == "" || id.Kind == kind) && opts.Wants(id) {
			c, err := store.Clone(o)
			if err != nil {
				return l, err
			}
			l.Items = append(l.Items, c)
		}
	}
	slices.SortFunc(l.Items, func(a, b hostendpoint.Object) int { return compareStored(a.ID().Stored(), b.ID().Stored()) })
	return l, nil
}

func compareStored(a, b hostendpoint.ID) int {
	return strings.Compare(a.Kind+"\x00"+a.Namespace+"\x00"+a.Name, b.Kind+"\x00"+b.Namespace+"\x00"+b.Name)
}
