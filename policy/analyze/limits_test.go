// SPDX-License-Identifier: Apache-2.0

package analyze_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/policytest/irtest"
)

func TestNothingIsTheProgramOfAHostWithoutPolicy(t *testing.T) {
	ctx := t.Context()
	r, err := analyze.Diff(ctx, analyze.Input{}, analyze.Input{Program: &ir.Program{}}, analyze.Options{By: true})
	require.NoError(t, err)
	require.Empty(t, r.Changes)
	require.False(t, r.Partial)
	r, err = analyze.Diff(ctx, analyze.Input{}, web("10.0.0.0/8", 443), analyze.Options{})
	require.NoError(t, err)
	require.Len(t, r.Changes, 2)
	require.Equal(t, flow.OriginNoEndpoint, r.Changes[0].Before.By.Kind)
	reach, err := analyze.Reach(ctx, analyze.Input{}, analyze.Options{})
	require.NoError(t, err)
	require.Empty(t, reach.Rules)
	who, err := analyze.Who(ctx, analyze.Input{}, analyze.Query{}, analyze.Options{})
	require.NoError(t, err)
	require.Empty(t, who.Flows)
}

func TestAProgramThatIsNotValidIsAnError(t *testing.T) {
	bad := analyze.Input{Program: &ir.Program{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "nowhere"}}}}
	_, err := analyze.Diff(t.Context(), analyze.Input{}, bad, analyze.Options{})
	require.ErrorContains(t, err, "after: ")
	_, err = analyze.Diff(t.Context(), bad, analyze.Input{}, analyze.Options{})
	require.ErrorContains(t, err, "before: ")
	_, err = analyze.Reach(t.Context(), bad, analyze.Options{})
	require.Error(t, err)
	_, err = analyze.Who(t.Context(), bad, analyze.Query{}, analyze.Options{})
	require.Error(t, err)
}

// What is reported by an answer that was stopped is true.
func TestAStoppedAnswerSaysSo(t *testing.T) {
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		t.Run(f.String(), func(t *testing.T) { testStopped(t, f) })
	}
}

func testStopped(t *testing.T, f inet.Family) {
	m := irtest.NewMaker(3, f)
	a, b := hostWith(t, m.Wide(60)), hostWith(t, m.Wide(60))
	x, y := interpreter(t, a), interpreter(t, b)
	check := func(r *analyze.Report, err error) {
		t.Helper()
		require.NoError(t, err)
		require.True(t, r.Partial)
		require.NotEmpty(t, r.Reason)
		for _, c := range r.Changes {
			for i := range c.Boxes {
				p := c.Boxes[i].Packet()
				require.Equal(t, c.Before, decision(x, &p))
				require.Equal(t, c.After, decision(y, &p))
			}
		}
		for _, s := range r.Samples {
			_, n := where(r, &s.Packet)
			require.Zero(t, n, "%+v is in a box", s.Packet)
			require.Equal(t, s.Before, decision(x, &s.Packet))
			require.Equal(t, s.After, decision(y, &s.Packet))
			require.NotEqual(t, s.Before.Verdict, s.After.Verdict)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, err := analyze.Diff(ctx, a, b, analyze.Options{MaxStates: 500})
	check(r, err)
	require.NotEmpty(t, r.Changes)
	require.Greater(t, len(r.Samples), 10, "there is more, and that is shown")
	again, err := analyze.Diff(ctx, a, b, analyze.Options{MaxStates: 500})
	require.NoError(t, err)
	require.Equal(t, r.Samples, again.Samples)
	r, err = analyze.Diff(ctx, a, b, analyze.Options{MaxStates: 500, MaxBoxes: 3})
	check(r, err)
	// Where nothing is known of whole paths, samples are all there is.
	r, err = analyze.Diff(ctx, a, b, analyze.Options{MaxStates: 1})
	check(r, err)
	require.Empty(t, r.Changes)
	require.Greater(t, len(r.Samples), 10)
	late, stop := context.WithTimeout(ctx, 0)
	defer stop()
	r, err = analyze.Diff(late, a, b, analyze.Options{})
	check(r, err)
	require.Contains(t, r.Reason, "deadline")
	require.NotEmpty(t, r.Samples)
	// An answer that is whole has no samples.
	r, err = analyze.Diff(ctx, a, hostWith(t, m.Rules(1)), analyze.Options{MaxStates: 1 << 30, MaxBoxes: 1 << 30})
	require.NoError(t, err)
	require.Equal(t, r.Partial, len(r.Samples) > 0)
	reach, err := analyze.Reach(ctx, a, analyze.Options{MaxStates: 3})
	require.NoError(t, err)
	require.True(t, reach.Partial)
	for _, s := range reach.Rules {
		require.False(t, s.Status.Dead() || s.Redundant, "nobody knows yet")
	}
	cancel()
	r, err = analyze.Diff(ctx, a, b, analyze.Options{})
	check(r, err)
	require.Contains(t, r.Reason, "canceled")
	require.Empty(t, r.Samples, "nobody waits for them")
}
