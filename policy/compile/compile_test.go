// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

func TestEverythingCompiledIsValidAndCanonical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, m, err := compile.Compile(snapshotOf(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := ir.Validate(p, m); err != nil {
			t.Fatalf("%v\n%s", err, p)
		}
		q, n, err := ir.Parse(p.String() + m.String())
		if err != nil {
			t.Fatalf("%v\n%s", err, p)
		}
		if q.String() != p.String() || n.String() != m.String() || ir.Canonical(p).String() != p.String() || len(q.Origins) != len(p.Origins) {
			t.Fatalf("not canonical:\n%s", p)
		}
	})
}

func TestCompileIsDeterministic(t *testing.T) {
	for name, s := range goldens() {
		t.Run(name, func(t *testing.T) {
			want := text(mustCompile(t, s))
			for range 50 {
				require.Equal(t, want, text(mustCompile(t, s)))
			}
			shuffled := *s
			shuffled.Endpoints = slices.Clone(s.Endpoints)
			shuffled.Sets = slices.Clone(s.Sets)
			slices.Reverse(shuffled.Endpoints)
			slices.Reverse(shuffled.Sets)
			require.Equal(t, want, text(mustCompile(t, &shuffled)))
		})
	}
}

// What does not change keeps its name and content, so that backends need not touch it.
func TestOtherEndpointsLeaveBlocksAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := snapshotOf(t)
		before, _ := mustCompile(t, s)
		more := *s
		more.Endpoints = append(slices.Clone(s.Endpoints), &policy.Endpoint{
			Name: "more", Interfaces: []string{"eth7"}, Normal: []policy.TierPolicies{inOut(denyTier, both("more", "p", allowTCP(7)))},
		})
		after, _ := mustCompile(t, &more)
		for _, c := range ir.Diff(before, after) {
			if c.Kind == ir.ObjectBlock && c.Op() != ir.Added && !strings.HasPrefix(c.Name, "hook/") {
				t.Fatalf("changed: %s", ir.Changes{c})
			}
		}
	})
}

func TestPolicyOfTwoEndpointsIsOneBlock(t *testing.T) {
	p := both("default", "p", allowTCP(80))
	shared := []policy.TierPolicies{inOut(denyTier, p)}
	prog, _ := mustCompile(t, snapshot(
		&policy.Endpoint{Name: "a", Interfaces: []string{"eth0"}, Normal: shared},
		&policy.Endpoint{Name: "b", Interfaces: []string{"eth1"}, Normal: shared},
		&policy.Endpoint{Name: "c", Interfaces: []string{"eth2"}, Normal: []policy.TierPolicies{inOut(denyTier, p, both("default", "q", denyAll))}},
	))
	count := func(prefix string) (n int) {
		for _, b := range prog.Blocks {
			if strings.HasPrefix(string(b.ID), prefix) {
				n++
			}
		}
		return n
	}
	require.Equal(t, 1, count("policy/default/p/normal-in"))
	require.Equal(t, 2, count("tier/default/normal-in/"), "one for a and b, one for c")
}

func TestNamesCannotBeMistakenForEachOther(t *testing.T) {
	a := &policy.Endpoint{Name: "x/normal-in", Interfaces: []string{"eth0"}}
	b := &policy.Endpoint{Name: "x%2fnormal-in", Interfaces: []string{"eth1"}}
	p, _, err := compile.Compile(snapshot(a, b))
	require.NoError(t, err)
	_, ok := p.Block("endpoint/x%2fnormal-in/normal-in")
	require.True(t, ok)
	_, ok = p.Block("endpoint/x%252fnormal-in/normal-in")
	require.True(t, ok)
}

func TestSetsHoldWhatTheDataplaneCanHold(t *testing.T) {
	s := snapshot(&policy.Endpoint{Name: "a", Interfaces: []string{"eth0"}, Normal: []policy.TierPolicies{in(denyTier,
		both("default", "p", policy.Rule{Action: hostendpoint.Allow, Source: policy.Side{Sets: []string{"s:1"}, NamedPorts: []string{"n:1"}}}))}})
	s.Sets = []*policy.Set{
		{ID: "s:2", Members: []policy.Member{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}},
		{ID: "s:1", Selector: "a", Members: []policy.Member{
			{Prefix: netip.MustParsePrefix("fd00::/8")}, {Prefix: netip.MustParsePrefix("10.9.8.7/8")},
			{Prefix: netip.MustParsePrefix("::ffff:10.0.0.0/104")}, {Prefix: netip.MustParsePrefix("0.0.0.0/0")}}},
		{ID: "n:1", Selector: "b", Ports: true, Members: []policy.Member{
			{Prefix: netip.MustParsePrefix("10.0.0.1/32"), Protocol: inet.UDP, Port: 80},
			{Prefix: netip.MustParsePrefix("10.0.0.1/32"), Protocol: inet.TCP, Port: 80}}},
	}
	p, m := mustCompile(t, s)
	require.Equal(t, []ir.SetDecl{{ID: "n:1", Kind: ir.SetOfEndpoints, Note: "b"}, {ID: "s:1", Kind: ir.SetOfPrefixes, Note: "a"}}, p.Sets)
	require.Equal(t, "members n:1\n  10.0.0.1 tcp 80\n  10.0.0.1 udp 80\nmembers s:1\n  0.0.0.0/0\n  10.0.0.0/8\n  fd00::/8\n", m.String())
}

func TestSnapshotsThatResolveDoesNotMake(t *testing.T) {
	withRule := func(r policy.Rule) *policy.Snapshot {
		s := snapshot(&policy.Endpoint{Name: "a", Interfaces: []string{"eth0"}, Normal: []policy.TierPolicies{in(denyTier, both("default", "p", allowAll, r))}})
		s.Sets = []*policy.Set{{ID: "s:1"}, {ID: "n:1", Ports: true}}
		return s
	}
	side := func(s policy.Side) *policy.Snapshot {
		return withRule(policy.Rule{Action: hostendpoint.Allow, Source: s})
	}
	endpoint := func(change func(*policy.Endpoint)) *policy.Snapshot {
		ep := &policy.Endpoint{Name: "a", Interfaces: []string{"eth0"}}
		change(ep)
		return snapshot(ep)
	}
	member := func(set policy.Set) *policy.Snapshot {
		s := side(policy.Side{Sets: []string{"s:1"}, NamedPorts: []string{"n:1"}})
		s.Sets = append(slices.DeleteFunc(s.Sets, func(o *policy.Set) bool { return o.ID == set.ID }), &set)
		return s
	}
	tests := map[string]struct {
		s    *policy.Snapshot
		want string
	}{
		"no snapshot":               {nil, "is nil"},
		"an unknown action":         {withRule(policy.Rule{Action: "allow"}), `web.yaml:11: GlobalNetworkPolicy(default/p): spec.ingress[1]: unknown action "allow"`},
		"no action":                 {withRule(policy.Rule{}), `unknown action ""`},
		"an unknown family":         {withRule(policy.Rule{Action: hostendpoint.Allow, Family: 5}), "unknown family 5"},
		"a set that is missing":     {side(policy.Side{Sets: []string{"s:2"}}), `names the set "s:2"`},
		"ports of a set of nets":    {side(policy.Side{NamedPorts: []string{"s:1"}}), `names the set "s:1"`},
		"nets of a set of ports":    {side(policy.Side{NotSets: []string{"n:1"}}), `names the set "n:1"`},
		"an invalid prefix":         {side(policy.Side{NotNets: []netip.Prefix{{}}}), "holds an invalid prefix"},
		"an invalid member":         {member(policy.Set{ID: "s:1", Members: []policy.Member{{}}}), "has the invalid member"},
		"a port of a net":           {member(policy.Set{ID: "n:1", Ports: true, Members: []policy.Member{{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Protocol: inet.TCP}}}), "is not an address with protocol and port"},
		"a nil endpoint":            {&policy.Snapshot{Endpoints: []*policy.Endpoint{nil}}, "holds a nil endpoint"},
		"a nil profile":             {endpoint(func(ep *policy.Endpoint) { ep.Profiles = []*policy.Profile{nil} }), "holds a nil profile"},
		"a nil tier":                {endpoint(func(ep *policy.Endpoint) { ep.Normal = []policy.TierPolicies{in(nil, both("t", "p"))} }), "has a nil tier"},
		"a nil policy":              {endpoint(func(ep *policy.Endpoint) { ep.Forward = []policy.TierPolicies{in(denyTier, nil)} }), "has a nil policy in tier default"},
		"an interface with no name": {endpoint(func(ep *policy.Endpoint) { ep.Interfaces = []string{""} }), `cannot govern the interface ""`},
		"an interface too long":     {endpoint(func(ep *policy.Endpoint) { ep.Interfaces = []string{"abcdefghijklmnop"} }), `cannot govern the interface "abcdefghijklmnop"`},
		"an interface twice": {snapshot(&policy.Endpoint{Name: "a", Interfaces: []string{"eth0"}}, &policy.Endpoint{Name: "b", Interfaces: []string{"eth0"}}),
			`HostEndpoint(b): cannot govern the interface "eth0" (taken by "a")`},
		"two endpoints of one name": {snapshot(&policy.Endpoint{Name: "a", Interfaces: []string{"eth0"}, Forward: []policy.TierPolicies{in(denyTier, both("t", "p", allowAll))}}, &policy.Endpoint{Name: "a", Interfaces: []string{"eth1"}}),
			"endpoint/a/forward-in: two different objects have this name"},
		"two policies of one name": {snapshot(&policy.Endpoint{Name: "a", Interfaces: []string{"eth0"}, Normal: []policy.TierPolicies{in(denyTier, both("t", "p", allowAll), both("t", "p", denyAll))}}),
			"policy/t/p/normal-in: two different objects have this name"},
		"a failsafe with a bad net": {&policy.Snapshot{Wildcard: &policy.Endpoint{Name: "w"}, Config: policy.Config{Failsafes: policy.Failsafes{Inbound: []policy.FailsafePort{
			{Protocol: inet.TCP, Port: 1, Net: netip.PrefixFrom(netip.MustParseAddr("10.0.0.1"), 40)}}}}}, "tcp/1 has an invalid net"},
		"an empty workload prefix": {&policy.Snapshot{Config: policy.Config{WorkloadInterfacePrefixes: []string{""}}}, "is not the beginning of an interface name"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, m, err := compile.Compile(tt.s)
			require.ErrorContains(t, err, tt.want)
			require.Nil(t, p)
			require.Empty(t, m.Sets)
			var list *field.Errors
			require.True(t, errors.As(err, &list))
		})
	}
}

func TestAllErrorsAreReported(t *testing.T) {
	bad := policy.Rule{Action: "nothing"}
	_, _, err := compile.Compile(snapshot(&policy.Endpoint{Name: "a", Interfaces: []string{"eth0"}, Normal: []policy.TierPolicies{inOut(denyTier, both("default", "p", bad, allowAll, bad))}}))
	var list *field.Errors
	require.True(t, errors.As(err, &list))
	require.Len(t, list.List(), 4)
}

// Names that validation refuses can be found stored, where nobody else looks at them: the rest of the host needs a program.
func TestNamesThatValidationRefusesHaveAProgram(t *testing.T) {
	h := &hostendpoint.HostEndpoint{Metadata: hostendpoint.ObjectMeta{Name: "a/b@c%"}}
	h.Spec = hostendpoint.HostEndpointSpec{Node: "n", InterfaceName: "eth0", Profiles: []string{"p q", ""}}
	p := &hostendpoint.Profile{Metadata: hostendpoint.ObjectMeta{Name: "p q"}}
	p.Spec.Ingress = []hostendpoint.Rule{{Action: hostendpoint.Allow}}
	s, err := policy.Resolve(hostendpoint.Resources{HostEndpoints: []*hostendpoint.HostEndpoint{h}, Profiles: []*hostendpoint.Profile{p}},
		hostendpoint.Host{Node: "n", Interfaces: []hostendpoint.Interface{{Name: "eth0"}}}, policy.Config{})
	require.NoError(t, err)
	prog, members, err := compile.Compile(s)
	require.NoError(t, err)
	require.NoError(t, ir.Validate(prog, members))
	require.Contains(t, prog.String(), "by profile-missing:%")
	again, _, err := ir.Parse(prog.String())
	require.NoError(t, err)
	require.Equal(t, prog.String(), again.String())
}
