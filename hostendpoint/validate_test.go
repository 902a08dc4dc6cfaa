// SPDX-License-Identifier: Apache-2.0

package hostendpoint_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/selector"
)

func ptr[T any](v T) *T { return &v }

// faults lists the faults of an object as "path", those that Validate does not have with a question mark.
func faults(o hostendpoint.Object) (refused, unusable, warned []string) {
	paths := func(l field.List) []string {
		var out []string
		for _, e := range l {
			out = append(out, e.Path)
		}
		return out
	}
	errs, warnings := o.Check()
	return paths(o.Validate()), paths(errs), paths(warnings)
}

func endpoint(edit func(h *hostendpoint.HostEndpoint)) *hostendpoint.HostEndpoint {
	h := &hostendpoint.HostEndpoint{
		Metadata: hostendpoint.ObjectMeta{Name: "web"},
		Spec:     hostendpoint.HostEndpointSpec{Node: "host-a", InterfaceName: "eth0"},
	}
	edit(h)
	return h
}

// rule returns a policy with one ingress rule, which allows TCP before edit.
func rule(edit func(r *hostendpoint.Rule)) *hostendpoint.GlobalNetworkPolicy {
	r := hostendpoint.Rule{Action: hostendpoint.Allow, Protocol: &hostendpoint.Protocol{Name: "TCP"}}
	edit(&r)
	return &hostendpoint.GlobalNetworkPolicy{
		Metadata: hostendpoint.ObjectMeta{Name: "p"},
		Spec:     hostendpoint.GlobalNetworkPolicySpec{Ingress: []hostendpoint.Rule{r}},
	}
}

func policy(edit func(s *hostendpoint.GlobalNetworkPolicySpec)) *hostendpoint.GlobalNetworkPolicy {
	p := &hostendpoint.GlobalNetworkPolicy{Metadata: hostendpoint.ObjectMeta{Name: "p"}}
	edit(&p.Spec)
	return p
}

func meta(name, namespace string) hostendpoint.ObjectMeta {
	return hostendpoint.ObjectMeta{Name: name, Namespace: namespace}
}

type (
	hep   = hostendpoint.HostEndpoint
	gnp   = hostendpoint.GlobalNetworkPolicy
	spec  = hostendpoint.GlobalNetworkPolicySpec
	aRule = hostendpoint.Rule
)

func TestFaults(t *testing.T) {
	const in = "spec.ingress[0]"
	proto := func(name string) *hostendpoint.Protocol { return &hostendpoint.Protocol{Name: name} }
	for _, c := range []struct {
		name     string
		object   hostendpoint.Object
		refused  string // paths in Validate, with blanks
		unusable string // paths in the errors of Check
		advice   string // paths in the warnings of Check that Validate does not have
	}{
		{"a name alone is not enough", &hep{Metadata: meta("x", "")}, "spec.node spec.interfaceName", "spec.node spec.interfaceName", ""},
		{"an endpoint with node and interface is valid", endpoint(func(*hep) {}), "", "", ""},
		{"an endpoint by address is valid", endpoint(func(h *hep) { h.Spec.InterfaceName, h.Spec.ExpectedIPs = "", []string{"10.0.0.1"} }), "", "", ""},
		{"without an interface one good address is needed", endpoint(func(h *hep) { h.Spec.InterfaceName, h.Spec.ExpectedIPs = "", []string{"x"} }),
			"spec.expectedIPs[0] spec.expectedIPs", "spec.expectedIPs", ""},
		{"an object without a name", endpoint(func(h *hep) { h.Metadata.Name = "" }), "metadata.name", "metadata.name", ""},
		{"an interface pattern does not exist", endpoint(func(h *hep) { h.Spec.InterfaceName = "eth*" }), "spec.interfaceName", "", ""},
		{"an interface name of 16 letters", endpoint(func(h *hep) { h.Spec.InterfaceName = strings.Repeat("e", 16) }), "spec.interfaceName", "", ""},
		{"a node name is in the page's alphabet", endpoint(func(h *hep) { h.Spec.Node = "Host_A" }), "", "", ""},
		{"a node name with a slash", endpoint(func(h *hep) { h.Spec.Node = "a/b" }), "spec.node", "", ""},
		{"a CIDR is no address", endpoint(func(h *hep) { h.Spec.ExpectedIPs = []string{"10.0.0.1", "10.0.0.0/8"} }), "spec.expectedIPs[1]", "", ""},
		{"an empty profile name", endpoint(func(h *hep) { h.Spec.Profiles = []string{"a", ""} }), "spec.profiles[1]", "", ""},
		{"profiles may repeat", endpoint(func(h *hep) { h.Spec.Profiles = []string{"a", "a"} }), "", "", ""},
		{"a profile name that Felix does not take", endpoint(func(h *hep) { h.Spec.Profiles = []string{strings.Repeat("p", 129)} }), "", "", "spec.profiles[0]"},
		{"an upper-case name is for stores other than Kubernetes", endpoint(func(h *hep) { h.Metadata.Name = "Web" }), "", "", "metadata.name"},
		{"a namespace on a kind that has none is ignored", endpoint(func(h *hep) { h.Metadata.Namespace = "ns" }), "", "", "metadata.namespace"},
		{"port names must be unique", endpoint(func(h *hep) {
			h.Spec.Ports = []hostendpoint.EndpointPort{{Name: "a", Protocol: *proto("TCP"), Port: 1}, {Name: "a", Protocol: *proto("UDP"), Port: 1}}
		}), "spec.ports[1].name", "", ""},
		{"an empty port", endpoint(func(h *hep) { h.Spec.Ports = []hostendpoint.EndpointPort{{}} }),
			"spec.ports[0].name spec.ports[0].protocol spec.ports[0].port", "", ""},
		{"a port of a protocol without ports", endpoint(func(h *hep) {
			h.Spec.Ports = []hostendpoint.EndpointPort{{Name: "a", Protocol: *proto("UDPLite"), Port: 1}}
		}), "spec.ports[0].protocol", "", ""},
		{"a port with a numeric protocol works here and not in Calico", endpoint(func(h *hep) {
			h.Spec.Ports = []hostendpoint.EndpointPort{{Name: "a", Protocol: hostendpoint.Protocol{Number: 6}, Port: 1}}
		}), "", "", "spec.ports[0].protocol"},
		{"a port with a protocol in lower case", endpoint(func(h *hep) {
			h.Spec.Ports = []hostendpoint.EndpointPort{{Name: "a", Protocol: *proto("tcp"), Port: 1}}
		}), "spec.ports[0].protocol", "", ""},
		{"labels", endpoint(func(h *hep) { h.Metadata.Labels = map[string]string{"a b": "", "ok": "-"} }),
			"metadata.labels metadata.labels.ok", "", ""},
		{"an endpoint may claim a namespace", endpoint(func(h *hep) { h.Metadata.Labels = map[string]string{hostendpoint.NamespaceLabel: "ns"} }), "", "", ""},
		{"annotation keys may be upper-case", endpoint(func(h *hep) { h.Metadata.Annotations = map[string]string{"X.io/Y": "any thing"} }), "", "", ""},
		{"too many annotations", endpoint(func(h *hep) { h.Metadata.Annotations = map[string]string{"a": strings.Repeat("x", 256<<10)} }),
			"metadata.annotations", "", ""},

		{"an empty policy is valid", policy(func(*spec) {}), "", "", ""},
		{"doNotTrack without applyOnForward", policy(func(s *spec) { s.DoNotTrack = true }), "spec.applyOnForward", "", ""},
		{"doNotTrack and preDNAT", policy(func(s *spec) { s.DoNotTrack, s.PreDNAT, s.ApplyOnForward = true, true, true }), "spec.preDNAT", "", ""},
		{"preDNAT with egress rules and types", policy(func(s *spec) {
			s.PreDNAT, s.ApplyOnForward = true, true
			s.Egress = []aRule{{Action: hostendpoint.Deny}}
			s.Types = []hostendpoint.PolicyType{"Ingress", "Egress"}
		}), "spec.egress spec.types[1]", "", ""},
		{"doNotTrack may have egress", policy(func(s *spec) {
			s.DoNotTrack, s.ApplyOnForward = true, true
			s.Egress = []aRule{{Action: hostendpoint.Deny}}
		}), "", "", ""},
		{"types are written in one way and once", policy(func(s *spec) { s.Types = []hostendpoint.PolicyType{"ingress", "Egress", "Egress"} }),
			"spec.types[0] spec.types[2]", "", ""},
		{"an order that is no number", policy(func(s *spec) { s.Order = ptr(math.NaN()) }), "spec.order", "", ""},
		{"an order below zero", policy(func(s *spec) { s.Order = ptr(-1.5) }), "", "", ""},
		{"a selector that does not parse", policy(func(s *spec) { s.Selector = "has(" }), "spec.selector", "spec.selector", ""},
		{"a blank selector is all()", policy(func(s *spec) { s.Selector = " " }), "", "", ""},
		{"global() in a policy selector, quoted or not", policy(func(s *spec) { s.Selector, s.NamespaceSelector = "a == 'global()'", "global()" }),
			"spec.selector spec.namespaceSelector", "", ""},
		{"global( ) passes", policy(func(s *spec) { s.Selector = "global( )" }), "", "", ""},
		{"hints", policy(func(s *spec) {
			s.PerformanceHints = []string{hostendpoint.HintAssumeNeededOnEveryNode, "x", hostendpoint.HintAssumeNeededOnEveryNode}
		}), "spec.performanceHints[1] spec.performanceHints[2]", "", ""},
		{"HTTP in egress", policy(func(s *spec) { s.Egress = []aRule{{Action: "Allow", HTTP: &hostendpoint.HTTPMatch{}}} }), "spec.egress[0].http", "", ""},
		{"services on the wrong side", policy(func(s *spec) {
			match := hostendpoint.EntityRule{Services: &hostendpoint.ServiceMatch{Name: "s", Namespace: "n"}}
			s.Ingress = []aRule{{Action: "Allow", Destination: match}}
			s.Egress = []aRule{{Action: "Allow", Source: match}}
		}), "spec.ingress[0].destination.services spec.egress[0].source.services", "", ""},
		{"services of a global policy need a namespace", rule(func(r *aRule) { r.Source.Services = &hostendpoint.ServiceMatch{Name: "s"} }),
			in + ".source.services.namespace", "", ""},
		{"services of a namespaced policy do not", &hostendpoint.NetworkPolicy{Metadata: meta("p", "ns"), Spec: hostendpoint.NetworkPolicySpec{
			Ingress: []aRule{{Action: "Allow", Source: hostendpoint.EntityRule{Services: &hostendpoint.ServiceMatch{Name: "s"}}}}}}, "", "", ""},
		{"a namespaced policy without a namespace", &hostendpoint.NetworkPolicy{Metadata: meta("p", "")}, "metadata.namespace", "", ""},
		{"profiles have no rules of direction", &hostendpoint.Profile{Metadata: meta("p", ""), Spec: hostendpoint.ProfileSpec{Egress: []aRule{
			{Action: "Pass"}, {Action: "Allow", HTTP: &hostendpoint.HTTPMatch{}, Source: hostendpoint.EntityRule{Services: &hostendpoint.ServiceMatch{Name: "s"}}}}}},
			"", "", ""},
		{"the built-in profile cannot be written", hostendpoint.DefaultAllowProfile(), "metadata.name", "", ""},

		{"a rule needs an action", rule(func(r *aRule) { r.Action = "" }), in + ".action", in + ".action", ""},
		{"actions are case sensitive", rule(func(r *aRule) { r.Action = "allow" }), in + ".action", in + ".action", ""},
		{"IP version 5", rule(func(r *aRule) { r.IPVersion = ptr(5) }), in + ".ipVersion", in + ".ipVersion", ""},
		{"protocol 0", rule(func(r *aRule) { r.Protocol = &hostendpoint.Protocol{} }), in + ".protocol", in + ".protocol", ""},
		{"an unknown protocol", rule(func(r *aRule) { r.NotProtocol, r.Protocol = proto("GRE"), nil }), in + ".notProtocol", in + ".notProtocol", ""},
		{"a protocol in lower case", rule(func(r *aRule) { r.Protocol = proto("udplite") }), in + ".protocol", "", ""},
		{"protocol with notProtocol works here", rule(func(r *aRule) { r.NotProtocol = proto("UDP") }), "", "", in + ".notProtocol"},
		{"ports without protocol", rule(func(r *aRule) { r.Protocol, r.Source.Ports = nil, []hostendpoint.Port{{Min: 1, Max: 1}} }), in + ".source.ports", in + ".source.ports", ""},
		{"ports with a protocol that has none", rule(func(r *aRule) {
			r.Protocol, r.Destination.NotPorts = proto("UDPLite"), []hostendpoint.Port{{Min: 1, Max: 1}}
		}), in + ".destination.notPorts", in + ".destination.notPorts", ""},
		{"ports with a numeric protocol", rule(func(r *aRule) {
			r.Protocol, r.Source.Ports = &hostendpoint.Protocol{Number: 132}, []hostendpoint.Port{{Min: 1, Max: 65535}, {Name: "web"}}
		}), "", "", ""},
		{"port 0 and a name that is none", rule(func(r *aRule) {
			r.Destination.Ports = []hostendpoint.Port{{}, {Max: 9}, {Name: "80-90"}, {Name: "a", Min: 1}, {Min: 2, Max: 1}}
		}), in + ".destination.ports[0] " + in + ".destination.ports[1] " + in + ".destination.ports[2] " + in + ".destination.ports[3] " + in + ".destination.ports[4]",
			in + ".destination.ports[3] " + in + ".destination.ports[4]", ""},
		{"ICMP needs the protocol by name", rule(func(r *aRule) {
			r.Protocol, r.ICMP = &hostendpoint.Protocol{Number: 1}, &hostendpoint.ICMPFields{Type: ptr(8)}
		}), in + ".protocol", "", ""},
		{"an ICMP code needs a type", rule(func(r *aRule) { r.Protocol, r.ICMP = proto("ICMP"), &hostendpoint.ICMPFields{Code: ptr(0)} }),
			in + ".icmp.type", in + ".icmp.type", ""},
		{"ICMP ranges", rule(func(r *aRule) {
			r.Protocol, r.ICMP = proto("ICMP"), &hostendpoint.ICMPFields{Type: ptr(255), Code: ptr(256)}
		}), in + ".icmp.type " + in + ".icmp.code", in + ".icmp.type " + in + ".icmp.code", ""},
		{"notICMP needs no protocol", rule(func(r *aRule) { r.NotICMP = &hostendpoint.ICMPFields{Type: ptr(8)} }), "", "", in + ".notICMP"},
		{"ICMP in IPv6", rule(func(r *aRule) { r.Protocol, r.IPVersion = proto("ICMP"), ptr(6) }), in + ".ipVersion", "", ""},
		{"protocol 1 in IPv6 passes", rule(func(r *aRule) { r.Protocol, r.IPVersion = &hostendpoint.Protocol{Number: 1}, ptr(6) }), "", "", ""},
		{"a bare address in nets", rule(func(r *aRule) { r.Source.Nets = []string{"10.0.0.1"} }), in + ".source.nets[0]", "", ""},
		{"host bits in nets", rule(func(r *aRule) { r.Source.NotNets = []string{"10.0.0.1/8"} }), in + ".source.notNets[0]", "", ""},
		{"nets that are none", rule(func(r *aRule) { r.Source.Nets = []string{"", "x", "::ffff:0.0.0.0/90"} }),
			in + ".source.nets[0] " + in + ".source.nets[1] " + in + ".source.nets[2]",
			in + ".source.nets[0] " + in + ".source.nets[1] " + in + ".source.nets[2]", ""},
		{"both families in one rule", rule(func(r *aRule) {
			r.Source.Nets, r.Destination.NotNets = []string{"10.0.0.0/8"}, []string{"fd00::/8"}
		}), in + ".destination.notNets[0]", "", ""},
		{"nets of the other IP version", rule(func(r *aRule) { r.IPVersion, r.Source.Nets = ptr(6), []string{"::ffff:10.0.0.0/104"} }), in + ".source.nets[0]", "", ""},
		{"everything excluded", rule(func(r *aRule) { r.Source.NotNets = []string{"0.0.0.0/0"} }), in + ".source.notNets[0]", "", ""},
		{"everything excluded in another spelling passes", rule(func(r *aRule) { r.Source.NotNets = []string{"0.0.0.0/00", "::ffff:0:0/96"} }),
			"", "", in + ".source.notNets[0] " + in + ".source.notNets[1]"},
		{"rule selectors", rule(func(r *aRule) {
			r.Source = hostendpoint.EntityRule{Selector: "global()", NotSelector: "global()", NamespaceSelector: "has(a) && global()"}
			r.Destination = hostendpoint.EntityRule{Selector: "(", NotSelector: "(", NamespaceSelector: "(", ServiceAccounts: &hostendpoint.ServiceAccountMatch{Selector: "("}}
		}), in + ".source.selector " + in + ".source.namespaceSelector " + in + ".destination.selector " + in + ".destination.notSelector " +
			in + ".destination.namespaceSelector " + in + ".destination.serviceAccounts.selector",
			in + ".destination.selector " + in + ".destination.notSelector " + in + ".destination.namespaceSelector " + in + ".destination.serviceAccounts.selector", ""},
		{"!global() passes", rule(func(r *aRule) { r.Source.NamespaceSelector = "all() && !global()" }), "", "", ""},
		{"services exclude the rest", rule(func(r *aRule) {
			r.Source = hostendpoint.EntityRule{Services: &hostendpoint.ServiceMatch{Name: "S", Namespace: "n"}, Nets: []string{"10.0.0.0/8"},
				NotNets: []string{"10.0.0.0/9"}, Selector: "a == 'b'", NotSelector: "a == 'c'", NamespaceSelector: "all()", ServiceAccounts: &hostendpoint.ServiceAccountMatch{}}
		}), in + ".source.services.name " + in + ".source.namespaceSelector " + in + ".source.selector " + in + ".source.notSelector " +
			in + ".source.serviceAccounts " + in + ".source.nets " + in + ".source.notNets", "", ""},
		{"HTTP", rule(func(r *aRule) {
			r.Action, r.Protocol = "Deny", &hostendpoint.Protocol{Number: 6}
			r.HTTP = &hostendpoint.HTTPMatch{Methods: []string{"GET", "GET"}, Paths: []hostendpoint.HTTPPath{{}, {Exact: "/a", Prefix: "/b"}, {Prefix: "a"}, {Exact: "/?"}, {Exact: "/ok"}}}
		}), in + ".protocol " + in + ".http " + in + ".http.methods[1] " + in + ".http.paths[0] " + in + ".http.paths[1] " + in + ".http.paths[2] " + in + ".http.paths[3]", "", ""},
		{"rule annotations", rule(func(r *aRule) { r.Metadata = &hostendpoint.RuleMetadata{Annotations: map[string]string{"a b": ""}} }),
			in + ".metadata.annotations", "", ""},

		{"a policy of a tier has its prefix", &gnp{Metadata: meta("a.b", "")}, "metadata.name", "", ""},
		{"a policy of another tier", &gnp{Metadata: meta("b", ""), Spec: spec{Tier: "a"}}, "metadata.name", "", ""},
		{"a policy of its tier", &gnp{Metadata: meta("a.b", ""), Spec: spec{Tier: "a"}}, "", "", ""},
		{"a global policy name has at most one full stop", &gnp{Metadata: meta("knp.default.x", "")}, "metadata.name", "", ""},
		{"a converted policy is namespaced", &hostendpoint.NetworkPolicy{Metadata: meta("knp.default.x.y", "ns")}, "", "", ""},
		{"an admin policy is not", &hostendpoint.NetworkPolicy{Metadata: meta("kanp.adminnetworkpolicy.y", "ns")}, "metadata.name", "", ""},
		{"security groups take any tier", &gnp{Metadata: meta("ossg.x", ""), Spec: spec{Tier: "a"}}, "", "", ""},

		{"a tier with nothing but a name", &hostendpoint.Tier{Metadata: meta("t", "")}, "", "", ""},
		{"the order of default is fixed", &hostendpoint.Tier{Metadata: meta("default", ""), Spec: hostendpoint.TierSpec{Order: ptr(1.0)}}, "spec.order", "", ""},
		{"the order of adminnetworkpolicy must be given", &hostendpoint.Tier{Metadata: meta("adminnetworkpolicy", "")}, "spec.order", "", ""},
		{"a tier allows nothing", &hostendpoint.Tier{Metadata: meta("t", ""), Spec: hostendpoint.TierSpec{DefaultAction: ptr(hostendpoint.Allow)}}, "spec.defaultAction", "", ""},
		{"a tier name has no full stop", &hostendpoint.Tier{Metadata: meta("a.b", "")}, "metadata.name", "", ""},
		{"a tier name of 64 letters", &hostendpoint.Tier{Metadata: meta(strings.Repeat("t", 64), "")}, "metadata.name", "", ""},

		{"a set takes addresses and host bits", &hostendpoint.GlobalNetworkSet{Metadata: meta("s", ""), Spec: hostendpoint.NetworkSetSpec{
			Nets: []string{"10.0.0.1", "10.0.0.1/8", "fd00::1/8", "0.0.0.0/0"}}}, "", "", ""},
		{"a set takes nothing empty, and no short mapped prefixes", &hostendpoint.NetworkSet{Metadata: meta("s", "ns"), Spec: hostendpoint.NetworkSetSpec{
			Nets: []string{"", "::ffff:10.0.0.0/95", "x"}}}, "spec.nets[0] spec.nets[1] spec.nets[2]", "", ""},
		{"a set cannot claim a namespace", &hostendpoint.GlobalNetworkSet{Metadata: hostendpoint.ObjectMeta{Name: "s",
			Labels: map[string]string{hostendpoint.NamespaceLabel: "ns"}}}, "metadata.labels." + hostendpoint.NamespaceLabel, "", ""},
		{"a node", &hostendpoint.Node{Metadata: meta("n", ""), Spec: hostendpoint.NodeSpec{
			BGP:                 &hostendpoint.NodeBGPSpec{IPv4Address: "10.0.0.1/24", IPv6Address: "10.0.0.1", IPv4IPIPTunnelAddr: "10.0.0.1/32"},
			IPv4VXLANTunnelAddr: "::1", Wireguard: &hostendpoint.NodeWireguardSpec{InterfaceIPv6Address: "fd00::1"},
			Addresses: []hostendpoint.NodeAddress{{Address: "whatever"}}}},
			"spec.bgp.ipv6Address spec.bgp.ipv4IPIPTunnelAddr spec.ipv4VXLANTunnelAddr", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused, unusable, warned := faults(c.object)
			require.Equal(t, strings.Fields(c.refused), append([]string{}, refused...), "refused")
			require.Equal(t, strings.Fields(c.unusable), append([]string{}, unusable...), "unusable")
			want := without(strings.Fields(c.refused), strings.Fields(c.unusable))
			require.ElementsMatch(t, append(want, strings.Fields(c.advice)...), append([]string{}, warned...), "warned")
			require.Equal(t, c.refused == "", hostendpoint.Validate(c.object) == nil)
		})
	}
}

func without(all, some []string) []string {
	out := []string{}
	for _, a := range all {
		if len(some) > 0 && some[0] == a {
			some = some[1:]
			continue
		}
		out = append(out, a)
	}
	return out
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	p := rule(func(r *aRule) { r.Source.Selector, r.Destination.Nets = "has(", []string{"10.0.0.1/8"} })
	err := hostendpoint.Validate(p)
	require.EqualError(t, err, `GlobalNetworkPolicy(p): spec.ingress[0].destination.nets[0]: "10.0.0.1/8": has host bits set; did you mean 10.0.0.0/8?
GlobalNetworkPolicy(p): spec.ingress[0].source.selector: "has(": `+reasonFor(t, "has("))
	require.ErrorIs(t, err, field.ErrInvalid)
	var bad *selector.Error
	require.True(t, errors.As(err, &bad))

	require.ErrorIs(t, hostendpoint.Validate(endpoint(func(h *hep) { h.Spec.Node = "" })), field.ErrRequired)
	require.ErrorIs(t, hostendpoint.Validate("a string"), field.ErrUnknown)
}

func reasonFor(t *testing.T, text string) string {
	_, err := selector.Parse(text)
	require.Error(t, err)
	return "not a selector: " + err.Error()
}

func TestObjectNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, "A": true, "a.b": true, "a..b": true, "-a": true, "a-": true, "a_b": true, "_a": true, "9z": true, ".a": true,
		"a b": false, "a/b": false, "a:b": false, "café": false, "a\nb": false, "..": false, "-": false, "": false, "a@b": false,
		strings.Repeat("x", 253): true, strings.Repeat("x", 254): false,
	} {
		h := endpoint(func(h *hep) { h.Metadata.Name = name })
		require.Equal(t, ok, hostendpoint.Validate(h) == nil, "%q", name)
	}
}

func TestPortNames(t *testing.T) {
	for name, ok := range map[string]bool{
		"web": true, "a": true, "1a": true, "a-b": true, "xxxxxxxxxxxxxxx": true, "xxxxxxxxxxxxxxxx": false, "80": false, "": false,
		"-a": false, "a-": false, "a--b": false, "A": false, "a.b": false, "1-2": false,
	} {
		h := endpoint(func(h *hep) {
			h.Spec.Ports = []hostendpoint.EndpointPort{{Name: name, Protocol: hostendpoint.Protocol{Name: "TCP"}, Port: 1}}
		})
		require.Equal(t, ok, hostendpoint.Validate(h) == nil, "%q", name)
	}
}

func TestLabels(t *testing.T) {
	for key, ok := range map[string]bool{
		"a": true, "A": true, "a.b": true, "x.io/a": true, "X.io/a": false, "/a": false, "a/": false, "a/b/c": false, "": false, "_a": false,
		"a_": false, "a_b": true, "x..y/a": false, strings.Repeat("n", 63): true, strings.Repeat("n", 64): false,
		strings.Repeat("d", 253) + "/a": true, strings.Repeat("d", 254) + "/a": false,
	} {
		h := endpoint(func(h *hep) { h.Metadata.Labels = map[string]string{key: ""} })
		require.Equal(t, ok, hostendpoint.Validate(h) == nil, "%q", key)
	}
}

func TestCreateAndUpdate(t *testing.T) {
	h := endpoint(func(*hep) {})
	require.NoError(t, hostendpoint.ValidateCreate(h))
	require.ErrorIs(t, hostendpoint.ValidateUpdate(h), field.ErrRequired)
	h.Metadata.ResourceVersion, h.Metadata.UID, h.Metadata.CreationTimestamp = "1", "u", ptr("2024-01-02T03:04:05Z")
	require.NoError(t, hostendpoint.ValidateUpdate(h))
	require.ErrorIs(t, hostendpoint.ValidateCreate(h), field.ErrForbidden)
}

func TestValuesInErrorsAreShort(t *testing.T) {
	h := endpoint(func(h *hep) { h.Spec.Node = strings.Repeat("é", 1000) })
	l := h.Validate()
	require.Len(t, l, 1)
	require.Less(t, len(l[0].Value), 100)
	require.True(t, strings.HasSuffix(l[0].Value, "é..."))
}

func ExampleValidate() {
	h := &hostendpoint.HostEndpoint{
		Metadata: hostendpoint.ObjectMeta{Name: "web"},
		Spec: hostendpoint.HostEndpointSpec{
			InterfaceName: "eth*",
			Ports:         []hostendpoint.EndpointPort{{Name: "http", Protocol: hostendpoint.Protocol{Name: "ICMP"}, Port: 80}},
		},
	}
	fmt.Println(hostendpoint.Validate(h))
	// Output:
	// HostEndpoint(web): spec.interfaceName: "eth*": must be "*", or 1 to 15 letters, digits, '.', '_' and '-'; patterns do not exist
	// HostEndpoint(web): spec.node: the name of the node that has the interfaces is required
	// HostEndpoint(web): spec.ports[0].protocol: "ICMP": must be TCP, UDP or SCTP
}
