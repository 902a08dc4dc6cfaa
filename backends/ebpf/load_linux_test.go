// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"

	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// TestKernelAcceptsThePrograms loads every program, also for processors on which nothing is remembered.
func TestKernelAcceptsThePrograms(t *testing.T) {
	for _, inOrder := range []bool{true, false} {
		t.Run(fmt.Sprintf("inOrder=%t", inOrder), func(t *testing.T) { accepts(t, inOrder) })
	}
}

func accepts(t *testing.T, inOrder bool) {
	k, err := kernel()
	require.NoError(t, err)
	k.InOrder = inOrder
	maps := map[string]*ebpf.Map{}
	for name, spec := range mapSpecs(Options{Counters: 16, Buffer: 1 << 16}, &k) {
		maps[name], err = ebpf.NewMap(spec)
		require.NoError(t, err, name)
		defer maps[name].Close()
	}
	code, err := assemble(&k)
	require.NoError(t, err)
	for _, p := range render.Places {
		prog, err := load(p, code[p].ins, maps, ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats, LogSizeStart: 1 << 20})
		var v *ebpf.VerifierError
		if errors.As(err, &v) {
			err = fmt.Errorf("%v %q", v, v.Log)
		}
		require.NoError(t, err, p)
		info, err := prog.Info()
		require.NoError(t, err)
		n, _ := info.VerifiedInstructions()
		t.Logf("%s: %d instructions verified", p, n)
		// What the kernel has, for the library does not encode all that it prints.
		ins, err := info.Instructions()
		require.NoError(t, err)
		swaps := 0
		for _, i := range ins {
			if i.OpCode.AtomicOp() == asm.CmpXchg {
				swaps++
			}
		}
		require.Equal(t, inOrder, swaps == 1, "%s", p)
		require.NoError(t, prog.Close())
	}
}
