// SPDX-License-Identifier: Apache-2.0

// Package ebpf renders rule programs as memory for BPF programs that never change.
//
// What the kernel runs depends on the place alone: [Program] returns the instructions. What it does there is in the
// memory of a generation, one array of lines of 64 bytes: the tables of package classify, laid out so that a verdict
// takes a few dozen reads, however many rules there are. A policy that changes is other memory; it comes into force when
// the map of the generation gets it, at once and for all places.
//
// Members of sets change within a memory: see [Live]. What a change concerns is written anew beside the old, up to the
// lists that programs begin with, and where those are is one number. So a change costs what it concerns, and a packet, which
// reads it once, is judged by all of it or by nothing of it.
//
// Where the processor allows it, programs remember which rule was the first for packets like those that come. That is beside
// the memory: nothing in it depends on packets, and what is remembered says of which version of which memory it is.
//
// Programs that cannot read what they need deny. So does a search that does not end, and so do packets that end before
// their ports do.
package ebpf

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
)

// Backend is the name of this renderer in errors.
const Backend = "ebpf"

// Artifact is a generation. It is immutable and safe for concurrent use.
type Artifact struct {
	// Memory is what the map of the generation holds from its beginning on.
	Memory []byte
	// Hooks are those that have an entry. Programs whose hooks have none need not be there.
	Hooks flow.HookSet
	// NoTrack are the hooks whose Allow takes the packet out of connection tracking.
	NoTrack flow.HookSet
	// Origins are those of the program, and Keys are theirs.
	Origins []flow.Origin
	Keys    []flow.RuleKey

	tables  *classify.Tables
	counted []uint32 // cells of the actions that have an origin
	origins uint32   // cell
	options Options
	sets    []ir.SetDecl

	structure [32]byte
	sum       render.ElementSum
}

// ChunkSize is the size of the values of the map of the generation.
const ChunkSize = lineSize * chunkLines

// Used returns how much of the map of a generation is in use, in bytes; all if it is none.
func Used(memory []byte) int {
	if len(memory) >= lineSize && binary.LittleEndian.Uint32(memory) == magic {
		return min(len(memory), lineSize*int(binary.LittleEndian.Uint32(memory[4*headLines:])))
	}
	return len(memory)
}

var _ render.Artifact = (*Artifact)(nil)

// Render returns the generation that enforces p with members m. It is a pure function. The error is a
// *render.UnsupportedError if the tables are too large; other errors say what is wrong with p.
func Render(p *ir.Program, m ir.Members, o Options) (*Artifact, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if p == nil {
		return nil, fmt.Errorf("ebpf: no program")
	}
	for _, e := range p.Entries {
		if e.NoTrack && e.Hook.Stage() != flow.StageUntracked {
			return nil, fmt.Errorf("ebpf: %s comes too late to take packets out of connection tracking", e.Hook)
		}
	}
	t, err := classify.Build(p, m)
	if err != nil {
		return nil, tooLarge(err)
	}
	b, err := build(t, p, o)
	if err != nil {
		return nil, tooLarge(err)
	}
	a := &Artifact{Origins: p.Origins, Keys: b.keys, tables: t, counted: b.counted, origins: b.origins, options: o, sets: p.Sets}
	for _, e := range t.Entries {
		a.Hooks |= 1 << e.Hook
		if e.NoTrack {
			a.NoTrack |= 1 << e.Hook
		}
	}
	if a.Memory, err = b.bytes(); err != nil {
		return nil, tooLarge(err)
	}
	h := sha256.New()
	structure := t.Structure()
	h.Write(structure[:])
	fmt.Fprintf(h, "%d %d %d", o.Events, o.EventRate, o.EventBurst)
	for _, k := range b.keys {
		binary.Write(h, binary.LittleEndian, uint64(k))
	}
	a.structure = [32]byte(h.Sum(nil))
	for _, s := range m.Sets {
		for _, e := range s.Elements {
			a.sum.Add(string(s.ID), e)
		}
	}
	return a, nil
}

func tooLarge(err error) error {
	if errors.Is(err, errTooLarge) || errors.Is(err, classify.ErrTooLarge) {
		return &render.UnsupportedError{Backend: Backend, What: err.Error()}
	}
	return err
}

// Fingerprint identifies what a means: the SHA-256 of its tables without members, which enter as a sum of hashes, so that
// changes of them can be followed at their own cost.
func (a *Artifact) Fingerprint() string { return fingerprint(a.structure, a.sum) }

func fingerprint(structure [32]byte, sum render.ElementSum) string {
	f := sha256.Sum256(sum.AppendTo(structure[:]))
	return hex.EncodeToString(f[:])
}

// Needs reports whether the program at p has anything to ask.
func (a *Artifact) Needs(p Place) bool {
	if p.Match() {
		return a.NoTrack&flow.HooksOf(p.Hooks()...) != 0
	}
	return a.Hooks&flow.HooksOf(p.Hooks()...) != 0
}

// DeniesEarly reports whether the program at AtDevice may drop a packet that comes by the named interface.
func (a *Artifact) DeniesEarly(name string) bool {
	for i := range a.tables.Entries {
		e := &a.tables.Entries[i]
		if e.Hook != flow.UntrackedIn {
			continue
		}
		return e.Default == ir.Deny || e.HasAlways && a.denies(&e.Always, name) || a.denies(&e.Block, name)
	}
	return false
}

// denies reports whether a dispatch leads packets that came by an interface to a rule that denies.
func (a *Artifact) denies(d *classify.Dispatch, name string) bool {
	at := 0
	switch d.Field {
	case ir.InIface:
		at = a.tables.InterfaceClass(name)
	case ir.OutIface:
		at = a.tables.InterfaceClass("")
	}
	for _, x := range a.tables.Lists[d.Lists[at][classify.NoState]].Actions {
		if x.Outcome == ir.Deny {
			return true
		}
	}
	return false
}

// Stamp makes memory, a copy of that of a in the map with the given id, generation number n, which counts origin i at
// slots[i]. NoSlot does not count. No two generations that follow each other may have the same number. Programs may take
// two memories with the same id and the same lower half of the number for the same.
func (a *Artifact) Stamp(memory []byte, id uint32, n uint64, slots []uint32) {
	binary.LittleEndian.PutUint64(memory[4*headNumber:], n)
	binary.LittleEndian.PutUint32(memory[4*headChange:], uint32(n))
	binary.LittleEndian.PutUint32(memory[4*headMap:], id)
	for i, s := range slots {
		binary.LittleEndian.PutUint32(memory[4*(int(a.origins)+originCells*i+originSlot):], s)
	}
	for _, c := range a.counted {
		origin := binary.LittleEndian.Uint32(memory[4*(c+actionOrigin):])
		binary.LittleEndian.PutUint32(memory[4*(c+actionSlot):], slots[origin-1])
	}
}

// NoSlot is the slot of what is not counted.
const NoSlot = noSlot

// Counted is one origin as the memory of a generation knows it.
type Counted struct {
	Key  flow.RuleKey
	Slot uint32
}

// ReadOrigins returns the number of a generation and its origins, in the order of its program. The error says that memory
// is none.
func ReadOrigins(memory []byte) (uint64, []Counted, error) {
	cell := func(i int) int { return int(binary.LittleEndian.Uint32(memory[4*i:])) }
	if len(memory) < (headCount+1)*4 || cell(headMagic) != magic || cell(headLines)*lineSize != len(memory) {
		return 0, nil, errors.New("ebpf: not the memory of a generation")
	}
	at, n, lists := cell(headOrigins), cell(headCount), cell(headLists)
	if at < 0 || n < 0 || n > len(memory) || 4*(at+originCells*n) > len(memory) || lists < 0 || 4*lists > len(memory) {
		return 0, nil, errDamaged
	}
	out := make([]Counted, n)
	for i := range out {
		c := at + originCells*i
		out[i] = Counted{flow.RuleKey(binary.LittleEndian.Uint64(memory[4*c:])), uint32(cell(c + originSlot))}
	}
	return binary.LittleEndian.Uint64(memory[4*headNumber:])>>32<<32 | uint64(binary.LittleEndian.Uint32(memory[4*headChange:])), out, nil
}

var errDamaged = errors.New("ebpf: the memory of the generation is damaged")
