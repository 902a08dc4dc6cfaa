// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
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
		// Kernels before 6.9 count the frame of a function as 32 bytes at least, and in such steps.
		// Ref: linux/kernel/bpf/verifier.c, check_max_stack_depth_subprog.
		depth, way := deepest(t, code[p].ins, prog.VerifierLog)
		require.LessOrEqual(t, depth, 512, "%s: %s", p, way)
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

// TestWhatIsLackingIsNamed reads what somebody reads on a kernel that is too old.
func TestWhatIsLackingIsNamed(t *testing.T) {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	require.NoError(t, err)
	err = lacks("struct bpf_nf_ctx", "6.4", btf.ErrNotFound)
	require.EqualError(t, err, "ebpf: Linux "+strings.TrimSpace(string(release))+" lacks struct bpf_nf_ctx, which is in Linux since 6.4: not found")
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorIs(t, err, btf.ErrNotFound)
	require.EqualError(t, &FeatureError{Feature: "BTF"}, "ebpf: the kernel lacks BTF")
}

// deepest returns how much stack the functions take that call one another, each in steps of 32 bytes, and which they are.
func deepest(t *testing.T, ins asm.Instructions, log string) (int, []string) {
	m := regexp.MustCompile(`stack depth ([0-9+]+)`).FindStringSubmatch(log)
	require.NotNil(t, m, log)
	functions := map[string]bool{"main": true}
	for _, i := range ins {
		if i.IsFunctionReference() {
			functions[i.Reference()] = true
		}
	}
	own, calls := map[string]int{}, map[string][]string{}
	depths := strings.Split(m[1], "+")
	var at string
	for _, i := range ins {
		if functions[i.Symbol()] {
			at = i.Symbol()
			require.NotEmpty(t, depths)
			n, err := strconv.Atoi(depths[0])
			require.NoError(t, err)
			own[at], depths = n, depths[1:]
		}
		if i.IsFunctionReference() {
			calls[at] = append(calls[at], i.Reference())
		}
	}
	require.Empty(t, depths)
	own["ask"] -= 24 // what the kernel adds when it has looked, for the loop that it writes out
	var below func(f string) (int, []string)
	below = func(f string) (int, []string) {
		most, way := 0, []string(nil)
		for _, c := range calls[f] {
			if n, w := below(c); n > most {
				most, way = n, w
			}
		}
		return (max(own[f], 1)+31)/32*32 + most, append([]string{f}, way...)
	}
	return below("main")
}
