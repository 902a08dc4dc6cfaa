// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

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

// hostInterface is an interface of this host that endpoints may govern.
type hostInterface struct {
	hostendpoint.Interface
	claimants []*hep // those that match it, in no order
	winner    *hep
	dirty     bool
}

func (i *hostInterface) has(a netip.Addr) bool {
	return slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr().Unmap() == a })
}

func (rs *Resolver) touchInterface(i *hostInterface) {
	if !i.dirty {
		i.dirty = true
		rs.dirtyIfaces = append(rs.dirtyIfaces, i)
	}
}

// setHost makes h the host. Interfaces that did not change keep their endpoints.
func (rs *Resolver) setHost(h hostendpoint.Host) {
	h.Interfaces = withLoopback(h.Interfaces)
	moved := h.Node != rs.host.Node
	rs.host = h
	rs.dirtyLoopback = true
	if moved {
		for _, e := range rs.heps {
			if local := e.obj.Spec.Node == h.Node; local != e.local {
				rs.unclaim(e)
				e.local = local
				rs.match(e, rs.indexEndpoint(e))
				rs.claim(e)
				rs.touchHep(e)
			}
		}
	}
	now := make(map[string]struct{}, len(h.Interfaces))
	for _, x := range h.Interfaces {
		now[x.Name] = struct{}{}
		i := rs.ifaces[x.Name]
		switch {
		case i == nil:
			i = &hostInterface{Interface: x}
			rs.ifaces[x.Name] = i
		case slices.Equal(i.Addresses, x.Addresses):
			continue
		default:
			rs.unclaimInterface(i)
			i.Interface = x
		}
		rs.claimInterface(i)
	}
	for name, i := range rs.ifaces {
		if _, ok := now[name]; !ok {
			delete(rs.ifaces, name)
			rs.unclaimInterface(i)
		}
	}
}

// claimInterface finds the endpoints that match i. Those with its name say something about its addresses, too.
func (rs *Resolver) claimInterface(i *hostInterface) {
	for _, h := range rs.byName[i.Name] {
		rs.touchHep(h)
	}
	if !rs.governable(i.Name) {
		return
	}
	for _, h := range rs.byName[i.Name] {
		rs.link(h, i)
	}
	for _, a := range i.Addresses {
		for _, h := range rs.byAddr[a.Addr().Unmap()] {
			rs.link(h, i)
		}
	}
}

func (rs *Resolver) unclaimInterface(i *hostInterface) {
	for _, h := range rs.byName[i.Name] {
		rs.touchHep(h)
	}
	for _, h := range i.claimants {
		h.claims = without(h.claims, i)
		rs.touchHep(h)
	}
	i.claimants = nil
	rs.touchInterface(i)
}

// claim enters an endpoint of this host where interfaces look for it.
func (rs *Resolver) claim(h *hep) {
	if !h.local {
		return
	}
	switch n := h.obj.Spec.InterfaceName; n {
	case hostendpoint.AllInterfaces:
		k, _ := slices.BinarySearchFunc(rs.wildcards, h, compareHeps)
		rs.wildcards = slices.Insert(rs.wildcards, k, h)
		rs.wildcardMoved = true
	case "":
		// With an interface name the addresses do not count.
		for _, a := range h.addrs {
			list := rs.byAddr[a.Addr()]
			if slices.Contains(list, h) {
				continue
			}
			rs.byAddr[a.Addr()] = append(list, h)
		}
		for _, i := range rs.ifaces {
			if rs.governable(i.Name) && slices.ContainsFunc(h.addrs, func(a netip.Prefix) bool { return i.has(a.Addr()) }) {
				rs.link(h, i)
			}
		}
	default:
		rs.byName[n] = append(rs.byName[n], h)
		if i := rs.ifaces[n]; i != nil && rs.governable(n) {
			rs.link(h, i)
		}
	}
}

// unclaim undoes claim. The object must still be that of the claim.
func (rs *Resolver) unclaim(h *hep) {
	if !h.local {
		return
	}
	for _, i := range h.claims {
		i.claimants = without(i.claimants, h)
		rs.touchInterface(i)
	}
	h.claims = nil
	switch n := h.obj.Spec.InterfaceName; n {
	case hostendpoint.AllInterfaces:
		rs.wildcards = slices.DeleteFunc(rs.wildcards, func(o *hep) bool { return o == h })
		rs.wildcardMoved = true
	case "":
		for _, a := range h.addrs {
			if list := without(rs.byAddr[a.Addr()], h); len(list) > 0 {
				rs.byAddr[a.Addr()] = list
			} else {
				delete(rs.byAddr, a.Addr())
			}
		}
	default:
		if list := without(rs.byName[n], h); len(list) > 0 {
			rs.byName[n] = list
		} else {
			delete(rs.byName, n)
		}
	}
}

func (rs *Resolver) link(h *hep, i *hostInterface) {
	if slices.Contains(h.claims, i) {
		return
	}
	h.claims = append(h.claims, i)
	i.claimants = append(i.claimants, h)
	rs.touchInterface(i)
}

func compareHeps(a, b *hep) int { return strings.Compare(a.obj.Metadata.Name, b.obj.Metadata.Name) }

// settleInterfaces finds the endpoint of every interface.
//
// Calico: names and addresses have equal rank. Of all endpoints that match an interface, by name or (if they have no
// interface name) by an address, the one whose own name is first in byte order wins. An endpoint may win several
// interfaces. Ref: felix/dataplane/linux/endpoint_mgr.go, resolveHostEndpoints.
func (rs *Resolver) settleInterfaces() {
	for _, i := range rs.dirtyIfaces {
		i.dirty = false
		var winner *hep
		for _, h := range i.claimants {
			if winner == nil || compareHeps(h, winner) < 0 {
				winner = h
			}
		}
		if winner != i.winner {
			if i.winner != nil {
				rs.touchHep(i.winner)
			}
			i.winner = winner
			for _, h := range i.claimants {
				rs.touchHep(h)
			}
			if i.Name == "lo" {
				rs.dirtyLoopback = true
			}
		}
		for _, h := range i.claimants {
			if h != winner {
				rs.touchHep(h)
			}
		}
	}
	rs.dirtyIfaces = nil
	if !rs.wildcardMoved {
		return
	}
	rs.wildcardMoved, rs.dirtyLoopback = false, true
	var first *hep
	if len(rs.wildcards) > 0 {
		first = rs.wildcards[0]
	}
	if first != rs.wildcard {
		for _, h := range []*hep{first, rs.wildcard} {
			if h == nil {
				continue
			}
			rs.touchHep(h)
			rs.restructure(h)
			for _, p := range h.matched {
				if p.doNotTrack {
					rs.touchPolicy(p)
				}
			}
		}
		rs.wildcard = first
	}
	for _, h := range rs.wildcards {
		rs.touchHep(h)
	}
}

// governable reports whether a host endpoint can govern an interface of the name.
func (rs *Resolver) governable(name string) bool {
	return !rs.isWorkload(name) && name != excludedInterface
}

func (rs *Resolver) isWorkload(name string) bool {
	return slices.ContainsFunc(rs.config.WorkloadInterfacePrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}
