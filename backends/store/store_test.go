// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/memory"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

func hep(name, v string) *hostendpoint.HostEndpoint {
	return &hostendpoint.HostEndpoint{
		Metadata: hostendpoint.ObjectMeta{Name: name, Labels: map[string]string{"v": v}},
		Spec:     hostendpoint.HostEndpointSpec{Node: "n", InterfaceName: "eth0"},
	}
}

// flaky fails one of so many calls, and ends watches after a few changes; some as expired.
type flaky struct {
	store.Driver
	every  int
	expire bool
	joint  bool
}

var errFlaky = errors.New("flaky")

func (f *flaky) fails() bool { return rand.IntN(f.every) == 0 }

func (f *flaky) Traits() store.Traits {
	t := f.Driver.Traits()
	t.Joint = f.joint
	return t
}

func (f *flaky) List(ctx context.Context, kind string, opts store.ListOptions) (store.List[hostendpoint.Object], error) {
	if f.fails() {
		return store.List[hostendpoint.Object]{}, errFlaky
	}
	opts.Limit = 2 // many pages
	return f.Driver.List(ctx, kind, opts)
}

func (f *flaky) Watch(ctx context.Context, kind, revision string, do func(store.Change) error) error {
	return f.Driver.Watch(ctx, kind, revision, func(c store.Change) error {
		if f.fails() {
			if f.expire {
				return store.ErrExpired
			}
			return errFlaky
		}
		return do(c)
	})
}

// Whatever breaks in between, and however slow the reader is, what a watch says adds up to what the store has.
func TestWatchAddsUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		d := memory.NewDriver(memory.Options{History: rapid.IntRange(3, 50).Draw(t, "history")})
		direct := store.New(d, store.Options{})
		s := store.New(&flaky{
			Driver: d, every: rapid.IntRange(4, 30).Draw(t, "every"), expire: rapid.Bool().Draw(t, "expire"), joint: rapid.Bool().Draw(t, "joint"),
		}, store.Options{Retry: time.Millisecond, RetryMax: time.Millisecond})
		w, err := s.Watch(ctx, "", store.WatchOptions{Buffer: rapid.IntRange(1, 20).Draw(t, "buffer")})
		require.NoError(t, err)
		defer func() { cancel(); <-w.Done() }()

		state := map[hostendpoint.ID]string{}
		synced := false
		read := func(wait time.Duration) bool {
			short, stop := context.WithTimeout(ctx, wait)
			defer stop()
			e, err := w.Next(short)
			if err != nil {
				return false
			}
			switch e.Type {
			case store.Added:
				require.NotContains(t, state, e.Object.ID().Stored())
				state[e.Object.ID().Stored()] = e.Object.Meta().ResourceVersion
			case store.Modified:
				require.Equal(t, e.Old.Meta().ResourceVersion, state[e.Object.ID().Stored()])
				state[e.Object.ID().Stored()] = e.Object.Meta().ResourceVersion
			case store.Deleted:
				require.Equal(t, e.Object.Meta().ResourceVersion, state[e.Object.ID().Stored()])
				delete(state, e.Object.ID().Stored())
			case store.Synced, store.Stale:
				synced = e.Status.Synced
			}
			return true
		}
		want := map[hostendpoint.ID]string{}
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			var o hostendpoint.Object = hep(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name"), fmt.Sprint(i))
			if rapid.Bool().Draw(t, "set") {
				o = &hostendpoint.GlobalNetworkSet{Metadata: *o.Meta()}
			}
			switch _, there := want[o.ID()]; {
			case !there:
				c, err := direct.Create(ctx, o)
				require.NoError(t, err)
				want[o.ID()] = c.Meta().ResourceVersion
			case rapid.Bool().Draw(t, "delete"):
				_, err := direct.Delete(ctx, o.ID(), store.DeleteOptions{})
				require.NoError(t, err)
				delete(want, o.ID())
			default:
				c, err := direct.Get(ctx, o.ID())
				require.NoError(t, err)
				c.Meta().Labels["v"] = fmt.Sprint(i)
				c, err = direct.Update(ctx, c)
				require.NoError(t, err)
				want[o.ID()] = c.Meta().ResourceVersion
			}
			for range rapid.IntRange(0, 2).Draw(t, "reads") {
				read(time.Microsecond)
			}
		}
		require.Eventually(t, func() bool {
			for read(time.Millisecond) {
			}
			return synced && fmt.Sprint(state) == fmt.Sprint(want)
		}, 10*time.Second, time.Millisecond)
	})
}

// A datastore that refuses is told apart from one that is away, and a watch waits until it changes its mind.
func TestWatchWithoutPermission(t *testing.T) {
	d := &refusing{Driver: memory.NewDriver(memory.Options{})}
	d.err.Store(&store.Error{Op: "list", Err: store.ErrForbidden, Reason: "no"})
	s := store.New(d, store.Options{Retry: time.Millisecond, RetryMax: 5 * time.Millisecond})
	_, err := s.List(t.Context(), hostendpoint.KindTier, store.ListOptions{})
	require.ErrorIs(t, err, store.ErrForbidden)
	w, err := store.For[*hostendpoint.Tier](s).Watch(t.Context(), store.WatchOptions{})
	require.NoError(t, err)
	e, err := w.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, store.Stale, e.Type)
	require.ErrorIs(t, e.Status.Err, store.ErrForbidden)
	require.Zero(t, e.Status.StaleSince, "it has never been synced")
	require.Nil(t, e.Object)
	d.err.Store(nil)
	e, err = w.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, store.Synced, e.Type)
	require.NoError(t, e.Status.Err)
}

// A program that waits for its first snapshot learns why there is none.
func TestSnapshotsTellWhyTheyWait(t *testing.T) {
	d := &refusing{Driver: memory.NewDriver(memory.Options{})}
	d.err.Store(&store.Error{Op: "list", Err: store.ErrForbidden, Reason: "no"})
	s := store.New(d, store.Options{Retry: time.Millisecond, RetryMax: 5 * time.Millisecond})
	var told []error
	o := store.SnapshotOptions{Quiet: time.Millisecond, Told: func(s store.Status) {
		told = append(told, s.Err)
		d.err.Store(nil)
	}}
	for snap, err := range store.Snapshots(t.Context(), s, o) {
		require.NoError(t, err)
		require.True(t, snap.Status.Synced)
		break
	}
	require.Len(t, told, 2)
	require.ErrorIs(t, told[0], store.ErrForbidden)
	require.NoError(t, told[1])
}

type refusing struct {
	store.Driver
	err atomic.Pointer[store.Error]
}

func (r *refusing) List(ctx context.Context, kind string, opts store.ListOptions) (store.List[hostendpoint.Object], error) {
	if err := r.err.Load(); err != nil {
		return store.List[hostendpoint.Object]{}, err
	}
	return r.Driver.List(ctx, kind, opts)
}

func TestErrorText(t *testing.T) {
	cause := errors.New("etcd says no")
	e := &store.Error{Op: "get", ID: hostendpoint.ID{Kind: "NetworkPolicy", Namespace: "ns", Name: "x"}, Err: store.ErrNotFound, Cause: cause}
	require.Equal(t, "get NetworkPolicy(ns/x): does not exist", e.Error())
	e.Err = store.ErrUnavailable
	require.Equal(t, "get NetworkPolicy(ns/x): datastore not reached: etcd says no", e.Error())
	require.ErrorIs(t, e, cause)
	e = &store.Error{Op: "list", ID: hostendpoint.ID{Kind: "Tier"}, Err: store.ErrForbidden, Reason: "why"}
	require.Equal(t, "list Tier: forbidden: why", e.Error())
	require.Equal(t, "Added", store.Added.String())
	require.Equal(t, "EventType(0)", store.EventType(0).String())
}

// A stored policy without types governs both directions, and reading must not make it govern one.
func TestReadingDoesNotInferTypes(t *testing.T) {
	d := memory.NewDriver(memory.Options{})
	raw := &hostendpoint.GlobalNetworkPolicy{Metadata: hostendpoint.ObjectMeta{Name: "web.p"}}
	_, err := d.Create(t.Context(), raw)
	require.NoError(t, err)
	p, err := store.For[*hostendpoint.GlobalNetworkPolicy](store.New(d, store.Options{})).Get(t.Context(), "", "web.p")
	require.NoError(t, err)
	require.Empty(t, p.Spec.Types)
	require.Equal(t, "web", p.Spec.Tier)
}

// Whoever uses the engine or a kernel backend, or the store itself, links no client of a datastore.
func TestNothingLinksTheClients(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-test=false", "../../...").CombinedOutput()
	require.NoError(t, err, "%s", out)
	deps := strings.Fields(string(out))
	require.Contains(t, deps, "github.com/hostpolicy/hostpolicy/backends/store/memory", "the list is one of dependencies")
	for _, dep := range deps {
		for _, bad := range []string{"go.etcd.io/", "google.golang.org/grpc", "k8s.io/", "sigs.k8s.io/"} {
			require.False(t, strings.HasPrefix(dep, bad), dep)
		}
	}
}
