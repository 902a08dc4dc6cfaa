// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// outcomeCase is a case of a switch with what it does.
type outcomeCase struct {
	key    []ir.Interval
	act    action
	outs   ir.OutcomeSet // of a block that was jumped to
	sub    conv
	origin ir.OriginID
	block  bool // it decides nothing by itself
}

// noteOf returns the comment and the origin of the rules for a case.
func (b *builder) noteOf(k *outcomeCase) (string, *flow.Origin) {
	if k.block {
		return "", nil
	}
	return b.note(k.origin)
}

// switchStep writes an ir.Switch. It reports whether a packet may go on to the next step.
func (b *builder) switchStep(c *chain, s ir.Switch, last bool, cv *conv) (goesOn bool, err error) {
	b.origin = 0
	if len(s.Key) == 0 {
		return false, fmt.Errorf("iptables: switch without key")
	}
	for _, f := range s.Key {
		present := true
		switch f {
		case ir.InIface, ir.OutIface:
			if present, err = hasIface(f, cv.fin.hook); err != nil {
				return false, err
			}
		case ir.State:
			present = cv.fin.hook.Stage() != flow.StageUntracked
		}
		if !present {
			return true, nil
		}
	}
	cases, err := b.cases(s, last, cv)
	if err != nil {
		return false, err
	}
	switch {
	case len(s.Key) == 1 && s.Key[0] == ir.State:
		err = b.stateSwitch(c, cases)
	case len(s.Key) == 1 && (s.Key[0] == ir.InIface || s.Key[0] == ir.OutIface) && len(cases) > maxNames && leaves(cases):
		err = b.nameSwitch(c, s.Key[0], cases, cv.fin.hook)
	case len(s.Key) == 2 && s.Key[0] == ir.Protocol && (s.Key[1] == ir.SrcPort || s.Key[1] == ir.DstPort):
		err = b.portSwitch(c, s.Key, cases, cv.fin.hook)
	default:
		err = b.writeCases(c, s.Key, cases, cv.fin.hook)
	}
	if err != nil {
		return false, err
	}
	// At most one of the blocks was asked: what they may have answered is looked at once.
	var outs ir.OutcomeSet
	var sub conv
	for _, k := range cases {
		if k.act.kind == resume {
			outs |= k.outs
			sub = k.sub
		}
	}
	return true, b.results(c, outs, sub, cv)
}

// leaves reports whether no packet comes back from a case.
func leaves(cases []outcomeCase) bool {
	return !slices.ContainsFunc(cases, func(k outcomeCase) bool { return k.act.kind == resume })
}

// cases returns the cases that do something.
func (b *builder) cases(s ir.Switch, last bool, cv *conv) ([]outcomeCase, error) {
	out := make([]outcomeCase, 0, len(s.Cases))
	on := s.Resume | ir.OutcomesOf(ir.Undecided)
	for _, k := range s.Cases {
		if len(k.Key) != len(s.Key) {
			return nil, fmt.Errorf("iptables: case with %d keys for %d fields", len(k.Key), len(s.Key))
		}
		b.origin = k.Origin
		x := outcomeCase{key: k.Key, origin: k.Origin}
		var err error
		switch {
		case k.Then.Block != "":
			x.outs, x.block = b.blocks[k.Then.Block].outs, true
			x.act, x.sub, err = b.enter(k.Then.Block, s.Resume, last, cv)
		case k.Then.Outcome > ir.Pass:
			err = fmt.Errorf("iptables: unknown %s", k.Then.Outcome)
		case on.Has(k.Then.Outcome):
			continue // decides nothing here
		default:
			x.act, err = b.perform(cv, k.Then.Outcome, k.Origin, false)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

// writeCases writes one rule, or more, for each case.
func (b *builder) writeCases(c *chain, fields []ir.Field, cases []outcomeCase, h flow.Hook) error {
	for _, k := range cases {
		b.origin = k.origin
		m, err := b.keyMatch(fields, k.key)
		if err != nil {
			return err
		}
		low, ok, err := b.lower(h, m)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		note, by := b.noteOf(&k)
		if err := b.write(c, low, k.act, note, by); err != nil {
			return err
		}
	}
	return nil
}

// keyMatch returns the match that holds for the packets of a case.
func (b *builder) keyMatch(fields []ir.Field, key []ir.Interval) (ir.Match, error) {
	var m ir.Match
	for i, f := range fields {
		if key[i] == f.Domain() && (f == ir.Family || f == ir.Protocol || f == ir.SrcAddr || f == ir.DstAddr) {
			continue // every packet has it
		}
		var t ir.Term
		switch f {
		case ir.InIface, ir.OutIface:
			n, ok := nameInterval(key[i])
			if !ok {
				return nil, b.unsupported("a range of interface names that is no prefix")
			}
			t = ir.InNames{Field: f, Names: []ir.NamePattern{n}}
		case ir.Family, ir.Protocol, ir.ICMPType, ir.ICMPCode, ir.State:
			var mask ir.Mask
			for n := 0; n < 256; n++ {
				if key[i].Contains(ir.Number(uint8(n))) {
					mask = or(mask, ir.MaskOf(uint8(n)))
				}
			}
			t = ir.InMask{Field: f, Mask: mask}
		case ir.SrcPort, ir.DstPort:
			lo, _ := key[i].Lo.Number()
			hi, _ := key[i].Hi.Number()
			t = ir.InPorts{Field: f, Ranges: []inet.PortRange{{Min: lo, Max: hi}}}
		case ir.SrcAddr, ir.DstAddr:
			t = ir.InPrefixes{Field: f, Prefixes: prefixesOf(key[i])}
		default:
			return nil, fmt.Errorf("iptables: unknown %s", f)
		}
		m = append(m, ir.Clause{t})
	}
	return m, nil
}

// nameInterval returns the pattern for an interval of names; false if there is none.
func nameInterval(i ir.Interval) (ir.NamePattern, bool) {
	if i.Lo == i.Hi {
		n, ok := i.Lo.Name()
		return ir.NamePattern{Name: n}, ok
	}
	n := 0
	for n < len(i.Lo) && i.Lo[n] == i.Hi[n] {
		n++
	}
	for j := n; j < len(i.Lo); j++ {
		if i.Lo[j] != 0 || i.Hi[j] != 255 {
			return ir.NamePattern{}, false
		}
	}
	return ir.NamePattern{Name: string(i.Lo[:n]), Prefix: true}, true
}

// prefixesOf returns the prefixes that an interval of addresses is, of both families.
func prefixesOf(i ir.Interval) []netip.Prefix {
	var out []netip.Prefix
	for lo := i.Lo; ; {
		// The longest aligned block that begins at lo and ends at hi or before.
		n := trailingZeros(lo)
		for n > 0 && blockEnd(lo, n).Compare(i.Hi) > 0 {
			n--
		}
		out = append(out, split(lo, n)...)
		end := blockEnd(lo, n)
		if end.Compare(i.Hi) >= 0 {
			return ir.MergePrefixes(out)
		}
		lo = end
		for j := len(lo) - 1; j >= 0; j-- {
			lo[j]++
			if lo[j] != 0 {
				break
			}
		}
	}
}

// split returns the prefixes of the block of 1<<n values that begins at lo: those below ::ffff:0:0/96 are IPv4, and what
// holds that whole range is of both families.
func split(lo ir.Value, n int) []netip.Prefix {
	mapped := ir.Interval{Lo: ir.Value{10: 255, 11: 255}, Hi: ir.Value{10: 255, 11: 255, 12: 255, 13: 255, 14: 255, 15: 255}}
	end := blockEnd(lo, n)
	switch {
	case n <= 32 && mapped.Contains(lo):
		return []netip.Prefix{netip.PrefixFrom(lo.Addr(), 32-n)}
	case end.Compare(mapped.Lo) < 0 || lo.Compare(mapped.Hi) > 0:
		return []netip.Prefix{netip.PrefixFrom(netip.AddrFrom16(lo), 128-n)}
	}
	half := lo
	half[15-(n-1)/8] |= 1 << ((n - 1) % 8)
	return append(split(lo, n-1), split(half, n-1)...)
}

func trailingZeros(v ir.Value) int {
	n := 0
	for j := len(v) - 1; j >= 0; j-- {
		if v[j] != 0 {
			return n + bits.TrailingZeros8(v[j])
		}
		n += 8
	}
	return n
}

// blockEnd returns the last value of the block of 1<<n values that begins at lo.
func blockEnd(lo ir.Value, n int) ir.Value {
	for j := 0; j < n; j++ {
		lo[15-j/8] |= 1 << (j % 8)
	}
	return lo
}

// stateSwitch writes the cases of a switch on the connection state: those that do the same are one rule.
func (b *builder) stateSwitch(c *chain, cases []outcomeCase) error {
	var groups []outcomeCase
	var masks []ir.Mask
	for _, k := range cases {
		var mask ir.Mask
		for n := range uint8(allStatesEnd) {
			if k.key[0].Contains(ir.Number(n)) {
				mask = or(mask, ir.MaskOf(n))
			}
		}
		i := slices.IndexFunc(groups, func(g outcomeCase) bool {
			return g.origin == k.origin && g.act.to == k.act.to && g.act.target == k.act.target && g.act.op == k.act.op
		})
		if i >= 0 {
			masks[i] = or(masks[i], mask)
			continue
		}
		groups, masks = append(groups, k), append(masks, mask)
	}
	for i, g := range groups {
		note, by := b.noteOf(&g)
		var tests []Test
		if and(masks[i], allStates) != allStates {
			tests = []Test{State{masks[i]}}
		}
		b.end(c, tests, g.act, note, by)
	}
	return nil
}

const allStatesEnd = flow.Untracked + 1

// minGuarded is how many ports of a protocol are worth a test for any of them before the tests for each.
const minGuarded = 3

// portSwitch writes the cases of a switch on protocol and port. Packets to none of the ports should cost little.
func (b *builder) portSwitch(c *chain, fields []ir.Field, cases []outcomeCase, h flow.Hook) error {
	rest := cases[:0:0]
	byProtocol := map[inet.Protocol][]outcomeCase{}
	var order []inet.Protocol
	for _, k := range cases {
		n, ok := k.key[0].Lo.Number()
		p := inet.Protocol(n)
		if !ok || k.key[0].Lo != k.key[0].Hi || !withPorts.Has(uint8(n)) || k.act.kind == resume {
			rest = append(rest, k)
			continue
		}
		if byProtocol[p] == nil {
			order = append(order, p)
		}
		byProtocol[p] = append(byProtocol[p], k)
	}
	for _, p := range order {
		list := byProtocol[p]
		if len(list) < minGuarded {
			rest = append(rest, list...)
			continue
		}
		for len(list) > 0 {
			n, room := 0, slots
			m := MultiPort{Source: fields[1] == ir.SrcPort}
			for n < len(list) {
				lo, _ := list[n].key[1].Lo.Number()
				hi, _ := list[n].key[1].Hi.Number()
				r := inet.PortRange{Min: lo, Max: hi}
				if room -= slotsOf(r); room < 0 {
					break
				}
				m.Ranges = append(m.Ranges, r)
				n++
			}
			// Every packet that gets to the guarded rules meets one that matches.
			guarded := &chain{label: c.label}
			if err := b.writeCases(guarded, fields, list[:n], h); err != nil {
				return err
			}
			b.end(c, []Test{protocolTest(p), m}, action{to: guarded, op: Goto}, "", nil)
			list = list[n:]
		}
	}
	return b.writeCases(c, fields, rest, h)
}

// maxNames is how many names a chain tests one after the other.
const maxNames = 8

// nameSwitch writes the cases of a switch on the name of an interface as a tree over the beginnings of names. Cases are
// sorted, so those that begin alike stand together.
//
// Ref: felix/rules/dispatch.go, which has one level.
func (b *builder) nameSwitch(c *chain, f ir.Field, cases []outcomeCase, h flow.Hook) error {
	var names []string
	for _, k := range cases {
		n, ok := nameInterval(k.key[0])
		if !ok || n.Prefix {
			return b.writeCases(c, []ir.Field{f}, cases, h)
		}
		names = append(names, n.Name)
	}
	return b.nameTree(c, f, cases, names, h)
}

func (b *builder) nameTree(c *chain, f ir.Field, cases []outcomeCase, names []string, h flow.Hook) error {
	common := 0
	for common < len(names[0]) && common < len(names[len(names)-1]) && names[0][common] == names[len(names)-1][common] {
		common++
	}
	for i := 0; i < len(cases); {
		j := i + 1
		for len(names[i]) > common && j < len(cases) && names[j][common] == names[i][common] {
			j++
		}
		if j-i == 1 || len(cases) <= maxNames {
			if err := b.writeCases(c, []ir.Field{f}, cases[i:j], h); err != nil {
				return err
			}
			i = j
			continue
		}
		sub := &chain{label: c.label}
		if err := b.nameTree(sub, f, cases[i:j], names[i:j], h); err != nil {
			return err
		}
		m := ir.Match{{ir.InNames{Field: f, Names: []ir.NamePattern{{Name: names[i][:common+1], Prefix: true}}}}}
		low, _, err := b.lower(h, m)
		if err != nil {
			return err
		}
		if err := b.write(c, low, action{to: sub, op: Goto}, "", nil); err != nil {
			return err
		}
		i = j
	}
	return nil
}
