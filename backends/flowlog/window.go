// SPDX-License-Identifier: Apache-2.0

package flowlog

import (
	"time"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// window gathers records that are alike. The zero value is empty.
type window struct {
	at      map[likeness]*Record
	records []*Record // in the order of their first packets
}

// likeness is a record without its times and counts.
type likeness struct {
	event      flow.Event
	hook       flow.Hook
	key        flow.RuleKey
	generation uint64
	in, out    string
	tuple      flow.Tuple
}

// add adds a record; false if there is no room.
func (w *window) add(r *Record, limit int) bool {
	k := likeness{r.Event, r.Hook, r.Key, r.Generation, r.In, r.Out, r.Tuple}
	if x := w.at[k]; x != nil {
		x.Packets += r.Packets
		x.Bytes += r.Bytes
		x.Last = maxTime(x.Last, r.Last)
		return true
	}
	if len(w.records) >= limit {
		return false
	}
	if w.at == nil {
		w.at = map[likeness]*Record{}
	}
	c := *r
	w.at[k] = &c
	w.records = append(w.records, &c)
	return true
}

func maxTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// take empties the window.
func (w *window) take() []*Record {
	rs := w.records
	*w = window{}
	return rs
}

// remembered is how many programs are asked for an origin: events of the last one may still be under way when there is a
// new one, and several changes may happen meanwhile.
const remembered = 4

// origins know what keys stand for. The zero value knows nothing.
type origins struct{ programs []known } // the newest first

type known struct {
	generation uint64
	program    *ir.Program
	keys       map[flow.RuleKey]flow.Origin // nil until it is needed
}

func (o *origins) use(generation uint64, p *ir.Program) {
	k := known{generation: generation, program: p}
	if len(o.programs) > 0 && o.programs[0].program == p { // other members only
		k.keys = o.programs[0].keys
		o.programs[0] = k
		return
	}
	o.programs = append([]known{k}, o.programs[:min(len(o.programs), remembered-1)]...)
}

// find returns the origin of a record and the generation that knows it.
func (o *origins) find(r flow.LogRecord) (flow.Origin, uint64) {
	for i := range o.programs {
		k := &o.programs[i]
		if k.keys == nil {
			k.keys = make(map[flow.RuleKey]flow.Origin, len(k.program.Origins))
			for _, x := range k.program.Origins {
				k.keys[x.Key()] = x
			}
		}
		if x, ok := k.keys[r.Key]; ok {
			return x, k.generation
		}
	}
	if x, err := flow.ParseOrigin(r.Text); err == nil && x.Key() == r.Key { // of an earlier process
		return x, 0
	}
	return flow.Origin{}, 0
}
