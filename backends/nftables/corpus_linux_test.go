// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/lab"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

const eventGroup = 77

func openLab(_ context.Context, ns lab.Netns) (lab.Dataplane, error) {
	b, err := nftables.New(nftables.Options{NetNS: ns.FD(), Render: render.Options{Events: render.AllEvents, LogGroup: eventGroup}})
	if err != nil {
		return nil, err
	}
	return lab.WithEvents(b, lab.NFLOG(ns, eventGroup)), nil
}

// TestKernelAgreesWithTheCorpus sends the packets of every case through the kernel and compares verdict and origin.
func TestKernelAgreesWithTheCorpus(t *testing.T) {
	t.Parallel()
	cases, err := policytest.Cases()
	require.NoError(t, err)
	check(t, cases)
}

// TestKernelAgreesWithTheEvaluator does the same for random small universes.
func TestKernelAgreesWithTheEvaluator(t *testing.T) {
	t.Parallel()
	n := uint64(24)
	if testing.Short() {
		n = 4
	}
	var cases []*policytest.Case
	for i := range n {
		c := policytest.Generate(1000+i, policytest.Size{Packets: 100})
		rs, err := policytest.Pure()[0].Run(t.Context(), c)
		require.NoError(t, err)
		for j := range rs {
			c.Packets[j].Asked, c.Packets[j].Want, c.Packets[j].By = true, rs[j].Verdict, rs[j].By
		}
		cases = append(cases, c)
	}
	check(t, cases)
}

func check(t *testing.T, cases []*policytest.Case) {
	packets := 0
	for _, o := range lab.RunAll(t.Context(), cases, openLab, lab.Options{}) {
		packets += len(o.Case.Packets)
		if !assertNoError(t, o.Case.Name, o.Err) {
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

func assertNoError(t *testing.T, name string, err error) bool {
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return err == nil
}
