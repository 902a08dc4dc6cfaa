// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// Subscription is a flow of events. It is safe for concurrent use.
type Subscription struct {
	origins *atomic.Pointer[origins]
	reader  *ringbuf.Reader
	events  chan Event
	flushed chan struct{}

	mu  sync.Mutex
	err error
}

// Events starts the flow of events, which ends with ctx. There can be one at a time: another one takes events away. What
// happened since the last flow ended comes first, as far as the buffer had room. A receiver that is slow makes the buffer
// fill up, which Lost tells.
func (b *Backend) Events(ctx context.Context) (*Subscription, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return nil, err
	}
	if err := b.provideMaps(); err != nil {
		return nil, err
	}
	r, err := ringbuf.NewReader(b.maps[render.MapEvents])
	if err != nil {
		return nil, &Error{"events", "map " + render.MapEvents, err}
	}
	s := &Subscription{origins: &b.origins, reader: r, events: make(chan Event, 1024), flushed: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { r.Close() })
	go func() {
		defer close(s.events)
		defer stop()
		defer r.Close()
		s.run(ctx)
	}()
	return s, nil
}

func (s *Subscription) run(ctx context.Context) {
	for {
		r, err := s.reader.Read()
		if errors.Is(err, ringbuf.ErrFlushed) {
			select {
			case s.flushed <- struct{}{}:
			case <-ctx.Done():
			}
			continue
		}
		if err != nil {
			if !errors.Is(err, ringbuf.ErrClosed) {
				s.mu.Lock()
				s.err = &Error{"events", "map " + render.MapEvents, err}
				s.mu.Unlock()
			}
			return
		}
		e, ok := decode(r.RawSample)
		if !ok {
			continue
		}
		e.Origin = s.origins.Load().of(e.Key)
		select {
		case s.events <- e:
		case <-ctx.Done():
			return
		}
	}
}

// C returns the events. The channel is closed when the flow ends.
func (s *Subscription) C() <-chan Event { return s.events }

// Flush returns when all events that the kernel had reported when it was called have been sent to the channel; somebody
// must receive them meanwhile. There can be one call at a time.
func (s *Subscription) Flush(ctx context.Context) error {
	if err := s.reader.Flush(); err != nil {
		return &Error{"events", "map " + render.MapEvents, err}
	}
	select {
	case <-s.flushed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Err returns what ended the flow; nil if it was its context.
func (s *Subscription) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Lost returns how many events were not reported, since the maps were made.
func (b *Backend) Lost(ctx context.Context) (Loss, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var l Loss
	if err := b.ready(ctx); err != nil {
		return l, err
	}
	if b.maps[render.MapLimits] == nil {
		return l, nil
	}
	each := make([]limits, 0, ebpf.MustPossibleCPU())
	if err := b.maps[render.MapLimits].Lookup(uint32(0), &each); err != nil {
		return l, &Error{"events", "map " + render.MapLimits, err}
	}
	for _, x := range each {
		l.Full += x.Lost
		l.Limit += x.Over
	}
	return l, nil
}

// limits is the value of the map of limits.
type limits struct{ Used, Lost, Over uint64 }
