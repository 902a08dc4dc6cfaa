// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// view is a packet as one hook sees it.
type view struct {
	family             inet.Family
	protocol           inet.Protocol
	src, dst           netip.Addr
	srcPort, dstPort   uint16
	icmpType, icmpCode uint8
	state              flow.ConnState
}

// miss says which criterion of a rule did not hold. Its text is made only when somebody reads it.
type miss struct {
	criterion string // as the manifest writes it
	want      any
	got       any
}

// String returns "source.nets: 10.0.0.1 is not in [10.1.0.0/16]" and the like.
func (m *miss) String() string {
	if m.want == nil {
		return fmt.Sprintf("%s: %v", m.criterion, m.got)
	}
	if strings.HasPrefix(m.criterion[strings.LastIndexByte(m.criterion, '.')+1:], "not") {
		return fmt.Sprintf("%s: %v is in %v", m.criterion, m.got, m.want)
	}
	return fmt.Sprintf("%s: %v is not in %v", m.criterion, m.got, m.want)
}

// match returns nil if every criterion of r holds for v, and otherwise the first that does not. Ref: felix/rules/policy.go,
// ProtoRuleToIptablesRules and FilterRuleToIPVersion.
func (e *Evaluator) match(r *policy.Rule, v *view) *miss {
	if r.Never != "" {
		return &miss{criterion: "never", got: r.Never}
	}
	if r.Family != 0 && r.Family != v.family {
		return &miss{"ipVersion", r.Family, v.family}
	}
	if r.Protocol != nil && *r.Protocol != v.protocol {
		return &miss{"protocol", *r.Protocol, v.protocol}
	}
	if r.NotProtocol != nil && *r.NotProtocol == v.protocol {
		return &miss{"notProtocol", *r.NotProtocol, v.protocol}
	}
	if r.ICMP != nil && !v.isMessage(r.ICMP) {
		return &miss{"icmp", icmpText(r.ICMP), v.icmpText()}
	}
	if r.NotICMP != nil && v.isMessage(r.NotICMP) {
		return &miss{"notICMP", icmpText(r.NotICMP), v.icmpText()}
	}
	if m := e.side("source", &r.Source, v, v.src, v.srcPort); m != nil {
		return m
	}
	return e.side("destination", &r.Dest, v, v.dst, v.dstPort)
}

func (e *Evaluator) side(name string, s *policy.Side, v *view, addr netip.Addr, port uint16) *miss {
	if len(s.Nets) > 0 && !slices.ContainsFunc(s.Nets, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return &miss{name + ".nets", s.Nets, addr}
	}
	if len(s.NotNets) > 0 {
		// Calico: a negated list without a prefix of the packet's family keeps the rule from matching this family.
		if !slices.ContainsFunc(s.NotNets, func(p netip.Prefix) bool { return p.Addr().Is4() == addr.Is4() }) {
			return &miss{criterion: name + ".notNets", got: "the list has no prefix of the packet's family"}
		}
		if slices.ContainsFunc(s.NotNets, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return &miss{name + ".notNets", s.NotNets, addr}
		}
	}
	for _, id := range s.Sets {
		if !e.sets[id].containsAddr(addr) {
			return &miss{name + ".selector", id, addr}
		}
	}
	for _, id := range s.NotSets {
		if e.sets[id].containsAddr(addr) {
			return &miss{name + ".notSelector", id, addr}
		}
	}
	inRanges := func(rs []inet.PortRange) bool {
		return v.hasPorts() && slices.ContainsFunc(rs, func(r inet.PortRange) bool { return r.Contains(port) })
	}
	inNamed := func(ids []string) bool {
		return v.hasPorts() && slices.ContainsFunc(ids, func(id string) bool { return e.sets[id].containsPort(addr, v.protocol, port) })
	}
	if len(s.Ports)+len(s.NamedPorts) > 0 && !inRanges(s.Ports) && !inNamed(s.NamedPorts) {
		return &miss{name + ".ports", fmt.Sprint(s.Ports, s.NamedPorts), port}
	}
	if inRanges(s.NotPorts) || inNamed(s.NotNamedPorts) {
		return &miss{name + ".notPorts", fmt.Sprint(s.NotPorts, s.NotNamedPorts), port}
	}
	return nil
}

// isMessage reports whether the packet is an ICMP message of its own family with the given type and code.
func (v *view) isMessage(m *policy.ICMP) bool {
	return v.isICMP() && (m.Type == nil || *m.Type == v.icmpType) && (m.Code == nil || *m.Code == v.icmpCode)
}

func icmpText(m *policy.ICMP) string {
	switch {
	case m.Type == nil:
		return "any"
	case m.Code == nil:
		return fmt.Sprint(*m.Type)
	}
	return fmt.Sprintf("%d/%d", *m.Type, *m.Code)
}

func (v *view) icmpText() string {
	if !v.isICMP() {
		return v.protocol.String()
	}
	return fmt.Sprintf("%d/%d", v.icmpType, v.icmpCode)
}

// memberSet is a set of policy.Snapshot in a form that answers quickly enough. A nil set is empty.
type memberSet struct {
	prefixes map[netip.Prefix]bool
	lens4    []int // prefix lengths in use
	lens6    []int
	ports    map[policy.Member]bool
}

func newMemberSet(ms []policy.Member) *memberSet {
	s := &memberSet{prefixes: map[netip.Prefix]bool{}, ports: map[policy.Member]bool{}}
	for _, m := range ms {
		s.ports[m] = true
		s.prefixes[m.Prefix] = true
		lens := &s.lens4
		if m.Prefix.Addr().Is6() {
			lens = &s.lens6
		}
		if !slices.Contains(*lens, m.Prefix.Bits()) {
			*lens = append(*lens, m.Prefix.Bits())
		}
	}
	return s
}

func (s *memberSet) containsAddr(a netip.Addr) bool {
	if s == nil {
		return false
	}
	lens := s.lens4
	if a.Is6() {
		lens = s.lens6
	}
	return slices.ContainsFunc(lens, func(n int) bool {
		p, err := a.Prefix(n)
		return err == nil && s.prefixes[p]
	})
}

func (s *memberSet) containsPort(a netip.Addr, proto inet.Protocol, port uint16) bool {
	return s != nil && s.ports[policy.Member{Prefix: netip.PrefixFrom(a, a.BitLen()), Protocol: proto, Port: port}]
}
