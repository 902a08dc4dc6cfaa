// SPDX-License-Identifier: Apache-2.0

package flowlog_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/flowlog"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// script is a source that reads what it is told to, and then waits or fails.
type script struct {
	events []flowlog.Event
	lost   uint64
	err    error
	reads  int
}

func (s *script) Read(ctx context.Context, to flowlog.Sink) error {
	s.reads++
	if s.err != nil && s.reads%2 == 0 {
		return s.err // not even ready, every other time
	}
	to.Ready()
	for _, e := range s.events {
		to.Event(e)
	}
	to.Lost(s.lost)
	if s.err != nil {
		return s.err
	}
	<-ctx.Done()
	return nil
}

// next returns the next record; there must be one.
func next(t testing.TB, s *flowlog.Subscription) flowlog.Record {
	t.Helper()
	select {
	case r := <-s.C():
		return r
	case <-time.After(30 * time.Second):
		require.FailNow(t, "no record")
		panic("unreachable")
	}
}

func rule(i int, line int) flow.Origin {
	return flow.Origin{Kind: flow.OriginPolicy, Tier: "t", Name: "p", Index: i, Pos: field.Pos{File: "p.yaml", Line: line}}
}

// udp returns the packet of an event.
func udp(srcPort byte) []byte {
	return []byte{0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1, 0, srcPort, 0, 53, 0, 8, 0, 0}
}

func event(o flow.Origin, srcPort byte) flowlog.Event {
	return flowlog.Event{Record: flow.LogRecord{Event: flow.EventDeny, Hook: flow.NormalIn, Key: o.Key(), Text: o.String()}, In: "eth0", Packet: udp(srcPort)}
}

// records runs a log until it has sent n records.
func records(t *testing.T, l *flowlog.Log, n int, s flowlog.Source) []flowlog.Record {
	t.Helper()
	sub := l.Subscribe(nil)
	defer sub.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, s) }()
	out := make([]flowlog.Record, n)
	for i := range out {
		out[i] = next(t, sub)
	}
	cancel()
	require.NoError(t, <-done)
	return out
}

func TestAnOriginIsThatOfTheNewestProgramThatKnowsIt(t *testing.T) {
	l := flowlog.New(flowlog.Options{})
	for g := range uint64(6) {
		l.Use(g+1, &ir.Program{Origins: []flow.Origin{rule(0, int(g)+10), rule(int(g)+1, 99)}})
	}
	cut := event(rule(77, 0), 1)
	cut.Record.Text = "policy:t/p/ingr"
	foreign := flowlog.Event{Prefix: "somebody else's", Packet: udp(1)}
	rs := records(t, l, 5, &script{lost: 3, events: []flowlog.Event{
		event(rule(0, 0), 1),  // in all
		event(rule(3, 0), 1),  // in the third only
		event(rule(1, 0), 1),  // in the first, which is forgotten; but its text is whole
		event(rule(50, 0), 1), // of another process
		foreign, cut,
	}})
	for i, want := range []struct {
		origin, pos string
		generation  uint64
	}{
		{"policy:t/p/ingress[0]", "p.yaml:15", 6},
		{"policy:t/p/ingress[3]", "p.yaml:99", 3},
		{"policy:t/p/ingress[1]", "", 0},
		{"policy:t/p/ingress[50]", "", 0},
		{"", "", 0},
	} {
		require.Equal(t, want.origin, rs[i].Origin.String())
		require.Equal(t, want.pos, rs[i].Origin.Pos.String())
		require.Equal(t, want.generation, rs[i].Generation)
	}
	require.Equal(t, rule(77, 0).Key(), rs[4].Key)
	require.Equal(t, flowlog.Stats{Events: 6, Records: 5, Lost: 3, Foreign: 1, Unknown: 1}, l.Stats())
}

func TestNewMembersKeepTheProgram(t *testing.T) {
	l := flowlog.New(flowlog.Options{})
	first, second := &ir.Program{Origins: []flow.Origin{rule(0, 1)}}, &ir.Program{Origins: []flow.Origin{rule(1, 1)}}
	l.Use(1, first)
	for g := range uint64(10) {
		l.Use(g+2, second)
	}
	rs := records(t, l, 2, &script{events: []flowlog.Event{event(rule(0, 0), 1), event(rule(1, 0), 1)}})
	require.EqualValues(t, 1, rs[0].Generation)
	require.EqualValues(t, 11, rs[1].Generation)
}

func TestAFullWindowEndsEarly(t *testing.T) {
	l := flowlog.New(flowlog.Options{Window: time.Hour, MaxFlows: 3})
	l.Use(1, &ir.Program{Origins: []flow.Origin{rule(0, 1)}})
	var es []flowlog.Event
	for i := range 4 { // three that fill it, in pairs; the fourth ends it
		es = append(es, event(rule(0, 0), byte(i+1)), event(rule(0, 0), byte(i+1)))
	}
	for i, r := range records(t, l, 3, &script{events: es}) {
		require.EqualValues(t, 2, r.Packets)
		require.EqualValues(t, 56, r.Bytes)
		require.EqualValues(t, i+1, r.Tuple.SrcPort, "in order")
	}
}

func TestASourceThatFailsIsOpenedAgain(t *testing.T) {
	l := flowlog.New(flowlog.Options{})
	s := &script{events: []flowlog.Event{event(rule(0, 0), 1)}, err: errors.New("gone")}
	records(t, l, 3, s)
	require.GreaterOrEqual(t, l.Stats().Reopens, uint64(4), "every other time it was not even ready")
}

func TestASourceThatNeverWorkedEndsRun(t *testing.T) {
	broken := &script{reads: 1, err: errors.New("no such thing")}
	err := flowlog.New(flowlog.Options{Window: time.Second}).Run(t.Context(), &script{}, broken)
	require.ErrorIs(t, err, broken.err)
	require.ErrorContains(t, err, "source 2")
}

func TestRunWithoutSourcesWaits(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.NoError(t, flowlog.New(flowlog.Options{}).Run(ctx))
	require.Error(t, ctx.Err())
}

func ExampleLog() {
	prog := &ir.Program{Origins: []flow.Origin{rule(0, 12)}}
	l := flowlog.New(flowlog.Options{Window: time.Second})
	l.Use(1, prog) // after every Apply
	sub := l.Subscribe(func(r *flowlog.Record) bool { return r.Event == flow.EventDeny })

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// In real life the source is flowlog.NFLOG{Group: 1}, or that of an eBPF backend.
	go l.Run(ctx, &script{events: []flowlog.Event{event(rule(0, 0), 7), event(rule(0, 0), 7)}})

	r := <-sub.C()
	fmt.Println(r.Event, r.Hook, r.In, r.Tuple, r.Packets, "by", r.Origin, "at", r.Origin.Pos)
	fmt.Println(r.Tuple.Src == netip.MustParseAddr("10.9.0.2"))
	// Output:
	// deny normal-in eth0 udp 10.9.0.2:7 > 10.9.0.1:53 2 by policy:t/p/ingress[0] at p.yaml:12
	// true
}

func BenchmarkEvent(b *testing.B) {
	for _, window := range []time.Duration{0, time.Hour} {
		b.Run(fmt.Sprintf("window=%s/origins=10000", window), func(b *testing.B) {
			p := &ir.Program{}
			for i := range 10000 {
				p.Origins = append(p.Origins, rule(i, i))
			}
			l := flowlog.New(flowlog.Options{Window: window})
			l.Use(1, p)
			b.ReportAllocs()
			_ = l.Run(b.Context(), benchSource{b, event(rule(9999, 0), 1)})
		})
	}
}

// benchSource reads the same event again and again.
type benchSource struct {
	b *testing.B
	e flowlog.Event
}

func (s benchSource) Read(_ context.Context, to flowlog.Sink) error {
	to.Event(s.e)
	for s.b.Loop() {
		to.Event(s.e)
	}
	return errors.New("done")
}
