// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// maxKeyLen is how many bytes the registers of the kernel hold. Ref: linux/netfilter/nf_tables.h, NFT_REG32_COUNT.
const maxKeyLen = 64

// caseVerdict is a case of a switch with its verdict.
type caseVerdict struct {
	key     []ir.Interval
	verdict Verdict
	note    string
}

// switchStep writes an ir.Switch. It reports whether a packet may go on to the next step.
func (b *builder) switchStep(c *chain, s ir.Switch, todo []frame, cv *conv) (goesOn bool, err error) {
	b.origin = 0
	split := false
	for _, f := range s.Key {
		switch f {
		case ir.InIface, ir.OutIface:
			if _, present, err := ifaceKey(f, cv.fin.hook); err != nil || !present {
				return true, err
			}
		case ir.State:
			if cv.fin.hook.Stage() == flow.StageUntracked {
				return true, nil
			}
		case ir.SrcAddr, ir.DstAddr, ir.ICMPType, ir.ICMPCode:
			split = true
		case ir.Family, ir.Protocol, ir.SrcPort, ir.DstPort:
		default:
			return false, fmt.Errorf("nftables: unknown %s", f)
		}
	}
	if len(s.Key) == 0 {
		return false, fmt.Errorf("nftables: switch without key")
	}
	cases, rest, err := b.caseVerdicts(c, s, todo, cv)
	if err != nil {
		return false, err
	}
	if !split {
		err = b.switchOn(c, s.Key, cases, facts{hook: cv.fin.hook, protocols: allNumbers})
	} else {
		for _, f := range [...]inet.Family{inet.IPv4, inet.IPv6} {
			if err == nil {
				err = b.switchOn(c, s.Key, cases, facts{hook: cv.fin.hook, family: f, protocols: allNumbers})
			}
		}
	}
	if err == nil && rest != "" {
		b.emitRule(c, nil, "", Verdict{Goto, rest})
	}
	return rest == "", err
}

// caseVerdicts finds the verdicts of all cases that decide something. If the rest of the chain had to become a chain of
// its own, it returns its name.
func (b *builder) caseVerdicts(c *chain, s ir.Switch, todo []frame, cv *conv) (cases []caseVerdict, rest string, err error) {
	resume := s.Resume | ir.OutcomesOf(ir.Undecided)
	for _, k := range s.Cases {
		if len(k.Key) != len(s.Key) {
			return nil, "", fmt.Errorf("nftables: case with %d keys for %d fields", len(k.Key), len(s.Key))
		}
		b.origin = k.Origin
		note, _ := b.note(k.Origin)
		v := caseVerdict{key: k.Key, note: note}
		switch {
		case k.Then.Block != "":
			outs := b.outcomes[k.Then.Block]
			sub := *cv
			if outs&resume != 0 && !tailOf(todo) && !b.jumps(outs&^resume, cv) && rest == "" {
				if rest, err = b.restOf(c, todo, *cv); err != nil {
					return nil, "", err
				}
			}
			v.verdict.Op = Goto
			for o := range sub.on {
				if !resume.Has(ir.Outcome(o)) {
					continue
				}
				switch {
				case rest != "":
					sub.on[o] = rest
				case tailOf(todo):
					sub.on[o] = cv.on[ir.Undecided]
				default:
					sub.on[o] = back
				}
			}
			if outs&resume != 0 && !tailOf(todo) && rest == "" {
				v.verdict.Op = Jump
			}
			if v.verdict.Chain, err = b.chainOf(k.Then.Block, sub); err != nil {
				return nil, "", err
			}
		case k.Then.Outcome > ir.Pass:
			return nil, "", fmt.Errorf("nftables: unknown %s", k.Then.Outcome)
		case resume.Has(k.Then.Outcome):
			continue // decides nothing here
		default:
			v.verdict = b.caseOutcome(cv, k.Then.Outcome, k.Origin)
		}
		cases = append(cases, v)
	}
	return cases, rest, nil
}

type byKey struct {
	fin     *final
	to      string
	outcome ir.Outcome
	origin  ir.OriginID
}

// caseOutcome returns the verdict of a case that decides. A map holds nothing but verdicts, so what else has to be done
// gets a chain.
func (b *builder) caseOutcome(cv *conv, o ir.Outcome, id ir.OriginID) Verdict {
	tail := b.decide(b.tailBuf[:0], cv, o, id)
	b.tailBuf = tail
	if v, ok := tail[0].(Verdict); ok {
		return v
	}
	key := byKey{cv.fin, cv.on[o], o, id}
	name, ok := b.by[key]
	if !ok {
		note, by := b.note(id)
		origin := b.p.Origin(id)
		name = b.freeName("by/"+strings.NewReplacer("[", ".", "]", "").Replace(origin.String()), cv.fin.chain+"\x00"+cv.on[o]+"\x00"+o.String())
		b.by[key] = name
		b.emitRule(b.newNamedChain(name), by, note, tail...)
	}
	return Verdict{Goto, name}
}

// switchOn writes the rules for one family, or for both if it is 0.
func (b *builder) switchOn(c *chain, fields []ir.Field, cases []caseVerdict, k facts) error {
	var tests []Expr
	if k.family != 0 {
		tests = append(tests, isFamily(k.family))
	}
	tested := slices.Contains(fields, ir.Protocol) // by the map itself
	for _, f := range fields {
		switch f {
		case ir.SrcPort, ir.DstPort:
			k.protocols = and(k.protocols, withPorts)
		case ir.ICMPType, ir.ICMPCode:
			k.protocols = and(k.protocols, icmpOf(k.family))
			tested = false // nft reads fields of ICMP only behind a test for it
		}
	}
	if k.protocols == (ir.Mask{}) {
		return nil
	}
	if !tested && k.protocols != allNumbers {
		tests = append(tests, b.protocols(k.protocols))
	}

	var groups []group
	for _, cs := range cases {
		for _, key := range expand(fields, cs.key, k) {
			var err error
			if groups, err = b.intoGroup(groups, fields, key, cs, k); err != nil {
				return err
			}
		}
	}
	for i := range groups {
		if err := b.putGroup(c, tests, &groups[i]); err != nil {
			return err
		}
	}
	return nil
}

// putGroup writes a group behind the tests of its switch, in whichever form costs a packet least.
func (b *builder) putGroup(c *chain, tests []Expr, g *group) error {
	all := slices.Concat(tests, g.tests)
	if len(g.keys) == 0 {
		for _, cs := range g.cases { // one, since cases are disjoint
			b.put(c, all, []Expr{cs.Verdict}, cs.Comment, nil)
		}
		return nil
	}
	if parts := byProtocol(g); parts != nil {
		for i := range parts {
			if err := b.putGroup(c, tests, &parts[i]); err != nil {
				return err
			}
		}
		return nil
	}
	if b.asTests(c, all, g) || b.asMasks(c, all, g) {
		return nil
	}
	m := VerdictMap{Keys: g.keys, Cases: g.cases}
	if m.ConcatRanges() {
		if !b.o.Caps.ConcatRanges {
			return b.unsupported("ranges of several fields in one map: needs Linux 5.6")
		}
		m = m.largestFirst()
	}
	n := 0
	for _, key := range g.keys {
		n += (key.Len() + 3) &^ 3
	}
	if n > maxKeyLen {
		return b.unsupported("a key of %d bytes; the kernel holds %d", n, maxKeyLen)
	}
	b.put(c, all, []Expr{m}, "", nil)
	return nil
}

// group is a part of a switch that one rule can hold.
type group struct {
	peeled []ir.Interval // of the fields that tests takes care of
	tests  []Expr
	keys   []Key
	cases  []VerdictCase
}

// intoGroup adds a case to the group it belongs to: interfaces by pattern are tested in front of the map, since a map
// for exact names is a hash. The order of groups means nothing, since cases are disjoint.
func (b *builder) intoGroup(groups []group, fields []ir.Field, key []ir.Interval, cs caseVerdict, k facts) ([]group, error) {
	g := group{}
	var rest []ir.Interval
	for i, f := range fields {
		switch f {
		case ir.Family:
			if k.family != 0 {
				continue
			}
			g.keys = append(g.keys, Family)
		case ir.InIface, ir.OutIface:
			kk, _, _ := ifaceKey(f, k.hook)
			if key[i].Lo != key[i].Hi {
				test, err := b.nameInterval(kk, key[i])
				if err != nil {
					return nil, err
				}
				g.peeled = append(g.peeled, key[i])
				if test != nil {
					g.tests = append(g.tests, test)
				}
				continue
			}
			name, ok := key[i].Lo.Name()
			if !ok {
				return groups, nil // no interface has it
			}
			if quotable(name, len(name)) != name {
				return nil, b.unsupported("the interface name %q, which nft cannot write", name)
			}
			g.keys = append(g.keys, kk)
		case ir.Protocol:
			g.keys = append(g.keys, Protocol)
		case ir.SrcPort:
			g.keys = append(g.keys, SrcPort)
		case ir.DstPort:
			g.keys = append(g.keys, DstPort)
		case ir.SrcAddr, ir.DstAddr:
			kk, _ := addrKey(f, k.family)
			g.keys = append(g.keys, kk)
		case ir.ICMPType, ir.ICMPCode:
			g.keys = append(g.keys, icmpKey(f, k.family))
		case ir.State:
			g.keys = append(g.keys, State)
		}
		rest = append(rest, key[i])
	}
	v := VerdictCase{rest, cs.verdict, cs.note}
	for i := range groups {
		if slices.Equal(groups[i].peeled, g.peeled) && slices.Equal(groups[i].keys, g.keys) {
			groups[i].cases = append(groups[i].cases, v)
			return groups, nil
		}
	}
	g.cases = []VerdictCase{v}
	return append(groups, g), nil
}

// nameInterval returns the test for an interval of names; nil if all names are in it.
func (b *builder) nameInterval(key Key, i ir.Interval) (Expr, error) {
	n := 0
	for n < len(i.Lo) && i.Lo[n] == i.Hi[n] {
		n++
	}
	prefix := i.Lo[:n]
	for _, c := range i.Lo[n:] {
		if c != 0 {
			return nil, b.unsupported("a range of interface names that is no prefix")
		}
	}
	for _, c := range i.Hi[n:] {
		if c != 255 {
			return nil, b.unsupported("a range of interface names that is no prefix")
		}
	}
	switch {
	case n == 0:
		return nil, nil
	case bytes.IndexByte(prefix, 0) >= 0 || quotable(string(prefix), n) != string(prefix):
		return nil, b.unsupported("the interface name %q, which nft cannot write", prefix)
	}
	return InNamePrefix{key, string(prefix), false}, nil
}

// expand returns the keys that a key amounts to for packets of the family: what cannot occur is cut off, and fields
// whose values are not in the kernel's order are taken apart.
func expand(fields []ir.Field, key []ir.Interval, k facts) [][]ir.Interval {
	keys := [][]ir.Interval{key}
	for i, f := range fields {
		var parts []ir.Interval
		switch f {
		case ir.Family:
			for _, n := range [...]uint8{4, 6} {
				if v := ir.Number(n); key[i].Contains(v) && (k.family == 0 || k.family == inet.Family(n)) {
					parts = append(parts, ir.Exactly(v))
				}
			}
		case ir.State:
			for s := range ctBit {
				if v := ir.Number(uint8(s)); key[i].Contains(v) {
					parts = append(parts, ir.Exactly(v))
				}
			}
		case ir.Protocol:
			if k.protocols == allNumbers {
				continue
			}
			for n := 0; n < 256; n++ {
				if v := ir.Number(uint8(n)); k.protocols.Has(uint8(n)) && key[i].Contains(v) {
					parts = append(parts, ir.Exactly(v))
				}
			}
		case ir.SrcAddr, ir.DstAddr:
			parts = addrParts(key[i], k.family)
		default:
			continue
		}
		if len(parts) == 1 && parts[0] == key[i] {
			continue
		}
		next := make([][]ir.Interval, 0, len(keys)*len(parts))
		for _, old := range keys {
			for _, p := range parts {
				cp := slices.Clone(old)
				cp[i] = p
				next = append(next, cp)
			}
		}
		keys = next
	}
	return keys
}

// mapped is ::ffff:0:0/96, where the IR keeps IPv4 addresses.
var mapped = ir.Interval{
	Lo: ir.Value{10: 255, 11: 255},
	Hi: ir.Value{10: 255, 11: 255, 12: 255, 13: 255, 14: 255, 15: 255},
}

var allOnes = ir.Value{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}

// addrParts returns the parts of an interval of addresses that belong to a family.
func addrParts(i ir.Interval, f inet.Family) []ir.Interval {
	clip := func(lo, hi ir.Value) []ir.Interval {
		if i.Lo.Compare(lo) > 0 {
			lo = i.Lo
		}
		if i.Hi.Compare(hi) < 0 {
			hi = i.Hi
		}
		if lo.Compare(hi) > 0 {
			return nil
		}
		return []ir.Interval{{Lo: lo, Hi: hi}}
	}
	if f == inet.IPv4 {
		return clip(mapped.Lo, mapped.Hi)
	}
	return append(clip(ir.Value{}, mapped.Lo.Prev()), clip(mapped.Hi.Next(), allOnes)...)
}
