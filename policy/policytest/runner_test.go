// SPDX-License-Identifier: Apache-2.0

package policytest_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

var mustAddrPort = netip.MustParseAddrPort

type fakeRunner struct {
	results []policytest.Result
	err     error
}

func (fakeRunner) Name() string { return "fake" }

func (f fakeRunner) Run(context.Context, *policytest.Case) ([]policytest.Result, error) {
	return f.results, f.err
}

func threePackets(t *testing.T) *policytest.Case {
	c := &policytest.Case{Name: "case"}
	for _, line := range []string{
		"input eth0 tcp 10.9.0.2:1 > 10.9.0.1:80 allow policy:default/p/ingress[0]",
		"input eth0 tcp 10.9.0.2:1 > 10.9.0.1:81 deny",
		"input eth0 tcp 10.9.0.2:1 > 10.9.0.1:82",
	} {
		p, err := policytest.ParsePacket(line, hostendpoint.Host{}, nil)
		require.NoError(t, err)
		c.Packets = append(c.Packets, p)
	}
	return c
}

func TestCompare(t *testing.T) {
	c := threePackets(t)
	right := policytest.Result{Verdict: flow.Allow, By: c.Packets[0].By}
	right.By.Pos.Line = 7 // positions do not matter
	denied := policytest.Result{Verdict: flow.Deny, By: flow.Origin{Kind: flow.OriginNoEndpoint}}
	none := policytest.Result{Verdict: flow.None}
	for _, x := range []struct {
		what    string
		results []policytest.Result
		bad     []int
	}{
		{"all as asked", []policytest.Result{right, denied, none}, nil},
		{"a wrong verdict", []policytest.Result{right, none, none}, []int{1}},
		{"the right verdict for another reason", []policytest.Result{{Verdict: flow.Allow, By: denied.By}, denied, none}, []int{0}},
		{"a contradiction", []policytest.Result{right, denied, {Problem: "gone and arrived"}}, []int{2}},
	} {
		t.Run(x.what, func(t *testing.T) {
			got, err := policytest.Compare(c, x.results)
			require.NoError(t, err)
			require.Len(t, got, len(x.bad))
			for i, n := range x.bad {
				require.Same(t, &c.Packets[n], got[i].Packet)
				require.Equal(t, x.results[n], got[i].Got)
			}
			err = policytest.Check(t.Context(), fakeRunner{results: x.results}, c)
			require.Equal(t, len(x.bad) > 0, err != nil, "%v", err)
		})
	}
	_, err := policytest.Compare(c, []policytest.Result{right})
	require.ErrorContains(t, err, "1 results for 3 packets")
}

func TestCheckHoldsRunnersToWhatTheyCannotDo(t *testing.T) {
	c := threePackets(t)
	c.Unsupported = map[string]string{"fake": "no allow"}
	require.NoError(t, policytest.Check(t.Context(), fakeRunner{err: errors.New("there is no allow here")}, c))
	require.ErrorContains(t, policytest.Check(t.Context(), fakeRunner{err: errors.New("out of memory")}, c), "another reason")
	require.ErrorContains(t, policytest.Check(t.Context(), fakeRunner{results: make([]policytest.Result, 3)}, c), "says that it cannot")
	c.Unsupported = nil
	require.ErrorContains(t, policytest.Check(t.Context(), fakeRunner{err: errors.New("there is no allow here")}, c), "no allow here")
}

func TestShrinkKeepsWhatMatters(t *testing.T) {
	c := policytest.Generate(7, policytest.Size{})
	require.Greater(t, len(c.Packets), 1)
	hasPolicy := func(c *policytest.Case) bool {
		for _, p := range c.Resources.GlobalNetworkPolicies {
			if len(p.Spec.Ingress)+len(p.Spec.Egress) > 0 {
				return len(c.Packets) > 0
			}
		}
		return false
	}
	require.True(t, hasPolicy(c))
	before, err := policytest.Format(c)
	require.NoError(t, err)
	small := policytest.Shrink(c, hasPolicy)
	require.True(t, hasPolicy(small))
	require.Len(t, small.Packets, 1)
	require.Equal(t, 1, small.Resources.Len())
	rules := small.Resources.GlobalNetworkPolicies[0].Spec
	require.Equal(t, 1, len(rules.Ingress)+len(rules.Egress))
	after, err := policytest.Format(c)
	require.NoError(t, err)
	require.Equal(t, string(before), string(after), "the case itself is not changed")
}
