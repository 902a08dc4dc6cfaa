// SPDX-License-Identifier: Apache-2.0

package assertion

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
	"github.com/hostpolicy/hostpolicy/selector"
)

// testError says what is wrong with a field of a test.
func testError(t *manifest.Test, path, value, format string, args ...any) error {
	if len(args) > 0 {
		format = fmt.Sprintf(format, args...)
	}
	return &field.Error{Path: path, Pos: t.At(path), Value: value, Reason: format, Err: field.ErrInvalid}
}

// expand returns the packets that a test comes to; at least one if there is no error.
func (s *Suite) expand(t *manifest.Test) ([]trip, error) {
	if t.Packet != "" {
		return s.single(t)
	}
	from, err := s.places(t, "from", t.From)
	if err != nil {
		return nil, err
	}
	to, err := s.places(t, "to", t.To)
	if err != nil {
		return nil, err
	}
	protocol, err := protocolOf(t)
	if err != nil {
		return nil, err
	}
	var out []trip
	outside := false
	for _, a := range from {
		for _, b := range to {
			if !pairs(t, &a, &b) {
				continue
			}
			if a.node == "" && b.node == "" {
				outside = true
				continue
			}
			tails, err := tailsOf(t, protocol, &b)
			if err != nil {
				return nil, err
			}
			for _, tail := range tails {
				tr, err := s.trip(t, protocol, tail, &a, &b)
				if err != nil {
					return nil, err
				}
				if out = append(out, tr); len(out) > maxPackets {
					return nil, testError(t, "", "", "comes to more than %d packets: narrow from, to or port", maxPackets)
				}
			}
		}
	}
	switch {
	case len(out) > 0:
		return out, nil
	case outside:
		return nil, testError(t, "from", "", "neither from nor to is an address of a host that is known here: nobody would be asked")
	}
	return nil, testError(t, "", "", "comes to no packet: from and to have no addresses of one IP version, or are the same")
}

// single returns the one packet that a test writes out.
func (s *Suite) single(t *manifest.Test) ([]trip, error) {
	h := s.hosts[t.Node]
	if h == nil {
		return nil, testError(t, "node", t.Node, "no host of this name is known here")
	}
	p, err := policytest.ParsePacket(t.Packet, h.Host.Host, h.dnat)
	switch {
	case err != nil:
		return nil, testError(t, "packet", t.Packet, err.Error())
	case p.Asked:
		return nil, testError(t, "packet", t.Packet, "the verdict belongs into expect")
	}
	return []trip{{from: p.Src.String(), to: p.Dst.String(), hops: []hop{{h, p}}}}, nil
}

// pairs reports whether traffic from a to b is meant by the test.
func pairs(t *manifest.Test, a, b *place) bool {
	family := inet.FamilyOf(a.addr)
	switch {
	case family != inet.FamilyOf(b.addr), t.IPVersion != 0 && t.IPVersion != int(family), a.addr == b.addr:
		return false
	case a.endpoint != nil && a.endpoint == b.endpoint:
		return false
	}
	return a.node == "" || a.node != b.node || !a.chosen && !b.chosen
}

// places returns the addresses of one side of a test, without repetition.
func (s *Suite) places(t *manifest.Test, side string, peers []manifest.Peer) ([]place, error) {
	var out []place
	for i, p := range peers {
		list, err := s.peer(p)
		if err != nil {
			path := side
			if len(peers) > 1 {
				path += "[" + strconv.Itoa(i) + "]"
			}
			return nil, testError(t, path, peerText(p), err.Error())
		}
		for _, x := range list {
			if !slices.ContainsFunc(out, func(y place) bool { return y.addr == x.addr && y.node == x.node && y.iface == x.iface }) {
				out = append(out, x)
			}
		}
	}
	return out, nil
}

func peerText(p manifest.Peer) string {
	return p.Text + p.HostEndpoint + p.Selector + p.NetworkSet + p.Address
}

func (s *Suite) peer(p manifest.Peer) ([]place, error) {
	switch {
	case p.Selector != "":
		return s.selected(p.Selector)
	case p.NetworkSet != "":
		nets, ok := s.sets[p.NetworkSet]
		if !ok {
			return nil, errors.New("there is no network set of this name (NAMESPACE/NAME for a namespaced one)")
		}
		if len(nets) == 0 {
			return nil, errors.New("the network set is empty")
		}
		var out []place
		for _, n := range nets {
			out = append(out, s.network(n, p.NetworkSet)...)
		}
		return out, nil
	case p.HostEndpoint != "":
		return s.named(p.HostEndpoint)
	}
	text := p.Text + p.Address
	if n, err := inet.ParseNet(text); err == nil {
		if n.Prefix.Bits() == n.Addr.BitLen() || n.HostBits {
			return []place{s.address(n.Addr, text)}, nil
		}
		return s.network(n.Prefix, text), nil
	}
	if p.Address != "" {
		return nil, errors.New("not an address or CIDR")
	}
	return s.named(text)
}

// address returns the place of an address: on the host that has it, or outside.
func (s *Suite) address(a netip.Addr, who string) place {
	if o, ok := s.owners[a]; ok {
		o.who = who
		return o
	}
	return place{addr: a, who: who}
}

// network returns the first and the last address of a network.
func (s *Suite) network(p netip.Prefix, who string) []place {
	first := p.Masked().Addr()
	last := lastOf(p)
	if first == last {
		return []place{s.address(first, who)}
	}
	return []place{s.address(first, who), s.address(last, who)}
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func (s *Suite) named(name string) ([]place, error) {
	i, ok := slices.BinarySearchFunc(s.endpoints, name, func(e *endpoint, n string) int { return strings.Compare(e.obj.Metadata.Name, n) })
	if !ok {
		return nil, errors.New("there is no host endpoint of this name, nor is it an address")
	}
	return s.placesOf(s.endpoints[i])
}

func (s *Suite) selected(text string) ([]place, error) {
	sel, err := selector.Parse(text)
	if err != nil {
		return nil, err
	}
	var out []place
	for _, e := range s.endpoints {
		if !sel.Matches(e.labels) {
			continue
		}
		list, err := s.placesOf(e)
		if err != nil {
			return nil, fmt.Errorf("selects host endpoint %s: %w", e.obj.Metadata.Name, err)
		}
		for i := range list {
			list[i].chosen = true
		}
		out = append(out, list...)
	}
	if len(out) == 0 {
		return nil, errors.New("selects no host endpoint")
	}
	return out, nil
}

// placesOf returns the addresses of a host endpoint with the interfaces that they are on: its expectedIPs, or else what
// is on the interfaces that it governs.
func (s *Suite) placesOf(e *endpoint) ([]place, error) {
	h := s.hosts[e.obj.Spec.Node]
	if h == nil {
		return nil, fmt.Errorf("its node %q is not known here", e.obj.Spec.Node)
	}
	name := e.obj.Metadata.Name
	var own []hostendpoint.Interface
	is := func(ep *policy.Endpoint) bool { return ep != nil && ep.Name == name }
	switch i := slices.IndexFunc(h.snapshot.Endpoints, is); {
	case i >= 0:
		for _, x := range h.snapshot.Host.Interfaces {
			if slices.Contains(h.snapshot.Endpoints[i].Interfaces, x.Name) {
				own = append(own, x)
			}
		}
	case is(h.snapshot.Wildcard):
		for _, x := range h.snapshot.Host.Interfaces {
			if x.Name != "lo" && !h.governs[x.Name] && !slices.ContainsFunc(h.snapshot.Config.WorkloadInterfacePrefixes, func(p string) bool { return strings.HasPrefix(x.Name, p) }) {
				own = append(own, x)
			}
		}
	}
	if len(own) == 0 {
		return nil, fmt.Errorf("it governs no interface of node %s", h.Node)
	}
	add := func(out []place, a netip.Addr, iface string) []place {
		return append(out, place{addr: a.Unmap(), node: h.Node, iface: iface, who: name, endpoint: e})
	}
	var out, local []place
	for _, text := range e.obj.Spec.ExpectedIPs {
		a, err := inet.ParseAddr(text)
		if err != nil {
			continue
		}
		i := slices.IndexFunc(own, func(x hostendpoint.Interface) bool {
			return slices.ContainsFunc(x.Addresses, func(p netip.Prefix) bool { return p.Addr().Unmap() == a })
		})
		out = add(out, a, own[max(i, 0)].Name)
	}
	if len(out) > 0 {
		return out, nil
	}
	for _, x := range own {
		for _, p := range x.Addresses {
			if p.Addr().IsLinkLocalUnicast() {
				local = add(local, p.Addr(), x.Name)
			} else {
				out = add(out, p.Addr(), x.Name)
			}
		}
	}
	if len(out) == 0 {
		out = local
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no address of it is known: give it expectedIPs, or describe the interfaces of node %s", h.Node)
	}
	return out, nil
}

// protocolOf returns the protocol of a test.
func protocolOf(t *manifest.Test) (inet.Protocol, error) {
	if t.Protocol == nil {
		return 0, testError(t, "protocol", "", "a protocol is required, such as TCP")
	}
	p, ok := t.Protocol.IP()
	if !ok || p == 0 {
		return 0, testError(t, "protocol", t.Protocol.String(), "must be TCP, UDP, SCTP, UDPLite, ICMP, ICMPv6 or a number from 1 to 255")
	}
	ported := p.HasPorts() || p == inet.UDPLite
	switch {
	case ported && len(t.Ports) == 0:
		return 0, testError(t, "port", "", "protocol %s needs a port", p)
	case !ported && (len(t.Ports) > 0 || t.SourcePort != 0):
		return 0, testError(t, "port", "", "protocol %s has no ports", p)
	case t.ICMP != nil && p != inet.ICMP && p != inet.ICMPv6:
		return 0, testError(t, "icmp", "", "protocol %s has no types", p)
	}
	return p, nil
}

// tailsOf returns what distinguishes packets of one protocol to b: ports, or an ICMP type and code.
func tailsOf(t *manifest.Test, protocol inet.Protocol, b *place) ([]uint16, error) {
	if len(t.Ports) == 0 {
		return []uint16{0}, nil
	}
	var out []uint16
	add := func(n uint16) {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	for _, p := range t.Ports {
		r, numeric := p.Range()
		if numeric {
			add(r.Min)
			add(r.Max)
			continue
		}
		if b.endpoint == nil {
			return nil, testError(t, "port", p.Name, "%s has no named ports: only host endpoints do", b.who)
		}
		found := false
		for _, x := range b.endpoint.obj.Spec.Ports {
			if n, ok := x.Protocol.IP(); ok && n == protocol && x.Name == p.Name {
				add(x.Port)
				found = true
			}
		}
		if !found {
			return nil, testError(t, "port", p.Name, "host endpoint %s has no %s port of this name", b.who, protocol)
		}
	}
	return out, nil
}

// sourcePort is that of tests that do not say.
const sourcePort = 40000

// trip returns the way of one packet from a to b.
func (s *Suite) trip(t *manifest.Test, protocol inet.Protocol, port uint16, a, b *place) (trip, error) {
	out := trip{from: a.who, to: b.who}
	text := packetText(t, protocol, port, a.addr, b.addr)
	add := func(p *place, path flow.Path, iface string) error {
		h := s.hosts[p.node]
		pkt, err := policytest.ParsePacket(path.String()+" "+iface+" "+text, h.Host.Host, h.dnat)
		if err != nil {
			return testError(t, "", "", err.Error())
		}
		out.hops = append(out.hops, hop{h, pkt})
		return nil
	}
	leave, arrive := a.iface, b.iface
	if a.node == b.node {
		leave, arrive = "lo", "lo"
	}
	if a.node != "" {
		if err := add(a, flow.Output, leave); err != nil {
			return trip{}, err
		}
	}
	if b.node != "" {
		if err := add(b, flow.Input, arrive); err != nil {
			return trip{}, err
		}
	}
	return out, nil
}

// packetText writes a packet as ParsePacket reads it, without the path.
func packetText(t *manifest.Test, protocol inet.Protocol, port uint16, src, dst netip.Addr) string {
	var text string
	icmp := inet.FamilyOf(src) == inet.IPv4 && protocol == inet.ICMP || inet.FamilyOf(src) == inet.IPv6 && protocol == inet.ICMPv6
	switch {
	case len(t.Ports) > 0:
		from := t.SourcePort
		if from == 0 {
			from = sourcePort
		}
		text = fmt.Sprintf("%s %s > %s", protocol, netip.AddrPortFrom(src, from), netip.AddrPortFrom(dst, port))
	case icmp:
		typ, code := 8, 0
		if protocol == inet.ICMPv6 {
			typ = 128
		}
		if t.ICMP != nil {
			if t.ICMP.Type != nil {
				typ = *t.ICMP.Type
			}
			if t.ICMP.Code != nil {
				code = *t.ICMP.Code
			}
		}
		text = fmt.Sprintf("%s %d/%d %s > %s", protocol, typ, code, src, dst)
	default:
		text = fmt.Sprintf("proto %d %s > %s", uint8(protocol), src, dst)
	}
	if t.State != "" {
		text += " " + t.State
	}
	return text
}
