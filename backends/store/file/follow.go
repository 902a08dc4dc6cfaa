// SPDX-License-Identifier: Apache-2.0

package file

import (
	"context"
	"errors"
	"time"

	"github.com/fsnotify/fsnotify"
)

// newWatcher returns a watcher of dir.
func newWatcher(dir string) (*fsnotify.Watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	if err := w.Add(dir); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// follow reads the directory after every sign of a change, until ctx ends. What the sign says does not matter: some
// changes give many (an editor), some give one with another name (the symbolic links of a Kubernetes volume), and some,
// when there are too many, none.
func (d *Driver) follow(ctx context.Context, w *fsnotify.Watcher) {
	defer close(d.done)
	defer func() { _ = w.Close() }()
	// Signs are gathered for a moment, which is longer where there is much to look at.
	const shortest = 10 * time.Millisecond
	gather := shortest
	timer := time.NewTimer(d.opts.Resync)
	defer timer.Stop()
	armed := time.Now().Add(d.opts.Resync) // when the timer fires
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-w.Events:
			if e.Op == fsnotify.Chmod {
				continue
			}
			if at := time.Now().Add(gather); at.Before(armed) {
				armed = at
				timer.Reset(gather)
			}
			continue
		case err := <-w.Errors:
			d.opts.Log.Warn("watching the directory", "dir", d.dir, "error", err)
		case <-timer.C:
		}
		d.mu.Lock()
		start := time.Now()
		again, err := d.scan(false)
		gather = max(shortest, 5*time.Since(start))
		moved := err == nil && d.moved()
		d.mu.Unlock()
		next := d.opts.Resync
		switch {
		case err != nil:
			d.opts.Log.Warn("reading the directory", "dir", d.dir, "error", err)
			next = min(next, time.Second)
		case again > 0:
			next = again
		}
		if moved { // another directory has this name now
			if err := w.Add(d.dir); err != nil {
				d.opts.Log.Warn("watching the directory", "dir", d.dir, "error", err)
			}
			next = gather // for what changed before it was watched
		}
		armed = time.Now().Add(next)
		timer.Reset(next)
	}
}
