// SPDX-License-Identifier: Apache-2.0

// Package store keeps resources in a datastore, by the rules of Calico's client: what is written is validated, defaulted
// and compared with what it was read as; what is read has the tier and the labels that Calico shows. The datastores
// themselves are in the folders below and implement Driver; New puts the rules on top of one.
//
// All of it works on all kinds of package hostendpoint. A Client gives the methods the Go type of one kind.
package store

import (
	"context"
	"log/slog"
	"time"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Store is a datastore of resources. Implementations are safe for concurrent use, never change the objects they are given
// and return objects that belong to the caller, except those of a Watch.
//
// Errors are *Error, or *field.Errors for an object that is not valid, and work with errors.Is and the sentinels of this
// package. Identities name policies by either of their names ("x" or "default.x"): it is the same object.
type Store interface {
	// Create writes a new object and returns it as stored. Its resourceVersion must be empty. A missing UID and creation
	// time are filled in, in the copy. Errors: validation, ErrAlreadyExists, ErrNotFound for the tier of a policy.
	Create(ctx context.Context, o hostendpoint.Object) (hostendpoint.Object, error)
	// Update replaces an object that nobody has written since it was read: its resourceVersion, creation time and UID
	// must be those it was read with. Errors: validation, ErrNotFound, ErrConflict.
	Update(ctx context.Context, o hostendpoint.Object) (hostendpoint.Object, error)
	// Delete removes an object and returns what it was. Errors: ErrNotFound, ErrConflict, ErrUnsupported.
	Delete(ctx context.Context, id hostendpoint.ID, opts DeleteOptions) (hostendpoint.Object, error)
	// Get returns an object. Errors: ErrNotFound, ErrCorrupt.
	Get(ctx context.Context, id hostendpoint.ID) (hostendpoint.Object, error)
	// List returns the objects of a kind, sorted by namespace and stored name, or a page of them.
	List(ctx context.Context, kind string, opts ListOptions) (List[hostendpoint.Object], error)
	// Watch follows the objects of a kind, or of all kinds if kind is "", until ctx ends. Errors are those of the
	// arguments only: a datastore that cannot be reached makes the watch stale, not fail.
	Watch(ctx context.Context, kind string, opts WatchOptions) (*Watcher[hostendpoint.Object], error)
}

// DeleteOptions guards a Delete. The zero value deletes whatever is there.
type DeleteOptions struct {
	ResourceVersion string // if set, the object must have it, else ErrConflict
	UID             string // if set, the object must have it, else ErrNotFound: it is another object
}

// ListOptions selects objects and pages. The zero value selects all, on one page.
type ListOptions struct {
	Namespace string // "" for all
	Name      string // "" for all
	Prefix    bool   // Name is a prefix, of the name by which the object is stored
	Selector  string // on labels, in Calico's language; "" for all. See package selector
	Limit     int    // at most so many objects on a page; 0 for all
	Continue  string // from the List before; "" for the first page
}

// List is a page of objects.
type List[T hostendpoint.Object] struct {
	Items           []T
	ResourceVersion string    // of the list: all pages show the datastore as of it
	Continue        string    // for the next page; "" on the last one
	Problems        []Problem // entries that could not be read, left out of Items
}

// Problem is an entry of a datastore that cannot be used.
type Problem struct {
	ID  hostendpoint.ID // as far as it is known
	Key string          // where the entry is
	Err error           // never nil; a *field.Error if file and line are known
}

// String returns "key: HostEndpoint(x): reason".
func (p Problem) String() string {
	s := p.Key
	if p.ID.Name != "" {
		s += ": " + p.ID.String()
	}
	if p.Err != nil {
		s += ": " + p.Err.Error()
	}
	return s
}

// WatchOptions selects what a Watch follows. The zero value follows everything of the kind.
type WatchOptions struct {
	Namespace string
	Name      string
	Selector  string // an object that comes to match is Added, one that ceases to is Deleted
	// Buffer is how many changes wait for a slow reader before the watch gives up their order and computes the difference
	// instead. 0 means 1,000.
	Buffer int
}

// Options are what New needs beside a driver. The zero value is useful.
type Options struct {
	Log *slog.Logger     // nil for none
	Now func() time.Time // nil for time.Now; for creation times and the times of Status
	// UID makes the UIDs of new objects; nil for random ones of RFC 9562, version 4.
	UID func() string
	// Retry is how long a watch waits after an error, doubled up to RetryMax after each error that follows. 0 means
	// 200 ms and 10 s.
	Retry, RetryMax time.Duration
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.UID == nil {
		o.UID = randomUID
	}
	if o.Retry <= 0 {
		o.Retry = 200 * time.Millisecond
	}
	if o.RetryMax <= 0 {
		o.RetryMax = 10 * time.Second
	}
	o.RetryMax = max(o.RetryMax, o.Retry)
	return o
}
