// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/iptables"
	"github.com/hostpolicy/hostpolicy/backends/lab"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
	render "github.com/hostpolicy/hostpolicy/render/iptables"
)

// TestKernelAgreesWithTheCorpus sends the packets of every case through the kernel and compares verdict and origin.
func TestKernelAgreesWithTheCorpus(t *testing.T) {
	cases, err := policytest.Cases()
	require.NoError(t, err)
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			check(t, v, cases)
		})
	}
}

// TestKernelAgreesWithTheEvaluator does the same for random small universes.
func TestKernelAgreesWithTheEvaluator(t *testing.T) {
	n := uint64(16)
	if testing.Short() {
		n = 3
	}
	var cases []*policytest.Case
	for i := range n {
		c := policytest.Generate(2000+i, policytest.Size{Packets: 100})
		rs, err := policytest.Pure()[0].Run(t.Context(), c)
		require.NoError(t, err)
		for j := range rs {
			c.Packets[j].Asked, c.Packets[j].Want, c.Packets[j].By = true, rs[j].Verdict, rs[j].By
		}
		cases = append(cases, c)
	}
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			check(t, v, cases)
		})
	}
}

// check runs cases as the runner "iptables-nft" or "iptables-legacy".
func check(t *testing.T, v iptables.Variant, cases []*policytest.Case) {
	runner := "iptables-" + v.String()
	packets := 0
	opener := open(iptables.Options{Variant: v, Render: render.Options{Events: render.AllEvents}})
	for _, o := range lab.RunAll(t.Context(), cases, opener, lab.Options{}) {
		packets += len(o.Case.Packets)
		if reason, ok := o.Case.Unsupported[runner]; ok {
			require.ErrorContains(t, o.Err, reason, o.Case.Name)
			continue
		}
		if o.Err != nil {
			var e *iptables.Error
			if errors.As(o.Err, &e) {
				t.Errorf("%s: %s\n%s", o.Case.Name, e, strings.TrimSpace(e.Text))
				continue
			}
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
