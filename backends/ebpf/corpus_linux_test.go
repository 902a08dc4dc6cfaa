// SPDX-License-Identifier: Apache-2.0

package ebpf_test

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/backends/lab"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

const fenceGroup = 78

var serial atomic.Uint64

// pinPath returns a directory that no other test has.
func pinPath() string {
	return fmt.Sprintf("%s-test_%d_%d", ebpf.DefaultPath, os.Getpid(), serial.Add(1))
}

func openLab(_ context.Context, ns lab.Netns) (lab.Dataplane, error) {
	b, err := ebpf.New(ebpf.Options{NetNS: ns.FD(), Path: pinPath(), Render: render.Options{Events: render.AllEvents}})
	if err != nil {
		return nil, err
	}
	return lab.WithEvents(b, lab.RingBuffer(ns, b, fenceGroup)), nil
}

// TestKernelAgreesWithTheCorpus sends the packets of every case through the kernel and compares verdict and origin.
func TestKernelAgreesWithTheCorpus(t *testing.T) {
	t.Parallel()
	cases, err := policytest.Cases()
	require.NoError(t, err)
	check(t, cases, lab.Options{})
}

// TestKernelAgreesWithTheEvaluator does the same for random small universes.
func TestKernelAgreesWithTheEvaluator(t *testing.T) {
	t.Parallel()
	n := uint64(16)
	if testing.Short() {
		n = 4
	}
	check(t, universes(t, 3000, n), lab.Options{})
}

// TestKernelPutsFragmentsTogether sends every packet in two fragments.
func TestKernelPutsFragmentsTogether(t *testing.T) {
	t.Parallel()
	check(t, universes(t, 4000, 3), lab.Options{Fragment: true})
}

func universes(t *testing.T, first, n uint64) []*policytest.Case {
	var cases []*policytest.Case
	for i := range n {
		c := policytest.Generate(first+i, policytest.Size{Packets: 100})
		rs, err := policytest.Pure()[0].Run(t.Context(), c)
		require.NoError(t, err)
		for j := range rs {
			c.Packets[j].Asked, c.Packets[j].Want, c.Packets[j].By = true, rs[j].Verdict, rs[j].By
		}
		cases = append(cases, c)
	}
	return cases
}

func check(t *testing.T, cases []*policytest.Case, o lab.Options) {
	packets := 0
	for _, o := range lab.RunAll(t.Context(), cases, openLab, o) {
		packets += len(o.Case.Packets)
		if o.Err != nil {
			t.Errorf("%s: %v", o.Case.Name, o.Err)
			continue
		}
		ms, err := policytest.Compare(o.Case, o.Results)
		require.NoError(t, err)
		for _, m := range ms {
			t.Error(m)
		}
	}
	require.NotZero(t, packets)
	t.Logf("%d packets in %d cases", packets, len(cases))
}
