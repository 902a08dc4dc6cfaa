// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/eval"
	"github.com/hostpolicy/hostpolicy/policy/fleet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// untracked reports rules that let packets in or out untracked, and whose answers are not let back: shown by a packet
// that the rule decides, and its answer.
func (l *linter) untracked(h fleet.Host, s *policy.Snapshot) {
	var e *eval.Evaluator
	sets := map[string]*policy.Set{}
	for _, x := range s.Sets {
		sets[x.ID] = x
	}
	for _, ep := range s.Endpoints {
		if len(ep.Untracked) == 0 || len(ep.Interfaces) == 0 {
			continue
		}
		if e == nil {
			e = eval.New(s)
		}
		local := localAddress(s, ep.Interfaces[0])
		for _, t := range ep.Untracked {
			for _, dir := range directions {
				for _, p := range directed(dir, t.Ingress, t.Egress) {
					rules := directed(dir, p.Ingress, p.Egress)
					for i := range rules {
						r := &rules[i]
						if r.Action != hostendpoint.Allow || r.Never != "" {
							continue
						}
						pkt, ok := exampleOf(r, dir, ep.Interfaces[0], local, sets)
						if !ok {
							continue
						}
						want := flow.Origin{Kind: flow.OriginPolicy, Tier: p.Tier, Name: p.Name, Dir: dir, Index: r.Index, Stage: flow.StageUntracked}
						if v, by := e.Decide(&pkt); v != flow.Allow || by.ID() != want {
							continue
						}
						back := answerTo(&pkt)
						if v, by := e.Decide(&back); v == flow.Allow && by.Stage == flow.StageUntracked || by.Kind == flow.OriginFailsafe {
							continue
						}
						_, by := e.Decide(&back)
						l.add(h.Node, Finding{
							Severity: policy.Warning, Code: "untracked-one-way", Object: l.object(p), Path: rulePath(dir, r.Index), Pos: r.Pos,
							Message: "no doNotTrack rule of the " + (1 - dir).String() + " direction allows the answers to what this rule allows untracked: " + by.String() + " decides them instead",
							Related: []Related{{Text: "allowed: " + packetText(&pkt)}, {Text: "its answer is not: " + packetText(&back), Pos: by.Pos}},
						})
					}
				}
			}
		}
	}
}

// localAddress returns an address of an interface for each family.
func localAddress(s *policy.Snapshot, iface string) map[inet.Family]netip.Addr {
	out := map[inet.Family]netip.Addr{inet.IPv4: netip.AddrFrom4([4]byte{192, 0, 2, 1}), inet.IPv6: netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: 1})}
	for _, i := range s.Host.Interfaces {
		if i.Name != iface {
			continue
		}
		for j := len(i.Addresses) - 1; j >= 0; j-- {
			a := i.Addresses[j].Addr().Unmap()
			out[inet.FamilyOf(a)] = a
		}
	}
	return out
}

// exampleOf returns a packet that a rule probably matches; the caller must ask whether it does.
func exampleOf(r *policy.Rule, dir flow.Direction, iface string, local map[inet.Family]netip.Addr, sets map[string]*policy.Set) (flow.Packet, bool) {
	p := flow.Packet{Path: flow.Input, In: iface, Protocol: inet.TCP}
	if dir == flow.Egress {
		p.Path, p.In, p.Out = flow.Output, "", iface
	}
	switch {
	case r.Protocol != nil:
		p.Protocol = *r.Protocol
	case r.NotProtocol != nil && *r.NotProtocol == inet.TCP:
		p.Protocol = inet.UDP
	}
	// The families that the rule may mean, and an address of each side that it names.
	for _, family := range []inet.Family{inet.IPv4, inet.IPv6} {
		if r.Family != 0 && r.Family != family || p.Protocol == inet.ICMPv6 && family == inet.IPv4 || p.Protocol == inet.ICMP && family == inet.IPv6 {
			continue
		}
		remote := netip.AddrFrom4([4]byte{198, 51, 100, 7})
		if family == inet.IPv6 {
			remote = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 13: 7})
		}
		srcDefault, dstDefault := remote, local[family]
		if dir == flow.Egress {
			srcDefault, dstDefault = dstDefault, srcDefault
		}
		var ok1, ok2 bool
		p.Src, ok1 = sideAddress(&r.Source, family, srcDefault, sets)
		p.Dst, ok2 = sideAddress(&r.Dest, family, dstDefault, sets)
		if ok1 && ok2 {
			if p.Protocol.HasPorts() || p.Protocol == inet.UDPLite {
				p.SrcPort, p.DstPort = sidePort(&r.Source, 40000, sets), sidePort(&r.Dest, 7, sets)
			}
			if p.Protocol == inet.ICMP || p.Protocol == inet.ICMPv6 {
				p.ICMPType = 8
				if p.Protocol == inet.ICMPv6 {
					p.ICMPType = 128
				}
				if r.ICMP != nil && r.ICMP.Type != nil && *r.ICMP.Type != p.ICMPType {
					return p, false // no question that expects an answer
				}
			}
			return p, true
		}
	}
	return p, false
}

func sideAddress(s *policy.Side, f inet.Family, usual netip.Addr, sets map[string]*policy.Set) (netip.Addr, bool) {
	for _, n := range s.Nets {
		if inet.FamilyOf(n.Addr()) == f {
			if n.Contains(usual) {
				return usual, true
			}
			if a := n.Addr().Next(); n.Contains(a) {
				return a, true
			}
			return n.Addr(), true
		}
	}
	if len(s.Nets) > 0 {
		return usual, false
	}
	for _, id := range append(s.Sets[:len(s.Sets):len(s.Sets)], s.NamedPorts...) {
		if x := sets[id]; x != nil {
			for _, m := range x.Members {
				if inet.FamilyOf(m.Prefix.Addr()) == f {
					return m.Prefix.Addr(), true
				}
			}
			return usual, false
		}
	}
	return usual, true
}

func sidePort(s *policy.Side, usual uint16, sets map[string]*policy.Set) uint16 {
	for _, id := range s.NamedPorts {
		if x := sets[id]; x != nil && len(x.Members) > 0 {
			return x.Members[0].Port
		}
	}
	for _, r := range s.Ports {
		if r.Contains(usual) {
			return usual
		}
	}
	if len(s.Ports) > 0 {
		return s.Ports[0].Min
	}
	return usual
}

// answerTo returns the packet that answers p.
func answerTo(p *flow.Packet) flow.Packet {
	b := *p
	b.Src, b.Dst, b.SrcPort, b.DstPort = p.Dst, p.Src, p.DstPort, p.SrcPort
	b.In, b.Out = p.Out, p.In
	b.Path = flow.Output
	if p.Path == flow.Output {
		b.Path = flow.Input
	}
	switch p.Protocol {
	case inet.ICMP:
		b.ICMPType = 0
	case inet.ICMPv6:
		b.ICMPType = 129
	}
	return b
}

// packetText returns a packet for people.
func packetText(p *flow.Packet) string {
	end := func(a netip.Addr, port uint16) string {
		if p.Protocol.HasPorts() || p.Protocol == inet.UDPLite {
			return netip.AddrPortFrom(a, port).String()
		}
		return a.String()
	}
	return p.Path.String() + " " + p.In + p.Out + " " + p.Protocol.String() + " " + end(p.Src, p.SrcPort) + " > " + end(p.Dst, p.DstPort)
}
