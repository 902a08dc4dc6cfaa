// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/stretchr/testify/require"

	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// TestKernelAcceptsThePrograms loads every program.
func TestKernelAcceptsThePrograms(t *testing.T) {
	k, err := kernel()
	require.NoError(t, err)
	maps := map[string]*ebpf.Map{}
	for name, spec := range mapSpecs(Options{Counters: 16, Buffer: 1 << 16}) {
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
		require.NoError(t, prog.Close())
	}
}
