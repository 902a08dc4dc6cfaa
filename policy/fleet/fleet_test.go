// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/fleet"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

func parse(t testing.TB, text string) hostendpoint.Resources {
	t.Helper()
	r, err := manifest.Parse(manifest.Source{Name: "x.yaml", Data: []byte(text)})
	require.NoError(t, err)
	return r
}

const cluster = `
kind: Node
apiVersion: projectcalico.org/v3
metadata: {name: listed}
spec:
  interfaces: [{name: ens1, addresses: [10.1.0.5/24, "fe80::5/64"]}]
  bgp: {ipv4Address: 10.1.0.5/24, ipv6Address: "fd00::5/64"}
---
kind: HostEndpoint
apiVersion: projectcalico.org/v3
metadata: {name: by-address}
spec: {node: listed, expectedIPs: [10.1.0.5]}
---
kind: HostEndpoint
apiVersion: projectcalico.org/v3
metadata: {name: all}
spec: {node: bare, interfaceName: "*", profiles: [projectcalico-default-allow]}
---
kind: HostEndpoint
apiVersion: projectcalico.org/v3
metadata: {name: named}
spec: {node: two, interfaceName: eth0, expectedIPs: [10.2.0.1]}
---
kind: HostEndpoint
apiVersion: projectcalico.org/v3
metadata: {name: unnamed}
spec: {node: two, expectedIPs: [10.3.0.1, "fd00:3::1"]}
---
kind: HostEndpoint
apiVersion: projectcalico.org/v3
metadata: {name: told}
spec: {node: told, interfaceName: eth7}
`

func TestHostsAreConcludedFromResources(t *testing.T) {
	told := fleet.Host{Host: hostendpoint.Host{Node: "told", Interfaces: []hostendpoint.Interface{{Name: "eth1"}}}, Config: policy.Config{IgnoreHTTP: true}}
	p := netip.MustParsePrefix
	want := []fleet.Host{
		{Host: hostendpoint.Host{Node: "bare", Interfaces: []hostendpoint.Interface{{Name: "net0"}}}, Presumed: true},
		{Host: hostendpoint.Host{Node: "listed", Interfaces: []hostendpoint.Interface{
			{Name: "ens1", Addresses: []netip.Prefix{p("10.1.0.5/24"), p("fe80::5/64"), p("fd00::5/64")}}}}, Presumed: true},
		told,
		{Host: hostendpoint.Host{Node: "two", Interfaces: []hostendpoint.Interface{
			{Name: "eth0", Addresses: []netip.Prefix{p("10.2.0.1/32")}},
			{Name: "net0", Addresses: []netip.Prefix{p("10.3.0.1/32"), p("fd00:3::1/128")}}}}, Presumed: true},
	}
	got := fleet.Hosts(parse(t, cluster), []fleet.Host{told}, policy.Config{})
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Fatal(d)
	}
	require.Empty(t, fleet.Hosts(hostendpoint.Resources{}, nil, policy.Config{}))
}

func TestHostsThatEnforceTheSameAreOneGroup(t *testing.T) {
	text := ""
	for i, role := range []string{"web", "web", "db", "web"} {
		text += fmt.Sprintf("kind: HostEndpoint\napiVersion: projectcalico.org/v3\nmetadata: {name: z%d-ep, labels: {role: %s}}\nspec: {node: n%d, interfaceName: eth0}\n---\n", i, role, i)
	}
	text += `kind: GlobalNetworkPolicy
apiVersion: projectcalico.org/v3
metadata: {name: web}
spec: {selector: role == 'web', ingress: [{action: Allow}]}
`
	r := parse(t, text)
	groups, err := fleet.Groups(r, fleet.Hosts(r, nil, policy.Config{}))
	require.NoError(t, err)
	require.Len(t, groups, 2)
	require.Equal(t, []string{"n0", "n1", "n3"}, groups[0].Nodes)
	require.Equal(t, []string{"n2"}, groups[1].Nodes)
	require.Equal(t, "n0", groups[0].Snapshot.Host.Node)

	// The names of the endpoints do not matter; where they are does.
	for _, h := range r.HostEndpoints {
		h.Metadata.Name = "a" + h.Metadata.Name
	}
	again, err := fleet.Groups(r, fleet.Hosts(r, nil, policy.Config{}))
	require.NoError(t, err)
	require.Equal(t, groups[0].Fingerprint, again[0].Fingerprint)
	require.NotEqual(t, groups[0].Program.Fingerprint(), again[0].Program.Fingerprint())
	r.HostEndpoints[3].Spec.InterfaceName = "eth1"
	again, err = fleet.Groups(r, fleet.Hosts(r, nil, policy.Config{}))
	require.NoError(t, err)
	require.Len(t, again, 3)
}

// Moving a resolver from host to host must give what each host gets alone, and hosts of one group the same program.
func TestEachIsResolve(t *testing.T) {
	groups := 0
	for seed := range uint64(150) {
		c := policytest.Generate(seed, policytest.Size{Packets: 1})
		var hosts []fleet.Host
		nodes := map[string]bool{}
		for _, h := range c.Resources.HostEndpoints {
			nodes[h.Spec.Node] = true
		}
		for _, node := range []string{c.Host.Node, "host-b", "nowhere", c.Host.Node} {
			h := c.Host
			h.Node = node
			hosts = append(hosts, fleet.Host{Host: h, Config: c.Config})
			h.Interfaces = h.Interfaces[:1]
			hosts = append(hosts, fleet.Host{Host: h, Config: c.Config})
		}
		var snapshots []*policy.Snapshot
		require.NoError(t, fleet.Each(c.Resources, hosts, func(_ fleet.Host, s *policy.Snapshot) error {
			snapshots = append(snapshots, s)
			return nil
		}))
		programs := map[string]int{}
		for i, h := range hosts {
			alone, err := policy.Resolve(c.Resources, h.Host, h.Config)
			require.NoError(t, err)
			require.Equal(t, alone.Problems, snapshots[i].Problems, "seed %d, host %d", seed, i)
			want, wm, err := compile.Compile(alone)
			require.NoError(t, err)
			got, gm, err := compile.Compile(snapshots[i])
			require.NoError(t, err)
			require.Equal(t, want.String(), got.String(), "seed %d, host %d", seed, i)
			require.Equal(t, wm.String(), gm.String())
			programs[want.String()+wm.String()]++
		}
		gs, err := fleet.Groups(c.Resources, hosts)
		require.NoError(t, err)
		require.LessOrEqual(t, len(gs), len(programs), "seed %d", seed)
		groups += len(gs)
		for _, g := range gs {
			require.Contains(t, programs, g.Program.String()+g.Members.String())
		}
	}
	require.Greater(t, groups, 300)
}

func TestHostsThatMakeNoSenseAreErrors(t *testing.T) {
	_, err := fleet.Groups(hostendpoint.Resources{}, []fleet.Host{{}})
	require.ErrorContains(t, err, "node")
	_, err = fleet.Groups(hostendpoint.Resources{}, []fleet.Host{{Host: hostendpoint.Host{Node: "a"}}, {Host: hostendpoint.Host{Node: "b"}, Config: policy.Config{AllowAction: 9}}})
	require.ErrorContains(t, err, "allowAction")
}

func BenchmarkGroups(b *testing.B) {
	for _, n := range []int{100, 1000} {
		text := ""
		for i := range n {
			text += fmt.Sprintf("kind: HostEndpoint\napiVersion: projectcalico.org/v3\nmetadata: {name: ep-%d, labels: {role: r%d}}\nspec: {node: n%d, interfaceName: eth0, expectedIPs: [10.0.%d.%d]}\n---\n", i, i%10, i, i/250, i%250)
		}
		for i := range 100 {
			text += fmt.Sprintf("kind: GlobalNetworkPolicy\napiVersion: projectcalico.org/v3\nmetadata: {name: p%d}\nspec: {selector: role == 'r%d', ingress: [{action: Allow, protocol: TCP, source: {selector: role == 'r%d'}, destination: {ports: [%d]}}]}\n---\n", i, i%10, (i+1)%10, 1000+i)
		}
		r := parse(b, text)
		b.Run(fmt.Sprintf("hosts=%d/policies=100", n), func(b *testing.B) {
			for b.Loop() {
				gs, err := fleet.Groups(r, fleet.Hosts(r, nil, policy.Config{}))
				require.NoError(b, err)
				require.Len(b, gs, 10)
			}
		})
	}
}

func ExampleGroups() {
	r, err := manifest.Parse(manifest.Source{Name: "cluster.yaml", Data: []byte(cluster)})
	if err != nil {
		fmt.Println(err)
		return
	}
	groups, err := fleet.Groups(r, fleet.Hosts(r, nil, policy.Config{}))
	for _, g := range groups {
		fmt.Println(g.Nodes, len(g.Snapshot.Endpoints), "endpoints")
	}
	fmt.Println(err)
	// Output:
	// [bare] 0 endpoints
	// [listed] 1 endpoints
	// [told] 1 endpoints
	// [two] 2 endpoints
	// <nil>
}
