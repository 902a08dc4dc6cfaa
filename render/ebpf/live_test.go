// SPDX-License-Identifier: Apache-2.0

package ebpf_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/ebpf"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// stamped returns the memory of a with counters.
func stamped(a *ebpf.Artifact) []byte {
	mem := slices.Clone(a.Memory)
	slots := make([]uint32, len(a.Keys))
	for i := range slots {
		slots[i] = uint32(i)
	}
	a.Stamp(mem, 9, 1, slots)
	return mem
}

// follow does with mem what d says.
func follow(mem []byte, d *ebpf.Delta) {
	for _, r := range d.Cells {
		for i, c := range r.Data {
			binary.LittleEndian.PutUint32(mem[4*(int(r.At)+i):], c)
		}
	}
	binary.LittleEndian.PutUint64(mem[4*ebpf.ListsCell:], d.Lists)
}

// elementsNear returns members in a universe that is so small that they overlap.
func elementsNear(r *rand.Rand, kind ir.SetKind, n int) []ir.Element {
	var es []ir.Element
	for range n {
		var a netip.Addr
		bits := 0
		if r.IntN(3) > 0 {
			a = netip.AddrFrom4([4]byte{10, byte(r.IntN(3)), byte(r.IntN(2) * 77), byte(r.IntN(4) * 63)})
			bits = [...]int{0, 7, 8, 9, 15, 16, 22, 24, 25, 31, 32, 32, 32, 32}[r.IntN(14)]
		} else {
			a = netip.AddrFrom16([16]byte{0x20, 1, 7: byte(r.IntN(2)), 8: byte(r.IntN(3)), 14: byte(r.IntN(2)), 15: byte(r.IntN(3))})
			bits = [...]int{3, 16, 60, 64, 65, 72, 100, 120, 127, 128, 128, 128}[r.IntN(12)]
		}
		e := ir.Element{Prefix: netip.PrefixFrom(a, bits).Masked()}
		if kind == ir.SetOfEndpoints {
			e.Prefix = netip.PrefixFrom(a, a.BitLen())
			e.Protocol = []inet.Protocol{inet.TCP, inet.UDP, inet.ICMP}[r.IntN(3)]
			e.Port = uint16(80 + r.IntN(3))
		}
		es = append(es, e)
	}
	slices.SortFunc(es, ir.CompareElements)
	return slices.Compact(es)
}

// TestMembersChangeInPlace compares memory that followed changes with what is rendered from scratch, after each of them: of
// random programs and members, in prefixes inside others, in several sets at once, and with room that is given back.
func TestMembersChangeInPlace(t *testing.T) {
	inPlace, anew := 0, 0
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 5))
		p, m := rendertest.Program(seed, rendertest.Size{})
		for i, s := range p.Sets {
			m.Sets[i].Elements = elementsNear(r, s.Kind, r.IntN(12))
		}
		a, err := ebpf.Render(p, m, ebpf.Options{})
		require.NoError(t, err)
		mem := stamped(a)
		live, err := a.Live(mem, m)
		require.NoError(t, err)
		last := a
		for step := range 30 {
			n := ir.Members{Sets: slices.Clone(m.Sets)}
			for range 1 + r.IntN(3)/2 {
				i := r.IntN(len(p.Sets))
				es := slices.Clone(n.Sets[i].Elements)
				if len(es) > 0 && r.IntN(2) == 0 {
					k := r.IntN(len(es))
					es = slices.Delete(es, k, k+1)
				}
				if r.IntN(2) == 0 {
					es = append(es, elementsNear(r, p.Sets[i].Kind, 1+r.IntN(2))...)
				}
				n.Sets[i].Elements = es
			}
			n = n.Canonical()
			lists := slices.Clone(mem[4*ebpf.ListsCell:][:8])
			d, err := live.Change(ir.DiffMembers(m, n), uint64(2+step))
			m = n
			require.Empty(t, ir.DiffMembers(m, live.Members()))
			scratch, err2 := ebpf.Render(p, m, ebpf.Options{})
			require.NoError(t, err2)
			require.Equal(t, scratch.Fingerprint(), live.Fingerprint())
			if err != nil {
				require.ErrorIs(t, err, ebpf.ErrNotInPlace)
				anew++
				last, mem = scratch, stamped(scratch)
				live, err = scratch.Live(mem, m)
				require.NoError(t, err)
				continue
			}
			inPlace++
			follow(mem, d)
			require.True(t, live.Equal(mem), "seed %d step %d", seed, step)
			same := func(a *ebpf.Artifact, mem []byte) {
				cs, err := a.Compare(mem)
				require.NoError(t, err)
				require.Empty(t, cs, "seed %d step %d", seed, step)
			}
			same(scratch, mem)
			// To packets under way, which have found the lists before, the memory still means what it meant.
			if step%3 == 0 {
				old := slices.Clone(mem)
				copy(old[4*ebpf.ListsCell:], lists)
				same(last, old)
			}
			last = scratch
			if !bytes.Equal(lists, mem[4*ebpf.ListsCell:][:8]) {
				number, _, err := ebpf.ReadOrigins(mem)
				require.NoError(t, err)
				require.EqualValues(t, 2+step, number)
			}
			if r.IntN(4) == 0 {
				live.SetAside()
				live.Reclaim()
			}
			if r.IntN(10) == 0 { // another process takes over
				live, err = scratch.Live(mem, m)
				require.NoError(t, err)
			}
		}
	}
	t.Logf("%d changes in place, %d anew", inPlace, anew)
	require.Greater(t, inPlace, 20*anew)
}

// TestCompareNoticesDamage changes single cells of a memory that programs read.
func TestCompareNoticesDamage(t *testing.T) {
	p, m := rendertest.Program(7, rendertest.Size{})
	a, err := ebpf.Render(p, m, ebpf.Options{})
	require.NoError(t, err)
	mem := stamped(a)
	cs, err := a.Compare(mem)
	require.NoError(t, err)
	require.Empty(t, cs)
	r := rand.New(rand.NewPCG(1, 2))
	noticed := 0
	used := 0
	for i := 0; i < len(mem); i += 4 {
		if binary.LittleEndian.Uint32(mem[i:]) != 0 {
			used = i
		}
	}
	const tries = 200
	for range tries {
		i := r.IntN(used)
		mem[i] ^= 1 << r.IntN(8)
		if cs, err := a.Compare(mem); err != nil || len(cs) > 0 {
			noticed++
		}
		copy(mem[i:], a.Memory[i:i+1])
		mem = stamped(a)
	}
	t.Logf("%d of %d", noticed, tries)
	require.Greater(t, noticed, tries/3, "cells that mean nothing and counters are most of the others")
}

// TestNumbersOfChanges follows the number of a generation through changes in place, up to where the lower half of numbers,
// by which programs tell versions apart, begins anew.
func TestNumbersOfChanges(t *testing.T) {
	p, m, err := ir.Parse("entry untracked-out a\nblock a\n  rule src=@s:a -> deny by policy:t/p/ingress[0]\nset s:a prefixes\nmembers s:a\n  10.0.0.0/8\n")
	require.NoError(t, err)
	a, err := ebpf.Render(p, m, ebpf.Options{})
	require.NoError(t, err)
	for _, first := range []uint64{1, 1<<32 - 2, 5<<32 - 2, 1<<64 - 3} {
		mem := slices.Clone(a.Memory)
		a.Stamp(mem, 9, first, make([]uint32, len(a.Keys)))
		number := func() uint64 {
			n, _, err := ebpf.ReadOrigins(mem)
			require.NoError(t, err)
			return n
		}
		require.Equal(t, first, number())
		l, err := a.Live(mem, m)
		require.NoError(t, err)
		for i := range uint64(2) {
			n := first + 1 + i
			e := ir.Element{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 32)}
			d, err := l.Change(ir.MembersChanges{{ID: "s:a", Added: []ir.Element{e}}}, n)
			require.Len(t, l.Members().Sets[0].Elements, 2+int(i))
			if n>>32 != first>>32 {
				require.ErrorIs(t, err, ebpf.ErrNotInPlace)
				break
			}
			require.NoError(t, err)
			follow(mem, d)
			require.Equal(t, n, number())
		}
	}
}

// TestDamagedMemoryIsRefused changes numbers in the memory of random programs, mostly in those that lead elsewhere, and cuts
// it off. Whatever comes of it is no panic.
func TestDamagedMemoryIsRefused(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	put := func(mem []byte, cell int, v uint32) { binary.LittleEndian.PutUint32(mem[4*cell:], v) }
	const head, length = 19, 12 // cells that are read first; that with the length in lines
	refused, taken := 0, 0
	for seed := range uint64(6) {
		p, m := rendertest.Program(seed, rendertest.Size{})
		for i, s := range p.Sets {
			m.Sets[i].Elements = elementsNear(r, s.Kind, r.IntN(12))
		}
		a, err := ebpf.Render(p, m, ebpf.Options{})
		require.NoError(t, err)
		good := stamped(a)
		cells := len(good) / 4
		odd := []uint32{0, 1, 1<<32 - 1, 1<<31 - 1, 1 << 31, uint32(cells), uint32(cells - 1), uint32(cells / 16)}
		for i := range 300 {
			mem := slices.Clone(good)
			switch i % 3 {
			case 0:
				lines := r.IntN(len(mem)/64) + 1
				mem = mem[:64*lines]
				put(mem, length, uint32(lines))
			case 1:
				for range 1 + r.IntN(3) {
					if c := r.IntN(head); c != length {
						put(mem, c, odd[r.IntN(len(odd))])
					}
				}
			case 2:
				for range 1 + r.IntN(4) {
					put(mem, head+r.IntN(cells/3-head), r.Uint32()>>r.IntN(32))
				}
			}
			_, _, _ = ebpf.ReadOrigins(mem)
			if i%10 == 0 {
				_, _ = a.Compare(mem)
			}
			l, err := a.Live(mem, m)
			if err != nil {
				refused++
				continue
			}
			taken++
			for _, s := range p.Sets {
				if _, err = l.Change(ir.MembersChanges{{ID: s.ID, Added: elementsNear(r, s.Kind, 2)}}, 2); err != nil {
					break
				}
			}
		}
	}
	t.Log(refused, taken)
	require.NotZero(t, refused)
	require.NotZero(t, taken)
}

// TestDamagedMemoryOfManyLists has more lists than fit where damage is read as zeros.
func TestDamagedMemoryOfManyLists(t *testing.T) {
	var w strings.Builder
	w.WriteString("entry untracked-out a\nblock a\n")
	for i := range 600 {
		fmt.Fprintf(&w, "  rule oif=e%d src=10.0.%d.%d -> deny by policy:t/p/egress[%d]@untracked\n", i, i/250, i%250, i)
	}
	w.WriteString("  rule src=@s:a -> deny by policy:t/q/egress[0]@untracked\nset s:a prefixes\nmembers s:a\n  10.9.0.0/16\n")
	p, m, err := ir.Parse(w.String())
	require.NoError(t, err)
	a, err := ebpf.Render(p, m, ebpf.Options{})
	require.NoError(t, err)
	mem := stamped(a)
	binary.LittleEndian.PutUint32(mem[4*ebpf.ListsCell:], uint32(len(mem)/4-1))
	_, err = a.Live(mem, m)
	require.Error(t, err)
}
