// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/lab"
	"github.com/hostpolicy/hostpolicy/backends/lab/rate"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
	"github.com/hostpolicy/hostpolicy/render/pass"
)

// TestKernelAgreesHoweverLowered sends the packets of the corpus and of random universes through programs that were not
// lowered, and through some that were lowered far more than pays.
func TestKernelAgreesHoweverLowered(t *testing.T) {
	cases, err := policytest.Cases()
	require.NoError(t, err)
	n := uint64(12)
	if testing.Short() {
		n = 2
	}
	for i := range n {
		c := policytest.Generate(7000+i, policytest.Size{Packets: 100, Policies: 30, Rules: 8})
		rs, err := policytest.Pure()[0].Run(t.Context(), c)
		require.NoError(t, err)
		for j := range rs {
			c.Packets[j].Asked, c.Packets[j].Want, c.Packets[j].By = true, rs[j].Verdict, rs[j].By
		}
		cases = append(cases, c)
	}
	for name, o := range map[string]render.Options{
		"linear":  {Linear: true},
		"trees":   {Lowering: pass.Options{MinRules: 2, Growth: 64}},
		"cramped": {Lowering: pass.Options{MinRules: 2, Growth: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			o.Events, o.LogGroup = render.AllEvents, eventGroup
			open := func(_ context.Context, ns lab.Netns) (lab.Dataplane, error) {
				b, err := nftables.New(nftables.Options{NetNS: ns.FD(), Render: o})
				if err != nil {
					return nil, err
				}
				return lab.WithEvents(b, lab.NFLOG(ns, eventGroup)), nil
			}
			bad := 0
			for _, out := range lab.RunAll(t.Context(), cases, open, lab.Options{}) {
				if !assertNoError(t, out.Case.Name, out.Err) {
					continue
				}
				ms, err := policytest.Compare(out.Case, out.Results)
				require.NoError(t, err)
				for _, m := range ms {
					if bad++; bad < 20 {
						t.Error(fmt.Sprint(m))
					}
				}
			}
		})
	}
}

// TestMapsAreNotCopied renders rules of many shapes, which share parts of trees, and counts the maps.
func TestMapsAreNotCopied(t *testing.T) {
	text, _ := rate.Mixed(2000, 0)
	p, m := rate.Compiled(t, "eth0", text)
	r, err := render.Render(p, m, render.Options{})
	require.NoError(t, err)
	all, long := map[string]int{}, 0
	for _, c := range r.Chains {
		for _, rule := range c.Rules {
			for _, e := range rule.Exprs {
				if v, ok := e.(render.VerdictMap); ok && len(v.Cases) > 8 {
					all[rule.String()]++
					long++
				}
			}
		}
	}
	require.Greater(t, len(all), 10)
	require.Less(t, long, 2*len(all), "long maps that are there more than once: loading takes time that grows with their square")
}
