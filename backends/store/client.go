// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Client is a Store as seen by one kind. Make it with For.
type Client[T hostendpoint.Object] struct {
	store Store
	kind  string
}

// For returns the methods of s for the kind of T: For[*hostendpoint.HostEndpoint](s).
func For[T hostendpoint.Object](s Store) Client[T] {
	return Client[T]{store: s, kind: kindOf[T]()}
}

// kindOf returns the kind of a Go type. The identity of an object follows from its type, so an empty one tells.
func kindOf[T hostendpoint.Object]() string {
	for _, k := range hostendpoint.Kinds() {
		if o, _ := hostendpoint.NewObject(k); o != nil {
			if _, ok := o.(T); ok {
				return k
			}
		}
	}
	return ""
}

// Create is Store.Create.
func (c Client[T]) Create(ctx context.Context, o T) (T, error) { return as[T](c.store.Create(ctx, o)) }

// Update is Store.Update.
func (c Client[T]) Update(ctx context.Context, o T) (T, error) { return as[T](c.store.Update(ctx, o)) }

// Delete is Store.Delete; namespace is "" for kinds that have none.
func (c Client[T]) Delete(ctx context.Context, namespace, name string, opts DeleteOptions) (T, error) {
	return as[T](c.store.Delete(ctx, hostendpoint.ID{Kind: c.kind, Namespace: namespace, Name: name}, opts))
}

// Get is Store.Get; namespace is "" for kinds that have none.
func (c Client[T]) Get(ctx context.Context, namespace, name string) (T, error) {
	return as[T](c.store.Get(ctx, hostendpoint.ID{Kind: c.kind, Namespace: namespace, Name: name}))
}

// List is Store.List.
func (c Client[T]) List(ctx context.Context, opts ListOptions) (List[T], error) {
	l, err := c.store.List(ctx, c.kind, opts)
	if err != nil {
		return List[T]{}, err
	}
	out := List[T]{ResourceVersion: l.ResourceVersion, Continue: l.Continue, Problems: l.Problems}
	for _, o := range l.Items {
		if t, ok := o.(T); ok {
			out.Items = append(out.Items, t)
		}
	}
	return out, nil
}

// Watch is Store.Watch.
func (c Client[T]) Watch(ctx context.Context, opts WatchOptions) (*Watcher[T], error) {
	w, err := c.store.Watch(ctx, c.kind, opts)
	if err != nil {
		return nil, err
	}
	return &Watcher[T]{w.feed}, nil
}

func as[T hostendpoint.Object](o hostendpoint.Object, err error) (T, error) {
	t, _ := o.(T)
	return t, err
}
