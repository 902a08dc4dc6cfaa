// SPDX-License-Identifier: Apache-2.0

package hostendpoint_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

func node(edit func(n *hostendpoint.Node)) *hostendpoint.Node {
	n := &hostendpoint.Node{
		Metadata: hostendpoint.ObjectMeta{Name: "n1", Labels: map[string]string{"zone": "a", "role": "node"}},
		Spec: hostendpoint.NodeSpec{
			BGP: &hostendpoint.NodeBGPSpec{IPv4Address: "10.0.0.1/24"},
			Addresses: []hostendpoint.NodeAddress{
				{Address: "10.0.0.1", Type: "InternalIP"}, {Address: "192.168.0.1", Type: "InternalIP"}, {Address: "bad", Type: "InternalIP"},
				{Address: "203.0.113.1", Type: "ExternalIP"},
			},
			Interfaces: []hostendpoint.NodeInterface{
				{Name: "eth0", Addresses: []string{"10.0.0.1/24", "fd00::1/64"}}, {Name: "eth1", Addresses: nil}, {Name: "wg0"},
			},
		},
	}
	edit(n)
	return n
}

func ExampleAutoHostEndpoint() {
	h, err := hostendpoint.AutoHostEndpoint(&hostendpoint.Node{
		Metadata: hostendpoint.ObjectMeta{Name: "n1"},
		Spec:     hostendpoint.NodeSpec{BGP: &hostendpoint.NodeBGPSpec{IPv4Address: "10.0.0.1/24"}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(h.ID(), h.Spec.InterfaceName, h.Spec.ExpectedIPs, h.Spec.Profiles)
	// Output: HostEndpoint(n1-auto-hep) * [10.0.0.1] [projectcalico-default-allow]
}

func TestAutoHostEndpointDoesNotShareLabels(t *testing.T) {
	n := node(func(*hostendpoint.Node) {})
	h, err := hostendpoint.AutoHostEndpoint(n)
	require.NoError(t, err)
	require.NotContains(t, n.Metadata.Labels, hostendpoint.CreatedByLabel)
	require.Equal(t, "a", h.Metadata.Labels["zone"])
}

func TestAutoHostEndpointOfBadAddress(t *testing.T) {
	_, err := hostendpoint.AutoHostEndpoint(node(func(n *hostendpoint.Node) { n.Spec.BGP.IPv4Address = "10.0.0.300" }))
	require.ErrorIs(t, err, field.ErrInvalid)
	require.ErrorContains(t, err, "Node(n1): spec.bgp.ipv4Address")
}

func TestTemplates(t *testing.T) {
	type template = hostendpoint.HostEndpointTemplate
	names := func(hs []*hostendpoint.HostEndpoint) string {
		var out []string
		for _, h := range hs {
			out = append(out, fmt.Sprintf("%s %q %v", h.Metadata.Name, h.Spec.InterfaceName, h.Spec.ExpectedIPs))
		}
		return strings.Join(out, "\n")
	}
	for _, c := range []struct {
		name string
		conf hostendpoint.AutoHostEndpoints
		want string
	}{
		{"no template", hostendpoint.AutoHostEndpoints{}, `n1-auto-hep "*" [10.0.0.1 192.168.0.1 fd00::1]`},
		{"nothing", hostendpoint.AutoHostEndpoints{CreateDefaultHostEndpoint: "Disabled"}, ""},
		{"by CIDR", hostendpoint.AutoHostEndpoints{Templates: []template{{GenerateName: "in", InterfaceCIDRs: []string{"192.168.0.0/16", "fd00::/8"}}}},
			"n1-auto-hep \"*\" [10.0.0.1 192.168.0.1 fd00::1]\nn1-in-auto-hep \"\" [192.168.0.1 fd00::1]"},
		{"no address in the CIDRs", hostendpoint.AutoHostEndpoints{CreateDefaultHostEndpoint: "Disabled", Templates: []template{{InterfaceCIDRs: []string{"172.16.0.0/12"}}}}, ""},
		{"by pattern", hostendpoint.AutoHostEndpoints{CreateDefaultHostEndpoint: "Disabled", Templates: []template{{GenerateName: "if", InterfacePattern: "^eth[0-9]$"}}},
			"n1-if-eth0-auto-hep \"eth0\" [10.0.0.1 fd00::1]\nn1-if-eth1-auto-hep \"eth1\" []"},
		{"by pattern and CIDR", hostendpoint.AutoHostEndpoints{CreateDefaultHostEndpoint: "Disabled", Templates: []template{{InterfacePattern: "wg", InterfaceCIDRs: []string{"10.0.0.0/8"}}}},
			"n1-wg0-auto-hep \"wg0\" [10.0.0.1]"},
		{"another node", hostendpoint.AutoHostEndpoints{CreateDefaultHostEndpoint: "Disabled", Templates: []template{{InterfacePattern: ".", NodeSelector: "zone == 'b'"}}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			hs, err := c.conf.For(node(func(*hostendpoint.Node) {}))
			require.NoError(t, err)
			require.Equal(t, c.want, names(hs))
			for _, h := range hs {
				require.NoError(t, hostendpoint.Validate(h))
			}
		})
	}
}

func TestTemplateMetadata(t *testing.T) {
	hs, err := hostendpoint.AutoHostEndpoints{CreateDefaultHostEndpoint: "Disabled", Templates: []hostendpoint.HostEndpointTemplate{{
		InterfacePattern: "eth0", Labels: map[string]string{"role": "edge", hostendpoint.CreatedByLabel: "me"}, Annotations: map[string]string{"a": "b"},
	}}}.For(node(func(n *hostendpoint.Node) { n.Metadata.Annotations = map[string]string{"of": "the node"} }))
	require.NoError(t, err)
	require.Len(t, hs, 1)
	require.Equal(t, map[string]string{"zone": "a", "role": "edge", hostendpoint.CreatedByLabel: hostendpoint.CreatedByValue}, hs[0].Metadata.Labels)
	require.Equal(t, map[string]string{"a": "b"}, hs[0].Metadata.Annotations)
}

func TestTemplateErrors(t *testing.T) {
	_, err := hostendpoint.AutoHostEndpoints{CreateDefaultHostEndpoint: "yes", Templates: []hostendpoint.HostEndpointTemplate{
		{}, {GenerateName: "A_", InterfaceCIDRs: []string{"x"}, InterfacePattern: "(", NodeSelector: "("},
	}}.For(node(func(*hostendpoint.Node) {}))
	var all *field.Errors
	require.ErrorAs(t, err, &all)
	var paths []string
	for _, e := range all.List() {
		paths = append(paths, e.Path)
	}
	require.Equal(t, []string{"createDefaultHostEndpoint", "templates[0].interfaceCIDRs", "templates[1].generateName", "templates[1].interfaceCIDRs[0]",
		"templates[1].interfacePattern", "templates[1].nodeSelector"}, paths)

	same := hostendpoint.HostEndpointTemplate{InterfacePattern: "eth0"}
	_, err = hostendpoint.AutoHostEndpoints{Templates: []hostendpoint.HostEndpointTemplate{same, same}}.For(node(func(*hostendpoint.Node) {}))
	require.ErrorIs(t, err, field.ErrDuplicate)
}

func TestLongNamesAreHashed(t *testing.T) {
	long := func(last string) string {
		hs, err := hostendpoint.AutoHostEndpoints{}.For(node(func(n *hostendpoint.Node) { n.Metadata.Name = strings.Repeat("n", 250) + last }))
		require.NoError(t, err)
		require.NoError(t, hostendpoint.Validate(hs[0]))
		return hs[0].Metadata.Name
	}
	require.True(t, strings.HasSuffix(long("a"), "-auto-hep"))
	require.NotEqual(t, long("a"), long("b"))
}
