// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// rules adds a block with those of the rules that can match a packet. It returns "" if there are none, and adds no block
// then.
func (c *compiler) rules(id ir.BlockID, rules []policy.Rule, src source) ir.BlockID {
	steps := c.ruleSteps(rules, src)
	if len(steps) == 0 {
		return ""
	}
	return c.block(id, steps)
}

// ruleSteps returns the rules that can match a packet.
func (c *compiler) ruleSteps(rules []policy.Rule, src source) []ir.Step {
	var steps []ir.Step
	for i := range rules {
		r := &rules[i]
		var step ir.Rule
		switch r.Action {
		case hostendpoint.Allow:
			step.Then = ir.Allow
		case hostendpoint.Deny:
			step.Then = ir.Deny
		case hostendpoint.Pass:
			step.Then = ir.Pass
		case hostendpoint.Log:
			step.Do = []ir.Effect{ir.Log}
		default:
			c.ruleError(src, r, "unknown action %q", r.Action)
			continue
		}
		if r.Never != "" {
			continue
		}
		m, ok := c.match(r, src)
		if !ok {
			continue
		}
		o := src.origin
		o.Index, o.Pos = r.Index, r.Pos
		step.Match, step.Origin = m, c.origin(o)
		steps = append(steps, step)
	}
	return steps
}

// match returns the clauses of a rule: family, protocol, ICMP, source, destination. It reports false if no packet can
// match, or after an error.
func (c *compiler) match(r *policy.Rule, src source) (ir.Match, bool) {
	var m ir.Match
	families, ok := c.families(r, src)
	switch {
	case !ok || families == noFamily:
		return nil, false
	case families == onlyIPv4:
		m = append(m, mask(ir.Family, inet.IPv4, false))
	case families == onlyIPv6:
		m = append(m, mask(ir.Family, inet.IPv6, false))
	}
	// Deviation: protocol with notProtocol works as written. In Calico the rule cannot be programmed, and with it the
	// whole table.
	if r.Protocol != nil {
		if r.NotProtocol != nil && *r.NotProtocol == *r.Protocol {
			return nil, false
		}
		m = append(m, mask(ir.Protocol, *r.Protocol, false))
	}
	if r.NotProtocol != nil {
		m = append(m, mask(ir.Protocol, *r.NotProtocol, true))
	}
	m = append(m, icmp(r.ICMP, r.NotICMP)...)
	for _, side := range []struct {
		policy.Side
		addr, port ir.Field
	}{{r.Source, ir.SrcAddr, ir.SrcPort}, {r.Dest, ir.DstAddr, ir.DstPort}} {
		clauses, ok := c.side(side.Side, side.addr, side.port, r, src)
		if !ok {
			return nil, false
		}
		m = append(m, clauses...)
	}
	return m, true
}

// familySet is a set of families.
type familySet uint8

const (
	noFamily familySet = 0
	onlyIPv4 familySet = 1 << iota
	onlyIPv6
	bothFamilies = onlyIPv4 | onlyIPv6
)

// families returns the families whose packets can match.
//
// Calico: a list of nets, also a negated one, keeps the rule from every family of which it has no net, and a negated
// one from every family of which it has all. Ref: felix/rules/policy.go, FilterRuleToIPVersion.
func (c *compiler) families(r *policy.Rule, src source) (familySet, bool) {
	var fs familySet
	switch r.Family {
	case 0:
		fs = bothFamilies
	case inet.IPv4:
		fs = onlyIPv4
	case inet.IPv6:
		fs = onlyIPv6
	default:
		c.ruleError(src, r, "unknown family %d", uint8(r.Family))
		return noFamily, false
	}
	ok := true
	for _, list := range []struct {
		nets []netip.Prefix
		not  bool
	}{{r.Source.Nets, false}, {r.Source.NotNets, true}, {r.Dest.Nets, false}, {r.Dest.NotNets, true}} {
		for _, p := range list.nets {
			if !p.IsValid() {
				c.ruleError(src, r, "holds an invalid prefix")
				ok = false
			}
		}
		if len(list.nets) == 0 {
			continue
		}
		var has, all familySet
		for _, p := range ir.MergePrefixes(list.nets) {
			f := onlyIPv6
			if p.Addr().Is4() {
				f = onlyIPv4
			}
			has |= f
			if p.Bits() == 0 {
				all |= f
			}
		}
		fs &= has
		if list.not {
			fs &^= all
		}
	}
	return fs, ok
}

// icmp returns the clauses for type and code. A packet that is not ICMP of its family has neither: it meets no positive
// term, and every negated one.
//
// Calico: criteria without type and code, which validation admits, have no effect. Ref: felix/calc/rule_convert.go.
//
// Deviation: notICMP works as written whatever the protocol. In Calico the rule cannot be programmed without the ICMP
// protocol of the family, and with it the whole table.
func icmp(is, not *policy.ICMP) ir.Match {
	var m ir.Match
	if is != nil {
		if is.Type != nil {
			m = append(m, mask(ir.ICMPType, *is.Type, false))
		}
		if is.Code != nil {
			m = append(m, mask(ir.ICMPCode, *is.Code, false))
		}
	}
	if not != nil {
		var clause ir.Clause // not (type and code) is (not type) or (not code)
		if not.Type != nil {
			clause = append(clause, mask(ir.ICMPType, *not.Type, true)...)
		}
		if not.Code != nil {
			clause = append(clause, mask(ir.ICMPCode, *not.Code, true)...)
		}
		if clause != nil {
			m = append(m, clause)
		}
	}
	return m
}

// mask returns the clause that tests a field for one number.
func mask[T ~uint8](f ir.Field, v T, not bool) ir.Clause {
	return ir.Clause{ir.InMask{Field: f, Mask: ir.MaskOf(v), Not: not}}
}

// side returns the clauses for the source or the destination. It reports false if no packet can match, or after an
// error.
func (c *compiler) side(s policy.Side, addr, port ir.Field, r *policy.Rule, src source) (ir.Match, bool) {
	var m ir.Match
	good := true
	in := func(id string, ports, not bool) ir.Term {
		fields := []ir.Field{addr}
		if ports {
			fields = []ir.Field{addr, ir.Protocol, port}
		}
		if has, ok := c.declared(id); !ok || has != ports {
			c.ruleError(src, r, "names the set %q, which does not exist or has other members", id)
			good = false
			return ir.InSet{}
		}
		if c.used == nil {
			c.used = map[string]bool{}
		}
		c.used[id] = true
		return ir.InSet{Fields: fields, Set: ir.SetID(id), Not: not}
	}
	if len(s.Nets) > 0 {
		m = append(m, ir.Clause{ir.InPrefixes{Field: addr, Prefixes: ir.MergePrefixes(s.Nets)}})
	}
	for _, id := range s.Sets {
		m = append(m, ir.Clause{in(id, false, false)})
	}
	if len(s.Ports)+len(s.NamedPorts) > 0 {
		var clause ir.Clause
		if ranges := ir.MergePorts(s.Ports); len(ranges) > 0 {
			clause = append(clause, ir.InPorts{Field: port, Ranges: ranges})
		}
		for _, id := range s.NamedPorts {
			clause = append(clause, in(id, true, false))
		}
		if len(clause) == 0 {
			good = false // only ranges that hold nothing
		}
		m = append(m, clause)
	}
	if len(s.NotNets) > 0 {
		m = append(m, ir.Clause{ir.InPrefixes{Field: addr, Prefixes: ir.MergePrefixes(s.NotNets), Not: true}})
	}
	for _, id := range s.NotSets {
		m = append(m, ir.Clause{in(id, false, true)})
	}
	if ranges := ir.MergePorts(s.NotPorts); len(ranges) > 0 {
		m = append(m, ir.Clause{ir.InPorts{Field: port, Ranges: ranges, Not: true}})
	}
	for _, id := range s.NotNamedPorts {
		m = append(m, ir.Clause{in(id, true, true)})
	}
	return m, good
}
