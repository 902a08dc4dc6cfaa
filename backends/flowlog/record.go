// SPDX-License-Identifier: Apache-2.0

package flowlog

import (
	"encoding/json"
	"time"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Record is what a hook said of a packet, or of several that are alike.
type Record struct {
	Time   time.Time   `json:"time"`   // when the first of the packets was read
	Last   time.Time   `json:"last"`   // when the last one was
	Event  flow.Event  `json:"event"`  // what the hook said
	Hook   flow.Hook   `json:"hook"`   // which one
	Origin flow.Origin `json:"origin"` // the rule by which; the zero value if nobody knows what Key stands for
	// Key is the origin's, as the dataplane reported it.
	Key flow.RuleKey `json:"key"`
	// Generation is that of the newest program that knew the origin when the record was read; 0 if none did. A packet
	// that was under way while the program changed may carry the next one.
	Generation uint64     `json:"generation,omitempty"`
	In         string     `json:"in,omitempty"`  // the interface it arrived on, if the hook knows it
	Out        string     `json:"out,omitempty"` // the interface it leaves by, if the hook knows it
	Tuple      flow.Tuple `json:"tuple"`         // as the hook saw it: behind NAT where the hook is
	Packets    uint64     `json:"packets"`       // 1, if Options.Window is 0
	Bytes      uint64     `json:"bytes"`         // of the packets, from their IP headers on
}

// MarshalJSON adds where the origin is written, which the origin's text does not hold.
func (r Record) MarshalJSON() ([]byte, error) {
	type plain Record
	return json.Marshal(struct {
		plain
		Pos field.Pos `json:"pos,omitzero"`
	}{plain(r), r.Origin.Pos})
}

// Stats counts what a Log did since it was made.
type Stats struct {
	Events  uint64 `json:"events"`  // that were read
	Records uint64 `json:"records"` // that were made of them
	// Lost is how many events the kernel dropped, since they were not read quickly enough.
	Lost uint64 `json:"lost"`
	// Dropped is how many records subscriptions lost, since they were not received quickly enough.
	Dropped uint64 `json:"dropped"`
	Foreign uint64 `json:"foreign"` // events that are not of our making
	Unknown uint64 `json:"unknown"` // events of rules that nobody knows
	Reopens uint64 `json:"reopens"` // how often a source had to be opened again
}
