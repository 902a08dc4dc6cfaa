// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// memory is the map of a generation, which we share with the kernel.
type memory struct {
	m      *ebpf.Map
	id     uint32 // of the map
	mapped []byte
	bytes  []byte // what of it is in use
}

// newMemory makes a map for size bytes.
func newMemory(size int) (*memory, error) {
	m, err := ebpf.NewMap(memorySpec((size + render.ChunkSize - 1) / render.ChunkSize))
	if err != nil {
		return nil, err
	}
	x, err := mapMemory(m)
	if err == nil {
		x.bytes = x.bytes[:size]
	}
	return x, err
}

// mapMemory takes over a map; it is closed if that fails.
func mapMemory(m *ebpf.Map) (*memory, error) {
	info, err := m.Info()
	if err != nil {
		m.Close()
		return nil, err
	}
	id, _ := info.ID()
	size := int(m.MaxEntries()) * render.ChunkSize
	page := unix.Getpagesize()
	b, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		m.Close()
		return nil, err
	}
	return &memory{m: m, id: uint32(id), mapped: b, bytes: b[:render.Used(b[:size])]}, nil
}

// change makes the memory what d says, for packets at once.
func (m *memory) change(d *render.Delta) {
	for _, r := range d.Cells {
		to := m.bytes[4*r.At:]
		for i, c := range r.Data {
			binary.LittleEndian.PutUint32(to[4*i:], c)
		}
	}
	atomic.StoreUint64((*uint64)(unsafe.Pointer(&m.bytes[4*render.ListsCell])), d.Lists)
}

func (m *memory) close() {
	unix.Munmap(m.mapped)
	m.m.Close()
}

// counter is a value of the map of counters.
type counter struct{ Packets, Bytes uint64 }

// slots says where origins count. An origin keeps its place as long as it exists, and a place that becomes free counts
// from 0 for the next.
type slots struct {
	limit uint32
	of    map[flow.RuleKey]uint32
	taken map[uint32]bool
	next  uint32
}

// adopt takes over what an earlier process assigned.
func (s *slots) adopt(os []render.Counted) {
	for _, o := range os {
		if o.Slot < s.limit {
			s.put(o.Key, o.Slot)
		}
	}
}

func (s *slots) put(k flow.RuleKey, slot uint32) {
	if s.of == nil {
		s.of, s.taken = map[flow.RuleKey]uint32{}, map[uint32]bool{}
	}
	s.of[k], s.taken[slot] = slot, true
}

// assign returns the slots of origins, and how many of them have none.
func (s *slots) assign(keys []flow.RuleKey) ([]uint32, int) {
	out := make([]uint32, len(keys))
	lost := 0
	for i, k := range keys {
		slot, ok := s.of[k]
		if !ok {
			for s.next < s.limit && s.taken[s.next] {
				s.next++
			}
			if s.next == s.limit {
				out[i] = render.NoSlot
				lost++
				continue
			}
			slot = s.next
			s.put(k, slot)
		}
		out[i] = slot
	}
	return out, lost
}

// keep gives back the slots of all other origins, and sets their counters to 0.
func (s *slots) keep(keys []flow.RuleKey, counters *ebpf.Map) {
	live := make(map[flow.RuleKey]bool, len(keys))
	for _, k := range keys {
		live[k] = true
	}
	var zero []counter
	for k, slot := range s.of {
		if live[k] {
			continue
		}
		if zero == nil {
			zero = make([]counter, ebpf.MustPossibleCPU())
		}
		if counters.Put(slot, zero) != nil {
			continue // it stays taken, and nobody counts there
		}
		delete(s.of, k)
		delete(s.taken, slot)
		s.next = min(s.next, slot)
	}
}
