// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"errors"
	"time"

	"github.com/hostpolicy/hostpolicy/backends/flowlog"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// lossEvery is how often a flow log asks for what the ring buffer had no room for.
const lossEvery = time.Second

// FlowLog returns the events as a flow log reads them. It takes the place of Events: there can be one reader at a time.
func (b *Backend) FlowLog() flowlog.Source { return source{b} }

type source struct{ b *Backend }

// Read implements flowlog.Source.
func (s source) Read(ctx context.Context, to flowlog.Sink) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	before, err := s.b.Lost(ctx)
	if err != nil {
		return ended(ctx, err)
	}
	sub, err := s.b.Events(ctx)
	if err != nil {
		return ended(ctx, err)
	}
	defer func() { // until the goroutine of sub is done
		cancel()
		for range sub.C() {
		}
	}()
	to.Ready()
	lost := func() error {
		now, err := s.b.Lost(ctx)
		if err != nil {
			return err
		}
		// Maps that were made anew begin at 0.
		if n, was := now.Full+now.Limit, before.Full+before.Limit; n > was {
			to.Lost(n - was)
		}
		before = now
		return nil
	}
	t := time.NewTicker(lossEvery)
	defer t.Stop()
	for {
		select {
		case e, ok := <-sub.C():
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return errors.Join(errors.New("ebpf: the flow of events ended"), sub.Err())
			}
			to.Event(flowlog.Event{
				Record: flow.LogRecord{Event: e.Kind, Hook: e.Hook, Key: e.Key}, Origin: e.Origin, Generation: e.Generation,
				In: e.In, Out: e.Out, Packet: e.Packet, Length: int(e.Length),
			})
		case <-t.C:
			if err := lost(); err != nil {
				return ended(ctx, err)
			}
		}
	}
}

// ended returns nil for an error that is there because ctx ended.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
