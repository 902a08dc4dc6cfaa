// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Watch implements store.Driver.
//
// The client resumes a broken watch by itself and without a word, for as long as it takes; a member that lost its leader
// keeps the connection and goes silent. So a watch that hears nothing asks for the progress, which any watch stream of
// etcd 3.4 and later answers, and gives up if there is no answer.
//
// Progress is taken as a sign of life only: old servers report revisions before the events that lead to them.
// Ref: https://github.com/etcd-io/etcd/issues/15220.
func (d *Driver) Watch(ctx context.Context, kind, revision string, do func(store.Change) error) error {
	rev, err := strconv.ParseInt(revision, 10, 64)
	if err != nil {
		return fmt.Errorf("%w: %q is no revision of this datastore", store.ErrExpired, revision)
	}
	parent := ctx
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	// The call itself waits for the server, without any limit of its own.
	starting := time.AfterFunc(d.cfg.Timeout, cancel)
	events := d.client.Watch(ctx, kindPrefix(kind), clientv3.WithPrefix(), clientv3.WithRev(rev+1), clientv3.WithCreatedNotify(), clientv3.WithFragment())
	if !starting.Stop() && parent.Err() == nil {
		return fmt.Errorf("%w: the watch did not begin within %v", store.ErrUnavailable, d.cfg.Timeout)
	}
	silent := time.NewTimer(d.cfg.Timeout) // until it is created
	defer silent.Stop()
	asked := true
	for {
		select {
		case resp, ok := <-events:
			if err := resp.Err(); err != nil {
				return failure(err)
			}
			if !ok {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				return fmt.Errorf("%w: the watch ended", store.ErrUnavailable)
			}
			asked = false
			silent.Reset(d.cfg.Probe)
			if resp.Created {
				if err := do(store.Change{}); err != nil {
					return err
				}
			}
			for _, e := range resp.Events {
				if err := change(e, do); err != nil {
					return err
				}
			}
		case <-silent.C:
			if asked {
				return fmt.Errorf("%w: no sign of life on the watch for %v", store.ErrUnavailable, d.cfg.Probe)
			}
			asked = true
			silent.Reset(d.cfg.Probe)
			// It only waits for the stream to take the request, which a dead connection may never do.
			probe, done := context.WithTimeout(ctx, d.cfg.Probe)
			err := d.client.RequestProgress(probe)
			done()
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				return failure(err)
			}
		}
	}
}

// change hands on one event.
func change(e *clientv3.Event, do func(store.Change) error) error {
	id, ok := parseKey(string(e.Kv.Key))
	if !ok {
		return nil
	}
	c := store.Change{ID: id, Key: string(e.Kv.Key), Revision: strconv.FormatInt(e.Kv.ModRevision, 10)}
	if e.Type == clientv3.EventTypePut {
		c.Object, c.Err = read(id, e.Kv.Value, e.Kv.ModRevision)
		if c.Err != nil {
			c.Object = hostendpoint.Object(nil)
		}
	}
	return do(c)
}
