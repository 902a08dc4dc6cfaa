// SPDX-License-Identifier: Apache-2.0

package ebpf_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/render/ebpf"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// TestRenderIsDeterministic renders random programs again and again.
func TestRenderIsDeterministic(t *testing.T) {
	for seed := range uint64(5) {
		p, m := rendertest.Program(seed, rendertest.Size{})
		first, err := ebpf.Render(p, m, ebpf.Options{})
		require.NoError(t, err)
		for range 3 {
			again, err := ebpf.Render(p, m, ebpf.Options{})
			require.NoError(t, err)
			require.True(t, bytes.Equal(first.Memory, again.Memory))
			require.Equal(t, first.String(), again.String())
			require.Empty(t, ebpf.Diff(first, again))
		}
		other, err := ebpf.Render(p, m, ebpf.Options{Events: ebpf.AllEvents})
		require.NoError(t, err)
		require.Equal(t, "options", ebpf.Diff(first, other)[0].Name)
		require.NotEqual(t, first.Fingerprint(), other.Fingerprint())
	}
}

// TestProgramsAreComplete assembles every program, and refuses others.
func TestProgramsAreComplete(t *testing.T) {
	for _, p := range ebpf.Places {
		for _, inOrder := range []bool{false, true} {
			ins, err := ebpf.Program(p, ebpf.Kernel{InOrder: inOrder})
			require.NoError(t, err)
			require.Equal(t, "main", ins[0].Symbol())
			require.Less(t, ins.Size()/8, uint64(4096), "%s: old kernels take no longer program", p)
			remembers := slices.ContainsFunc(ins, func(i asm.Instruction) bool { return i.Reference() == ebpf.MapRecent })
			require.Equal(t, inOrder, remembers, "%s: only where it is safe", p)
		}
	}
	_, err := ebpf.Program(0, ebpf.Kernel{})
	require.Error(t, err)
}

// TestOrigins reads back from the memory what counts where.
func TestOrigins(t *testing.T) {
	p, m := rendertest.Program(3, rendertest.Size{})
	a, err := ebpf.Render(p, m, ebpf.Options{})
	require.NoError(t, err)
	slots := make([]uint32, len(a.Origins))
	for i := range slots {
		slots[i] = uint32(100 + i)
	}
	mem := bytes.Clone(a.Memory)
	a.Stamp(mem, 9, 7, slots)
	n, os, err := ebpf.ReadOrigins(mem)
	require.NoError(t, err)
	require.Equal(t, uint64(7), n)
	require.Len(t, os, len(a.Origins))
	for i, o := range os {
		require.Equal(t, ebpf.Counted{Key: a.Origins[i].Key(), Slot: uint32(100 + i)}, o)
	}
	require.NotEqual(t, a.Memory, mem)
	_, _, err = ebpf.ReadOrigins(mem[:64])
	require.Error(t, err)
}

// TestBadOptions refuses what means nothing.
func TestBadOptions(t *testing.T) {
	p, m := rendertest.Program(3, rendertest.Size{})
	for _, o := range []ebpf.Options{{Events: 9}, {EventRate: 1}, {EventBurst: 1}} {
		_, err := ebpf.Render(p, m, o)
		require.Error(t, err)
	}
	_, err := ebpf.Render(nil, m, ebpf.Options{})
	require.Error(t, err)
}
