// SPDX-License-Identifier: Apache-2.0

package hostendpoint

import (
	"fmt"
	"maps"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

// The label that marks host endpoints which a controller makes from nodes, and may therefore change and delete.
const (
	CreatedByLabel = "projectcalico.org/created-by"
	CreatedByValue = "calico-kube-controllers"
)

// NodeAddressInternal is the type of the node addresses that automatic host endpoints have among their expected IPs.
const NodeAddressInternal = "InternalIP"

const autoSuffix = "-auto-hep"

// AutoHostEndpoint returns the host endpoint that Calico 3.29 makes for a node: all interfaces, the node's labels and
// addresses, and the profile that allows everything, so that nothing changes until a policy selects it.
//
// The error says that a BGP address does not parse, where Calico crashes. The endpoint may still be invalid (a node name
// that leaves no room for the suffix, an internal address with a prefix length): Validate it before writing.
// Ref: kube-controllers/pkg/controllers/node/hostendpoints.go.
func AutoHostEndpoint(n *Node) (*HostEndpoint, error) {
	ips, err := autoExpectedIPs(n)
	if err != nil {
		return nil, err
	}
	return autoEndpoint(n, n.Metadata.Name+autoSuffix, AllInterfaces, ips), nil
}

// autoEndpoint returns an endpoint of n with the labels of n.
func autoEndpoint(n *Node, name, iface string, ips []string) *HostEndpoint {
	labels := maps.Clone(n.Metadata.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[CreatedByLabel] = CreatedByValue
	return &HostEndpoint{
		TypeMeta: TypeMeta{Kind: KindHostEndpoint, APIVersion: APIVersion},
		Metadata: ObjectMeta{Name: name, Labels: labels},
		Spec: HostEndpointSpec{
			Node: n.Metadata.Name, InterfaceName: iface, ExpectedIPs: ips, Profiles: []string{DefaultAllowProfileName},
		},
	}
}

// autoExpectedIPs lists the addresses of a node as Calico 3.29 does.
//
// Calico: BGP addresses are printed anew, all others verbatim. Internal addresses are left out if an address before
// them, not one of their own kind, has the same text.
func autoExpectedIPs(n *Node) ([]string, error) {
	s := &n.Spec
	var ips []string
	if b := s.BGP; b != nil {
		for _, f := range [...]struct{ path, text string }{
			{"spec.bgp.ipv4Address", b.IPv4Address}, {"spec.bgp.ipv6Address", b.IPv6Address},
		} {
			if f.text == "" {
				continue
			}
			net, err := inet.ParseNet(f.text)
			if err != nil {
				return nil, &field.Error{
					Object: n.ID().String(), Path: f.path, Pos: n.At(f.path), Value: shorten(f.text), Err: field.ErrInvalid,
					Reason: fmt.Sprintf("no host endpoint can be made of a node with this address: %v", err),
				}
			}
			ips = append(ips, net.Addr.String())
		}
		ips = appendSet(ips, b.IPv4IPIPTunnelAddr)
	}
	ips = appendSet(ips, s.IPv4VXLANTunnelAddr, s.IPv6VXLANTunnelAddr)
	if w := s.Wireguard; w != nil {
		ips = appendSet(ips, w.InterfaceIPv4Address, w.InterfaceIPv6Address)
	}
	before := ips
	for _, a := range s.Addresses {
		if a.Type == NodeAddressInternal && !slices.Contains(before, a.Address) {
			ips = append(ips, a.Address)
		}
	}
	return ips, nil
}

// appendSet appends the texts that are not empty.
func appendSet(ips []string, texts ...string) []string {
	for _, t := range texts {
		if t != "" {
			ips = append(ips, t)
		}
	}
	return ips
}
