// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

func (s *suite) everyKind() {
	for _, kind := range s.writable() {
		o := sample(kind)
		created, err := s.store.Create(s.ctx, o)
		require.NoError(s.T, err, kind)
		m := created.Meta()
		require.NotEmpty(s.T, m.ResourceVersion)
		require.NotEmpty(s.T, m.UID)
		require.NotNil(s.T, m.CreationTimestamp)
		require.Equal(s.T, o.ID(), created.ID())

		got, err := s.store.Get(s.ctx, o.ID())
		require.NoError(s.T, err, kind)
		require.Empty(s.T, cmp.Diff(created, got, cmp.Comparer(sameSource)), kind)
		same := hostendpoint.Default(o)
		w, g := *same.Meta(), *got.Meta()
		require.Equal(s.T, w.Labels, g.Labels)
		require.Equal(s.T, w.Annotations, g.Annotations)

		got.Meta().Labels["a"] = "c"
		updated, err := s.store.Update(s.ctx, got)
		require.NoError(s.T, err, kind)
		require.NotEqual(s.T, m.ResourceVersion, updated.Meta().ResourceVersion)
		require.Equal(s.T, m.UID, updated.Meta().UID)
		require.Equal(s.T, m.CreationTimestamp, updated.Meta().CreationTimestamp)
		require.Equal(s.T, "c", updated.Meta().Labels["a"])

		l, err := s.store.List(s.ctx, kind, store.ListOptions{Name: "one"})
		require.NoError(s.T, err, kind)
		require.Len(s.T, l.Items, 1, kind)
		require.Empty(s.T, cmp.Diff(updated, l.Items[0], cmp.Comparer(sameSource)))
		require.NotEmpty(s.T, l.ResourceVersion)

		deleted, err := s.store.Delete(s.ctx, o.ID(), store.DeleteOptions{})
		require.NoError(s.T, err, kind)
		require.Equal(s.T, "c", deleted.Meta().Labels["a"])
		_, err = s.store.Get(s.ctx, o.ID())
		require.ErrorIs(s.T, err, store.ErrNotFound)
	}
}

// sameSource lets positions differ: only files have them.
func sameSource(_, _ *field.Source) bool { return true }

func (s *suite) callersObjects() {
	o := hep("mine")
	before, err := store.Encode(o)
	s.Require(err)
	c, err := s.heps().Create(s.ctx, o)
	s.Require(err)
	after, err := store.Encode(o)
	s.Require(err)
	require.Equal(s.T, string(before), string(after))

	before, err = store.Encode(c)
	s.Require(err)
	c.Metadata.SelfLink = ""
	u, err := s.heps().Update(s.ctx, c)
	s.Require(err)
	after, err = store.Encode(c)
	s.Require(err)
	require.Equal(s.T, string(before), string(after))

	u.Spec.ExpectedIPs[0] = "changed" // ours to change
	again, err := s.heps().Get(s.ctx, "", "mine")
	s.Require(err)
	require.Equal(s.T, "10.0.0.1", again.Spec.ExpectedIPs[0])

	p := &hostendpoint.GlobalNetworkPolicy{Metadata: hostendpoint.ObjectMeta{Name: "p", Labels: map[string]string{"x": "y"}}}
	_, err = s.store.Create(s.ctx, p)
	s.Require(err)
	require.Equal(s.T, map[string]string{"x": "y"}, p.Metadata.Labels)
	require.Empty(s.T, p.Spec.Types)
}

func (s *suite) failures() {
	_, err := s.heps().Get(s.ctx, "", "none")
	require.ErrorIs(s.T, err, store.ErrNotFound)
	require.ErrorContains(s.T, err, "HostEndpoint(none)")
	var e *store.Error
	require.ErrorAs(s.T, err, &e)
	require.Equal(s.T, hostendpoint.ID{Kind: "HostEndpoint", Name: "none"}, e.ID)
	_, err = s.store.Get(s.ctx, hostendpoint.ID{Kind: hostendpoint.KindNetworkPolicy, Namespace: "ns", Name: "none"})
	require.ErrorIs(s.T, err, store.ErrNotFound)
	require.ErrorContains(s.T, err, "NetworkPolicy(ns/none)")
	for _, id := range []hostendpoint.ID{{Kind: hostendpoint.KindHostEndpoint}, {Kind: hostendpoint.KindHostEndpoint, Name: "a/b"},
		{Kind: hostendpoint.KindHostEndpoint, Name: ".."}, {Kind: hostendpoint.KindNetworkPolicy, Name: "x"}} {
		_, err = s.store.Get(s.ctx, id)
		require.ErrorAs(s.T, err, new(*field.Errors), "%v", id)
		_, err = s.store.Delete(s.ctx, id, store.DeleteOptions{})
		require.ErrorAs(s.T, err, new(*field.Errors), "%v", id)
	}

	bad := hep("bad")
	bad.Spec.Node, bad.Spec.Ports[0].Port = "", 0
	_, err = s.store.Create(s.ctx, bad)
	var invalid *field.Errors
	require.ErrorAs(s.T, err, &invalid)
	require.Len(s.T, invalid.List(), 2)
	require.Contains(s.T, err.Error(), "HostEndpoint(bad): spec.node")

	bad = hep("bad")
	bad.Metadata.Annotations = map[string]string{"a": "\xff"}
	_, err = s.store.Create(s.ctx, bad)
	require.ErrorAs(s.T, err, &invalid)
	require.Contains(s.T, err.Error(), "metadata.annotations")

	c, err := s.heps().Create(s.ctx, hep("web"))
	s.Require(err)
	_, err = s.heps().Create(s.ctx, hep("web"))
	require.ErrorIs(s.T, err, store.ErrAlreadyExists)
	require.ErrorContains(s.T, err, "create HostEndpoint(web): already exists")
	_, err = s.heps().Create(s.ctx, c)
	require.ErrorAs(s.T, err, &invalid, "resourceVersion must be empty")

	_, err = s.heps().Update(s.ctx, hep("web"))
	require.ErrorAs(s.T, err, &invalid)
	require.Len(s.T, invalid.List(), 3, "resourceVersion, creationTimestamp and uid")

	_, err = s.heps().Update(s.ctx, c)
	s.Require(err)
	c.Metadata.Labels = map[string]string{"late": "yes"}
	_, err = s.heps().Update(s.ctx, c)
	if err == nil { // an update that changes nothing need not make a new version
		_, err = s.heps().Update(s.ctx, c)
	}
	require.ErrorIs(s.T, err, store.ErrConflict)
	require.ErrorContains(s.T, err, "update HostEndpoint(web): update conflict")

	_, err = s.heps().Delete(s.ctx, "", "web", store.DeleteOptions{})
	s.Require(err)
	_, err = s.heps().Update(s.ctx, c)
	require.ErrorIs(s.T, err, store.ErrNotFound)
	_, err = s.heps().Delete(s.ctx, "", "web", store.DeleteOptions{})
	require.ErrorIs(s.T, err, store.ErrNotFound)

	_, err = s.store.List(s.ctx, "Pod", store.ListOptions{})
	require.ErrorIs(s.T, err, store.ErrUnsupported)
	_, err = s.store.Watch(s.ctx, "Pod", store.WatchOptions{})
	require.ErrorIs(s.T, err, store.ErrUnsupported)
	_, err = s.heps().List(s.ctx, store.ListOptions{Selector: "a =="})
	require.ErrorAs(s.T, err, &invalid)
	_, err = s.heps().Watch(s.ctx, store.WatchOptions{Selector: "a =="})
	require.ErrorAs(s.T, err, &invalid)
	_, err = s.store.Create(s.ctx, &hostendpoint.HostEndpoint{Metadata: hostendpoint.ObjectMeta{GenerateName: "x-"}, Spec: hep("x").Spec})
	require.ErrorIs(s.T, err, store.ErrUnsupported)
}

func (s *suite) metadata() {
	own := s.driver.Traits().OwnUIDs
	h := hep("h1")
	stamp := "2024-01-02T04:04:05.5+01:00"
	h.Metadata.CreationTimestamp, h.Metadata.UID, h.Metadata.SelfLink = &stamp, "11111111-2222-4333-8444-555555555555", "/x"
	c, err := s.heps().Create(s.ctx, h)
	s.Require(err)
	require.Empty(s.T, c.Metadata.SelfLink)
	if !s.driver.Traits().OwnTimes {
		require.Equal(s.T, "2024-01-02T03:04:05Z", *c.Metadata.CreationTimestamp)
	}
	if !own {
		require.Equal(s.T, "11111111-2222-4333-8444-555555555555", c.Metadata.UID)
	}
	require.Equal(s.T, hostendpoint.TypeMeta{Kind: "HostEndpoint", APIVersion: "projectcalico.org/v3"}, c.TypeMeta)

	bad := "yesterday"
	h = hep("h2")
	h.Metadata.CreationTimestamp = &bad
	_, err = s.heps().Create(s.ctx, h)
	require.ErrorAs(s.T, err, new(*field.Errors))

	c, err = s.heps().Create(s.ctx, hep("h3"))
	s.Require(err)
	require.Len(s.T, c.Metadata.UID, 36)
	at, err := time.Parse(time.RFC3339, *c.Metadata.CreationTimestamp)
	s.Require(err)
	require.WithinDuration(s.T, time.Now(), at, time.Minute)

	// A namespace on a kind that has none is ignored.
	h = hep("h4")
	h.Metadata.Namespace = "ns"
	c, err = s.heps().Create(s.ctx, h)
	s.Require(err)
	require.Empty(s.T, c.Metadata.Namespace)
	_, err = s.heps().Get(s.ctx, "other", "h4")
	s.Require(err)
}

func (s *suite) policies() {
	gnp := store.For[*hostendpoint.GlobalNetworkPolicy](s.store)
	p := &hostendpoint.GlobalNetworkPolicy{Metadata: hostendpoint.ObjectMeta{Name: "foo"}}
	c, err := gnp.Create(s.ctx, p)
	s.Require(err)
	require.Equal(s.T, "foo", c.Metadata.Name)
	require.Equal(s.T, "default", c.Spec.Tier)
	require.Equal(s.T, map[string]string{hostendpoint.TierLabel: "default"}, c.Metadata.Labels)
	require.Equal(s.T, []hostendpoint.PolicyType{hostendpoint.PolicyTypeIngress}, c.Spec.Types)
	require.Empty(s.T, c.Metadata.Annotations)

	// Both names are one object.
	for _, name := range []string{"foo", "default.foo"} {
		g, err := gnp.Get(s.ctx, "", name)
		s.Require(err)
		require.Equal(s.T, "foo", g.Metadata.Name)
		require.Equal(s.T, c, g)
	}
	_, err = gnp.Create(s.ctx, &hostendpoint.GlobalNetworkPolicy{Metadata: hostendpoint.ObjectMeta{Name: "default.foo"}})
	require.ErrorIs(s.T, err, store.ErrAlreadyExists)
	require.ErrorContains(s.T, err, "GlobalNetworkPolicy(default.foo)")
	c, err = gnp.Update(s.ctx, c)
	s.Require(err)
	raw, err := s.driver.Get(s.ctx, p.ID().Stored())
	s.Require(err)
	require.NotContains(s.T, raw.Meta().Labels, hostendpoint.TierLabel, "the label that reading adds is not written")
	_, err = gnp.Delete(s.ctx, "", "default.foo", store.DeleteOptions{})
	s.Require(err)
	require.NotNil(s.T, c)

	inTier := func(name, tier string) error {
		p := &hostendpoint.NetworkPolicy{Metadata: hostendpoint.ObjectMeta{Namespace: "ns", Name: name}}
		p.Spec.Tier = tier
		_, err := s.store.Create(s.ctx, p)
		return err
	}
	err = inTier("web.x", "web")
	require.ErrorIs(s.T, err, store.ErrNotFound, "the tier does not exist")
	require.ErrorContains(s.T, err, "Tier(web)")
	_, err = s.store.Create(s.ctx, &hostendpoint.Tier{Metadata: hostendpoint.ObjectMeta{Name: "web"}})
	s.Require(err)
	require.ErrorAs(s.T, inTier("x", "web"), new(*field.Errors), "the name does not fit")
	s.Require(inTier("web.x", "web"))
	np, err := store.For[*hostendpoint.NetworkPolicy](s.store).Get(s.ctx, "ns", "web.x")
	s.Require(err)
	require.Equal(s.T, "web", np.Metadata.Labels[hostendpoint.TierLabel])
	np.Spec.Order = new(float64)
	_, err = s.store.Update(s.ctx, np)
	s.Require(err)
}

func (s *suite) builtinProfile() {
	const name = hostendpoint.DefaultAllowProfileName
	profiles := store.For[*hostendpoint.Profile](s.store)
	p, err := profiles.Get(s.ctx, "", name)
	s.Require(err)
	require.Equal(s.T, hostendpoint.DefaultAllowProfile(), p)
	l, err := profiles.List(s.ctx, store.ListOptions{})
	s.Require(err)
	require.Equal(s.T, name, l.Items[len(l.Items)-1].Metadata.Name)
	l, err = profiles.List(s.ctx, store.ListOptions{Name: "other"})
	s.Require(err)
	require.Empty(s.T, l.Items)
	_, err = profiles.Delete(s.ctx, "", name, store.DeleteOptions{})
	require.ErrorIs(s.T, err, store.ErrUnsupported)
	p.Metadata.ResourceVersion = ""
	_, err = profiles.Create(s.ctx, p)
	require.ErrorIs(s.T, err, store.ErrAlreadyExists)
	_, err = profiles.Update(s.ctx, p)
	require.ErrorIs(s.T, err, store.ErrUnsupported)
}

func (s *suite) tiers() {
	s.Require(store.EnsureInitialized(s.ctx, s.store))
	s.Require(store.EnsureInitialized(s.ctx, s.store))
	tiers := store.For[*hostendpoint.Tier](s.store)
	l, err := tiers.List(s.ctx, store.ListOptions{})
	s.Require(err)
	require.Len(s.T, l.Items, 2)
	for _, t := range l.Items {
		_, err := tiers.Delete(s.ctx, "", t.Metadata.Name, store.DeleteOptions{})
		require.ErrorIs(s.T, err, store.ErrUnsupported)
	}
	c, err := tiers.Create(s.ctx, &hostendpoint.Tier{Metadata: hostendpoint.ObjectMeta{Name: "sec"}})
	s.Require(err)
	require.Equal(s.T, 1e6, *c.Spec.Order)
	require.Equal(s.T, hostendpoint.Deny, *c.Spec.DefaultAction)
	_, err = s.store.Create(s.ctx, &hostendpoint.GlobalNetworkPolicy{Metadata: hostendpoint.ObjectMeta{Name: "sec.p"}, Spec: hostendpoint.GlobalNetworkPolicySpec{Tier: "sec"}})
	s.Require(err)
	_, err = tiers.Delete(s.ctx, "", "sec", store.DeleteOptions{})
	require.ErrorIs(s.T, err, store.ErrUnsupported)
	require.ErrorContains(s.T, err, "not empty")
	_, err = s.store.Delete(s.ctx, hostendpoint.ID{Kind: hostendpoint.KindGlobalNetworkPolicy, Name: "sec.p"}, store.DeleteOptions{})
	s.Require(err)
	_, err = tiers.Delete(s.ctx, "", "sec", store.DeleteOptions{})
	s.Require(err)
}

func (s *suite) creators() {
	var won atomic.Int32
	parallel(s.T, 32, 32, func(i int) error {
		_, err := s.heps().Create(s.ctx, hep("one", "v", itoa(i)))
		if err == nil {
			won.Add(1)
		} else if !errors.Is(err, store.ErrAlreadyExists) {
			return err
		}
		return nil
	})
	require.EqualValues(s.T, 1, won.Load())
}

func (s *suite) writers() {
	_, err := s.heps().Create(s.ctx, hep("counter", "v", "0"))
	s.Require(err)
	const writers, each = 32, 4
	stores := []store.Store{s.store, s.open(s.Open(s.T)), s.open(s.Open(s.T))}
	parallel(s.T, writers, writers, func(i int) error {
		heps := store.For[*hostendpoint.HostEndpoint](stores[i%len(stores)])
		for done := 0; done < each; {
			h, err := heps.Get(s.ctx, "", "counter")
			if err != nil {
				return err
			}
			n, err := strconv.Atoi(h.Metadata.Labels["v"])
			if err != nil {
				return err
			}
			h.Metadata.Labels["v"] = itoa(n + 1)
			switch _, err = heps.Update(s.ctx, h); {
			case err == nil:
				done++
			case !errors.Is(err, store.ErrConflict):
				return err
			}
		}
		return nil
	})
	// A client may read what another wrote a moment later.
	require.Eventually(s.T, func() bool {
		h, err := s.heps().Get(s.ctx, "", "counter")
		return err == nil && h.Metadata.Labels["v"] == itoa(writers*each)
	}, s.Patience, 10*time.Millisecond)
}

func (s *suite) deletes() {
	c, err := s.heps().Create(s.ctx, hep("h"))
	s.Require(err)
	v1 := c.Metadata.ResourceVersion
	c.Metadata.Labels = map[string]string{"x": "y"}
	c, err = s.heps().Update(s.ctx, c)
	s.Require(err)
	_, err = s.heps().Delete(s.ctx, "", "h", store.DeleteOptions{ResourceVersion: v1})
	require.ErrorIs(s.T, err, store.ErrConflict)
	_, err = s.heps().Delete(s.ctx, "", "h", store.DeleteOptions{UID: "99999999-2222-4333-8444-555555555555"})
	require.ErrorIs(s.T, err, store.ErrNotFound)
	_, err = s.heps().Delete(s.ctx, "", "h", store.DeleteOptions{ResourceVersion: c.Metadata.ResourceVersion, UID: c.Metadata.UID})
	s.Require(err)
}

func (s *suite) lists() {
	for i := range 25 {
		_, err := s.heps().Create(s.ctx, hep(fmt.Sprintf("h%02d", i), "parity", []string{"even", "odd"}[i%2]))
		s.Require(err)
	}
	names := func(opts store.ListOptions) (out []string, pages int) {
		for {
			l, err := s.heps().List(s.ctx, opts)
			s.Require(err)
			pages++
			for _, h := range l.Items {
				out = append(out, h.Metadata.Name)
			}
			if l.Continue == "" {
				return out, pages
			}
			require.Len(s.T, l.Items, opts.Limit, "only the last page is short")
			opts.Continue = l.Continue
		}
	}
	all, pages := names(store.ListOptions{})
	require.Len(s.T, all, 25)
	require.IsIncreasing(s.T, all)
	require.Equal(s.T, 1, pages)
	paged, pages := names(store.ListOptions{Limit: 7})
	require.Equal(s.T, all, paged)
	require.Equal(s.T, 4, pages)
	odd, _ := names(store.ListOptions{Limit: 5, Selector: "parity == 'odd'"})
	require.Len(s.T, odd, 12)
	one, _ := names(store.ListOptions{Name: "h07"})
	require.Equal(s.T, []string{"h07"}, one)
	tens, _ := names(store.ListOptions{Name: "h1", Prefix: true})
	require.Equal(s.T, strings.Fields("h10 h11 h12 h13 h14 h15 h16 h17 h18 h19"), tens)
	none, _ := names(store.ListOptions{Name: "h"})
	require.Empty(s.T, none)

	for _, ns := range []string{"a", "b"} {
		n := sample(hostendpoint.KindNetworkSet)
		n.Meta().Namespace = ns
		_, err := s.store.Create(s.ctx, n)
		s.Require(err)
	}
	sets, err := s.store.List(s.ctx, hostendpoint.KindNetworkSet, store.ListOptions{Namespace: "b"})
	s.Require(err)
	require.Len(s.T, sets.Items, 1)
	sets, err = s.store.List(s.ctx, hostendpoint.KindNetworkSet, store.ListOptions{})
	s.Require(err)
	require.Len(s.T, sets.Items, 2)
}

func (s *suite) pages() {
	for i := range 10 {
		_, err := s.heps().Create(s.ctx, hep(fmt.Sprintf("h%02d", i), "v", "old"))
		s.Require(err)
	}
	first, err := s.heps().List(s.ctx, store.ListOptions{Limit: 4})
	s.Require(err)
	h, err := s.heps().Get(s.ctx, "", "h08")
	s.Require(err)
	h.Metadata.Labels["v"] = "new"
	_, err = s.heps().Update(s.ctx, h)
	s.Require(err)
	_, err = s.heps().Delete(s.ctx, "", "h09", store.DeleteOptions{})
	s.Require(err)
	_, err = s.heps().Create(s.ctx, hep("h07x"))
	s.Require(err)
	rest, err := s.heps().List(s.ctx, store.ListOptions{Limit: 100, Continue: first.Continue})
	s.Require(err)
	var got []string
	for _, h := range rest.Items {
		got = append(got, h.Metadata.Name+h.Metadata.Labels["v"])
	}
	require.Equal(s.T, []string{"h04old", "h05old", "h06old", "h07old", "h08old", "h09old"}, got)
	require.Equal(s.T, first.ResourceVersion, rest.ResourceVersion)
	if s.Compact != nil {
		s.Compact(s.T)
		_, err = s.heps().List(s.ctx, store.ListOptions{Limit: 4, Continue: first.Continue})
		require.ErrorIs(s.T, err, store.ErrExpired)
	}
	_, err = s.heps().List(s.ctx, store.ListOptions{Limit: 4, Continue: "bogus"})
	require.Error(s.T, err)
}
