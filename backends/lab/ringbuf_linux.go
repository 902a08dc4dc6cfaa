// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"sync"

	"github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// RingBuffer returns the events of an eBPF dataplane in ns. Its fences come by an NFLOG group, which must be free.
func RingBuffer(ns Netns, b *ebpf.Backend, group uint16) EventSource {
	return &ringSource{b: b, group: group, fences: NFLOG(ns, group)}
}

type ringSource struct {
	b      *ebpf.Backend
	group  uint16
	fences EventSource

	mu  sync.Mutex
	sub *ebpf.Subscription
}

func (s *ringSource) FenceGroup() uint16 { return s.group }

func (s *ringSource) Subscribe(ctx context.Context) (<-chan Event, error) {
	fences, err := s.fences.Subscribe(ctx)
	if err != nil {
		return nil, err
	}
	sub, err := s.b.Events(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.sub = sub
	s.mu.Unlock()
	ch := make(chan Event, 1024)
	go func() {
		defer close(ch)
		for {
			select {
			case e, ok := <-sub.C():
				if !ok {
					return
				}
				ch <- ringEvent(e)
			case f, ok := <-fences:
				if !ok || !s.flush(ctx, sub, ch) {
					return
				}
				ch <- f
			}
		}
	}()
	return ch, nil
}

// flush sends all events that came before a fence.
func (s *ringSource) flush(ctx context.Context, sub *ebpf.Subscription, ch chan<- Event) bool {
	flushed := make(chan error, 1)
	go func() { flushed <- sub.Flush(ctx) }()
	for {
		select {
		case e, ok := <-sub.C():
			if !ok {
				return false
			}
			ch <- ringEvent(e)
		case err := <-flushed:
			for err == nil && len(sub.C()) > 0 {
				ch <- ringEvent(<-sub.C())
			}
			return err == nil
		}
	}
}

func ringEvent(e ebpf.Event) Event {
	return Event{Record: flow.LogRecord{Event: e.Kind, Hook: e.Hook, Key: e.Key}, Packet: e.Packet}
}

func (s *ringSource) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sub == nil {
		return nil
	}
	return errors.Join(s.sub.Err(), s.fences.Err())
}
