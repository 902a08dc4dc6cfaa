// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/effective"
	"github.com/hostpolicy/hostpolicy/selector"
)

// peer is what an endpoint or network set contributes to sets.
type peer struct {
	addrs []netip.Prefix
	ports []peerPort
}

type peerPort struct {
	name     string
	protocol inet.Protocol
	port     uint16
}

// endpointPeer reads the addresses and ports of a host endpoint. What cannot be read is left out; validation has
// reported it. Calico: without expectedIPs an endpoint contributes nothing, whatever addresses its interface has.
func endpointPeer(h *hostendpoint.HostEndpoint) peer {
	var p peer
	for _, s := range h.Spec.ExpectedIPs {
		if a, err := inet.ParseAddr(s); err == nil {
			p.addrs = append(p.addrs, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	for _, x := range h.Spec.Ports {
		// Deviation: in Calico a numeric protocol makes the endpoint vanish.
		if n, ok := x.Protocol.IP(); ok && n.HasPorts() && x.Port != 0 {
			p.ports = append(p.ports, peerPort{x.Name, n, x.Port})
		}
	}
	return p
}

func netPeer(nets []string) peer {
	var p peer
	for _, s := range nets {
		if n, err := inet.ParsePrefix(s); err == nil {
			p.addrs = append(p.addrs, n.Masked())
		}
	}
	return p
}

// use declares the sets of a policy that is asked on this host.
func (rs *resolver) use(p *boundPolicy) {
	if !p.used {
		p.used = true
		rs.declare(p.specs)
	}
}

func (rs *resolver) declare(specs []setSource) {
	for _, x := range specs {
		if rs.sets[x.ID] != nil {
			continue
		}
		s := &Set{ID: x.ID, Ports: x.Kind == effective.NamedPort || x.Kind == effective.Service}
		switch x.Kind {
		case effective.Selector, effective.NamedPort:
			s.Selector = x.Selector.String()
		case effective.Service, effective.ServiceNoPort:
			rs.problems.add(Error, "service-match", x.object, x.path+".services", x.pos,
				"the rule never matches: the endpoints of service "+x.Namespace+"/"+x.Name+" are not known here")
		}
		rs.sets[x.ID] = s
		rs.specs[x.ID] = x
	}
}

// fillSets computes the members of all declared sets. Ref: felix/labelindex/named_port_index.go.
func (rs *resolver) fillSets() {
	for id, s := range rs.sets {
		x := rs.specs[id]
		if x.Kind != effective.Selector && x.Kind != effective.NamedPort {
			continue
		}
		for _, h := range rs.heps {
			if !x.Selector.Matches(selector.MapLabels(h.labels)) {
				continue
			}
			if len(h.addrs) == 0 {
				rs.problems.add(Warning, "peer-without-ips", h.object, "spec.expectedIPs", h.obj.Source.At("spec"),
					"rules select it, but without expectedIPs no address of it is known: they do not match its traffic")
			}
			s.Members = appendMembers(s.Members, &x, &h.peer)
		}
		for _, n := range rs.netsets {
			if x.Selector.Matches(selector.MapLabels(n.labels)) {
				s.Members = appendMembers(s.Members, &x, &n.peer)
			}
		}
		slices.SortFunc(s.Members, compareMembers)
		s.Members = slices.Compact(s.Members)
	}
}

func appendMembers(ms []Member, x *setSource, p *peer) []Member {
	if x.Kind == effective.Selector {
		for _, a := range p.addrs {
			ms = append(ms, Member{Prefix: a})
		}
		return ms
	}
	for _, port := range p.ports {
		if port.name != x.PortName || port.protocol != x.Protocol {
			continue
		}
		for _, a := range p.addrs {
			ms = append(ms, Member{Prefix: a, Protocol: port.protocol, Port: port.port})
		}
	}
	return ms
}

func compareMembers(a, b Member) int {
	return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()),
		cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
}
