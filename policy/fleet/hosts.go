// SPDX-License-Identifier: Apache-2.0

// Package fleet looks at all hosts of a cluster at once: which hosts its resources imply, what each of them enforces,
// and which of them enforce the same.
package fleet

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
)

// Host is one host of a fleet.
type Host struct {
	hostendpoint.Host
	Config policy.Config
	DNAT   []DNAT // what its own NAT does; policy does not depend on it, but what reaches policy does
	// Presumed says that nobody described the host: what it looks like was concluded from the resources that name it.
	Presumed bool
}

// DNAT is one rule of a host's own destination NAT: what is sent to To over Protocol goes to Becomes.
type DNAT struct {
	Protocol    inet.Protocol
	To, Becomes netip.AddrPort
}

// Hosts returns the hosts of a cluster, sorted by node: those that are known, and one for every other node that a
// HostEndpoint or a Node names. Of several known hosts of one node the first counts. Config is that of the hosts that
// are not known.
//
// A host that is not known is presumed to have the interfaces that its Node lists and its endpoints name, with the
// expectedIPs of the latter. Addresses of which nothing says on which interface they are (of an endpoint that is
// matched by address, of the all-interfaces endpoint, of the Node) are on interfaces named net0, net1 and so on, which
// no real interface of the host is meant to be: verdicts do not depend on the name of an interface, but for the
// endpoint that governs it.
func Hosts(r hostendpoint.Resources, known []Host, config policy.Config) []Host {
	byNode := map[string]*presumed{}
	node := func(name string) *presumed {
		p := byNode[name]
		if p == nil && name != "" {
			p = &presumed{}
			byNode[name] = p
		}
		return p
	}
	// What has a name first: an address stays where it is first seen.
	for _, n := range r.Nodes {
		if n == nil {
			continue
		}
		if p := node(n.Metadata.Name); p != nil {
			for _, i := range n.Spec.Interfaces {
				p.add(i.Name, i.Addresses)
			}
		}
	}
	endpoints := slices.DeleteFunc(slices.Clone(r.HostEndpoints), func(h *hostendpoint.HostEndpoint) bool { return h == nil })
	slices.SortStableFunc(endpoints, func(a, b *hostendpoint.HostEndpoint) int { return strings.Compare(a.Metadata.Name, b.Metadata.Name) })
	for _, h := range endpoints {
		if n := h.Spec.InterfaceName; n != "" && n != hostendpoint.AllInterfaces {
			if p := node(h.Spec.Node); p != nil {
				p.add(n, h.Spec.ExpectedIPs)
			}
		}
	}
	for _, h := range endpoints {
		if n := h.Spec.InterfaceName; n == "" || n == hostendpoint.AllInterfaces {
			if p := node(h.Spec.Node); p != nil {
				p.place(h.Spec.ExpectedIPs)
				p.wildcard = p.wildcard || n != ""
			}
		}
	}
	for _, n := range r.Nodes {
		if n != nil && byNode[n.Metadata.Name] != nil {
			byNode[n.Metadata.Name].place(nodeAddresses(n))
		}
	}

	out := make([]Host, 0, len(byNode)+len(known))
	seen := map[string]bool{}
	for _, h := range known {
		if !seen[h.Node] {
			seen[h.Node] = true
			out = append(out, h)
		}
	}
	for name, p := range byNode {
		if !seen[name] {
			if p.wildcard && len(p.interfaces) == 0 {
				p.unnamed(nil)
			}
			out = append(out, Host{Host: hostendpoint.Host{Node: name, Interfaces: p.sorted()}, Config: config, Presumed: true})
		}
	}
	slices.SortFunc(out, func(a, b Host) int { return strings.Compare(a.Node, b.Node) })
	return out
}

// nodeAddresses returns the addresses of a node's own interfaces.
func nodeAddresses(n *hostendpoint.Node) []string {
	var out []string
	if b := n.Spec.BGP; b != nil {
		out = append(out, b.IPv4Address, b.IPv6Address)
	}
	for _, a := range n.Spec.Addresses {
		if a.Type != "ExternalIP" { // those are often on a load balancer
			out = append(out, a.Address)
		}
	}
	return out
}

// presumed is what is concluded of a host.
type presumed struct {
	interfaces map[string][]netip.Prefix
	where      map[netip.Addr]string
	wildcard   bool
}

// add notes an interface. What is not an address was reported by validation and is left out here; so is a name that no
// interface can have.
func (p *presumed) add(name string, addrs []string) {
	if name == "" || len(name) > 15 || strings.ContainsAny(name, "/ \t\n\x00") || name == "." || name == ".." {
		return
	}
	if p.interfaces == nil {
		p.interfaces, p.where = map[string][]netip.Prefix{}, map[netip.Addr]string{}
	}
	list := p.interfaces[name]
	for _, text := range addrs {
		n, err := inet.ParseNet(text)
		if err != nil {
			continue
		}
		if _, ok := p.where[n.Addr]; !ok {
			p.where[n.Addr] = name
			list = append(list, netip.PrefixFrom(n.Addr, n.Prefix.Bits()))
		}
	}
	p.interfaces[name] = list
}

// place finds an interface for addresses of one: the one that has some of them already, or else a new one.
func (p *presumed) place(addrs []string) {
	valid := make([]string, 0, len(addrs))
	for _, text := range addrs {
		n, err := inet.ParseNet(text)
		if err != nil {
			continue
		}
		if name, ok := p.where[n.Addr]; ok {
			p.add(name, addrs)
			return
		}
		valid = append(valid, text)
	}
	if len(valid) > 0 {
		p.unnamed(valid)
	}
}

func (p *presumed) unnamed(addrs []string) {
	for i := 0; ; i++ {
		name := "net" + strconv.Itoa(i)
		if _, ok := p.interfaces[name]; !ok {
			p.add(name, addrs)
			return
		}
	}
}

func (p *presumed) sorted() []hostendpoint.Interface {
	out := make([]hostendpoint.Interface, 0, len(p.interfaces))
	for _, name := range slices.Sorted(maps.Keys(p.interfaces)) {
		out = append(out, hostendpoint.Interface{Name: name, Addresses: p.interfaces[name]})
	}
	return out
}
