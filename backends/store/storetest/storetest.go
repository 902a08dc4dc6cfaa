// SPDX-License-Identifier: Apache-2.0

// Package storetest is what every datastore must pass: one suite for all drivers, run against real servers.
package storetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Instance is one empty datastore under test. What is nil does not exist for it, and is not tested.
type Instance struct {
	// Open returns another client of the same datastore; t ends it.
	Open func(t testing.TB) store.Driver
	// Fill creates many objects fast, past the rules; nil to create them one by one.
	Fill func(t testing.TB, objects []hostendpoint.Object)
	// Compact makes the datastore forget its history.
	Compact func(t testing.TB)
	// Cut takes the datastore away from its clients without closing their connections; the function that it returns
	// brings it back.
	Cut func(t testing.TB) (heal func())
	// Behind returns a client that Cut does not affect.
	Behind func(t testing.TB) store.Driver
	// Restart kills the server, SIGKILL if it is a process, and starts it again.
	Restart func(t testing.TB)
	// Corrupt writes an entry for a HostEndpoint that cannot be read; nil name the driver's choice.
	Corrupt func(t testing.TB, name string)
	// Patience is how long a watch may take to notice what happens to the server; 0 means 10 s.
	Patience time.Duration
	// Many is the number of objects of the large test; 0 means 10,000.
	Many int
	// ReadOnly lists kinds that the datastore shows and does not let write.
	ReadOnly []string
	// PutNode makes a node with an address of type InternalIP, or gives the node that address; nil to do it through the
	// store. DeleteNode deletes it.
	PutNode    func(t testing.TB, name, ip string)
	DeleteNode func(t testing.TB, name string)
	// Place is what the function given to Main needs to reach the datastore from another process; "" if none can.
	Place string
}

// Run runs the suite. New makes a datastore for each test.
func Run(t *testing.T, fresh func(t *testing.T) *Instance) {
	for _, c := range []struct {
		name string
		do   func(*suite)
	}{
		{"every kind is created, read, updated, listed and deleted", (*suite).everyKind},
		{"objects of the caller are left alone", (*suite).callersObjects},
		{"errors say what and where", (*suite).failures},
		{"metadata follow the rules", (*suite).metadata},
		{"names of policies and their tiers", (*suite).policies},
		{"the built-in profile", (*suite).builtinProfile},
		{"tiers", (*suite).tiers},
		{"one of many creators wins", (*suite).creators},
		{"no update is lost among 32 writers", (*suite).writers},
		{"deletes are guarded", (*suite).deletes},
		{"lists select and page", (*suite).lists},
		{"pages show one revision", (*suite).pages},
		{"a watch delivers a snapshot and then every change in order", (*suite).watchOrder},
		{"a watch with a selector", (*suite).watchSelector},
		{"a slow reader gets the difference", (*suite).slowReader},
		{"a watch ends with its context", (*suite).watchEnds},
		{"snapshots are complete and coalesced", (*suite).snapshots},
		{"a watch survives compaction", (*suite).compaction},
		{"a watch survives a cut", (*suite).cut},
		{"a watch survives a cut and compaction", (*suite).cutAndCompaction},
		{"a killed server loses nothing", (*suite).restart},
		{"a killed client loses nothing", (*suite).killedClients},
		{"an unreadable entry is a problem and nothing else", (*suite).corrupt},
		{"automatic host endpoints follow nodes", (*suite).automatic},
		{"many objects", (*suite).many},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := fresh(t)
			if in.Patience == 0 {
				in.Patience = 10 * time.Second
			}
			if in.Many == 0 {
				in.Many = 10_000
			}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			t.Cleanup(cancel)
			if cut := in.Cut; cut != nil {
				in.Cut = func(t testing.TB) func() {
					heal := cut(t)
					t.Cleanup(heal) // a test that fails must not leave it to the next
					return heal
				}
			}
			s := &suite{T: t, Instance: in, ctx: ctx}
			s.driver = in.Open(t)
			s.store = s.open(s.driver)
			c.do(s)
		})
	}
}

// suite is one test.
type suite struct {
	*testing.T
	*Instance
	ctx    context.Context
	driver store.Driver
	store  store.Store
}

func (s *suite) open(d store.Driver) store.Store { return open(d) }

func open(d store.Driver) store.Store {
	return store.New(d, store.Options{Retry: 20 * time.Millisecond, RetryMax: 500 * time.Millisecond})
}

func (s *suite) heps() store.Client[*hostendpoint.HostEndpoint] {
	return store.For[*hostendpoint.HostEndpoint](s.store)
}

// writable lists the kinds that can be written.
func (s *suite) writable() []string {
	kinds := s.driver.Traits().Kinds
	if kinds == nil {
		kinds = hostendpoint.Kinds()
	}
	return slices.DeleteFunc(slices.Clone(kinds), func(k string) bool { return slices.Contains(s.ReadOnly, k) })
}

func hep(name string, labels ...string) *hostendpoint.HostEndpoint {
	h := &hostendpoint.HostEndpoint{
		Metadata: hostendpoint.ObjectMeta{Name: name},
		Spec: hostendpoint.HostEndpointSpec{Node: "n1", InterfaceName: "eth0", ExpectedIPs: []string{"10.0.0.1", "2001:DB8::1"},
			Ports: []hostendpoint.EndpointPort{{Name: "web", Protocol: hostendpoint.ParseProtocol("TCP"), Port: 80}}},
	}
	for i := 0; i+1 < len(labels); i += 2 {
		if h.Metadata.Labels == nil {
			h.Metadata.Labels = map[string]string{}
		}
		h.Metadata.Labels[labels[i]] = labels[i+1]
	}
	return h
}

// sample returns a valid object of the kind.
func sample(kind string) hostendpoint.Object {
	meta := hostendpoint.ObjectMeta{Name: "one", Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"note": "x\ny"}}
	port, _ := hostendpoint.ParsePort("80:90")
	tcp := hostendpoint.ParseProtocol("TCP")
	rules := []hostendpoint.Rule{{Action: hostendpoint.Allow, Protocol: &tcp,
		Source:      hostendpoint.EntityRule{Nets: []string{"10.0.0.0/8"}, Selector: "a == 'b'"},
		Destination: hostendpoint.EntityRule{Ports: []hostendpoint.Port{port}}}}
	order := 12.5
	switch kind {
	case hostendpoint.KindHostEndpoint:
		h := hep("one")
		h.Metadata = meta
		return h
	case hostendpoint.KindProfile:
		return &hostendpoint.Profile{Metadata: meta, Spec: hostendpoint.ProfileSpec{Ingress: rules, LabelsToApply: map[string]string{"c": "d"}}}
	case hostendpoint.KindTier:
		return &hostendpoint.Tier{Metadata: meta, Spec: hostendpoint.TierSpec{Order: &order}}
	case hostendpoint.KindGlobalNetworkPolicy:
		return &hostendpoint.GlobalNetworkPolicy{Metadata: meta, Spec: hostendpoint.GlobalNetworkPolicySpec{
			Order: &order, Selector: "all()", Ingress: rules, ApplyOnForward: true}}
	case hostendpoint.KindNetworkPolicy:
		meta.Namespace = "ns1"
		return &hostendpoint.NetworkPolicy{Metadata: meta, Spec: hostendpoint.NetworkPolicySpec{Order: &order, Egress: rules}}
	case hostendpoint.KindGlobalNetworkSet:
		return &hostendpoint.GlobalNetworkSet{Metadata: meta, Spec: hostendpoint.NetworkSetSpec{Nets: []string{"10.0.0.0/8"}}}
	case hostendpoint.KindNetworkSet:
		meta.Namespace = "ns1"
		return &hostendpoint.NetworkSet{Metadata: meta, Spec: hostendpoint.NetworkSetSpec{Nets: []string{"2001:db8::/32"}}}
	case hostendpoint.KindNode:
		return &hostendpoint.Node{Metadata: meta, Spec: hostendpoint.NodeSpec{Addresses: []hostendpoint.NodeAddress{{Address: "10.0.0.1", Type: "InternalIP"}}}}
	}
	return nil
}

// reader follows a watch as a user of it would, and checks that its events make sense.
type reader struct {
	t     *testing.T
	w     *store.Watcher[hostendpoint.Object]
	state map[hostendpoint.ID]hostendpoint.Object
	log   []string
	last  store.Status
	told  []store.EventType // Synced and Stale
}

func (s *suite) watch(kind string, opts store.WatchOptions) *reader {
	w, err := s.store.Watch(s.ctx, kind, opts)
	s.Require(err)
	return &reader{t: s.T, w: w, state: map[hostendpoint.ID]hostendpoint.Object{}}
}

// Require stops the test at an error.
func (s *suite) Require(err error) {
	s.Helper()
	require.NoError(s.T, err)
}

func (r *reader) step(e store.Event[hostendpoint.Object]) {
	if e.Type == store.Synced || e.Type == store.Stale {
		r.last = e.Status
		r.told = append(r.told, e.Type)
		require.Equal(r.t, e.Type == store.Synced, e.Status.Synced)
		return
	}
	id := e.Object.ID().Stored()
	_, had := r.state[id]
	require.Equal(r.t, e.Type != store.Added, had, "%v of %v", e.Type, id)
	r.log = append(r.log, fmt.Sprintf("%v %v %s", e.Type, id, e.Object.Meta().Labels["v"]))
	if e.Type == store.Deleted {
		delete(r.state, id)
		return
	}
	r.state[id] = e.Object
}

// until reads until ok, at most for d.
func (r *reader) until(d time.Duration, what string, ok func() bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	for !ok() {
		e, err := r.w.Next(ctx)
		require.NoError(r.t, err, "waiting until %s; status %+v, %d events", what, r.last, len(r.log))
		r.step(e)
	}
}

func (r *reader) synced(d time.Duration) {
	r.t.Helper()
	r.until(d, "synced", func() bool { return r.last.Synced })
}

// same waits until the reader has exactly what another client lists, which never saw anything before.
func (s *suite) same(r *reader, kind string) {
	s.Helper()
	l, err := open(s.Open(s.T)).List(s.ctx, kind, store.ListOptions{})
	s.Require(err)
	want := map[hostendpoint.ID]string{}
	for _, o := range l.Items {
		if o.ID().Name != hostendpoint.DefaultAllowProfileName {
			want[o.ID().Stored()] = o.Meta().ResourceVersion
		}
	}
	r.until(s.Patience, "the reader has what the store lists", func() bool {
		got := map[hostendpoint.ID]string{}
		for id, o := range r.state {
			if id.Kind == kind {
				got[id] = o.Meta().ResourceVersion
			}
		}
		return r.last.Synced && maps.Equal(want, got)
	})
}

// parallel runs do(i) for i below n on some goroutines, and fails with the first error.
func parallel(t *testing.T, n, workers int, do func(i int) error) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				if err := do(i); err != nil {
					errs <- fmt.Errorf("%d: %w", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	require.NoError(t, <-errs)
}

func itoa(i int) string { return strconv.Itoa(i) }
