// SPDX-License-Identifier: Apache-2.0

package flowlog

import (
	"context"
	"errors"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// ErrUnavailable is what sources return where the kernel has no such thing, or does not let us.
var ErrUnavailable = errors.New("flow log is not available")

// Event is what a dataplane reports of one packet at one hook.
type Event struct {
	Record flow.LogRecord // the zero value if the event is not of our making
	// Origin and Generation are what the source itself knows of them, if it does; what Log.Use says comes second.
	Origin     flow.Origin
	Generation uint64

	Prefix  string // of an NFLOG event, as it was
	InDev   uint32 // index of the interface it arrived on; 0 if it is not known
	OutDev  uint32 // index of the interface it leaves by; 0 if it is not known
	In, Out string // their names; "" if they are not known
	Packet  []byte // from its IP header on, perhaps cut off
	Length  int    // of the whole packet; 0 if it is not known
}

// Sink takes what a Source reads. Its methods are called one at a time, must not block, and must not keep the packet
// of an Event.
type Sink interface {
	// Ready says that from now on nothing is missed, or counted as lost.
	Ready()
	// Event takes an event.
	Event(Event)
	// Lost says that n events were lost; 0 if it is not known yet how many.
	Lost(n uint64)
}

// Source is where a dataplane reports what it says of packets.
type Source interface {
	// Read reads until ctx ends, and then returns nil, or until it cannot go on. When it returns, nothing calls the
	// Sink any more.
	Read(ctx context.Context, to Sink) error
}

// None is a Source that cannot be read: Read returns ErrUnavailable.
type None struct{}

// Read implements Source.
func (None) Read(context.Context, Sink) error { return ErrUnavailable }
