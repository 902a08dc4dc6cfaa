// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"fmt"
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// term appends the alternatives of a term; none if it cannot hold. It reports true if it always holds.
func (b *builder) term(as []alt, t ir.Term, k facts) (_ []alt, always bool, err error) {
	switch t := t.(type) {
	case ir.InPorts:
		return b.ports(as, t, k)
	case ir.InPrefixes:
		return b.prefixes(as, t)
	case ir.InNames:
		return b.nameTerm(as, t, k)
	case ir.InMask:
		return b.maskTerm(as, t, k)
	case ir.InSet:
		test, err := b.setTest(t)
		return append(as, b.alt1(test)), false, err
	}
	return nil, false, fmt.Errorf("iptables: unknown term %T", t)
}

// slots is how many ports the multiport match holds.
const slots = 15

func (b *builder) ports(as []alt, t ir.InPorts, k facts) (_ []alt, always bool, err error) {
	if t.Field != ir.SrcPort && t.Field != ir.DstPort {
		return nil, false, fmt.Errorf("iptables: %s has no ports", t.Field)
	}
	if len(t.Ranges) == 0 {
		return as, false, nil
	}
	every := len(t.Ranges) == 1 && t.Ranges[0] == (inet.PortRange{Max: 65535})
	if every && and(k.protocols, not(withPorts)) == (ir.Mask{}) {
		return nil, true, nil
	}
	for _, p := range portList {
		if !k.protocols.Has(uint8(p)) {
			continue
		}
		proto := protocolTest(p)
		switch {
		case every:
			as = append(as, b.alt1(proto))
		case len(t.Ranges) == 1 && (p == inet.TCP || p == inet.UDP) && t.Field == ir.SrcPort:
			as = append(as, b.alt2(proto, SourcePort{p, t.Ranges[0], false}))
		case len(t.Ranges) == 1 && (p == inet.TCP || p == inet.UDP):
			as = append(as, b.alt2(proto, DestinationPort{p, t.Ranges[0], false}))
		default:
			for from := 0; from < len(t.Ranges); {
				n, room := from, slots
				for n < len(t.Ranges) && room >= slotsOf(t.Ranges[n]) {
					room -= slotsOf(t.Ranges[n])
					n++
				}
				as = append(as, b.alt2(proto, MultiPort{Source: t.Field == ir.SrcPort, Ranges: t.Ranges[from:n:n]}))
				from = n
			}
		}
	}
	return as, false, nil
}

func slotsOf(r inet.PortRange) int {
	if r.Min == r.Max {
		return 1
	}
	return 2
}

func (b *builder) alt1(t Test) alt {
	a := b.testA.room(1)
	a[0] = t
	return a
}

func (b *builder) alt2(t, u Test) alt {
	a := b.testA.room(2)
	a[0], a[1] = t, u
	return a
}

// protocolTest returns the test without allocating it for the common protocols.
func protocolTest(n inet.Protocol) Test {
	switch n {
	case inet.TCP:
		return Protocol{Number: inet.TCP}
	case inet.UDP:
		return Protocol{Number: inet.UDP}
	}
	return Protocol{Number: n}
}

func (b *builder) prefixes(as []alt, t ir.InPrefixes) (_ []alt, always bool, err error) {
	if t.Field != ir.SrcAddr && t.Field != ir.DstAddr {
		return nil, false, fmt.Errorf("iptables: %s has no prefixes", t.Field)
	}
	ps := ofFamily(t.Prefixes, b.family)
	switch {
	case len(ps) == 0:
		return as, false, nil
	case len(ps) == 1 && ps[0].Bits() == 0:
		return nil, true, nil
	case len(ps) > 1:
		return append(as, b.alt1(b.constTest(ps, t.Field == ir.SrcAddr))), false, nil
	case t.Field == ir.SrcAddr:
		return append(as, b.alt1(Source{Prefix: ps[0]})), false, nil
	}
	return append(as, b.alt1(Destination{Prefix: ps[0]})), false, nil
}

// ofFamily returns the part of a sorted list that is of the family.
func ofFamily(ps []netip.Prefix, f inet.Family) []netip.Prefix {
	n := 0
	for n < len(ps) && ps[n].Addr().Is4() {
		n++
	}
	if f == inet.IPv4 {
		return ps[:n:n]
	}
	return ps[n:]
}

func (b *builder) nameTerm(as []alt, t ir.InNames, k facts) (_ []alt, always bool, err error) {
	present, err := hasIface(t.Field, k.hook)
	if err != nil || !present {
		return as, false, err
	}
	for _, n := range t.Names {
		if _, ok := ir.Name(n.Name); !ok && !(n.Prefix && n.Name == "") {
			return nil, false, fmt.Errorf("iptables: %q is not the name of an interface", n.Name)
		}
		if !plainIface(n) {
			return nil, false, b.unsupported("the interface name %q, which iptables cannot write", n.Name)
		}
		name, prefix := n.Name, n.Prefix && len(n.Name) < ir.MaxNameLen
		if prefix && name == "" {
			return nil, true, nil
		}
		if t.Field == ir.InIface {
			as = append(as, alt{InIface{Name: name, Prefix: prefix}})
		} else {
			as = append(as, alt{OutIface{Name: name, Prefix: prefix}})
		}
	}
	return as, false, nil
}

// plainIface reports whether iptables can write the name: a '+' at its end would mean any name that begins so.
func plainIface(n ir.NamePattern) bool {
	for i, c := range []byte(n.Name) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.', c == ':', c == '@', c == '%':
		case (c == '-' || c == '+') && i > 0 && !(c == '+' && i == len(n.Name)-1 && !n.Prefix):
		default:
			return false
		}
	}
	return true
}

// hasIface reports whether packets at the hook have the interface: packets generated here came by none, and before
// routing and on the way to a process there is none to leave by.
func hasIface(f ir.Field, h flow.Hook) (bool, error) {
	switch f {
	case ir.InIface:
		return h != flow.UntrackedOut && h != flow.NormalOut, nil
	case ir.OutIface:
		return h != flow.UntrackedIn && h != flow.PreDNAT && h != flow.NormalIn, nil
	}
	return false, fmt.Errorf("iptables: %s has no names", f)
}

func (b *builder) maskTerm(as []alt, t ir.InMask, k facts) (_ []alt, always bool, err error) {
	switch t.Field {
	case ir.Family:
		return as, maskOf(t).Has(uint8(b.family)), nil
	case ir.Protocol:
		want := and(k.protocols, maskOf(t))
		if want == k.protocols {
			return nil, true, nil
		}
		c := b.protocolClause(want)
		if c.hasNeg { // only in a clause of several terms
			c.pos = nil
			for _, n := range numbers(want) {
				if n != 0 {
					c.pos = append(c.pos, alt{Protocol{Number: inet.Protocol(n)}})
				}
			}
		}
		return append(as, c.pos...), false, nil
	case ir.ICMPType, ir.ICMPCode:
		if and(k.protocols, b.icmp()) == (ir.Mask{}) {
			return as, false, nil
		}
		var m icmpMessages
		m.add(t)
		return append(as, m.alts(b.family)...), false, nil
	case ir.State:
		if k.hook.Stage() == flow.StageUntracked {
			return as, t.Not, nil
		}
		want := and(allStates, maskOf(t))
		switch want {
		case ir.Mask{}:
			return as, false, nil
		case allStates:
			return nil, true, nil
		}
		return append(as, alt{State{want}}), false, nil
	}
	return nil, false, fmt.Errorf("iptables: %s has no small numbers", t.Field)
}

func (b *builder) setTest(t ir.InSet) (Test, error) {
	kind, ok := b.kinds[t.Set]
	if !ok {
		return nil, fmt.Errorf("iptables: set %q is not declared", t.Set)
	}
	ok = false
	if len(t.Fields) > 0 {
		port := ir.DstPort
		if t.Fields[0] == ir.SrcAddr {
			port = ir.SrcPort
		}
		addr := t.Fields[0] == ir.SrcAddr || t.Fields[0] == ir.DstAddr
		switch kind {
		case ir.SetOfPrefixes:
			ok = addr && len(t.Fields) == 1
		case ir.SetOfEndpoints:
			ok = addr && len(t.Fields) == 3 && t.Fields[1] == ir.Protocol && t.Fields[2] == port
		}
	}
	if !ok {
		return nil, fmt.Errorf("iptables: set %q of %s cannot be asked for %v", t.Set, kind, t.Fields)
	}
	u := b.useSet(t.Set)
	i := 0
	if t.Fields[0] == ir.SrcAddr {
		i = 1
	}
	if u.tests[i] == nil {
		u.tests[i] = InSet{Set: u.name, Source: i == 1, Port: kind == ir.SetOfEndpoints}
	}
	return u.tests[i], nil
}
