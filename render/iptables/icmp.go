// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// icmpMessages gathers the clauses of a match that demand a type or a code. They make one clause, since iptables tests
// a code only together with its type.
type icmpMessages struct {
	any          bool
	types, codes ir.Mask // what is not allowed
}

// takes reports whether the term is one that add gathers from a match.
func (m *icmpMessages) takes(t ir.Term) bool {
	x, ok := t.(ir.InMask)
	return ok && !x.Not && (x.Field == ir.ICMPType || x.Field == ir.ICMPCode)
}

// add adds a term if takes accepts it.
func (m *icmpMessages) add(t ir.InMask) {
	if !m.takes(t) {
		return
	}
	m.any = true
	if t.Field == ir.ICMPType {
		m.types = or(m.types, not(t.Mask))
	} else {
		m.codes = or(m.codes, not(t.Mask))
	}
}

// alts returns one alternative for each type, or for each type and code.
func (m *icmpMessages) alts(f inet.Family) []alt {
	proto := inet.ICMP
	if f == inet.IPv6 {
		proto = inet.ICMPv6
	}
	if m.types == (ir.Mask{}) && m.codes == (ir.Mask{}) {
		return []alt{{protocolTest(proto)}}
	}
	var as []alt
	for _, t := range numbers(not(m.types)) {
		codes := numbers(not(m.codes))
		if len(codes) == 256 {
			as = append(as, alt{protocolTest(proto), icmpTest(f, t, 0, true)})
			continue
		}
		for _, c := range codes {
			as = append(as, alt{protocolTest(proto), icmpTest(f, t, c, false)})
		}
	}
	return as
}

// icmpTest returns the test for a message. To the kernel, type 255 of IPv4 means any type and code.
// Ref: net/ipv4/netfilter/ip_tables.c, icmp_type_code_match.
func icmpTest(f inet.Family, t, c uint8, anyCode bool) Test {
	if f == inet.IPv4 && t == 255 {
		if anyCode {
			return Bytes{"0x0>>0x16&0x3c@0x0>>0x18=0xff"}
		}
		return Bytes{"0x0>>0x16&0x3c@0x0>>0x10=0xff" + hexByte(c)}
	}
	if anyCode {
		return ICMP{Family: f, Type: t, AnyCode: true}
	}
	return ICMP{Family: f, Type: t, Code: c}
}

func hexByte(c uint8) string {
	const hex = "0123456789abcdef"
	return string([]byte{hex[c>>4], hex[c&15]})
}

// mergeICMP makes one test of the two of a conjunction of a type and a code: a code alone is one of 256 alternatives, of
// which the one with the type is meant.
func mergeICMP(a alt) alt {
	out := a[:0:0]
	for _, t := range a {
		x, ok := t.(ICMP)
		if !ok {
			out = append(out, t)
			continue
		}
		merged := false
		for i, u := range out {
			y, ok := u.(ICMP)
			if !ok || y.Type != x.Type {
				continue
			}
			switch {
			case x.AnyCode:
				merged = true
			case y.AnyCode:
				out[i], merged = x, true
			}
		}
		if !merged {
			out = append(out, t)
		}
	}
	return out
}
