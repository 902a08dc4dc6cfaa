// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
)

func ptr[T any](v T) *T { return &v }

func hep(name, iface string, labels map[string]string, ips ...string) *hostendpoint.HostEndpoint {
	return &hostendpoint.HostEndpoint{
		Metadata: hostendpoint.ObjectMeta{Name: name, Labels: labels},
		Spec:     hostendpoint.HostEndpointSpec{Node: "host-a", InterfaceName: iface, ExpectedIPs: ips},
	}
}

func gnp(name string, change func(*hostendpoint.GlobalNetworkPolicySpec)) *hostendpoint.GlobalNetworkPolicy {
	p := &hostendpoint.GlobalNetworkPolicy{Metadata: hostendpoint.ObjectMeta{Name: name}}
	if change != nil {
		change(&p.Spec)
	}
	return p
}

func host(ifaces ...string) hostendpoint.Host {
	h := hostendpoint.Host{Node: "host-a"}
	for _, i := range ifaces {
		name, addrs, _ := strings.Cut(i, "=")
		x := hostendpoint.Interface{Name: name}
		for a := range strings.SplitSeq(addrs, ",") {
			if a != "" {
				x.Addresses = append(x.Addresses, netip.MustParsePrefix(a))
			}
		}
		h.Interfaces = append(h.Interfaces, x)
	}
	return h
}

func resolve(t *testing.T, r hostendpoint.Resources, h hostendpoint.Host) *policy.Snapshot {
	t.Helper()
	s, err := policy.Resolve(r, h, policy.Config{})
	require.NoError(t, err)
	return s
}

// stage writes the tiers of a list as "tier[in: a,b; out: c]".
func stage(list []policy.TierPolicies) string {
	names := func(ps []*policy.Policy) string {
		var out []string
		for _, p := range ps {
			out = append(out, p.Name)
		}
		return strings.Join(out, ",")
	}
	var out []string
	for _, t := range list {
		out = append(out, fmt.Sprintf("%s[in: %s; out: %s]", t.Tier.Name, names(t.Ingress), names(t.Egress)))
	}
	return strings.Join(out, " ")
}

// The ordering vector that was observed in Calico 3.29.7, but for the tier zz: a tier without order is read with the
// default order here, as through the API, and so sorts by its name.
func TestPoliciesAreOrderedAndSplitIntoStagesAsInCalico(t *testing.T) {
	both := []hostendpoint.PolicyType{hostendpoint.PolicyTypeIngress, hostendpoint.PolicyTypeEgress}
	r := hostendpoint.Resources{
		HostEndpoints: []*hostendpoint.HostEndpoint{hep("h", "eth0", nil)},
		Tiers: []*hostendpoint.Tier{
			{Metadata: hostendpoint.ObjectMeta{Name: "aa"}, Spec: hostendpoint.TierSpec{Order: ptr(1.0)}},
			{Metadata: hostendpoint.ObjectMeta{Name: "zz"}},
		},
		GlobalNetworkPolicies: []*hostendpoint.GlobalNetworkPolicy{
			gnp("ghost.p", func(s *hostendpoint.GlobalNetworkPolicySpec) { s.Tier = "ghost" }),
			gnp("zz.p", func(s *hostendpoint.GlobalNetworkPolicySpec) { s.Tier = "zz" }),
			gnp("b", func(s *hostendpoint.GlobalNetworkPolicySpec) { s.Types = both }),
			gnp("default.a", func(s *hostendpoint.GlobalNetworkPolicySpec) { s.Types = both }),
			gnp("p", func(s *hostendpoint.GlobalNetworkPolicySpec) { s.Order = ptr(1.0) }),
			gnp("aa.p", func(s *hostendpoint.GlobalNetworkPolicySpec) {
				s.Tier, s.ApplyOnForward, s.Types = "aa", true, both[1:]
			}),
			gnp("aa.dnt", func(s *hostendpoint.GlobalNetworkPolicySpec) {
				s.Tier, s.DoNotTrack, s.ApplyOnForward, s.Types = "aa", true, true, both
			}),
			gnp("aa.pre", func(s *hostendpoint.GlobalNetworkPolicySpec) {
				s.Tier, s.PreDNAT, s.ApplyOnForward = "aa", true, true
			}),
		},
	}
	s := resolve(t, r, host("eth0"))
	require.Len(t, s.Endpoints, 1)
	ep := s.Endpoints[0]
	require.Equal(t, "aa[in: ; out: p] default[in: p,a,b; out: a,b] zz[in: p; out: ] ghost[in: p; out: ]", stage(ep.Normal))
	require.Equal(t, "aa[in: dnt; out: dnt]", stage(ep.Untracked))
	require.Equal(t, "aa[in: pre; out: ]", stage(ep.PreDNAT))
	require.Equal(t, "aa[in: ; out: p]", stage(ep.Forward))
	require.False(t, ep.Normal[3].Tier.Pass, "an unknown tier denies at its end")
}

func TestInterfacesGoToTheEndpointWhoseNameIsFirst(t *testing.T) {
	for _, tt := range []struct {
		name  string
		heps  []*hostendpoint.HostEndpoint
		ifs   []string
		want  string // endpoint=interfaces, wildcard=*
		codes string
	}{
		{"by name", []*hostendpoint.HostEndpoint{hep("b", "eth0", nil)}, []string{"eth0", "eth1"}, "b=eth0", ""},
		{"an address does not rank below a name", []*hostendpoint.HostEndpoint{hep("b", "eth0", nil), hep("a", "", nil, "10.9.0.1")}, []string{"eth0=10.9.0.1/24"}, "a=eth0", "shadowed-endpoint"},
		{"with a name addresses do not count", []*hostendpoint.HostEndpoint{hep("a", "eth1", nil, "10.9.0.1")}, []string{"eth0=10.9.0.1/24"}, "", "unmatched-endpoint"},
		{"one endpoint on two interfaces", []*hostendpoint.HostEndpoint{hep("a", "", nil, "10.9.0.1", "10.8.0.1")}, []string{"eth1=10.8.0.1/24", "eth0=10.9.0.1/24"}, "a=eth0,eth1", ""},
		{"by an IPv6 address in another spelling", []*hostendpoint.HostEndpoint{hep("a", "", nil, "FD00:9:0::1")}, []string{"eth0=fd00:9::1/64"}, "a=eth0", ""},
		{"by an IPv4-mapped address", []*hostendpoint.HostEndpoint{hep("a", "", nil, "::ffff:10.9.0.1")}, []string{"eth0=10.9.0.1/24"}, "a=eth0", ""},
		{"workload interfaces have no endpoint", []*hostendpoint.HostEndpoint{hep("a", "cali1", nil)}, []string{"cali1"}, "", "unmatched-endpoint"},
		{"all interfaces, by name", []*hostendpoint.HostEndpoint{hep("w2", "*", nil), hep("w1", "*", nil), hep("x", "eth0", nil)}, []string{"eth0"}, "x=eth0 w1=*", "shadowed-endpoint,loopback-policed"},
		{"loopback by name", []*hostendpoint.HostEndpoint{hep("a", "lo", nil)}, nil, "a=lo", ""},
		{"other nodes", []*hostendpoint.HostEndpoint{{Metadata: hostendpoint.ObjectMeta{Name: "a"}, Spec: hostendpoint.HostEndpointSpec{Node: "host-b", InterfaceName: "eth0"}}}, []string{"eth0"}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := resolve(t, hostendpoint.Resources{HostEndpoints: tt.heps}, host(tt.ifs...))
			var got []string
			for _, ep := range s.Endpoints {
				got = append(got, ep.Name+"="+strings.Join(ep.Interfaces, ","))
			}
			if s.Wildcard != nil {
				got = append(got, s.Wildcard.Name+"=*")
			}
			require.Equal(t, tt.want, strings.Join(got, " "))
			var codes []string
			for _, p := range s.Problems {
				if !slices.Contains(codes, p.Code) {
					codes = append(codes, p.Code)
				}
			}
			want := strings.Split(tt.codes, ",")
			slices.Sort(codes)
			slices.Sort(want)
			require.Equal(t, strings.Join(want, ","), strings.Join(codes, ","))
		})
	}
}

func TestRuleThatCannotBeUnderstoodDenies(t *testing.T) {
	for name, bad := range map[string]hostendpoint.Rule{
		"action":       {Action: "allow"},
		"no action":    {},
		"net":          {Action: hostendpoint.Allow, Source: hostendpoint.EntityRule{Nets: []string{"10.0.0.0/33"}}},
		"empty net":    {Action: hostendpoint.Allow, Source: hostendpoint.EntityRule{NotNets: []string{""}}},
		"selector":     {Action: hostendpoint.Allow, Destination: hostendpoint.EntityRule{Selector: "a ="}},
		"protocol":     {Action: hostendpoint.Allow, Protocol: &hostendpoint.Protocol{Name: "GRE"}},
		"ip version":   {Action: hostendpoint.Allow, IPVersion: ptr(5)},
		"icmp code":    {Action: hostendpoint.Allow, ICMP: &hostendpoint.ICMPFields{Code: ptr(1)}},
		"port 0":       {Action: hostendpoint.Allow, Protocol: &hostendpoint.Protocol{Name: "TCP"}, Destination: hostendpoint.EntityRule{Ports: []hostendpoint.Port{{}}}},
		"ports of any": {Action: hostendpoint.Allow, Destination: hostendpoint.EntityRule{Ports: []hostendpoint.Port{{Min: 1, Max: 2}}}},
	} {
		t.Run(name, func(t *testing.T) {
			good := hostendpoint.Rule{Action: hostendpoint.Allow, Source: hostendpoint.EntityRule{Nets: []string{"10.0.0.0/8"}}}
			s := resolve(t, hostendpoint.Resources{
				HostEndpoints: []*hostendpoint.HostEndpoint{hep("h", "eth0", nil)},
				GlobalNetworkPolicies: []*hostendpoint.GlobalNetworkPolicy{
					gnp("p", func(s *hostendpoint.GlobalNetworkPolicySpec) { s.Ingress = []hostendpoint.Rule{good, bad} }),
				},
			}, host("eth0"))
			rules := s.Endpoints[0].Normal[0].Ingress[0].Ingress
			require.Equal(t, hostendpoint.Allow, rules[0].Action)
			require.Empty(t, cmp.Diff(policy.Rule{Action: hostendpoint.Deny, Index: 1}, rules[1]))
			require.True(t, slices.ContainsFunc(s.Problems, func(p policy.Problem) bool {
				return p.Code == "bad-rule" && p.Path == "spec.ingress[1]" && p.Severity == policy.Error
			}), "%v", s.Problems)
		})
	}
}

func TestPolicyWhoseSelectorCannotBeUnderstoodSelectsNothing(t *testing.T) {
	s := resolve(t, hostendpoint.Resources{
		HostEndpoints: []*hostendpoint.HostEndpoint{hep("h", "eth0", nil)},
		GlobalNetworkPolicies: []*hostendpoint.GlobalNetworkPolicy{
			gnp("bad", func(s *hostendpoint.GlobalNetworkPolicySpec) { s.Selector = "a ==" }), gnp("good", nil),
		},
	}, host("eth0"))
	require.Equal(t, "default[in: good; out: ]", stage(s.Endpoints[0].Normal))
	require.True(t, slices.ContainsFunc(s.Problems, func(p policy.Problem) bool { return p.Code == "bad-selector" }))
}

// What validation refuses can be found stored all the same, and must not open a host further than it says.
func TestStoredPoliciesThatValidationRefuses(t *testing.T) {
	tcp := &hostendpoint.Protocol{Name: "TCP"}
	dest := func(e hostendpoint.EntityRule) hostendpoint.Rule {
		return hostendpoint.Rule{Action: hostendpoint.Allow, Protocol: tcp, Destination: e}
	}
	http := &hostendpoint.HTTPMatch{Methods: []string{"GET"}}
	svc := &hostendpoint.ServiceMatch{Name: "s", Namespace: "n"}
	s := resolve(t, hostendpoint.Resources{
		HostEndpoints: []*hostendpoint.HostEndpoint{hep("h", "eth0", nil)},
		GlobalNetworkPolicies: []*hostendpoint.GlobalNetworkPolicy{
			gnp("case", func(s *hostendpoint.GlobalNetworkPolicySpec) {
				s.Types = []hostendpoint.PolicyType{"ingress", "EGRESS"}
				s.Ingress = []hostendpoint.Rule{
					{Action: hostendpoint.Deny, Protocol: tcp, HTTP: http}, {Action: hostendpoint.Allow, Protocol: tcp, HTTP: http},
				}
				s.Egress = []hostendpoint.Rule{
					dest(hostendpoint.EntityRule{Services: svc, Ports: []hostendpoint.Port{{Min: 80, Max: 80}}}),
					dest(hostendpoint.EntityRule{Services: svc, Ports: []hostendpoint.Port{{Name: "web"}}}),
					dest(hostendpoint.EntityRule{Services: svc, NotPorts: []hostendpoint.Port{{Min: 80, Max: 80}}}),
				}
			}),
			gnp("forward", func(s *hostendpoint.GlobalNetworkPolicySpec) {
				s.Types, s.ApplyOnForward = []hostendpoint.PolicyType{"Sideways"}, true
			}),
			gnp("pre", func(s *hostendpoint.GlobalNetworkPolicySpec) {
				s.Types, s.ApplyOnForward, s.PreDNAT = []hostendpoint.PolicyType{"Egress"}, true, true
			}),
		},
	}, host("eth0"))
	ep := s.Endpoints[0]
	require.Equal(t, "default[in: case; out: case]", stage(ep.Normal), "the case of types does not matter")
	require.Empty(t, stage(ep.Forward), "a policy that governs nothing takes no default from the other direction")
	require.Empty(t, stage(ep.PreDNAT), "nor an interface from the all-interfaces endpoint")
	p := ep.Normal[0].Ingress[0]
	require.Empty(t, p.Ingress[0].Never, "a deny with HTTP criteria denies what it can see")
	require.NotEmpty(t, p.Ingress[1].Never)
	for i, r := range p.Egress[:2] {
		require.NotEmpty(t, r.Never, "rule %d: the port alone is not enough", i)
	}
	require.Empty(t, p.Egress[2].Never, "an excluded port beside a service is an ordinary criterion")
}

// A document says by its rules what it governs; what a datastore has without types governs both directions, as in Calico.
func TestPoliciesWithoutTypes(t *testing.T) {
	stored := gnp("stored", func(s *hostendpoint.GlobalNetworkPolicySpec) {
		s.Ingress = []hostendpoint.Rule{{Action: hostendpoint.Allow}}
	})
	stored.Metadata.ResourceVersion = "7"
	named := gnp("typed", func(s *hostendpoint.GlobalNetworkPolicySpec) {
		s.Types = []hostendpoint.PolicyType{hostendpoint.PolicyTypeIngress}
	})
	named.Metadata.ResourceVersion = "8"
	s := resolve(t, hostendpoint.Resources{
		HostEndpoints: []*hostendpoint.HostEndpoint{hep("h", "eth0", nil)},
		GlobalNetworkPolicies: []*hostendpoint.GlobalNetworkPolicy{
			stored, named, gnp("written", func(s *hostendpoint.GlobalNetworkPolicySpec) {
				s.Ingress = []hostendpoint.Rule{{Action: hostendpoint.Allow}}
			}),
		},
	}, host("eth0"))
	require.Equal(t, "default[in: stored,typed,written; out: stored]", stage(s.Endpoints[0].Normal))
	require.True(t, slices.ContainsFunc(s.Problems, func(p policy.Problem) bool {
		return p.Code == "no-types" && p.Object == "GlobalNetworkPolicy(stored)"
	}), "%v", s.Problems)
	require.Len(t, s.Problems, 1)
}

func TestHostAndConfigThatMakeNoSenseAreErrors(t *testing.T) {
	h := host("eth0", "eth0", "a/b")
	h.Node = ""
	s, err := policy.Resolve(hostendpoint.Resources{}, h, policy.Config{
		AllowAction: 9, DenyAction: 9, WorkloadInterfacePrefixes: []string{""},
		Failsafes: policy.Failsafes{Inbound: []policy.FailsafePort{{Protocol: inet.SCTP, Port: 1}}, NeighborDiscovery: 9},
	})
	require.Nil(t, s)
	var all *field.Errors
	require.ErrorAs(t, err, &all)
	require.Len(t, all.List(), 8)
	require.ErrorIs(t, err, field.ErrRequired)
	require.ErrorIs(t, err, field.ErrDuplicate)
}

func TestEmptyAndNilInputsAreFine(t *testing.T) {
	s := resolve(t, hostendpoint.Resources{HostEndpoints: []*hostendpoint.HostEndpoint{nil}, Tiers: []*hostendpoint.Tier{nil}}, host())
	require.Empty(t, s.Endpoints)
	require.Nil(t, s.Wildcard)
	require.Empty(t, s.Problems)
}

// The order in which resources come has no meaning, and Go's map order must not show.
func TestResolveIsDeterministic(t *testing.T) {
	r := hostendpoint.Resources{Profiles: []*hostendpoint.Profile{{Metadata: hostendpoint.ObjectMeta{Name: "p"}, Spec: hostendpoint.ProfileSpec{LabelsToApply: map[string]string{"a": "1", "b": "2", "c": "3"}}}}}
	for i := range 20 {
		h := hep(fmt.Sprintf("h%02d", i), fmt.Sprintf("eth%d", i%7), map[string]string{"n": fmt.Sprint(i % 3)}, fmt.Sprintf("10.0.0.%d", i))
		h.Spec.Profiles = []string{"p", "missing"}
		h.Spec.Ports = []hostendpoint.EndpointPort{{Name: "web", Protocol: hostendpoint.Protocol{Name: "TCP"}, Port: 80}}
		r.HostEndpoints = append(r.HostEndpoints, h)
		r.GlobalNetworkPolicies = append(r.GlobalNetworkPolicies, gnp(fmt.Sprintf("p%02d", i), func(s *hostendpoint.GlobalNetworkPolicySpec) {
			s.Selector = fmt.Sprintf("n == '%d'", i%4)
			s.Ingress = []hostendpoint.Rule{{Action: hostendpoint.Allow, Protocol: &hostendpoint.Protocol{Name: "TCP"}, Source: hostendpoint.EntityRule{Selector: "has(a)"}, Destination: hostendpoint.EntityRule{Ports: []hostendpoint.Port{{Name: "web"}}}}}
		}))
	}
	h := host("eth0", "eth1", "eth2", "eth3", "eth4", "eth5", "eth6")
	var first string
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 30 {
		rnd.Shuffle(len(r.HostEndpoints), func(i, j int) { r.HostEndpoints[i], r.HostEndpoints[j] = r.HostEndpoints[j], r.HostEndpoints[i] })
		rnd.Shuffle(len(r.GlobalNetworkPolicies), func(i, j int) {
			r.GlobalNetworkPolicies[i], r.GlobalNetworkPolicies[j] = r.GlobalNetworkPolicies[j], r.GlobalNetworkPolicies[i]
		})
		s := resolve(t, r, h)
		b, err := json.Marshal(s)
		require.NoError(t, err)
		if first == "" {
			first = string(b)
		}
		require.Empty(t, cmp.Diff(first, string(b)))
	}
}

func ExampleResolve() {
	s, err := policy.Resolve(hostendpoint.Resources{
		HostEndpoints: []*hostendpoint.HostEndpoint{{
			Metadata: hostendpoint.ObjectMeta{Name: "web", Labels: map[string]string{"role": "web"}},
			Spec:     hostendpoint.HostEndpointSpec{Node: "host-a", InterfaceName: "eth0", Profiles: []string{"gone"}},
		}},
	}, hostendpoint.Host{Node: "host-a", Interfaces: []hostendpoint.Interface{{Name: "eth0"}}}, policy.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, ep := range s.Endpoints {
		fmt.Println(ep.Name, ep.Interfaces)
	}
	for _, p := range s.Problems {
		fmt.Println(p)
	}
	// Output:
	// web [eth0]
	// error HostEndpoint(web) spec.profiles[0]: profile "gone" does not exist: everything that reaches it is denied
}
