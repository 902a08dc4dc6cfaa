// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"

	"github.com/hostpolicy/hostpolicy/render"
)

// Options say how to render. The zero value is useful. Comparable.
type Options struct {
	// Events says which decisions are reported, besides Log rules, which always are.
	Events Events
	// EventRate is how many events a processor may report in a second, and EventBurst how many at once; 0 and 0 mean
	// that there is no limit. Events beyond it are counted.
	EventRate, EventBurst uint32
	// DenyAction says what a denied packet meets; its zero value is to drop it. Netfilter BPF programs cannot answer:
	// anything else is an error.
	DenyAction render.DenyAction
}

// Events is a selection of events. The zero value is NoEvents.
type Events uint8

// The selections.
const (
	NoEvents  Events = iota
	Denies           // denied packets
	AllEvents        // what every hook says of a packet, Allow, Deny or no verdict
)

func (o Options) validate() error {
	if o.Events > AllEvents {
		return fmt.Errorf("ebpf: unknown selection of events %d", o.Events)
	}
	if (o.EventRate == 0) != (o.EventBurst == 0) {
		return fmt.Errorf("ebpf: a limit of events needs both a rate and a burst")
	}
	if o.DenyAction != render.Drop {
		return &render.UnsupportedError{Backend: Backend, What: "an answer to denied packets; BPF programs can only drop them"}
	}
	return nil
}

func (o Options) eventCost() uint64 {
	if o.EventRate == 0 {
		return 0
	}
	return max(1, 1_000_000_000/uint64(o.EventRate))
}
