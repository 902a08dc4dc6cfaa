// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hostpolicy/hostpolicy/backends/flowlog"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// Packets are sent in volleys, and a volley must be accounted for before the next one leaves: no buffer overflows.
const volley = 256

// quiet is how long nothing must be heard before a volley is over, for a source of events that knows no fences.
const quiet = 50 * time.Millisecond

// comeOut is how long a source may take to hand out what it has.
const comeOut = 10 * time.Second

// station is a running lab for one topology. Not safe for concurrent use.
type station struct {
	o    Options
	top  *topology
	m    *machine
	in   *injector
	ct   *conntrack
	stop func()

	index map[uint32]string // names of the host's interfaces

	seen   chan sighted  // what the tap reports
	failed chan error    // that it reports no longer
	done   chan struct{} // nobody listens any more
	lastID uint32

	controlled map[flow.Packet]bool // packets that were proven to do what they claim
}

// hearing is a subscription to the events of a dataplane. The zero value is none.
type hearing struct {
	events <-chan Event
	lookup func(Event) decision
	fenced bool    // fences come out between the events
	drain  Drainer // nil if the source is none
}

// sighted is one record of the tap.
type sighted struct {
	who    sighting
	at     tapPlace
	arrive arrival
}

// open builds everything for a topology. On error nothing is left.
func open(ctx context.Context, t *topology, o Options) (s *station, err error) {
	s = &station{
		o: o, top: t, index: map[uint32]string{}, seen: make(chan sighted, 4*volley), failed: make(chan error, 1),
		done:       make(chan struct{}),
		controlled: map[flow.Packet]bool{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
			s = nil
		}
	}()
	if s.m, err = newMachine(t.host, t.forwarding); err != nil {
		return s, err
	}
	for name, i := range s.m.hostIndex {
		s.index[uint32(i)] = name
	}
	if err = installTap(s.m.host, o.LogGroup, t.dnat); err != nil {
		return s, err
	}
	if s.in, err = newInjector(s.m); err != nil {
		return s, err
	}
	if s.ct, err = openConntrack(s.m.host); err != nil {
		return s, err
	}
	if err = installFence(s.m.host, o.LogGroup); err != nil {
		return s, err
	}
	s.stop, err = readLog(ctx, s.m.host, o.LogGroup, s.record, func(err error) { s.failed <- err })
	return s, err
}

func (s *station) close() error {
	close(s.done)
	if s.stop != nil {
		s.stop()
	}
	if s.ct != nil {
		s.ct.close()
	}
	if s.in != nil {
		s.in.close()
	}
	if s.m != nil {
		return s.m.close()
	}
	return nil
}

// record takes what the tap logs.
func (s *station) record(e flowlog.Event) {
	at, state, ok := parseTapPrefix(e.Prefix)
	if !ok {
		return
	}
	who, ok := readSighting(e.Packet)
	if !ok {
		return
	}
	a := arrival{state: state, in: s.index[e.InDev], out: s.index[e.OutDev]}
	switch at {
	case tapInput:
		a.path, a.out = flow.Input, ""
	case tapFwd:
		a.path = flow.Forward
	case tapOut:
		a.path, a.in = flow.Output, ""
	}
	select {
	case s.seen <- sighted{who: who, at: at, arrive: a}:
	case <-s.done:
	}
}

// shot is a packet on its way, with what is seen of it.
type shot struct {
	who sighting
	obs observation
}

// fire sends packets and collects what becomes of them. Done says of an observation that the packet has met its end. The
// packets are sent in an order of their states, so that connections that are inserted for some are no one else's.
func (s *station) fire(ctx context.Context, ps []*flow.Packet, h hearing, done func(*observation) bool) ([]*observation, error) {
	out := make([]*observation, len(ps))
	for _, phase := range [][]flow.ConnState{{flow.New, flow.Invalid, flow.Untracked}, {flow.Established}, {flow.Related}} {
		var group []int
		for i, p := range ps {
			if slices.Contains(phase, p.State) {
				group = append(group, i)
			}
		}
		for len(group) > 0 {
			now, conns, later, err := s.load(ps, group)
			if err != nil {
				return nil, err
			}
			if err := s.fireVolley(ctx, ps, now, conns, out, h, done); err != nil {
				return nil, err
			}
			group = later
		}
	}
	return out, nil
}

// load chooses the packets of the next volley, in order, and the connections that they need. Packets whose connections
// cannot be in the table at the same time, since NAT makes one of two flows, stay for later.
func (s *station) load(ps []*flow.Packet, group []int) (now []int, conns []connection, later []int, err error) {
	taken := connections{}
	for n, i := range group {
		if len(now) == volley {
			later = append(later, group[n:]...)
			break
		}
		cs, err := connectionsFor(ps[i], s.lastID+1+uint32(len(now)))
		if err != nil {
			return nil, nil, nil, fmt.Errorf("%w: %s: %w", ErrControl, policytest.FormatPacket(ps[i]), err)
		}
		if !taken.add(cs) {
			later = append(later, i)
			continue
		}
		now = append(now, i)
		conns = append(conns, cs...)
	}
	return now, conns, later, nil
}

func (s *station) fireVolley(ctx context.Context, ps []*flow.Packet, which []int, conns []connection, out []*observation, h hearing, done func(*observation) bool) error {
	first := s.lastID + 1
	s.lastID += uint32(len(which))
	for _, c := range conns {
		if err := s.ct.insert(c); err != nil {
			return err
		}
	}
	shots := make([]*shot, len(which))
	for n, i := range which {
		p := ps[i]
		shots[n] = &shot{obs: observation{loops: p.Path == flow.Output && (p.Dst.IsMulticast() || isBroadcast(p.Dst, s.top.host))}}
		out[i] = &shots[n].obs
		b, err := packets(p, first+uint32(n), s.o.Fragment)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrControl, policytest.FormatPacket(p), err)
		}
		if shots[n].who, err = describe(p, first+uint32(n)); err != nil {
			return err
		}
		if err := s.in.send(p, b, bindOut(p, s.top.host)); err != nil {
			return fmt.Errorf("send %s: %w", policytest.FormatPacket(p), err)
		}
	}
	if err := s.collect(ctx, first, shots, h, done); err != nil {
		return err
	}
	if len(conns) > 0 {
		return s.ct.flush()
	}
	return nil
}

// fence sends a fence and returns its number.
func (s *station) fence() (uint32, error) {
	s.lastID++
	p := &flow.Packet{Path: flow.Output, Out: "lo", Protocol: 253, Src: fenceDst, Dst: fenceDst}
	b, err := packets(p, s.lastID, false)
	if err != nil {
		return 0, err
	}
	if err := s.in.send(p, b, ""); err != nil {
		return 0, fmt.Errorf("send a fence: %w", err)
	}
	return s.lastID, nil
}

// collect gathers records until every shot has met its end and all events of it are known, or until patience ends.
//
// The kernel reports an event before the packet goes on. So when a packet was seen at its end, all its events have been
// handed over, and a fence that is sent then comes out behind them.
func (s *station) collect(ctx context.Context, first uint32, shots []*shot, h hearing, done func(*observation) bool) error {
	find := func(who sighting) *observation {
		if n := who.id - first; int64(n) < int64(len(shots)) && shots[n].who == who {
			return &shots[n].obs
		}
		return nil // of an earlier volley, or an error message that quotes a packet of ours
	}
	pending := make(map[*observation]bool, len(shots))
	for _, x := range shots {
		pending[&x.obs] = true
	}
	settle := func(o *observation) {
		if pending[o] && done(o) {
			delete(pending, o)
		}
	}
	if _, err := s.fence(); err != nil { // what has been logged comes out at once
		return err
	}
	last := uint32(0) // the fence behind everything, once it is sent
	var drained chan error
	timer := time.NewTimer(s.o.Patience)
	defer timer.Stop()
	for {
		select {
		case x := <-s.seen:
			o := find(x.who)
			if o == nil {
				continue
			}
			a := x.arrive
			if x.at == tapFwd {
				o.forwarded = &a
			} else {
				if x.at == tapOut && o.forwarded != nil {
					a.path, a.in = flow.Forward, o.forwarded.in
				}
				o.arrived = &a
				o.copies++
			}
			settle(o)
		case e, ok := <-h.events:
			if !ok {
				return errors.New("the dataplane reports no more events")
			}
			who, ok := readSighting(e.Packet)
			if !ok {
				continue
			}
			if e.Record.Text == fencePrefix {
				if last != 0 && who.id == last {
					return nil
				}
				continue
			}
			o := find(who)
			if o == nil {
				continue
			}
			o.decisions = append(o.decisions, h.lookup(e))
			settle(o)
		case err := <-drained:
			if err != nil {
				return fmt.Errorf("drain the events: %w", err)
			}
			if len(h.events) == 0 {
				return nil
			}
			drained <- nil // after the next one
		case err := <-s.failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			switch {
			case len(pending) > 0:
				// Some packets are lost. What was reported of them is known when everything has come out.
				pending = nil
			case last != 0 || drained != nil:
				return fmt.Errorf("%w: the source of events does not come to an end", ErrLost)
			default:
				return nil
			}
		}
		switch {
		case len(pending) > 0:
			timer.Reset(s.o.Patience)
		case h.events == nil:
			return nil
		case h.drain != nil:
			if drained == nil {
				drained = make(chan error, 1)
				go func() { drained <- h.drain.Drain(ctx) }()
				timer.Reset(comeOut)
			}
		case !h.fenced:
			timer.Reset(quiet)
		case last == 0:
			var err error
			if last, err = s.fence(); err != nil {
				return err
			}
			timer.Reset(comeOut)
		}
	}
}

// control proves that without rules the packets do what they claim. The error wraps ErrControl and names those that do
// not.
func (s *station) control(ctx context.Context, c *policytest.Case) error {
	var ps []*flow.Packet
	var of []*policytest.Packet
	for i := range c.Packets {
		if p := &c.Packets[i]; !s.controlled[p.Packet] {
			ps, of = append(ps, &p.Packet), append(of, p)
		}
	}
	seen, err := s.fire(ctx, ps, hearing{}, func(o *observation) bool { return o.arrived != nil })
	if err != nil {
		return err
	}
	var errs []error
	for i, o := range seen {
		if err := asClaimed(ps[i], o); err != nil {
			errs = append(errs, fmt.Errorf("%w: %s: line %d: %s: %w", ErrControl, c.Name, of[i].Line, policytest.FormatPacket(ps[i]), err))
			continue
		}
		s.controlled[*ps[i]] = true
	}
	return errors.Join(errs...)
}
