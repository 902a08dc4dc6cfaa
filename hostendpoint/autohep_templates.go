// SPDX-License-Identifier: Apache-2.0

package hostendpoint

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/selector"
)

// AutoHostEndpoints says which host endpoints a controller makes for each node, in releases of Calico after 3.29. The
// zero value makes the all-interfaces endpoint alone. The JSON names are those of KubeControllersConfiguration.
// Ref: api/pkg/apis/projectcalico/v3/kubecontrollersconfig.go.
type AutoHostEndpoints struct {
	CreateDefaultHostEndpoint string                 `json:"createDefaultHostEndpoint,omitempty"` // Enabled, Disabled or "" for Enabled
	Templates                 []HostEndpointTemplate `json:"templates,omitempty"`
}

// HostEndpointTemplate describes further endpoints of a node. InterfaceCIDRs or InterfacePattern is required.
type HostEndpointTemplate struct {
	GenerateName string `json:"generateName,omitempty"` // part of the names of the endpoints
	// InterfaceCIDRs selects those of the node's addresses that become expected IPs; none selects none.
	InterfaceCIDRs []string `json:"interfaceCIDRs,omitempty"`
	// InterfacePattern is a regular expression (RE2). If it is set, each interface of the node with a name in which it
	// matches, anywhere, gets an endpoint of its own, with the addresses of the interface among its expected IPs.
	InterfacePattern string            `json:"interfacePattern,omitempty"`
	Labels           map[string]string `json:"labels,omitempty"`       // over those of the node
	Annotations      map[string]string `json:"annotations,omitempty"`  // the only ones
	NodeSelector     string            `json:"nodeSelector,omitempty"` // on the node's labels; "" selects every node
}

// For returns all endpoints that n shall have, sorted by name. A template endpoint that could govern no interface, having
// neither an interface name nor an address, is left out. Addresses that do not parse are left out, and each address
// appears once.
//
// The error is a *field.Errors about the configuration, or a duplicate name: two templates that make the same endpoint.
// The endpoints may still be invalid: Validate them before writing.
func (a AutoHostEndpoints) For(n *Node) ([]*HostEndpoint, error) {
	var errs field.List
	var out []*HostEndpoint
	addrs := nodeAddrs(n)
	switch a.CreateDefaultHostEndpoint {
	case "", "Enabled":
		out = append(out, autoEndpoint(n, autoName(n.Metadata.Name), AllInterfaces, addrTexts(addrs)))
	case "Disabled":
	default:
		errs = append(errs, &field.Error{Object: "AutoHostEndpoints", Path: "createDefaultHostEndpoint", Value: shorten(a.CreateDefaultHostEndpoint),
			Err: field.ErrInvalid, Reason: "must be Enabled or Disabled"})
	}
	for i := range a.Templates {
		t, bad := a.Templates[i].parse(fmt.Sprintf("templates[%d]", i))
		errs = append(errs, bad...)
		if len(bad) == 0 && t.nodes.Matches(selector.MapLabels(n.Metadata.Labels)) {
			out = append(out, t.endpoints(n, addrs)...)
		}
	}
	slices.SortStableFunc(out, func(x, y *HostEndpoint) int { return cmp.Compare(x.Metadata.Name, y.Metadata.Name) })
	for i := 1; i < len(out); i++ {
		if name := out[i].Metadata.Name; name == out[i-1].Metadata.Name {
			errs = append(errs, &field.Error{Object: n.ID().String(), Path: "templates", Value: shorten(name), Err: field.ErrDuplicate,
				Reason: "several templates make an endpoint of this name"})
		}
	}
	if err := errs.Err(); err != nil {
		return nil, err
	}
	return out, nil
}

// parsedTemplate is a template with its text parsed.
type parsedTemplate struct {
	*HostEndpointTemplate
	cidrs   inet.PrefixSet
	pattern *regexp.Regexp // nil if there is none
	nodes   selector.Selector
}

func (t *HostEndpointTemplate) parse(path string) (parsedTemplate, field.List) {
	out := parsedTemplate{HostEndpointTemplate: t}
	var errs field.List
	bad := func(name, value string, err error, reason string) {
		errs = append(errs, &field.Error{Object: "AutoHostEndpoints", Path: path + "." + name, Value: shorten(value), Err: err, Reason: reason})
	}
	if t.GenerateName != "" && !isSubdomain(t.GenerateName) {
		bad("generateName", t.GenerateName, field.ErrInvalid, "must be a lower-case RFC 1123 subdomain")
	}
	if len(t.InterfaceCIDRs) == 0 && t.InterfacePattern == "" {
		bad("interfaceCIDRs", "", field.ErrRequired, "interfaceCIDRs or an interfacePattern is required")
	}
	var prefixes []netip.Prefix
	for i, text := range t.InterfaceCIDRs {
		p, err := inet.ParsePrefix(text)
		if err != nil {
			bad(fmt.Sprintf("interfaceCIDRs[%d]", i), text, field.ErrInvalid, netReason(text, err))
			continue
		}
		prefixes = append(prefixes, p)
	}
	var err error
	if out.cidrs, err = inet.NewPrefixSet(prefixes...); err != nil {
		bad("interfaceCIDRs", "", field.ErrInvalid, err.Error())
	}
	if t.InterfacePattern != "" {
		if out.pattern, err = regexp.Compile(t.InterfacePattern); err != nil {
			bad("interfacePattern", t.InterfacePattern, field.ErrInvalid, err.Error())
		}
	}
	if out.nodes, err = selector.Parse(t.NodeSelector); err != nil {
		bad("nodeSelector", t.NodeSelector, err, fmt.Sprintf("not a selector: %v", err))
	}
	return out, errs
}

// endpoints returns the endpoints of the template on n, whose addresses are addrs.
func (t *parsedTemplate) endpoints(n *Node, addrs []netip.Addr) []*HostEndpoint {
	var chosen []netip.Addr
	for _, a := range addrs {
		if t.cidrs.Contains(a) {
			chosen = append(chosen, a)
		}
	}
	if t.pattern == nil {
		if len(chosen) == 0 {
			return nil
		}
		return []*HostEndpoint{t.endpoint(n, autoName(n.Metadata.Name, t.GenerateName), "", chosen)}
	}
	var out []*HostEndpoint
	for _, i := range n.Spec.Interfaces {
		if i.Name == "" || !t.pattern.MatchString(i.Name) {
			continue
		}
		ips := slices.Clone(chosen)
		for _, text := range i.Addresses {
			ips = addAddr(ips, text)
		}
		out = append(out, t.endpoint(n, autoName(n.Metadata.Name, t.GenerateName, i.Name), i.Name, ips))
	}
	return out
}

func (t *parsedTemplate) endpoint(n *Node, name, iface string, ips []netip.Addr) *HostEndpoint {
	h := autoEndpoint(n, name, iface, addrTexts(ips))
	for k, v := range t.Labels {
		if k != CreatedByLabel {
			h.Metadata.Labels[k] = v
		}
	}
	if len(t.Annotations) > 0 {
		h.Metadata.Annotations = t.Annotations
	}
	return h
}

// autoName joins the parts that are not empty to the name of an endpoint. A name that is too long is replaced by its
// hash.
func autoName(parts ...string) string {
	parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
	name := strings.Join(parts, "-") + autoSuffix
	if len(name) <= maxNameLen {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	text := strings.NewReplacer("-", "", "_", "").Replace(base64.RawURLEncoding.EncodeToString(sum[:]))
	return strings.ToLower(text) + autoSuffix
}

// nodeAddrs returns the addresses of a node, each once: those of AutoHostEndpoint, then those of its interfaces.
func nodeAddrs(n *Node) []netip.Addr {
	s := &n.Spec
	var texts []string
	if b := s.BGP; b != nil {
		texts = append(texts, b.IPv4Address, b.IPv6Address, b.IPv4IPIPTunnelAddr)
	}
	texts = append(texts, s.IPv4VXLANTunnelAddr, s.IPv6VXLANTunnelAddr)
	if w := s.Wireguard; w != nil {
		texts = append(texts, w.InterfaceIPv4Address, w.InterfaceIPv6Address)
	}
	for _, a := range s.Addresses {
		if a.Type == NodeAddressInternal {
			texts = append(texts, a.Address)
		}
	}
	for _, i := range s.Interfaces {
		texts = append(texts, i.Addresses...)
	}
	var out []netip.Addr
	for _, t := range texts {
		out = addAddr(out, t)
	}
	return out
}

// addAddr appends the address in text, with or without a prefix length, if it is one and not there yet.
func addAddr(addrs []netip.Addr, text string) []netip.Addr {
	n, err := inet.ParseNet(text)
	if err != nil || slices.Contains(addrs, n.Addr) {
		return addrs
	}
	return append(addrs, n.Addr)
}

func addrTexts(addrs []netip.Addr) []string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}
