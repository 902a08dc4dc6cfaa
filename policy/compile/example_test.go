// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
)

func ExampleCompile() {
	tcp := inet.TCP
	web := &policy.Policy{Tier: "default", Name: "web", Kind: hostendpoint.KindGlobalNetworkPolicy, Ingress: []policy.Rule{
		{Action: hostendpoint.Allow, Protocol: &tcp, Dest: policy.Side{Ports: []inet.PortRange{{Min: 443, Max: 443}}}},
	}}
	program, _, err := compile.Compile(&policy.Snapshot{
		Config: policy.Config{Failsafes: policy.Failsafes{NeighborDiscovery: policy.Off}},
		Endpoints: []*policy.Endpoint{{
			Name: "eth0", Interfaces: []string{"eth0"},
			Normal: []policy.TierPolicies{{Tier: &policy.Tier{Name: "default"}, Ingress: []*policy.Policy{web}}},
		}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, e := range program.Entries {
		fmt.Println(e)
	}
	block, _ := program.Block("policy/default/web/normal-in")
	fmt.Println(len(block.Steps), program.Origins[0])
	// Output:
	// entry normal-in hook/normal-in
	// entry forward-in hook/forward-in
	// entry forward-out hook/forward-out
	// entry normal-out hook/normal-out
	// 1 policy:default/web/ingress[0]
}
