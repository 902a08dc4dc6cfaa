// SPDX-License-Identifier: Apache-2.0

package eval_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/eval"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

func snapshot(t require.TestingT) *policy.Snapshot {
	order := 1.0
	tcp := &hostendpoint.Protocol{Name: "TCP"}
	s, err := policy.Resolve(hostendpoint.Resources{
		HostEndpoints: []*hostendpoint.HostEndpoint{{
			Metadata: hostendpoint.ObjectMeta{Name: "web", Labels: map[string]string{"role": "web"}},
			Spec:     hostendpoint.HostEndpointSpec{Node: "host-a", InterfaceName: "eth0"},
		}},
		GlobalNetworkPolicies: []*hostendpoint.GlobalNetworkPolicy{{
			Metadata: hostendpoint.ObjectMeta{Name: "https"},
			Spec: hostendpoint.GlobalNetworkPolicySpec{Order: &order, Selector: "role == 'web'", Ingress: []hostendpoint.Rule{
				{Action: hostendpoint.Log, Protocol: tcp},
				{Action: hostendpoint.Deny, Protocol: tcp, Source: hostendpoint.EntityRule{NotNets: []string{"10.0.0.0/8"}}},
				{Action: hostendpoint.Allow, Protocol: tcp, Destination: hostendpoint.EntityRule{Ports: []hostendpoint.Port{{Min: 443, Max: 443}}}},
			}},
		}},
	}, hostendpoint.Host{Node: "host-a", Interfaces: []hostendpoint.Interface{{Name: "eth0"}}}, policy.Config{})
	require.NoError(t, err)
	return s
}

func tcp(src string, port uint16) flow.Packet {
	return flow.Packet{
		Path: flow.Input, In: "eth0", Protocol: inet.TCP, Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr("10.9.0.1"),
		SrcPort: 40000, DstPort: port,
	}
}

func TestExplainSaysWhyEachRuleDidNotMatch(t *testing.T) {
	e := eval.New(snapshot(t))
	p := tcp("10.9.0.2", 80)
	d := e.Explain(&p)
	require.Equal(t, flow.Deny, d.Verdict)
	require.Equal(t, "tier:default/ingress", d.By.String())
	var got []string
	for _, s := range d.Trace {
		got = append(got, s.String())
	}
	require.Equal(t, []string{
		"untracked-in no-endpoint: no endpoint governs eth0 at this hook",
		"prednat no-endpoint: no endpoint governs eth0 at this hook",
		"normal-in policy:default/https/ingress[0]: Log",
		"normal-in policy:default/https/ingress[1]: source.notNets: 10.9.0.2 is in [10.0.0.0/8]",
		"normal-in policy:default/https/ingress[2]: destination.ports: 80 is not in [443] []",
		"normal-in tier:default/ingress: end of tier: denied",
	}, got)
}

func TestPacketsThatMakeNoSenseAreDenied(t *testing.T) {
	e := eval.New(snapshot(t))
	v4, v6 := netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("fd00::1")
	for name, p := range map[string]*flow.Packet{
		"nil":             nil,
		"zero":            {},
		"no path":         {In: "eth0", Src: v4, Dst: v4},
		"unknown path":    {Path: 99, In: "eth0", Out: "eth0", Src: v4, Dst: v4},
		"no interface":    {Path: flow.Input, Src: v4, Dst: v4},
		"half an path":    {Path: flow.Forward, In: "eth0", Src: v4, Dst: v4},
		"two families":    {Path: flow.Input, In: "eth0", Src: v4, Dst: v6},
		"mapped":          {Path: flow.Input, In: "eth0", Src: netip.MustParseAddr("::ffff:10.0.0.1"), Dst: v6},
		"NAT across":      {Path: flow.Input, In: "eth0", Src: v4, Dst: v4, NATDst: netip.AddrPortFrom(v6, 1)},
		"unknown state":   {Path: flow.Input, In: "eth0", Src: v4, Dst: v4, State: 99},
		"no destination":  {Path: flow.Output, Out: "eth1", Src: v4},
		"no out to leave": {Path: flow.Output, In: "eth1", Src: v4, Dst: v4},
	} {
		require.Equal(t, flow.Deny, e.Verdict(p), name)
	}
	p := tcp("10.9.0.2", 443)
	require.Equal(t, flow.Deny, eval.New(nil).Verdict(&p), "no snapshot")
	require.Equal(t, flow.Allow, e.Verdict(&p), "the same packet with a snapshot")
}

func TestActionThatIsNoneDenies(t *testing.T) {
	s := snapshot(t)
	s.Endpoints[0].Normal[0].Ingress[0].Ingress[0].Action = ""
	p := tcp("10.9.0.2", 443)
	v, by := eval.New(s).Decide(&p)
	require.Equal(t, flow.Deny, v)
	require.Equal(t, "policy:default/https/ingress[0]", by.String())
}

func ExampleEvaluator_Explain() {
	d := eval.New(snapshot(failNow{})).Explain(&flow.Packet{
		Path: flow.Input, In: "eth0", Protocol: inet.TCP,
		Src: netip.MustParseAddr("10.9.0.2"), Dst: netip.MustParseAddr("10.9.0.1"), SrcPort: 40000, DstPort: 443,
	})
	fmt.Println(d.Verdict, d.By)
	for _, s := range d.Trace {
		fmt.Println(" ", s)
	}
	// Output:
	// allow policy:default/https/ingress[2]
	//   untracked-in no-endpoint: no endpoint governs eth0 at this hook
	//   prednat no-endpoint: no endpoint governs eth0 at this hook
	//   normal-in policy:default/https/ingress[0]: Log
	//   normal-in policy:default/https/ingress[1]: source.notNets: 10.9.0.2 is in [10.0.0.0/8]
	//   normal-in policy:default/https/ingress[2]: Allow
}

// failNow is a test that must not fail: that of an example.
type failNow struct{}

func (failNow) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (failNow) FailNow()                          {}
