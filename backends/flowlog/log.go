// SPDX-License-Identifier: Apache-2.0

// Package flowlog makes records of what dataplanes say of packets: one stream of decisions, whether they come by NFLOG or
// through the ring buffer of eBPF, each with the origin that flow.Origin names everywhere else.
//
// Dataplanes report what their renderers were told to: Events of their options, and Log rules always. Nothing here slows
// a packet down or blocks: events that are not read quickly enough are lost, and counted.
package flowlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// The defaults of Options.
const (
	DefaultMaxFlows = 1 << 16
	DefaultQueue    = 4096
)

// Options say what a Log makes of events. The zero value makes a record of each.
type Options struct {
	// Window is how long packets that are alike are gathered in one record, which comes at its end; 0 is not at all.
	// Packets are alike if event, hook, origin, generation, interfaces and tuple are the same.
	Window time.Duration
	// AnySourcePort counts packets as alike that differ in their source ports; records have 0 there.
	AnySourcePort bool
	// MaxFlows is how many records a window may hold; 0 is DefaultMaxFlows. When it is full it ends early.
	MaxFlows int
	// Queue is how many records wait for the receiver of a subscription; 0 is DefaultQueue.
	Queue int
	// Logger gets what an operator may want to know; nil is silence.
	Logger *slog.Logger
}

// Log turns events into records and hands them to its subscriptions. It is safe for concurrent use.
type Log struct {
	opts Options
	log  *slog.Logger

	mu     sync.Mutex
	stats  Stats
	origin origins
	window window
	subs   map[*Subscription]bool
}

// New returns a Log without subscriptions.
func New(o Options) *Log {
	if o.MaxFlows <= 0 {
		o.MaxFlows = DefaultMaxFlows
	}
	if o.Queue <= 0 {
		o.Queue = DefaultQueue
	}
	l := &Log{opts: o, log: o.Logger, subs: map[*Subscription]bool{}, window: window{}}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	return l
}

// Use says what the keys of events mean from now on: call it after every Apply, with the generation of the Receipt. The
// Log keeps p, which must not change. Without it records have the origins that fit into a log prefix, and no positions.
func (l *Log) Use(generation uint64, p *ir.Program) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.origin.use(generation, p)
}

// Stats returns what was counted.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// Subscription is a flow of records.
type Subscription struct {
	log     *Log
	ch      chan Record
	filter  func(*Record) bool
	dropped uint64
}

// Subscribe starts a flow of the records that pass the filter, which must be quick and not keep the record; nil lets all
// pass. It ends with Close.
func (l *Log) Subscribe(filter func(*Record) bool) *Subscription {
	s := &Subscription{log: l, ch: make(chan Record, l.opts.Queue), filter: filter}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.subs[s] = true
	return s
}

// C returns the records. The channel is closed by Close.
func (s *Subscription) C() <-chan Record { return s.ch }

// Dropped returns how many records were lost, since they were not received quickly enough.
func (s *Subscription) Dropped() uint64 {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return s.dropped
}

// Close ends the subscription. It may be called more than once.
func (s *Subscription) Close() {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	if s.log.subs[s] {
		delete(s.log.subs, s)
		close(s.ch)
	}
}

// The shortest and the longest time before a source is opened again.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// Run reads the sources until ctx ends, and then returns nil. A source that fails is opened again, with a delay that
// grows; one that fails before it was ready for the first time ends Run with its error.
func (l *Log) Run(ctx context.Context, sources ...Source) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for i, s := range sources {
		wg.Go(func() {
			if err := l.follow(ctx, s); err != nil {
				cancel(fmt.Errorf("source %d: %w", i+1, err))
			}
		})
	}
	if l.opts.Window > 0 {
		wg.Go(func() { l.turn(ctx) })
	}
	wg.Wait()
	<-ctx.Done() // without sources, too
	if err := context.Cause(ctx); !errors.Is(err, ctx.Err()) {
		return err
	}
	return nil
}

// follow reads a source again and again. The error is that of the first time.
func (l *Log) follow(ctx context.Context, s Source) error {
	backoff := minBackoff
	ever := false
	for {
		in := &sink{log: l}
		err := s.Read(ctx, in)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = errors.New("the source ended")
		}
		if ever = ever || in.ready; !ever {
			return err
		}
		if in.ready {
			backoff = minBackoff
		}
		l.log.Warn("flow log source failed", "error", err, "again", backoff)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
		l.mu.Lock()
		l.stats.Reopens++
		l.mu.Unlock()
	}
}

// turn ends windows.
func (l *Log) turn(ctx context.Context) {
	t := time.NewTicker(l.opts.Window)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			l.flush()
			return
		case <-t.C:
			l.flush()
		}
	}
}

func (l *Log) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end()
}

// sink takes what one source reads.
type sink struct {
	log   *Log
	ready bool
}

func (s *sink) Ready() { s.ready = true }

func (s *sink) Lost(n uint64) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.log.stats.Lost += n
}

func (s *sink) Event(e Event) {
	now := time.Now()
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	s.log.event(e, now)
}

// event makes a record of an event.
func (l *Log) event(e Event, now time.Time) {
	l.stats.Events++
	if e.Record.Event == 0 {
		l.stats.Foreign++
		return
	}
	r := Record{Time: now, Last: now, Event: e.Record.Event, Hook: e.Record.Hook, Key: e.Record.Key, In: e.In, Out: e.Out, Packets: 1, Bytes: uint64(max(e.Length, len(e.Packet)))}
	if r.Origin, r.Generation = e.Origin, e.Generation; r.Origin.Kind == 0 {
		o, g := l.origin.find(e.Record)
		if r.Origin = o; o.Kind == 0 {
			l.stats.Unknown++
		}
		if r.Generation == 0 {
			r.Generation = g
		}
	}
	r.Tuple, _ = flow.ReadTuple(e.Packet)
	if l.opts.Window <= 0 {
		l.send(&r)
		return
	}
	if l.opts.AnySourcePort {
		r.Tuple.SrcPort = 0
	}
	if !l.window.add(&r, l.opts.MaxFlows) {
		l.end()
		l.window.add(&r, l.opts.MaxFlows)
	}
}

// end ends a window.
func (l *Log) end() {
	for _, r := range l.window.take() {
		l.send(r)
	}
}

// send hands a record to the subscriptions.
func (l *Log) send(r *Record) {
	l.stats.Records++
	for s := range l.subs {
		if s.filter != nil && !s.filter(r) {
			continue
		}
		select {
		case s.ch <- *r:
		default:
			s.dropped++
			l.stats.Dropped++
		}
	}
}
