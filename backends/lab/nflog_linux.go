// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"sync"

	"github.com/hostpolicy/hostpolicy/backends/flowlog"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// logReader hands the events of an NFLOG group to a function. The lab cannot do without any of them: a loss ends it.
type logReader struct {
	fn     func(flowlog.Event)
	failed func(error)
	ready  chan struct{}
	cancel context.CancelFunc
	group  uint16
}

func (r *logReader) Ready()                { close(r.ready) }
func (r *logReader) Event(e flowlog.Event) { r.fn(e) }

func (r *logReader) Lost(uint64) {
	r.failed(fmt.Errorf("NFLOG group %d: %w", r.group, ErrLost))
	r.cancel()
}

// readLog sends the events of a group of a namespace to fn until ctx ends or stop is called, which waits for the last
// call of fn. Fn runs on one goroutine; failed is called once, when the group can be read no longer, unless that is
// because of ctx.
func readLog(ctx context.Context, ns Netns, group uint16, fn func(flowlog.Event), failed func(error)) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var once sync.Once
	r := &logReader{fn: fn, failed: func(err error) { once.Do(func() { failed(err) }) }, ready: make(chan struct{}), cancel: cancel, group: group}
	done := make(chan error, 1)
	go func() {
		err := flowlog.NFLOG{NetNS: ns.FD(), Group: group}.Read(ctx, r)
		select {
		case <-r.ready:
			if err != nil {
				r.failed(err)
			}
		default:
		}
		done <- err
	}()
	select {
	case <-r.ready:
		return func() { cancel(); <-done; done <- nil }, nil
	case err := <-done:
		cancel()
		if err == nil {
			err = ctx.Err()
		}
		return nil, err
	}
}

// NFLOG returns the events that a dataplane in ns sends to an NFLOG group with prefixes as flow.LogPrefix writes them.
func NFLOG(ns Netns, group uint16) EventSource { return &nflogSource{ns: ns, group: group} }

type nflogSource struct {
	ns    Netns
	group uint16

	mu  sync.Mutex
	err error
}

func (s *nflogSource) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// FenceGroup returns the group.
func (s *nflogSource) FenceGroup() uint16 { return s.group }

func (s *nflogSource) Subscribe(ctx context.Context) (<-chan Event, error) {
	ch := make(chan Event, 1024)
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	s.err = nil
	s.mu.Unlock()
	stop, err := readLog(ctx, s.ns, s.group, func(e flowlog.Event) {
		rec, ok := e.Record, e.Record.Event != 0
		if e.Prefix == fencePrefix {
			rec, ok = flow.LogRecord{Text: fencePrefix}, true
		}
		if ok {
			select {
			case ch <- Event{Record: rec, Packet: e.Packet}:
			case <-ctx.Done():
			}
		}
	}, func(err error) {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		cancel()
	})
	if err != nil {
		cancel()
		return nil, err
	}
	go func() {
		<-ctx.Done()
		stop()
		close(ch)
	}()
	return ch, nil
}
