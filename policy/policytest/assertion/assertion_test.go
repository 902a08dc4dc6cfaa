// SPDX-License-Identifier: Apache-2.0

package assertion_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/fleet"
	"github.com/hostpolicy/hostpolicy/policy/policytest/assertion"
)

const cluster = `
kind: HostEndpoint
apiVersion: projectcalico.org/v3
metadata: {name: web-1, labels: {role: web}}
spec: {node: n1, interfaceName: eth0, expectedIPs: [10.0.0.1, "fd00::1"]}
---
kind: HostEndpoint
apiVersion: projectcalico.org/v3
metadata: {name: web-2, labels: {role: web}}
spec: {node: n2, interfaceName: eth0, expectedIPs: [10.0.0.2]}
---
kind: HostEndpoint
apiVersion: projectcalico.org/v3
metadata: {name: db-1}
spec: {node: n3, interfaceName: eth0, expectedIPs: [10.0.0.3, "fd00::3"], profiles: [db], ports: [{name: sql, protocol: TCP, port: 5432}]}
---
kind: HostEndpoint
apiVersion: projectcalico.org/v3
metadata: {name: mgmt}
spec: {node: n3, interfaceName: "*", profiles: [projectcalico-default-allow]}
---
kind: HostEndpoint
apiVersion: projectcalico.org/v3
metadata: {name: silent}
spec: {node: n4, interfaceName: eth0}
---
kind: Profile
apiVersion: projectcalico.org/v3
metadata: {name: db}
spec: {labelsToApply: {role: db}}
---
kind: GlobalNetworkSet
apiVersion: projectcalico.org/v3
metadata: {name: office}
spec: {nets: [192.0.2.0/24, 198.51.100.7]}
---
kind: GlobalNetworkPolicy
apiVersion: projectcalico.org/v3
metadata: {name: db}
spec:
  selector: role == 'db'
  ingress:
  - {action: Log, protocol: TCP}
  - {action: Allow, protocol: TCP, source: {selector: role == 'web'}, destination: {ports: [sql]}}
  - {action: Deny, source: {nets: [192.0.2.128/25]}}
  - {action: Allow, protocol: ICMP, icmp: {type: 8}}
---
kind: GlobalNetworkPolicy
apiVersion: projectcalico.org/v3
metadata: {name: web}
spec:
  selector: role == 'web'
  egress:
  - {action: Allow, protocol: TCP, destination: {ports: ["5000:6000"]}}
  ingress:
  - {action: Allow, protocol: TCP, destination: {ports: [443]}}
`

func resources(t testing.TB, text string) hostendpoint.Resources {
	t.Helper()
	r, err := manifest.Parse(manifest.Source{Name: "cluster.yaml", Data: []byte(text)})
	require.NoError(t, err)
	return r
}

func tests(t testing.TB, text string) []manifest.Test {
	t.Helper()
	ts, err := manifest.ParseTests(manifest.Source{Name: "tests.yaml", Data: []byte(text)})
	require.NoError(t, err)
	return ts
}

func run(t testing.TB, text string, known ...fleet.Host) *assertion.Report {
	t.Helper()
	r := resources(t, cluster)
	s, err := assertion.New(r, fleet.Hosts(r, known, policy.Config{}))
	require.NoError(t, err)
	rep, err := s.Run(context.Background(), tests(t, text))
	require.NoError(t, err)
	return rep
}

func TestWhatHolds(t *testing.T) {
	rep := run(t, `tests:
- {name: by selector, from: {selector: role == 'web'}, to: db-1, protocol: TCP, port: sql, expect: allow, by: "policy:default/db/ingress[1]"}
- {from: {selector: role == 'web'}, to: {selector: role == 'db'}, protocol: tcp, port: [5432], expect: allow, by: "policy:default/web/egress"}
- {name: IPv6 only, from: web-1, to: {hostEndpoint: db-1}, protocol: TCP, port: 5432, ipVersion: 6, expect: allow}
- {name: one end of the range is closed to them, from: web-2, to: db-1, protocol: TCP, port: "5432:5433", expect: deny}
- {from: 203.0.113.7, to: db-1, protocol: TCP, port: 5432, expect: deny, by: "tier:default"}
- {from: {networkSet: office}, to: db-1, protocol: ICMP, expect: allow}
- {from: 192.0.2.200, to: 10.0.0.3, protocol: UDP, port: 7, expect: deny, by: "policy:default/db/ingress[2]"}
- {from: 203.0.113.7, to: {selector: role == 'web'}, protocol: TCP, port: 22, expect: allow, by: "failsafe:in/tcp/22"}
- {from: db-1, to: 203.0.113.7, protocol: TCP, port: 80, expect: deny, by: default}
- {name: answers of a known flow, from: db-1, to: web-1, protocol: TCP, port: 40000, sourcePort: 5432, state: established, expect: allow, by: "conntrack:established"}
- {node: n1, packet: "input eth1 tcp 10.9.9.9:1 > 10.0.0.1:80", expect: none, by: no-endpoint}
- {node: n3, packet: "input lo tcp 10.0.0.3:1 > 10.0.0.3:80", expect: allow, by: "profile:projectcalico-default-allow"}
`)
	var bad []string
	for i, r := range rep.Results {
		if !r.OK() && i != 3 && i != 5 {
			bad = append(bad, r.Name+": "+r.String())
		}
	}
	require.Empty(t, bad)
	// A range and a set are tried at both ends, and a test holds only if all packets fare as it says.
	require.Equal(t, "want deny\nallow by policy:default/db/ingress[1] (cluster.yaml:44): input eth0 tcp 10.0.0.2:40000 > 10.0.0.3:5432 on n3 (web-2 to db-1)", rep.Results[3].String())
	require.Equal(t, []int{1, 2}, []int{rep.Results[3].Failed, rep.Results[3].Packets})
	require.Equal(t, "want allow\ndeny by policy:default/db/ingress[2] (cluster.yaml:45): input eth0 icmp 8/0 192.0.2.255 > 10.0.0.3 on n3 (office to db-1)", rep.Results[5].String())
	require.Equal(t, 3, rep.Results[5].Packets)
	require.Equal(t, 3, rep.Results[0].Packets, "two addresses of web-1, one of web-2")
	require.Equal(t, 2, rep.Failed)
	require.Equal(t, "role == 'web' to role == 'db' tcp 5432: allow", rep.Results[1].Name)
}

func TestWhatDoesNotHold(t *testing.T) {
	for text, want := range map[string]string{
		`{from: web-1, to: db-1, protocol: TCP, port: 5432, expect: deny}`:                              "want deny\nallow by policy:default/db/ingress[1]",
		`{from: web-1, to: db-1, protocol: TCP, port: 5432, expect: none}`:                              "want none\nallow by",
		`{from: web-1, to: db-1, protocol: TCP, port: 5432, expect: allow, by: "policy:default/db/in"}`: "want allow by policy:default/db/in\nallow by",
		`{from: web-1, to: db-1, protocol: TCP, port: 5432, expect: allow, by: "tier:default"}`:         "want allow by tier:default\nallow by",
		`{from: web-1, to: db-1, protocol: TCP, port: 80, expect: deny, by: "policy:default/db"}`:       "want deny by policy:default/db\ndeny by tier:default/egress: output eth0 tcp 10.0.0.1:40000 > 10.0.0.3:80 on n1",
	} {
		rep := run(t, "tests:\n- "+text)
		require.Equal(t, 1, rep.Failed, text)
		require.Contains(t, rep.Results[0].String(), want)
	}
}

// A test that cannot be asked must never pass.
func TestWhatCannotBeAsked(t *testing.T) {
	for text, want := range map[string]string{
		`{from: web-9, to: db-1, protocol: TCP, port: 1, expect: deny}`:                          `from: "web-9": there is no host endpoint of this name, nor is it an address`,
		`{from: {selector: role == 'wbe'}, to: db-1, protocol: TCP, port: 1, expect: deny}`:      "selects no host endpoint",
		`{from: {selector: "role =="}, to: db-1, protocol: TCP, port: 1, expect: deny}`:          "from",
		`{from: {networkSet: x}, to: db-1, protocol: TCP, port: 1, expect: deny}`:                "there is no network set of this name",
		`{from: {address: 10.0.0.256}, to: db-1, protocol: TCP, port: 1, expect: deny}`:          "not an address or CIDR",
		`{from: 203.0.113.1, to: 203.0.113.2, protocol: TCP, port: 1, expect: deny}`:             "nobody would be asked",
		`{from: web-1, to: web-1, protocol: TCP, port: 1, expect: deny}`:                         "comes to no packet",
		`{from: web-2, to: "fd00::9", protocol: TCP, port: 1, expect: deny}`:                     "comes to no packet",
		`{from: web-1, to: db-1, port: 1, expect: deny}`:                                         "a protocol is required",
		`{from: web-1, to: db-1, protocol: TCP, expect: deny}`:                                   "needs a port",
		`{from: web-1, to: db-1, protocol: TCPP, port: 1, expect: deny}`:                         "must be TCP",
		`{from: web-1, to: db-1, protocol: ICMP, port: 1, expect: deny}`:                         "has no ports",
		`{from: web-1, to: db-1, protocol: UDP, port: 1, icmp: {type: 8}, expect: deny}`:         "has no types",
		`{from: db-1, to: web-1, protocol: TCP, port: sql, expect: deny}`:                        "has no tcp port of this name",
		`{from: db-1, to: 203.0.113.2, protocol: TCP, port: sql, expect: deny}`:                  "has no named ports",
		`{from: web-1, to: db-1, protocol: UDP, port: sql, expect: deny}`:                        "has no udp port of this name",
		`{from: web-1, to: silent, protocol: TCP, port: 1, expect: deny}`:                        "no address of it is known",
		`{from: web-1, to: mgmt, protocol: TCP, port: 1, expect: deny}`:                          "it governs no interface of node n3",
		`{from: web-1, to: db-1, protocol: TCP, port: 1, expect: deny, by: default/db}`:          "must be an origin such as",
		`{from: web-1, to: db-1, protocol: TCP, port: 1, expect: deny, state: known}`:            "known",
		`{from: web-1, to: db-1, protocol: ICMP, icmp: {type: 300}, ipVersion: 4, expect: deny}`: "300/0",
		`{node: n9, packet: "input eth0 tcp 1.1.1.1:1 > 10.0.0.1:1", expect: deny}`:              "no host of this name",
		`{node: n1, packet: "input eth0 tcp 1.1.1.1:1 > 10.0.0.1:1 deny", expect: deny}`:         "the verdict belongs into expect",
		`{node: n1, packet: "input", expect: deny}`:                                              "not a packet line",
	} {
		rep := run(t, "tests:\n- "+text)
		r := &rep.Results[0]
		require.Error(t, r.Err, text)
		require.Contains(t, r.String(), want, text)
		require.Equal(t, 1, rep.Failed)
		var fe *field.Error
		require.True(t, errors.As(r.Err, &fe), text)
		require.Equal(t, 2, fe.Pos.Line)
	}
}

func TestCoverage(t *testing.T) {
	rep := run(t, `tests:
- {from: web-1, to: db-1, protocol: TCP, port: 5432, expect: allow}
- {from: 203.0.113.1, to: web-1, protocol: TCP, port: 443, expect: allow}
`)
	got := map[string]int{}
	for _, r := range rep.Rules {
		got[r.Origin.String()] = r.Packets
	}
	require.Equal(t, map[string]int{
		"policy:default/db/ingress[0]": 2, "policy:default/db/ingress[1]": 2, "policy:default/db/ingress[2]": 0, "policy:default/db/ingress[3]": 0,
		"policy:default/web/egress[0]": 2, "policy:default/web/ingress[0]": 1,
		"profile:projectcalico-default-allow/ingress[0]": 0, "profile:projectcalico-default-allow/egress[0]": 0,
	}, got)
	require.Equal(t, 4, rep.Covered())
	require.Equal(t, "cluster.yaml:43", rep.Rules[2].Origin.Pos.String())
	require.Equal(t, 3, rep.Packets)
}

func TestJUnit(t *testing.T) {
	rep := run(t, `tests:
- {name: "holds <&>", from: web-1, to: db-1, protocol: TCP, port: 5432, expect: allow}
- {name: "does\x01not", from: web-1, to: db-1, protocol: TCP, port: 5432, expect: deny, ipVersion: 4}
- {name: cannot, from: nobody, to: db-1, protocol: TCP, port: 5432, expect: deny}
`)
	var b bytes.Buffer
	require.NoError(t, rep.WriteJUnit(&b))
	require.Equal(t, `<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="3" failures="1" errors="1">
  <testsuite name="tests.yaml" tests="3" failures="1" errors="1">
    <testcase name="holds &lt;&amp;&gt;" classname="tests.yaml" file="tests.yaml" line="2"></testcase>
    <testcase name="does�not" classname="tests.yaml" file="tests.yaml" line="3">
      <failure message="want deny">want deny&#xA;allow by policy:default/db/ingress[1] (cluster.yaml:44): input eth0 tcp 10.0.0.1:40000 &gt; 10.0.0.3:5432 on n3 (web-1 to db-1)</failure>
    </testcase>
    <testcase name="cannot" classname="tests.yaml" file="tests.yaml" line="4">
      <error message="from: &#34;nobody&#34;: there is no host endpoint of this name, nor is it an address">from: &#34;nobody&#34;: there is no host endpoint of this name, nor is it an address</error>
    </testcase>
  </testsuite>
</testsuites>
`, b.String())
}

func TestRunStopsWithItsContext(t *testing.T) {
	r := resources(t, cluster)
	s, err := assertion.New(r, fleet.Hosts(r, nil, policy.Config{}))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = s.Run(ctx, tests(t, "tests: [{from: web-1, to: db-1, protocol: TCP, port: 5432, expect: allow}]"))
	require.ErrorIs(t, err, context.Canceled)
}

// recorder stands in for a *testing.T whose tests fail.
type recorder struct {
	names, errs []string
}

func (r *recorder) Helper() {}
func (r *recorder) Errorf(format string, args ...any) {
	r.errs = append(r.errs, fmt.Sprintf(format, args...))
}
func (r *recorder) Context() context.Context { return context.Background() }
func (r *recorder) Run(name string, f func(*recorder)) bool {
	r.names = append(r.names, name)
	f(r)
	return true
}

func TestCheck(t *testing.T) {
	ts := tests(t, `tests:
- {name: holds, from: web-1, to: db-1, protocol: TCP, port: 5432, expect: allow}
- {name: does not, from: web-1, to: db-1, protocol: TCP, port: 5433, expect: allow}
`)
	assertion.Check(t, resources(t, cluster), nil, ts[0])
	var rec recorder
	assertion.Check(&rec, resources(t, cluster), nil, ts...)
	require.Equal(t, []string{"holds", "does not"}, rec.names)
	require.Len(t, rec.errs, 1)
	require.Contains(t, rec.errs[0], "tests.yaml:3: want allow\ndeny by tier:default/ingress")
	rec = recorder{}
	assertion.Check(&rec, resources(t, cluster), []fleet.Host{{}}, ts...)
	require.Contains(t, rec.errs[0], "node")
}

// large is a cluster of n hosts in ten roles, and m tests between the roles.
func large(n, m int) (cluster, tests string) {
	var c, ts strings.Builder
	for i := range n {
		fmt.Fprintf(&c, "kind: HostEndpoint\napiVersion: projectcalico.org/v3\nmetadata: {name: ep-%d, labels: {role: r%d}}\nspec: {node: n%d, interfaceName: eth0, expectedIPs: [10.0.%d.%d]}\n---\n", i, i%10, i, i/250, i%250+1)
	}
	for i := range 100 {
		fmt.Fprintf(&c, "kind: GlobalNetworkPolicy\napiVersion: projectcalico.org/v3\nmetadata: {name: p%d}\nspec: {selector: role == 'r%d', types: [Ingress, Egress], ingress: [{action: Allow, protocol: TCP, source: {selector: role == 'r%d'}, destination: {ports: [%d]}}], egress: [{action: Allow}]}\n---\n", i, i%10, (i+1)%10, 1000+i)
	}
	ts.WriteString("tests:\n")
	for i := range m {
		fmt.Fprintf(&ts, "- {from: {selector: role == 'r%d'}, to: {selector: role == 'r%d'}, protocol: TCP, port: %d, expect: allow}\n", (i+1)%10, i%10, 1000+i%100)
	}
	return c.String(), ts.String()
}

// BenchmarkRun is everything from text to report.
func BenchmarkRun(b *testing.B) {
	c, ts := large(50, 200)
	b.Run("hosts=50/tests=200", func(b *testing.B) {
		for b.Loop() {
			r := resources(b, c)
			s, err := assertion.New(r, fleet.Hosts(r, nil, policy.Config{}))
			require.NoError(b, err)
			rep, err := s.Run(context.Background(), tests(b, ts))
			require.NoError(b, err)
			require.Zero(b, rep.Failed)
			require.Equal(b, 200*25, rep.Packets)
		}
	})
}

func Example() {
	r, err := manifest.Parse(manifest.Source{Name: "cluster.yaml", Data: []byte(cluster)})
	if err != nil {
		fmt.Println(err)
		return
	}
	ts, err := manifest.ParseTests(manifest.Source{Name: "tests.yaml", Data: []byte(`tests:
- name: the web servers reach the database
  from: {selector: role == 'web'}
  to: db-1
  protocol: TCP
  port: sql
  expect: allow
`)})
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err := assertion.New(r, fleet.Hosts(r, nil, policy.Config{}))
	if err != nil {
		fmt.Println(err)
		return
	}
	rep, err := s.Run(context.Background(), ts)
	if err != nil {
		fmt.Println(err)
		return
	}
	for i := range rep.Results {
		fmt.Println(rep.Results[i].OK(), rep.Results[i].Name)
	}
	fmt.Println(rep.Covered(), "of", len(rep.Rules), "rules")
	// Output:
	// true the web servers reach the database
	// 3 of 8 rules
}
