// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/agent"
	"github.com/hostpolicy/hostpolicy/backends/flowlog"
	"github.com/hostpolicy/hostpolicy/backends/metrics"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

type fixed struct{ err error }

func (f fixed) Counters(context.Context) ([]backends.Counter, error) {
	return []backends.Counter{
		{Origin: flow.Origin{Kind: flow.OriginPolicy, Tier: "t", Name: "p", Index: 1}, Packets: 2, Bytes: 84},
		{Origin: flow.Origin{Kind: flow.OriginPolicy, Tier: "t", Name: "p"}, Packets: 1, Bytes: 42},
	}, f.err
}

func (fixed) Status() agent.Status {
	var s agent.Status
	s.Phase, s.Enforced, s.Wanted = agent.Failing, 4, 5
	s.Receipt.Noticed = time.Unix(1, 0)
	s.Receipt.Enforced = time.Unix(1, 5e7)
	s.Problems = []policy.Problem{{Severity: policy.Warning}, {Severity: policy.Warning}, {Severity: policy.Error}}
	return s
}

func TestGatherSortsAndGoesOnWithoutThoseThatFail(t *testing.T) {
	bad := errors.New("busy")
	got, err := metrics.Gather(t.Context(), metrics.Rules(fixed{bad}), metrics.Agent(fixed{}), metrics.Flows(flowlog.New(flowlog.Options{})))
	require.ErrorIs(t, err, bad)
	text := map[string]bool{}
	kinds := map[string]metrics.Kind{}
	for i, s := range got {
		require.False(t, text[s.String()], "%s is there twice", s)
		text[s.String()] = true
		if i > 0 {
			require.LessOrEqual(t, got[i-1].Name, s.Name)
		}
		if k, ok := kinds[s.Name]; ok {
			require.Equal(t, k, s.Kind, s.Name)
		}
		kinds[s.Name] = s.Kind
		require.NotEmpty(t, s.Help, s.Name)
	}
	for _, want := range []string{
		`hostpolicy_agent_phase{phase="failing"} 1`, `hostpolicy_agent_phase{phase="enforcing"} 0`,
		`hostpolicy_agent_generation_enforced 4`, `hostpolicy_agent_generation_wanted 5`,
		`hostpolicy_agent_problems{severity="warning"} 2`, `hostpolicy_agent_problems{severity="info"} 0`,
		`hostpolicy_agent_enforce_latency_seconds 0.05`, `hostpolicy_flowlog_lost_events_total 0`,
	} {
		require.True(t, text[want], "%s is missing in %v", want, got)
	}
}

func ExampleGather() {
	// In real life the argument is a backends.Backend.
	samples, err := metrics.Gather(context.Background(), metrics.Rules(fixed{}))
	if err != nil {
		fmt.Println(err)
	}
	for _, s := range samples {
		fmt.Println(s)
	}
	// Output:
	// hostpolicy_rule_bytes_total{origin="policy:t/p/ingress[0]"} 42
	// hostpolicy_rule_bytes_total{origin="policy:t/p/ingress[1]"} 84
	// hostpolicy_rule_packets_total{origin="policy:t/p/ingress[0]"} 1
	// hostpolicy_rule_packets_total{origin="policy:t/p/ingress[1]"} 2
}
