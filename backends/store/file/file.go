// SPDX-License-Identifier: Apache-2.0

// Package file is a datastore in a directory of YAML and JSON files, which people and programs edit while it is read.
//
// Every file *.yaml, *.yml or *.json of the directory, but not of folders in it, nor hidden ones, holds any number of
// documents (package manifest). A file that cannot be read, or that was emptied and not removed, keeps the objects it had,
// and is a Problem with file and line. Of two files that define one object, the first by name counts; the other is a
// Problem.
//
// Versions are made of content: a resourceVersion is the same after a restart, and for all processes that use the
// directory. What a file does not say is added: the UID is made of the name, the creation time is that of the file, the
// types of a policy follow from its rules.
//
// Reads show the directory as it was a moment ago. Writes look first at what other processes of this package have written,
// at which files there are, and at the file that they change.
package file

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/internal/mvcc"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Options of a Driver. The zero value is useful.
type Options struct {
	Log *slog.Logger // nil for none
	// Settle is how long a file must not have changed before it is read again, so that one that is being written in place
	// is not taken for a shorter one. 0 means 100 ms. Files that are renamed into place need no such care, and get it too.
	Settle time.Duration
	// Resync is how often the directory is read without being told of a change. 0 means 30 s.
	Resync time.Duration
	// History is how many changes are remembered for watches and pages. 0 means 10,000.
	History int
}

// Driver keeps objects in the files of a directory. Make it with Open.
//
// Writes take a lock in the directory (the file .lock), which all processes of this package respect; they replace files
// by renaming, after the data have reached the disk. An update rewrites the file that has the object: its comments are
// lost, its other objects stay.
type Driver struct {
	dir  string
	opts Options
	log  *mvcc.Log
	done chan struct{}

	mu     sync.Mutex // held while the directory is read or written
	files  map[string]*file
	merged map[string][]hostendpoint.ID // by name of a file: the objects of it that the log knows of
	having map[hostendpoint.ID][]string // the files that define an object, sorted; the first counts
	self   os.FileInfo                  // of the directory that is watched
	seen   os.FileInfo                  // of the directory when it was read last
	writes uint64                       // of all processes, when it was read last

	health struct {
		sync.Mutex
		err    error
		broken chan struct{} // closed while err is set
	}
}

var _ store.Driver = (*Driver)(nil)

// Open reads the directory, which must exist, and follows it until ctx ends. Files that cannot be read do not make it
// fail: they are Problems of the lists.
func Open(ctx context.Context, dir string, o Options) (*Driver, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Settle <= 0 {
		o.Settle = 100 * time.Millisecond
	}
	if o.Resync <= 0 {
		o.Resync = 30 * time.Second
	}
	if o.History <= 0 {
		o.History = 10_000
	}
	d := &Driver{dir: dir, opts: o, log: mvcc.New(o.History), done: make(chan struct{}), files: map[string]*file{},
		merged: map[string][]hostendpoint.ID{}, having: map[hostendpoint.ID][]string{}}
	d.health.broken = make(chan struct{})
	w, err := newWatcher(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	d.mu.Lock()
	_, err = d.scan(true)
	d.mu.Unlock()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", store.ErrUnavailable, err), w.Close())
	}
	go d.follow(ctx, w)
	return d, nil
}

// Done is closed when the context of Open has ended and nothing of it runs any more.
func (d *Driver) Done() <-chan struct{} { return d.done }

// Traits implements store.Driver.
func (d *Driver) Traits() store.Traits { return store.Traits{Joint: true} }

// Get implements store.Driver.
func (d *Driver) Get(ctx context.Context, id hostendpoint.ID) (hostendpoint.Object, error) {
	if _, err := d.state(ctx); err != nil {
		return nil, err
	}
	return d.log.Get(id)
}

// List implements store.Driver.
func (d *Driver) List(ctx context.Context, kind string, opts store.ListOptions) (store.List[hostendpoint.Object], error) {
	if _, err := d.state(ctx); err != nil {
		return store.List[hostendpoint.Object]{}, err
	}
	return d.log.List(ctx, kind, opts)
}

// Watch implements store.Driver.
func (d *Driver) Watch(ctx context.Context, kind, revision string, do func(store.Change) error) error {
	broken, err := d.state(ctx)
	if err != nil {
		return err
	}
	return d.log.Watch(ctx, kind, revision, broken, do)
}

// state returns the error for which nothing can be read, or what will be closed when there is one.
func (d *Driver) state(ctx context.Context) (<-chan struct{}, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.health.Lock()
	defer d.health.Unlock()
	if d.health.err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrUnavailable, d.health.err)
	}
	return d.health.broken, nil
}

// report sets the error of the directory.
func (d *Driver) report(err error) {
	d.health.Lock()
	defer d.health.Unlock()
	switch had := d.health.err; {
	case had == nil && err != nil:
		close(d.health.broken)
	case had != nil && err == nil:
		d.health.broken = make(chan struct{})
	}
	d.health.err = err
}
