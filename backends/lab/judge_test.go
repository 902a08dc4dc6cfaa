// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

func origin(t *testing.T, text string) flow.Origin {
	t.Helper()
	o, err := flow.ParseOrigin(text)
	require.NoError(t, err)
	return o
}

func TestJudge(t *testing.T) {
	said := func(h flow.Hook, e flow.Event, by string) decision {
		return decision{hook: h, event: e, by: origin(t, by), known: true}
	}
	came := func(path flow.Path, in, out string) *arrival { return &arrival{path: path, in: in, out: out} }
	const input, forward, output = "input eth0 tcp 10.9.0.2:1 > 10.9.0.1:80", "forward eth0>eth1 tcp 10.9.0.2:1 > 10.8.0.2:80", "output eth0 tcp 10.9.0.1:1 > 10.9.0.2:80"
	for _, x := range []struct {
		what, line string
		obs        observation
		want       flow.Verdict
		by         string
		problem    string
	}{
		{"nobody asked", input, observation{arrived: came(flow.Input, "eth0", ""), copies: 1}, flow.None, "no-endpoint", ""},
		{
			"allowed", input,
			observation{arrived: came(flow.Input, "eth0", ""), copies: 1, decisions: []decision{said(flow.NormalIn, flow.EventAllow, "policy:default/p/ingress[0]")}},
			flow.Allow, "policy:default/p/ingress[0]", "",
		},
		{
			"logged, then denied", input,
			observation{decisions: []decision{said(flow.NormalIn, flow.EventLog, "policy:default/p/ingress[0]"), said(flow.NormalIn, flow.EventDeny, "tier:default/ingress")}},
			flow.Deny, "tier:default/ingress", "",
		},
		{
			"the stages before NAT have no say in the absence of a verdict", input,
			observation{arrived: came(flow.Input, "eth0", ""), copies: 1, decisions: []decision{said(flow.PreDNAT, flow.EventPass, "no-verdict@prednat")}},
			flow.None, "no-endpoint", "",
		},
		{
			"an allow that the other side takes back", forward,
			observation{arrived: came(flow.Forward, "eth0", "eth1"), copies: 1, decisions: []decision{
				said(flow.ForwardOut, flow.EventPass, "no-verdict"), said(flow.ForwardIn, flow.EventAllow, "forward-default"),
			}},
			flow.None, "no-verdict", "",
		},
		{
			"a workload", "local cali1 tcp 10.65.0.2:1 > 10.9.0.1:80",
			observation{arrived: came(flow.Input, "cali1", ""), copies: 1, decisions: []decision{said(flow.NormalIn, flow.EventPass, "workload")}},
			flow.None, "workload", "",
		},
		{"dropped in silence", input, observation{}, flow.Deny, "", "nothing was reported"},
		{
			"denied and delivered", input,
			observation{arrived: came(flow.Input, "eth0", ""), copies: 1, decisions: []decision{said(flow.NormalIn, flow.EventDeny, "tier:default/ingress")}},
			flow.Deny, "tier:default/ingress", "and it arrived",
		},
		{
			"asked where it never was", output,
			observation{arrived: came(flow.Output, "", "eth0"), copies: 1, decisions: []decision{said(flow.NormalIn, flow.EventAllow, "tier:default/ingress")}},
			flow.None, "no-endpoint", "not on the way",
		},
		{
			"decided twice", input,
			observation{arrived: came(flow.Input, "eth0", ""), copies: 1, decisions: []decision{
				said(flow.NormalIn, flow.EventAllow, "policy:default/p/ingress[0]"), said(flow.NormalIn, flow.EventAllow, "policy:default/p/ingress[0]"),
			}},
			flow.Allow, "policy:default/p/ingress[0]", "decided twice",
		},
		{
			"decided after it was denied", output,
			observation{decisions: []decision{said(flow.UntrackedOut, flow.EventDeny, "policy:default/p/egress[0]@untracked"), said(flow.NormalOut, flow.EventAllow, "policy:default/q/egress[0]")}},
			flow.Deny, "policy:default/p/egress[0]@untracked", "after the packet was denied",
		},
		{"delivered twice", input, observation{arrived: came(flow.Input, "eth0", ""), copies: 2}, flow.None, "no-endpoint", "2 times"},
		{"sent to everybody", "output eth0 udp 10.9.0.1:1 > 255.255.255.255:1", observation{arrived: came(flow.Output, "", "eth0"), copies: 2, loops: true}, flow.None, "no-endpoint", ""},
		{"led astray", input, observation{arrived: came(flow.Input, "eth1", ""), copies: 1}, flow.None, "no-endpoint", "instead of input eth0"},
		{
			"untracked, and so not translated", forward,
			observation{arrived: &arrival{path: flow.Input, in: "eth0", state: flow.Untracked}, copies: 1, decisions: []decision{said(flow.UntrackedIn, flow.EventAllow, "policy:default/u/ingress[0]@untracked")}},
			flow.Allow, "policy:default/u/ingress[0]@untracked", "",
		},
		{
			"decided by a stranger", input,
			observation{decisions: []decision{{hook: flow.NormalIn, event: flow.EventDeny}}},
			flow.Deny, "", "a rule that the program does not have",
		},
	} {
		t.Run(x.what, func(t *testing.T) {
			p, err := policytest.ParsePacket(x.line, hostendpoint.Host{}, nil)
			require.NoError(t, err)
			r := judge(&p.Packet, &x.obs)
			require.Equal(t, x.want, r.Verdict)
			require.Equal(t, x.by, r.By.String())
			if x.problem == "" {
				require.Empty(t, r.Problem)
			} else {
				require.Contains(t, r.Problem, x.problem)
			}
			require.NotEmpty(t, r.Trace)
		})
	}
}
