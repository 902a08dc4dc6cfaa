// SPDX-License-Identifier: Apache-2.0

package fleet_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/fleet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// hosts is n hosts with a label, one of which in ten is a database.
func hosts(n int) string {
	var b strings.Builder
	for i := range n {
		role := "web"
		if i%10 == 3 {
			role = "db"
		}
		fmt.Fprintf(&b, "kind: HostEndpoint\napiVersion: projectcalico.org/v3\nmetadata: {name: ep%d, labels: {role: %s}}\nspec: {node: n%02d, interfaceName: eth0, expectedIPs: [10.0.0.%d]}\n---\n", i, role, i, i+1)
	}
	return b.String()
}

func allow(name, sel string, port int) string {
	return fmt.Sprintf("kind: GlobalNetworkPolicy\napiVersion: projectcalico.org/v3\nmetadata: {name: %s}\nspec: {selector: %q, ingress: [{action: Allow, protocol: TCP, destination: {ports: [%d]}}]}\n---\n", name, sel, port)
}

func groups(t testing.TB, text string) []*fleet.Group {
	t.Helper()
	r := parse(t, text)
	g, err := fleet.Groups(r, fleet.Hosts(r, nil, policy.Config{}))
	require.NoError(t, err)
	return g
}

func TestCompare(t *testing.T) {
	before := hosts(20) + allow("web", "role == 'web'", 80) + allow("db", "role == 'db'", 5432)
	compare := func(after string, o analyze.Options) *fleet.Delta {
		t.Helper()
		d, err := fleet.Compare(context.Background(), groups(t, before), groups(t, after), o)
		require.NoError(t, err)
		require.False(t, d.Partial())
		for range 3 {
			again, err := fleet.Compare(context.Background(), groups(t, before), groups(t, after), o)
			require.NoError(t, err)
			require.Equal(t, d.Same, again.Same)
			require.Equal(t, len(d.Changes), len(again.Changes))
			for i := range d.Changes {
				require.Equal(t, d.Changes[i].Nodes, again.Changes[i].Nodes)
				require.Equal(t, d.Changes[i].Report, again.Changes[i].Report)
			}
		}
		return d
	}

	d := compare(before, analyze.Options{})
	require.Empty(t, d.Changes)
	require.Len(t, d.Same, 20)
	require.Empty(t, d.Rewritten)

	// What changes on the databases is found once for both.
	d = compare(hosts(20)+allow("web", "role == 'web'", 80)+allow("db", "role == 'db'", 5433), analyze.Options{})
	require.Len(t, d.Changes, 1)
	require.Equal(t, []string{"n03", "n13"}, d.Changes[0].Nodes)
	require.Len(t, d.Changes[0].Report.Changes, 2)
	require.Len(t, d.Same, 18)

	// A rule in two policies is the same to packets, and not to those who ask which rule decides.
	after := hosts(20) + allow("web2", "role == 'web'", 80) + allow("db", "role == 'db'", 5432)
	d = compare(after, analyze.Options{})
	require.Empty(t, d.Changes)
	require.Len(t, d.Rewritten, 18)
	d = compare(after, analyze.Options{By: true})
	require.Len(t, d.Changes, 1)
	require.Len(t, d.Changes[0].Nodes, 18)

	// Hosts come and go.
	d = compare(hosts(2)+allow("web", "role == 'web'", 80)+allow("db", "role == 'db'", 5432), analyze.Options{})
	require.Len(t, d.Changes, 2)
	require.Equal(t, []int{16, 2}, []int{len(d.Changes[0].Nodes), len(d.Changes[1].Nodes)})
	require.Nil(t, d.Changes[0].After)
	for _, c := range d.Changes[0].Report.Changes {
		require.Equal(t, flow.None, c.After.Verdict)
	}
	back, err := fleet.Compare(context.Background(), groups(t, hosts(2)), groups(t, hosts(3)), analyze.Options{})
	require.NoError(t, err)
	require.Nil(t, back.Changes[0].Before)
	require.Equal(t, []string{"n02"}, back.Changes[0].Nodes)

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	d, err = fleet.Compare(ctx, groups(t, before), groups(t, hosts(20)), analyze.Options{})
	if err == nil {
		require.True(t, d.Partial(), "an answer that was stopped says so")
	}
}
