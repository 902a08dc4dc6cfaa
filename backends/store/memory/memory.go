// SPDX-License-Identifier: Apache-2.0

// Package memory is a datastore in memory, for tests and for programs whose resources come from elsewhere. It behaves as
// etcd does: decimal revisions, reads of several pages as of one revision, watches that expire when the history is
// compacted.
package memory

import (
	"context"
	"fmt"
	"strconv"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/internal/mvcc"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Options of a Driver. The zero value is useful.
type Options struct {
	// History is how many changes are remembered, for watches and pages that lag behind. 0 means 10,000.
	History int
}

// Driver keeps objects in memory. Make it with NewDriver.
type Driver struct{ log *mvcc.Log }

var _ store.Driver = (*Driver)(nil)

// NewDriver returns an empty Driver.
func NewDriver(o Options) *Driver {
	if o.History <= 0 {
		o.History = 10_000
	}
	return &Driver{mvcc.New(o.History)}
}

// New returns an empty Store in memory with all defaults.
func New() store.Store { return store.New(NewDriver(Options{}), store.Options{}) }

// Compact forgets the history: watches and pages that need it get ErrExpired.
func (d *Driver) Compact() { d.log.Compact() }

// Traits implements store.Driver.
func (d *Driver) Traits() store.Traits { return store.Traits{Joint: true} }

// Create implements store.Driver.
func (d *Driver) Create(ctx context.Context, o hostendpoint.Object) (hostendpoint.Object, error) {
	return d.write(ctx, o, func(old hostendpoint.Object) error {
		if old != nil {
			return withCurrent(store.ErrAlreadyExists, old)
		}
		return nil
	})
}

// Update implements store.Driver.
func (d *Driver) Update(ctx context.Context, o hostendpoint.Object) (hostendpoint.Object, error) {
	return d.write(ctx, o, func(old hostendpoint.Object) error {
		switch {
		case old == nil:
			return store.ErrNotFound
		case old.Meta().ResourceVersion != o.Meta().ResourceVersion:
			return withCurrent(store.ErrConflict, old)
		}
		return nil
	})
}

func (d *Driver) write(ctx context.Context, o hostendpoint.Object, allowed func(old hostendpoint.Object) error) (hostendpoint.Object, error) {
	c, err := store.Clone(o)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	id := o.ID().Stored()
	err = d.log.Do(func(tx *mvcc.Tx) error {
		old, _ := tx.Get(id)
		if err := allowed(old); err != nil {
			return err
		}
		c.Meta().ResourceVersion = strconv.FormatInt(tx.Next(), 10)
		tx.Put(id, c)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return store.Clone(c)
}

// Delete implements store.Driver.
func (d *Driver) Delete(ctx context.Context, id hostendpoint.ID, opts store.DeleteOptions) (hostendpoint.Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var old hostendpoint.Object
	err := d.log.Do(func(tx *mvcc.Tx) error {
		var ok bool
		if old, ok = tx.Get(id); !ok {
			return store.ErrNotFound
		}
		if opts.UID != "" && opts.UID != old.Meta().UID {
			return fmt.Errorf("%w: the UID is %s", store.ErrNotFound, old.Meta().UID)
		}
		if opts.ResourceVersion != "" && opts.ResourceVersion != old.Meta().ResourceVersion {
			return withCurrent(store.ErrConflict, old)
		}
		tx.Delete(id)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return store.Clone(old)
}

func withCurrent(kind error, old hostendpoint.Object) error {
	c, err := store.Clone(old)
	if err != nil {
		return err
	}
	return &store.Error{ID: old.ID(), Err: kind, Current: c}
}

// Get implements store.Driver.
func (d *Driver) Get(ctx context.Context, id hostendpoint.ID) (hostendpoint.Object, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return d.log.Get(id)
}

// List implements store.Driver.
func (d *Driver) List(ctx context.Context, kind string, opts store.ListOptions) (store.List[hostendpoint.Object], error) {
	return d.log.List(ctx, kind, opts)
}

// Watch implements store.Driver.
func (d *Driver) Watch(ctx context.Context, kind, revision string, do func(store.Change) error) error {
	return d.log.Watch(ctx, kind, revision, nil, do)
}
