// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// Event is what a hook said of a packet. Options.Render says which events there are.
type Event struct {
	Key flow.RuleKey
	// Origin is what Key stands for: the rule that decided, or logged. It is zero if no Apply or Adopt of this Backend has
	// had it, or if that was long ago.
	Origin flow.Origin
	// Generation is that of the Receipt after which packets were judged so. All hooks that say anything of one packet at one
	// instant have the same one.
	Generation uint64
	Hook       flow.Hook
	Kind       flow.Event
	State      flow.ConnState // of the connection; it means nothing before connection tracking
	In, Out    string         // names of interfaces; "" where the hook does not know it
	Time       uint64         // nanoseconds since boot, without those in which the machine slept
	Length     uint32         // of the packet
	Packet     []byte         // from its IP header on, render.SnapLen bytes at most
}

// Loss is how many events were not reported since the maps were made. Both numbers only grow.
type Loss struct {
	Full  uint64 `json:"full"`  // the buffer had no room
	Limit uint64 `json:"limit"` // there were more than Options.Render allows
}

// decode reads a record of the ring buffer.
func decode(b []byte) (Event, bool) {
	if len(b) < render.EventSize {
		return Event{}, false
	}
	word := binary.NativeEndian
	name := func(at int) string {
		n, _, _ := bytes.Cut(b[at:at+16], []byte{0})
		return string(n)
	}
	e := Event{
		Key: flow.RuleKey(word.Uint64(b[render.EventKey:])), Time: word.Uint64(b[render.EventTime:]),
		Generation: word.Uint64(b[render.EventGeneration:]), Length: word.Uint32(b[render.EventLength:]),
		Hook: flow.Hook(b[render.EventHook]), Kind: flow.Event(b[render.EventKind]), State: flow.ConnState(b[render.EventState]),
		In: name(render.EventIn), Out: name(render.EventOut),
	}
	e.Packet = b[render.EventPacket:][:min(int(e.Length), render.SnapLen)]
	return e, true
}

// origins tells what the keys of events stand for, in the latest generations. It is immutable.
type origins struct{ generations []*named }

// keptGenerations is how many generations events may lag behind.
const keptGenerations = 4

type named struct {
	artifact *render.Artifact
	once     sync.Once
	by       map[flow.RuleKey]flow.Origin
}

// with returns o with a generation more.
func (o *origins) with(a *render.Artifact) *origins {
	all := slices.Insert(slices.Clone(o.generations), 0, &named{artifact: a})
	return &origins{all[:min(len(all), keptGenerations)]}
}

func (o *origins) of(k flow.RuleKey) flow.Origin {
	for _, g := range o.generations {
		g.once.Do(func() {
			g.by = make(map[flow.RuleKey]flow.Origin, len(g.artifact.Keys))
			for i, k := range g.artifact.Keys {
				g.by[k] = g.artifact.Origins[i]
			}
		})
		if or, ok := g.by[k]; ok {
			return or
		}
	}
	return flow.Origin{}
}
