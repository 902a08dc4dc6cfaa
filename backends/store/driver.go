// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Driver is a datastore without rules: it keeps objects under their stored identity (hostendpoint.ID.Stored) and gives
// each version a resourceVersion. It is safe for concurrent use. Objects that it is given must neither be changed nor
// kept; those it returns belong to the caller, and are as they were written, except for resourceVersion, UID and creation
// time where the datastore assigns them.
type Driver interface {
	// Traits says what the driver can do; it never changes.
	Traits() Traits
	// Create fails with ErrAlreadyExists if there is an object of this identity.
	Create(ctx context.Context, o hostendpoint.Object) (hostendpoint.Object, error)
	// Update replaces the object if its resourceVersion is that of o, else ErrConflict or ErrNotFound.
	Update(ctx context.Context, o hostendpoint.Object) (hostendpoint.Object, error)
	// Delete returns the object as it was.
	Delete(ctx context.Context, id hostendpoint.ID, opts DeleteOptions) (hostendpoint.Object, error)
	Get(ctx context.Context, id hostendpoint.ID) (hostendpoint.Object, error)
	// List returns a page of objects, sorted by kind and key. Selector is never set: labels are not the business of a
	// driver. Kind is "" only for a driver with Traits.Joint.
	List(ctx context.Context, kind string, opts ListOptions) (List[hostendpoint.Object], error)
	// Watch calls do for each change after the revision, in order, until ctx ends, do fails, or the datastore does. It
	// returns the reason: ErrExpired if it does not know what happened since the revision. The first call, with no
	// change, says that the watch has begun; later calls of that kind say that it is alive and advance the revision.
	Watch(ctx context.Context, kind, revision string, do func(Change) error) error
}

// Traits is what one driver can do and another cannot.
type Traits struct {
	// Joint says that one revision and one watch cover all kinds, so that changes of different kinds keep their order.
	Joint bool
	// OwnUIDs says that the datastore assigns UIDs, whatever a new object says.
	OwnUIDs bool
	// OwnTimes says the same of creation times.
	OwnTimes bool
	// Kinds lists the kinds that the datastore has; nil for all.
	Kinds []string
}

// Change is one event of a Driver's Watch.
type Change struct {
	// ID is the stored identity of the object that changed; the zero value means that nothing changed.
	ID hostendpoint.ID
	// Object is the new object; nil if it was deleted, or cannot be read.
	Object hostendpoint.Object
	// Err says why the object cannot be read; the watch keeps its last good version.
	Err error
	// Key is where the entry is, as in Problem: with Err the entry has a problem, without it has none any more.
	Key string
	// Revision is that of the datastore with this change; "" if the datastore does not say.
	Revision string
}
