// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"errors"
	"flag"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/iptables"
	"github.com/hostpolicy/hostpolicy/backends/lab"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
	render "github.com/hostpolicy/hostpolicy/render/iptables"
)

// full makes the tests of this package do everything; otherwise each variant gets its share of what takes long.
var full = flag.Bool("full", false, "run every case on both variants")

// TestKernelAgreesWithTheCorpus sends the packets of every case through the kernel and compares verdict and origin.
func TestKernelAgreesWithTheCorpus(t *testing.T) {
	cases, err := policytest.Cases()
	require.NoError(t, err)
	for i, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			mine := cases
			if !*full {
				mine = nil
				for j := 2 * i; j < len(cases); j += 4 {
					mine = append(mine, cases[j])
				}
			}
			check(t, v, mine)
		})
	}
}

// TestKernelAgreesWithTheEvaluator does the same for random small universes, with few policies and with so many that
// their rules become trees.
func TestKernelAgreesWithTheEvaluator(t *testing.T) {
	n := uint64(3)
	if *full {
		n = 24
	}
	for i, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			var cases []*policytest.Case
			for j := range 2 * n {
				size := policytest.Size{Packets: 100}
				if j%2 == 1 {
					size = policytest.Size{Packets: 250, Policies: 60, Rules: 8}
				}
				c := policytest.Generate(2000+2*j+uint64(i), size)
				rs, err := policytest.Pure()[0].Run(t.Context(), c)
				require.NoError(t, err)
				for k := range rs {
					c.Packets[k].Asked, c.Packets[k].Want, c.Packets[k].By = true, rs[k].Verdict, rs[k].By
				}
				cases = append(cases, c)
			}
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
