// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Breaker is a driver that can lose its datastore. Safe for concurrent use.
type Breaker struct {
	store.Driver

	mu  sync.Mutex
	cut chan struct{} // closed while the datastore is away
}

// NewBreaker returns a driver that reaches d until it is cut.
func NewBreaker(d store.Driver) *Breaker { return &Breaker{Driver: d, cut: make(chan struct{})} }

// Cut takes the datastore away; the function that it returns brings it back. Calls must not overlap.
func (b *Breaker) Cut() (heal func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.cut)
	return sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.cut = make(chan struct{})
	})
}

// connected returns a context that ends when the datastore goes away, or an error.
func (b *Breaker) connected(ctx context.Context) (context.Context, func(error) error) {
	b.mu.Lock()
	cut := b.cut
	b.mu.Unlock()
	gone := fmt.Errorf("%w: cut", store.ErrUnavailable)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := make(chan struct{})
	select {
	case <-cut:
		cancel(gone)
	default:
		go func() {
			select {
			case <-cut:
				cancel(gone)
			case <-stop:
			}
		}()
	}
	return ctx, func(err error) error {
		close(stop)
		defer cancel(nil)
		if err != nil && errors.Is(context.Cause(ctx), store.ErrUnavailable) {
			return gone
		}
		return err
	}
}

// Create implements store.Driver.
func (b *Breaker) Create(ctx context.Context, o hostendpoint.Object) (hostendpoint.Object, error) {
	ctx, end := b.connected(ctx)
	out, err := b.Driver.Create(ctx, o)
	return out, end(err)
}

// Update implements store.Driver.
func (b *Breaker) Update(ctx context.Context, o hostendpoint.Object) (hostendpoint.Object, error) {
	ctx, end := b.connected(ctx)
	out, err := b.Driver.Update(ctx, o)
	return out, end(err)
}

// Delete implements store.Driver.
func (b *Breaker) Delete(ctx context.Context, id hostendpoint.ID, opts store.DeleteOptions) (hostendpoint.Object, error) {
	ctx, end := b.connected(ctx)
	out, err := b.Driver.Delete(ctx, id, opts)
	return out, end(err)
}

// Get implements store.Driver.
func (b *Breaker) Get(ctx context.Context, id hostendpoint.ID) (hostendpoint.Object, error) {
	ctx, end := b.connected(ctx)
	out, err := b.Driver.Get(ctx, id)
	return out, end(err)
}

// List implements store.Driver.
func (b *Breaker) List(ctx context.Context, kind string, opts store.ListOptions) (store.List[hostendpoint.Object], error) {
	ctx, end := b.connected(ctx)
	out, err := b.Driver.List(ctx, kind, opts)
	return out, end(err)
}

// Watch implements store.Driver.
func (b *Breaker) Watch(ctx context.Context, kind, revision string, do func(store.Change) error) error {
	ctx, end := b.connected(ctx)
	return end(b.Driver.Watch(ctx, kind, revision, do))
}
