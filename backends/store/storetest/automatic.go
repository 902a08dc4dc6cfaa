// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/autohep"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// automatic runs the controller of automatic host endpoints on the datastore.
func (s *suite) automatic() {
	put, remove := s.PutNode, s.DeleteNode
	nodes := store.For[*hostendpoint.Node](s.store)
	if put == nil {
		put = func(t testing.TB, name, ip string) {
			n := &hostendpoint.Node{Metadata: hostendpoint.ObjectMeta{Name: name}}
			if old, err := nodes.Get(s.ctx, "", name); err == nil {
				n = old
			}
			n.Spec.Addresses = []hostendpoint.NodeAddress{{Address: ip, Type: hostendpoint.NodeAddressInternal}}
			var err error
			if n.Metadata.ResourceVersion == "" {
				_, err = nodes.Create(s.ctx, n)
			} else {
				_, err = nodes.Update(s.ctx, n)
			}
			s.Require(err)
		}
		remove = func(t testing.TB, name string) {
			_, err := nodes.Delete(s.ctx, "", name, store.DeleteOptions{})
			s.Require(err)
		}
	}
	mine, err := s.heps().Create(s.ctx, hep("mine"))
	s.Require(err)
	foreign, err := s.heps().Create(s.ctx, hep("auto2-auto-hep"))
	s.Require(err)

	ctx, cancel := context.WithCancel(s.ctx)
	ended := make(chan error)
	go func() { ended <- autohep.Run(ctx, s.store, autohep.Options{Retry: 20 * time.Millisecond}) }()
	defer func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			s.Errorf("%v", err)
		}
	}()
	until := func(ok func(h *hostendpoint.HostEndpoint) bool) {
		s.Helper()
		require.Eventually(s.T, func() bool {
			h, err := s.heps().Get(s.ctx, "", "auto1-auto-hep")
			if err != nil {
				h = nil
			}
			return ok(h)
		}, s.Patience, 10*time.Millisecond)
	}
	has := func(ip string) func(*hostendpoint.HostEndpoint) bool {
		return func(h *hostendpoint.HostEndpoint) bool {
			return h != nil && len(h.Spec.ExpectedIPs) == 1 && h.Spec.ExpectedIPs[0] == ip
		}
	}
	put(s.T, "auto1", "10.0.0.1")
	put(s.T, "auto2", "10.0.0.2")
	until(has("10.0.0.1"))
	put(s.T, "auto1", "10.0.0.9")
	until(has("10.0.0.9"))
	s.del("auto1-auto-hep") // what others delete or change is put right
	until(has("10.0.0.9"))
	h, err := s.heps().Get(s.ctx, "", "auto1-auto-hep")
	s.Require(err)
	h.Spec.ExpectedIPs = []string{"192.0.2.1"}
	_, err = s.heps().Update(s.ctx, h)
	s.Require(err)
	until(has("10.0.0.9"))
	remove(s.T, "auto1")
	remove(s.T, "auto2")
	until(func(h *hostendpoint.HostEndpoint) bool { return h == nil })
	for _, want := range []*hostendpoint.HostEndpoint{mine, foreign} {
		got, err := s.heps().Get(s.ctx, "", want.Metadata.Name)
		s.Require(err)
		require.Equal(s.T, want.Metadata, got.Metadata, "what a user made is left alone")
		require.Equal(s.T, want.Spec, got.Spec)
	}
}
