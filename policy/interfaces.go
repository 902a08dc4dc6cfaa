// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

// allInterfaces is the interface name of an endpoint that governs all interfaces without an endpoint of their own.
const allInterfaces = "*"

// excludedInterface is never matched by address nor by name: kube-proxy keeps every service address on it.
// Ref: felix InterfaceExclude.
const excludedInterface = "kube-ipvs0"

func validateHost(h hostendpoint.Host) field.List {
	var errs field.List
	bad := func(path, value, reason string, err error) {
		errs = append(errs, &field.Error{Object: "Host(" + h.Node + ")", Path: path, Value: value, Reason: reason, Err: err})
	}
	if h.Node == "" {
		bad("node", "", "required value missing: the name that spec.node of its host endpoints has", field.ErrRequired)
	}
	seen := map[string]bool{}
	for i, x := range h.Interfaces {
		path := fmt.Sprintf("interfaces[%d]", i)
		switch {
		case x.Name == "" || len(x.Name) > 15 || strings.ContainsAny(x.Name, "/ \t\n\x00") || x.Name == "." || x.Name == "..":
			bad(path+".name", x.Name, "not an interface name that Linux would accept", field.ErrInvalid)
		case seen[x.Name]:
			bad(path+".name", x.Name, "duplicate value: interface names are unique", field.ErrDuplicate)
		}
		seen[x.Name] = true
		for j, a := range x.Addresses {
			if !a.IsValid() {
				bad(fmt.Sprintf("%s.addresses[%d]", path, j), a.String(), "not an address with a prefix length", field.ErrInvalid)
			}
		}
	}
	return errs
}

// withLoopback adds the interface lo, which every network namespace has, to a list that leaves it out.
func withLoopback(in []hostendpoint.Interface) []hostendpoint.Interface {
	if slices.ContainsFunc(in, func(i hostendpoint.Interface) bool { return i.Name == "lo" }) {
		return in
	}
	return append(slices.Clip(in), hostendpoint.Interface{Name: "lo", Addresses: []netip.Prefix{
		netip.PrefixFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 8), netip.PrefixFrom(netip.IPv6Loopback(), 128),
	}})
}

// interfaces finds the endpoint of every interface of this host.
//
// Calico: names and addresses have equal rank. Of all endpoints that match an interface, by name or (if they have no
// interface name) by an address, the one whose own name is first in byte order wins. An endpoint may win several
// interfaces. Ref: felix/dataplane/linux/endpoint_mgr.go, resolveHostEndpoints.
func (rs *resolver) interfaces() {
	rs.hepOf = map[*Endpoint]*hep{}
	won := map[*hep][]string{}
	lost := map[*hep]map[string]*hep{} // interface -> winner
	for _, i := range rs.host.Interfaces {
		if rs.isWorkload(i.Name) || i.Name == excludedInterface {
			continue
		}
		var winner *hep
		for _, h := range rs.heps { // sorted by name
			if h.obj.Spec.Node != rs.host.Node || !matchesInterface(h, i) {
				continue
			}
			if winner == nil {
				winner = h
				won[h] = append(won[h], i.Name)
				continue
			}
			if lost[h] == nil {
				lost[h] = map[string]*hep{}
			}
			lost[h][i.Name] = winner
		}
	}
	for _, h := range rs.heps {
		if h.obj.Spec.Node != rs.host.Node {
			continue
		}
		src := h.obj.Source
		if h.obj.Spec.InterfaceName == allInterfaces {
			if rs.wildcard != nil {
				rs.problems.add(Warning, "shadowed-endpoint", h.object, "metadata.name", src.At("metadata.name"),
					"never used: the all-interfaces endpoint "+rs.hepOf[rs.wildcard].object+" comes first by name")
				continue
			}
			rs.wildcard = rs.activate(h, nil)
			continue
		}
		for _, i := range slices.Sorted(maps.Keys(lost[h])) {
			rs.problems.add(Warning, "shadowed-endpoint", h.object, "metadata.name", src.At("metadata.name"),
				fmt.Sprintf("matches interface %s, which %s governs: of several endpoints the one whose name is first wins", i, lost[h][i].object))
		}
		if names := won[h]; len(names) > 0 {
			slices.Sort(names)
			rs.activate(h, names)
			continue
		}
		if len(lost[h]) > 0 {
			continue
		}
		msg := "matches no interface of this host"
		switch n := h.obj.Spec.InterfaceName; {
		case n == "":
			msg += ": none of its expectedIPs is on one"
		case rs.isWorkload(n):
			msg += ": " + n + " belongs to a workload, which no host endpoint governs"
		case n == excludedInterface:
			msg += ": " + n + " is never governed"
		default:
			msg += ": there is no " + n
		}
		rs.problems.add(Warning, "unmatched-endpoint", h.object, "spec.interfaceName", src.At("spec.interfaceName"), msg)
	}
	slices.SortFunc(rs.active, func(a, b *Endpoint) int { return cmp.Compare(a.Name, b.Name) })
}

// activate makes an Endpoint of h.
func (rs *resolver) activate(h *hep, interfaces []string) *Endpoint {
	ep := &Endpoint{Name: h.obj.Metadata.Name, Interfaces: interfaces, Labels: h.labels, Pos: h.obj.Source.Pos()}
	for i, name := range h.obj.Spec.Profiles {
		ep.Profiles = append(ep.Profiles, rs.profile(name, h, i))
	}
	rs.active = append(rs.active, ep)
	rs.hepOf[ep] = h
	return ep
}

// matchesInterface reports whether h claims i. With an interface name the addresses do not count.
func matchesInterface(h *hep, i hostendpoint.Interface) bool {
	switch h.obj.Spec.InterfaceName {
	case allInterfaces:
		return false
	case "":
		return slices.ContainsFunc(i.Addresses, func(a netip.Prefix) bool {
			return slices.Contains(h.addrs, netip.PrefixFrom(a.Addr().Unmap(), a.Addr().Unmap().BitLen()))
		})
	}
	return h.obj.Spec.InterfaceName == i.Name
}

func (rs *resolver) isWorkload(name string) bool {
	return slices.ContainsFunc(rs.config.WorkloadInterfacePrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}
