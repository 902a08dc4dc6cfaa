// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Watch implements store.Driver.
func (d *Driver) Watch(ctx context.Context, kind, revision string, do func(store.Change) error) error {
	if kind == hostendpoint.KindProfile {
		return d.watchProfiles(ctx, revision, do)
	}
	return d.follow(ctx, d.path(kind, ""), revision, do, func(deleted bool, object json.RawMessage) error {
		id, key := d.identify(kind, object)
		c := store.Change{ID: id, Key: key}
		if !deleted {
			c.Object, c.Err = d.decode(kind, object)
			if c.Err != nil {
				c.Object = nil
			}
		}
		return do(c)
	})
}

// follow watches a collection, across the ends that the server puts to every watch after some time.
func (d *Driver) follow(ctx context.Context, path, revision string, do func(store.Change) error, event func(deleted bool, object json.RawMessage) error) error {
	for {
		next, err := d.stream(ctx, path, revision, do, event)
		if err != nil {
			return err
		}
		if next == revision {
			// It ended without anything, so it may have ended for a reason.
			return fmt.Errorf("%w: the watch ended", store.ErrUnavailable)
		}
		revision = next
	}
}

// stream is one request. It returns the revision up to which all was handed on, when the server ends it in order.
//
// A connection can be dead without any error, and HTTP/2 puts all requests on it. So when nothing is heard for a while,
// the server is asked for something small; any answer will do. Without one all connections are closed.
func (d *Driver) stream(ctx context.Context, path, revision string, do func(store.Change) error, event func(bool, json.RawMessage) error) (string, error) {
	ctx, cancel := context.WithCancelCause(quiet(ctx))
	defer cancel(nil)
	starting := time.AfterFunc(d.cfg.Timeout, func() {
		cancel(fmt.Errorf("%w: the watch did not begin within %v", store.ErrUnavailable, d.cfg.Timeout))
	})
	body, err := d.client.Get().AbsPath(path).MaxRetries(maxRetries).Param("watch", "1").Param("allowWatchBookmarks", "true").
		Param("resourceVersion", revision).Stream(ctx)
	if began := starting.Stop(); !began || err != nil {
		if !began {
			d.dialer.CloseAll()
		}
		if cause := context.Cause(ctx); cause != nil {
			return "", cause
		}
		return "", failure(err)
	}
	defer body.Close()
	heard := make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() { d.guard(ctx, heard, cancel) })
	if err := do(store.Change{}); err != nil {
		return "", err
	}
	dec := json.NewDecoder(body)
	for {
		var e struct {
			Type   string
			Object json.RawMessage
		}
		if err := dec.Decode(&e); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return "", cause
			}
			if errors.Is(err, io.EOF) {
				return revision, nil
			}
			return "", fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
		select {
		case heard <- struct{}{}:
		default:
		}
		if e.Type == "ERROR" {
			var s metav1.Status
			if err := json.Unmarshal(e.Object, &s); err != nil {
				return "", fmt.Errorf("%w: %w", store.ErrUnavailable, err)
			}
			return "", failure(&apierrors.StatusError{ErrStatus: s})
		}
		var meta struct {
			Metadata struct{ ResourceVersion string }
		}
		if err := json.Unmarshal(e.Object, &meta); err != nil {
			return "", fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
		if e.Type != "BOOKMARK" {
			if err := event(e.Type == "DELETED", e.Object); err != nil {
				return "", err
			}
		}
		if meta.Metadata.ResourceVersion != "" {
			revision = meta.Metadata.ResourceVersion
		}
	}
}

// guard ends a watch when the server does not answer any more.
func (d *Driver) guard(ctx context.Context, heard <-chan struct{}, end context.CancelCauseFunc) {
	timer := time.NewTimer(d.cfg.Probe)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-heard:
		case <-timer.C:
			if err := d.probe(ctx); err != nil && ctx.Err() == nil {
				end(fmt.Errorf("%w: no sign of life for %v: %w", store.ErrUnavailable, d.cfg.Probe, err))
				d.dialer.CloseAll()
				return
			}
		}
		timer.Reset(d.cfg.Probe)
	}
}

// probe returns an error if the server does not answer; that it refuses is an answer.
func (d *Driver) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(quiet(ctx), d.cfg.Probe)
	defer cancel()
	err := d.client.Verb(http.MethodGet).AbsPath("/version").MaxRetries(0).Do(ctx).Error()
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return nil
	}
	return err
}
