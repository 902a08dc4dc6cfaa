// SPDX-License-Identifier: Apache-2.0

package autohep_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/autohep"
	"github.com/hostpolicy/hostpolicy/backends/store/memory"
	"github.com/hostpolicy/hostpolicy/backends/store/storetest"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

// world is a store with a controller on it.
type world struct {
	*testing.T
	store  store.Store
	heps   store.Client[*hostendpoint.HostEndpoint]
	cancel context.CancelFunc
	ended  chan error

	mu     sync.Mutex
	report autohep.Report
	writes int
}

func start(t *testing.T, d store.Driver, o autohep.Options) *world {
	s := store.New(d, store.Options{Retry: 5 * time.Millisecond, RetryMax: 20 * time.Millisecond})
	w := &world{T: t, store: s, heps: store.For[*hostendpoint.HostEndpoint](s), ended: make(chan error, 1)}
	o.Retry = 10 * time.Millisecond
	o.Done = func(r autohep.Report) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.report = r
		w.writes += len(r.Created) + len(r.Updated) + len(r.Deleted)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.cancel = cancel
	go func() { w.ended <- autohep.Run(ctx, s, o) }()
	t.Cleanup(w.stop)
	return w
}

func (w *world) stop() {
	w.cancel()
	if err := <-w.ended; !errors.Is(err, context.Canceled) {
		w.Errorf("%v", err)
	}
	w.ended <- context.Canceled
}

func (w *world) node(name string, ips ...string) {
	w.Helper()
	n := &hostendpoint.Node{Metadata: hostendpoint.ObjectMeta{Name: name, Labels: map[string]string{"role": "x"}}}
	for _, ip := range ips {
		n.Spec.Addresses = append(n.Spec.Addresses, hostendpoint.NodeAddress{Address: ip, Type: hostendpoint.NodeAddressInternal})
	}
	if old, err := w.store.Get(w.Context(), n.ID()); err == nil {
		m := old.Meta()
		m.Labels = n.Metadata.Labels
		n.Metadata = *m
		_, err := w.store.Update(w.Context(), n)
		require.NoError(w, err)
		return
	}
	_, err := w.store.Create(w.Context(), n)
	require.NoError(w, err)
}

// until waits until the endpoint is as ok says; nil if there is none.
func (w *world) until(name string, ok func(h *hostendpoint.HostEndpoint) bool) {
	w.Helper()
	require.Eventually(w, func() bool {
		h, err := w.heps.Get(w.Context(), "", name)
		if err != nil {
			h = nil
		}
		return ok(h)
	}, 30*time.Second, 5*time.Millisecond, "%+v", w.last())
}

func (w *world) last() autohep.Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.report
}

func exists(h *hostendpoint.HostEndpoint) bool { return h != nil }
func gone(h *hostendpoint.HostEndpoint) bool   { return h == nil }

func TestEndpointsFollowNodes(t *testing.T) {
	w := start(t, memory.NewDriver(memory.Options{}), autohep.Options{})
	w.node("n1", "10.0.0.1")
	w.until("n1-auto-hep", exists)
	h, err := w.heps.Get(t.Context(), "", "n1-auto-hep")
	require.NoError(t, err)
	require.Equal(t, hostendpoint.HostEndpointSpec{Node: "n1", InterfaceName: "*", ExpectedIPs: []string{"10.0.0.1"},
		Profiles: []string{hostendpoint.DefaultAllowProfileName}}, h.Spec)
	require.Equal(t, map[string]string{"role": "x", hostendpoint.CreatedByLabel: hostendpoint.CreatedByValue}, h.Metadata.Labels)
	w.node("n1", "10.0.0.2")
	w.until("n1-auto-hep", func(h *hostendpoint.HostEndpoint) bool { return h != nil && h.Spec.ExpectedIPs[0] == "10.0.0.2" })
	now, err := w.heps.Get(t.Context(), "", "n1-auto-hep")
	require.NoError(t, err)
	require.Equal(t, h.Metadata.UID, now.Metadata.UID)
	_, err = w.store.Delete(t.Context(), hostendpoint.ID{Kind: hostendpoint.KindNode, Name: "n1"}, store.DeleteOptions{})
	require.NoError(t, err)
	w.until("n1-auto-hep", gone)
}

func TestDriftIsPutRight(t *testing.T) {
	w := start(t, memory.NewDriver(memory.Options{}), autohep.Options{})
	w.node("n1")
	w.until("n1-auto-hep", exists)
	_, err := w.heps.Delete(t.Context(), "", "n1-auto-hep", store.DeleteOptions{})
	require.NoError(t, err)
	w.until("n1-auto-hep", exists)
	h, err := w.heps.Get(t.Context(), "", "n1-auto-hep")
	require.NoError(t, err)
	h.Spec.Profiles = nil
	h.Metadata.Annotations = map[string]string{"note": "mine"}
	_, err = w.heps.Update(t.Context(), h)
	require.NoError(t, err)
	w.until("n1-auto-hep", func(h *hostendpoint.HostEndpoint) bool {
		return h != nil && len(h.Spec.Profiles) == 1 && h.Metadata.Annotations["note"] == "mine"
	})
	// An endpoint without addresses is not written for ever.
	time.Sleep(100 * time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	require.Equal(t, 3, w.writes)
}

func TestUsersObjectsAreLeftAlone(t *testing.T) {
	d := memory.NewDriver(memory.Options{})
	s := store.New(d, store.Options{})
	mine := &hostendpoint.HostEndpoint{Metadata: hostendpoint.ObjectMeta{Name: "n1-auto-hep"}, Spec: hostendpoint.HostEndpointSpec{Node: "n1", InterfaceName: "eth0"}}
	created, err := s.Create(t.Context(), mine)
	require.NoError(t, err)
	w := start(t, d, autohep.Options{})
	w.node("n1", "10.0.0.1")
	require.Eventually(t, func() bool { return len(w.last().Problems) == 1 }, 30*time.Second, 5*time.Millisecond)
	require.ErrorAs(t, w.last().Problems[0], new(*autohep.Foreign))
	require.ErrorContains(t, w.last().Problems[0], "HostEndpoint(n1-auto-hep)")
	_, err = w.store.Delete(t.Context(), hostendpoint.ID{Kind: hostendpoint.KindNode, Name: "n1"}, store.DeleteOptions{})
	require.NoError(t, err)
	w.node("n2")
	w.until("n2-auto-hep", exists)
	h, err := w.heps.Get(t.Context(), "", "n1-auto-hep")
	require.NoError(t, err)
	require.Equal(t, created, h)
}

func TestABadNodeKeepsItsEndpoint(t *testing.T) {
	w := start(t, memory.NewDriver(memory.Options{}), autohep.Options{})
	w.node("n1", "10.0.0.1")
	w.until("n1-auto-hep", exists)
	w.node("n1", "10.0.0.1/32") // Calico does not validate it either, and exits
	require.Eventually(t, func() bool { return len(w.last().Problems) == 1 }, 30*time.Second, 5*time.Millisecond)
	require.ErrorAs(t, w.last().Problems[0], new(*field.Errors))
	w.until("n1-auto-hep", func(h *hostendpoint.HostEndpoint) bool { return h != nil && h.Spec.ExpectedIPs[0] == "10.0.0.1" })
}

func TestDisabledRemovesItsOwn(t *testing.T) {
	d := memory.NewDriver(memory.Options{})
	w := start(t, d, autohep.Options{})
	w.node("n1")
	w.until("n1-auto-hep", exists)
	mine := &hostendpoint.HostEndpoint{Metadata: hostendpoint.ObjectMeta{Name: "mine"}, Spec: hostendpoint.HostEndpointSpec{Node: "n1", InterfaceName: "eth0"}}
	_, err := w.store.Create(t.Context(), mine)
	require.NoError(t, err)
	w.stop()
	w = start(t, d, autohep.Options{Disabled: true})
	w.until("n1-auto-hep", gone)
	w.until("mine", exists)
}

// Nodes can come from elsewhere: the store of the endpoints has none.
func TestNodesFromElsewhere(t *testing.T) {
	nodes := memory.New()
	_, err := nodes.Create(t.Context(), &hostendpoint.Node{Metadata: hostendpoint.ObjectMeta{Name: "n1"}})
	require.NoError(t, err)
	w := start(t, memory.NewDriver(memory.Options{}), autohep.Options{Nodes: nodes})
	w.node("n2") // not looked at
	w.until("n1-auto-hep", exists)
	_, err = nodes.Delete(t.Context(), hostendpoint.ID{Kind: hostendpoint.KindNode, Name: "n1"}, store.DeleteOptions{})
	require.NoError(t, err)
	w.until("n1-auto-hep", gone)
	l, err := w.heps.List(t.Context(), store.ListOptions{})
	require.NoError(t, err)
	require.Empty(t, l.Items)
}

func TestTemplates(t *testing.T) {
	tmpl := &hostendpoint.AutoHostEndpoints{CreateDefaultHostEndpoint: "Disabled", Templates: []hostendpoint.HostEndpointTemplate{
		{GenerateName: "lan", InterfaceCIDRs: []string{"10.0.0.0/8"}, Labels: map[string]string{"net": "lan"}, Annotations: map[string]string{"a": "b"}}}}
	w := start(t, memory.NewDriver(memory.Options{}), autohep.Options{Templates: tmpl})
	w.node("n1", "10.0.0.1", "192.0.2.1")
	w.until("n1-lan-auto-hep", exists)
	h, err := w.heps.Get(t.Context(), "", "n1-lan-auto-hep")
	require.NoError(t, err)
	require.Equal(t, []string{"10.0.0.1"}, h.Spec.ExpectedIPs)
	require.Equal(t, map[string]string{"a": "b"}, h.Metadata.Annotations)
	w.node("n1", "192.0.2.1")
	w.until("n1-lan-auto-hep", gone)
	require.Error(t, autohep.Run(t.Context(), w.store, autohep.Options{Templates: &hostendpoint.AutoHostEndpoints{CreateDefaultHostEndpoint: "Maybe"}}))
}

// While the datastore is away nothing is deleted, and then everything is put right.
func TestOutage(t *testing.T) {
	d := memory.NewDriver(memory.Options{})
	b := storetest.NewBreaker(d)
	w := start(t, b, autohep.Options{})
	w.node("n1")
	w.until("n1-auto-hep", exists)
	heal := b.Cut()
	direct := store.New(d, store.Options{})
	_, err := direct.Create(t.Context(), &hostendpoint.Node{Metadata: hostendpoint.ObjectMeta{Name: "n2"}})
	require.NoError(t, err)
	_, err = direct.Delete(t.Context(), hostendpoint.ID{Kind: hostendpoint.KindHostEndpoint, Name: "n1-auto-hep"}, store.DeleteOptions{})
	require.NoError(t, err)
	time.Sleep(50 * time.Millisecond)
	heal()
	w.until("n1-auto-hep", exists)
	w.until("n2-auto-hep", exists)
}

func ExampleRun() {
	ctx, cancel := context.WithCancel(context.Background())
	s := memory.New()
	if _, err := s.Create(ctx, &hostendpoint.Node{
		Metadata: hostendpoint.ObjectMeta{Name: "n1"},
		Spec:     hostendpoint.NodeSpec{Addresses: []hostendpoint.NodeAddress{{Address: "10.0.0.1", Type: hostendpoint.NodeAddressInternal}}},
	}); err != nil {
		panic(err)
	}
	err := autohep.Run(ctx, s, autohep.Options{Done: func(r autohep.Report) {
		if len(r.Created) > 0 {
			fmt.Println("created", r.Created)
			cancel()
		}
	}})
	fmt.Println(err)
	// Output:
	// created [n1-auto-hep]
	// context canceled
}
