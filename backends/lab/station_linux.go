// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// Packets are sent in volleys, and a volley must be accounted for before the next one leaves: no buffer overflows.
const volley = 256

// quiet is how long nothing must be heard before a volley is over.
const quiet = 12 * time.Millisecond

// station is a running lab for one topology. Not safe for concurrent use.
type station struct {
	o    Options
	top  *topology
	m    *machine
	in   *injector
	ct   *conntrack
	stop func()

	index map[uint32]string // names of the host's interfaces

	seen   chan sighted // what the tap reports
	failed chan error   // that it reports no longer
	lastID uint32

	controlled map[flow.Packet]bool // packets that were proven to do what they claim
}

// sighted is one record of the tap.
type sighted struct {
	id     uint32
	who    sighting
	at     tapPlace
	arrive arrival
}

// open builds everything for a topology. On error nothing is left.
func open(ctx context.Context, t *topology, o Options) (s *station, err error) {
	s = &station{
		o: o, top: t, index: map[uint32]string{}, seen: make(chan sighted, 4*volley), failed: make(chan error, 1),
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
	s.stop, err = readLog(ctx, s.m.host, o.LogGroup, s.record, func(err error) { s.failed <- err })
	return s, err
}

func (s *station) close() error {
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
func (s *station) record(r logRecord) {
	at, state, ok := parseTapPrefix(r.prefix)
	if !ok {
		return
	}
	who, ok := readSighting(r.packet)
	if !ok {
		return
	}
	a := arrival{state: state, in: s.index[r.in], out: s.index[r.out]}
	switch at {
	case tapInput:
		a.path, a.out = flow.Input, ""
	case tapFwd:
		a.path = flow.Forward
	case tapOut:
		a.path, a.in = flow.Output, ""
	}
	s.seen <- sighted{id: who.id, who: who, at: at, arrive: a}
}

// shot is a packet on its way, with what is seen of it.
type shot struct {
	p   *flow.Packet
	obs observation
}

// fire sends packets and collects what becomes of them. Events may be nil. Done says of an observation that no more is
// to be expected. The order of the packets is that of their states, so that connections that are inserted for some are
// no one else's.
func (s *station) fire(ctx context.Context, ps []*flow.Packet, events <-chan Event, lookup func(Event) decision, done func(*observation) bool) ([]*observation, error) {
	out := make([]*observation, len(ps))
	for _, phase := range [][]flow.ConnState{{flow.New, flow.Invalid, flow.Untracked}, {flow.Established}, {flow.Related}} {
		var group []int
		for i, p := range ps {
			for _, st := range phase {
				if p.State == st {
					group = append(group, i)
				}
			}
		}
		for len(group) > 0 {
			n := min(len(group), volley)
			if err := s.fireVolley(ctx, ps, group[:n], out, events, lookup, done); err != nil {
				return nil, err
			}
			group = group[n:]
		}
	}
	return out, nil
}

func (s *station) fireVolley(ctx context.Context, ps []*flow.Packet, which []int, out []*observation, events <-chan Event, lookup func(Event) decision, done func(*observation) bool) error {
	first := s.lastID + 1
	s.lastID += uint32(len(which))
	inserted := false
	for n, i := range which {
		cs, err := connectionsFor(ps[i], first+uint32(n))
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrControl, policytest.FormatPacket(ps[i]), err)
		}
		for _, c := range cs {
			if err := s.ct.insert(c); err != nil {
				return fmt.Errorf("%s: %w", policytest.FormatPacket(ps[i]), err)
			}
			inserted = true
		}
	}
	shots := make([]*shot, len(which))
	for n, i := range which {
		p := ps[i]
		shots[n] = &shot{p: p}
		out[i] = &shots[n].obs
		b, err := packets(p, first+uint32(n), s.o.Fragment)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrControl, policytest.FormatPacket(p), err)
		}
		if err := s.in.send(p, b, bindOut(p, s.top.host)); err != nil {
			return fmt.Errorf("send %s: %w", policytest.FormatPacket(p), err)
		}
	}
	if err := s.collect(ctx, first, shots, events, lookup, done); err != nil {
		return err
	}
	if inserted {
		return s.ct.flush()
	}
	return nil
}

// collect gathers records until every shot is done and nothing more comes, or until patience ends.
func (s *station) collect(ctx context.Context, first uint32, shots []*shot, events <-chan Event, lookup func(Event) decision, done func(*observation) bool) error {
	find := func(who sighting) *observation {
		if n := who.id - first; int64(n) < int64(len(shots)) && shots[n].p.Src == who.src && shots[n].p.Protocol == who.protocol {
			return &shots[n].obs
		}
		return nil // of an earlier volley, or an error message that quotes a packet of ours
	}
	open := make(map[*observation]bool, len(shots))
	for _, x := range shots {
		open[&x.obs] = true
	}
	settle := func(o *observation) {
		if open[o] && done(o) {
			delete(open, o)
		}
	}
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
		case e, ok := <-events:
			if !ok {
				return fmt.Errorf("the dataplane reports no more events")
			}
			who, ok := readSighting(e.Packet)
			if !ok {
				continue
			}
			o := find(who)
			if o == nil {
				continue
			}
			o.decisions = append(o.decisions, lookup(e))
			settle(o)
		case err := <-s.failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return nil
		}
		if len(open) == 0 {
			timer.Reset(quiet)
		} else {
			timer.Reset(s.o.Patience)
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
	seen, err := s.fire(ctx, ps, nil, nil, func(o *observation) bool { return o.arrived != nil })
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
