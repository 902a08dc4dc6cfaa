// SPDX-License-Identifier: Apache-2.0

// Package lab makes the kernel the judge of a dataplane. It builds a network namespace for the host of a conformance
// case and one for its peers, sends every packet of the case for real, and reads the verdict from what arrived and the
// deciding Origin from what the dataplane logged.
//
// Every packet carries a number, and two nftables tables stand around the dataplane: one does the host's own
// destination NAT, the other sits at the last priority of the hooks, reports which packet got there, in which
// connection tracking state and by which interfaces, and then drops it. So nothing answers, no packet leaves a
// connection behind, and thousands of packets a second pass one namespace.
//
// Each packet is sent once before the dataplane is there. It must arrive, by the path and in the state that the case
// says; otherwise its absence later on would prove nothing, and the case fails with an error that names the packet.
//
// It needs Linux and CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN. Elsewhere everything fails with ErrUnavailable.
package lab

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// The errors that callers may want to tell apart.
var (
	// ErrUnavailable means that there can be no lab here: not Linux, or not privileged.
	ErrUnavailable = errors.New("no lab here")
	// ErrControl means that without any rules a packet did not do what its case says. Errors that wrap it name the
	// packets.
	ErrControl = errors.New("control run failed")
	// ErrLost means that the kernel dropped records that the lab needed.
	ErrLost = errors.New("records were lost")
)

// Event is what a dataplane reports of one packet at one hook.
type Event struct {
	Record flow.LogRecord
	// Origin is what Record.Key stands for, if the source knows; the zero value has it looked up in Program.Origins.
	Origin flow.Origin
	// Packet is the packet from its IP header to its end. Sources that cut packets off are of no use here.
	Packet []byte
}

// EventSource is where a dataplane reports its decisions.
type EventSource interface {
	// Subscribe starts the flow of events. The channel is closed after ctx ends or when the source cannot go on.
	// Err tells which.
	Subscribe(ctx context.Context) (<-chan Event, error)
	// Err returns what ended the last subscription, nil if it was its context.
	Err() error
}

// Drainer is an EventSource that knows when it has handed out everything. Without Drain the lab waits for silence.
type Drainer interface {
	EventSource
	// Drain returns when every event that was reported before the call is in the channel of the subscription.
	Drain(ctx context.Context) error
}

// Fenced is an EventSource that says when all events of the packets before have been reported. The lab sends fences to
// the NFLOG group and waits for their events, as NFLOG returns them. Without it the lab waits for silence.
type Fenced interface {
	EventSource
	FenceGroup() uint16
}

// Dataplane is a backend under test.
type Dataplane interface {
	backends.Backend
	Events() EventSource
}

// WithEvents makes a Dataplane from a backend and the source of its events.
func WithEvents(b backends.Backend, e EventSource) Dataplane { return dataplane{b, e} }

type dataplane struct {
	backends.Backend
	events EventSource
}

func (d dataplane) Events() EventSource { return d.events }

// Close closes the backend if it can be closed.
func (d dataplane) Close() error {
	if c, ok := d.Backend.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Opener makes the dataplane under test in the namespace of the host. The lab tears it down, and closes it if it is an
// io.Closer.
type Opener func(ctx context.Context, ns Netns) (Dataplane, error)

// Options say how a lab works. The zero value is good.
type Options struct {
	// Fragment sends every packet in two fragments.
	Fragment bool
	// Parallel is how many namespaces RunAll works in at the same time; 0 means the number of processors.
	Parallel int
	// Patience is how long to wait for a packet of which nothing is seen; 0 means ten seconds, which is long enough for
	// a busy machine. A packet that is neither seen nor reported costs this long, others nothing.
	Patience time.Duration
	// LogGroup is the NFLOG group of the lab's own records; 0 means 61999. The dataplane must use another one.
	LogGroup uint16
}

func (o Options) withDefaults() Options {
	if o.Patience == 0 {
		o.Patience = 10 * time.Second
	}
	if o.LogGroup == 0 {
		o.LogGroup = 61999
	}
	return o
}

// Outcome is what RunAll found out about one case.
type Outcome struct {
	Case    *policytest.Case
	Results []policytest.Result // one for each packet; nil if Err is not
	Err     error
	Elapsed time.Duration
}
