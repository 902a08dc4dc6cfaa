// SPDX-License-Identifier: Apache-2.0

package hostendpoint

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

func isMapped(err error) bool { return errors.Is(err, inet.ErrMapped) }

func (t *Tier) check(c *checker) {
	c.meta()
	name := t.Metadata.Name
	if isNameText(name) && strings.Contains(name, ".") {
		c.add(tolerated, field.ErrInvalid, "metadata.name", name, "the name of a tier has no full stop")
	}
	if len(name) > maxTierNameLen {
		c.add(tolerated, field.ErrInvalid, "metadata.name", name, "the name has %d bytes, the most for a tier is %d", len(name), maxTierNameLen)
	}
	c.order(t.Spec.Order)
	order := float64(DefaultTierOrder)
	if o := t.Spec.Order; o != nil {
		order = *o
	}
	for _, fixed := range [...]struct {
		name  string
		order float64
	}{{DefaultTierName, DefaultTierOrder}, {AdminTierName, AdminTierOrder}} {
		if name == fixed.name && order != fixed.order {
			text := strconv.FormatFloat(order, 'f', -1, 64)
			c.add(tolerated, field.ErrInvalid, "spec.order", text, "the order of tier %s must be %v", name, int(fixed.order))
		}
	}
	if a := t.Spec.DefaultAction; a != nil && *a != Deny && *a != Pass {
		c.add(tolerated, field.ErrInvalid, "spec.defaultAction", string(*a), "must be Deny or Pass")
	}
}

func (s *GlobalNetworkSet) check(c *checker) {
	c.meta()
	c.networkSet(s.Metadata.Labels, s.Spec.Nets)
}

func (s *NetworkSet) check(c *checker) {
	c.meta()
	c.networkSet(s.Metadata.Labels, s.Spec.Nets)
}

func (c *checker) networkSet(labels map[string]string, nets []string) {
	if v, ok := labels[NamespaceLabel]; ok {
		c.add(tolerated, field.ErrForbidden, "metadata.labels."+NamespaceLabel, v, "reserved: a network set cannot have this label")
	}
	for i, text := range nets {
		// Deviation: Calico accepts "" and then crashes or loses the set.
		if _, err := inet.ParseNet(text); err != nil {
			c.add(tolerated, field.ErrInvalid, fmt.Sprintf("spec.nets[%d]", i), text, "%s", netReason(text, err))
		}
	}
}

// check covers the fields that automatic host endpoints use.
//
// Calico: spec.addresses is not validated at all. Ref: libcalico-go/lib/apis/v3/node.go.
func (n *Node) check(c *checker) {
	c.meta()
	s := &n.Spec
	if b := s.BGP; b != nil {
		c.nodeNet("spec.bgp.ipv4Address", b.IPv4Address, inet.IPv4)
		c.nodeNet("spec.bgp.ipv6Address", b.IPv6Address, inet.IPv6)
		c.nodeAddr("spec.bgp.ipv4IPIPTunnelAddr", b.IPv4IPIPTunnelAddr, inet.IPv4)
		c.nodeAddr("spec.bgp.routeReflectorClusterID", b.RouteReflectorClusterID, inet.IPv4)
	}
	c.nodeAddr("spec.ipv4VXLANTunnelAddr", s.IPv4VXLANTunnelAddr, inet.IPv4)
	c.nodeAddr("spec.ipv6VXLANTunnelAddr", s.IPv6VXLANTunnelAddr, inet.IPv6)
	if w := s.Wireguard; w != nil {
		c.nodeAddr("spec.wireguard.interfaceIPv4Address", w.InterfaceIPv4Address, inet.IPv4)
		c.nodeAddr("spec.wireguard.interfaceIPv6Address", w.InterfaceIPv6Address, inet.IPv6)
	}
}

func (c *checker) nodeAddr(path, text string, family inet.Family) {
	if text == "" {
		return
	}
	if a, err := inet.ParseAddr(text); err != nil || inet.FamilyOf(a) != family {
		c.add(tolerated, field.ErrInvalid, path, text, "must be an IPv%s address", family)
	}
}

func (c *checker) nodeNet(path, text string, family inet.Family) {
	if text == "" {
		return
	}
	if n, err := inet.ParseNet(text); err != nil || inet.FamilyOf(n.Addr) != family {
		c.add(tolerated, field.ErrInvalid, path, text, "must be an IPv%s address or CIDR", family)
	}
}
