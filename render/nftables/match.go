// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"fmt"
	"math/bits"
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// A match of the IR is a conjunction of clauses; a rule of nftables is a conjunction of tests. A clause with one term
// is mostly one test. What is left are alternatives: of terms in a clause, and those that hide in a term, since a term
// on a field that the packet lacks fails while its negation holds, and a rule of nftables that asks for such a field
// just ends.

// alternative is a conjunction of tests; an empty one always holds.
type alternative []Expr

// variant is a way in which a packet can match: all tests of base, and one alternative of every clause. The variants of
// a match exclude one another.
type variant struct {
	base    []Expr
	guards  int             // how many tests of base are about family and protocol
	clauses [][]alternative // none has fewer than two alternatives
}

// guarded returns the alternative for a rule that stands apart from base. The family and the protocol are known there,
// but nft reads and shows fields of a header only where the rule itself says which header it is.
func (v *variant) guarded(a alternative) alternative {
	for _, e := range a {
		switch e := e.(type) {
		case InPrefixes, InSet:
			return slices.Concat(v.base[:v.guards], a)
		case InNumbers:
			if e.Key != Protocol {
				return slices.Concat(v.base[:v.guards], a)
			}
		}
	}
	return a
}

// count returns the number of rules that v is, multiplied out; at most limit+1.
func (v *variant) count(limit int) int {
	n := 1
	for _, c := range v.clauses {
		if n *= len(c); n > limit {
			return limit + 1
		}
	}
	return n
}

// oneProtocol returns tests with those of the protocol made one, which nft demands. It reports false if no packet can
// pass them.
func (b *builder) oneProtocol(tests []Expr) ([]Expr, bool) {
	m, n := allNumbers, 0
	for _, e := range tests {
		if e, ok := e.(InNumbers); ok && e.Key == Protocol {
			n++
			if e.Not {
				m = and(m, not(e.Mask))
			} else {
				m = and(m, e.Mask)
			}
		}
	}
	if n < 2 {
		return tests, true
	}
	if m == (ir.Mask{}) {
		return nil, false
	}
	out := make([]Expr, 0, len(tests))
	for _, e := range tests {
		if p, ok := e.(InNumbers); !ok || p.Key != Protocol {
			out = append(out, e)
		} else if n > 0 {
			out, n = append(out, b.protocols(m)), 0 // where the first one was
		}
	}
	return out, true
}

var (
	allNumbers  = ir.Mask{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}
	withPorts   = ir.MaskOf(inet.TCP, inet.UDP, inet.SCTP, inet.UDPLite)
	onlyTCP     = ir.MaskOf(inet.TCP)
	onlyICMP    = ir.MaskOf(inet.ICMP)
	onlyICMPv6  = ir.MaskOf(inet.ICMPv6)
	allStates   = ir.MaskOf(flow.New, flow.Established, flow.Related, flow.Invalid, flow.Untracked)
	allFamilies = ir.MaskOf(uint8(inet.IPv4), uint8(inet.IPv6))
)

func and(a, b ir.Mask) ir.Mask { return ir.Mask{a[0] & b[0], a[1] & b[1], a[2] & b[2], a[3] & b[3]} }
func not(a ir.Mask) ir.Mask    { return ir.Mask{^a[0], ^a[1], ^a[2], ^a[3]} }
func count(a ir.Mask) int {
	return bits.OnesCount64(a[0]) + bits.OnesCount64(a[1]) + bits.OnesCount64(a[2]) + bits.OnesCount64(a[3])
}

// maskOf returns the values that satisfy the term, if the field is present.
func maskOf(t ir.InMask) ir.Mask {
	if t.Not {
		return not(t.Mask)
	}
	return t.Mask
}

func icmpOf(f inet.Family) ir.Mask {
	if f == inet.IPv4 {
		return onlyICMP
	}
	return onlyICMPv6
}

// facts are what is known of every packet that gets as far as a test.
type facts struct {
	hook      flow.Hook
	family    inet.Family // 0 if both are possible
	protocols ir.Mask
}

// variants returns the ways in which a packet can match at the hook; none if it cannot.
func (b *builder) variants(h flow.Hook, m ir.Match) ([]variant, error) {
	families, protocols, split := allFamilies, allNumbers, false
	for _, c := range m {
		if len(c) == 0 {
			return nil, nil
		}
		for _, t := range c {
			switch t := t.(type) {
			case ir.InPrefixes, ir.InSet:
				split = true
			case ir.InMask:
				switch {
				case t.Field == ir.Family && len(c) == 1:
					families = and(families, maskOf(t))
				case t.Field == ir.Protocol && len(c) == 1:
					protocols = and(protocols, maskOf(t))
				case t.Field == ir.Family, t.Field == ir.ICMPType, t.Field == ir.ICMPCode:
					split = true
				}
			}
		}
	}
	b.variantBuf = b.variantBuf[:0]
	if families == allFamilies && !split {
		return b.variantBuf, b.variant(h, m, 0, protocols)
	}
	for _, f := range [...]inet.Family{inet.IPv4, inet.IPv6} {
		if families.Has(uint8(f)) {
			if err := b.variant(h, m, f, protocols); err != nil {
				return nil, err
			}
		}
	}
	return b.variantBuf, nil
}

// variant appends the variant for one family, or for both if f is 0.
func (b *builder) variant(h flow.Hook, m ir.Match, f inet.Family, protocols ir.Mask) error {
	k := facts{hook: h, family: f, protocols: protocols}
	for _, c := range m { // what a clause demands of the protocol is tested once, for all
		if len(c) == 1 {
			k.protocols = and(k.protocols, demand(c[0], f))
		}
	}
	if k.protocols == (ir.Mask{}) {
		return nil
	}
	v := variant{base: b.scratch()}
	if f != 0 {
		v.base = append(v.base, isFamily(f))
	}
	if k.protocols != allNumbers {
		v.base = append(v.base, b.protocols(k.protocols))
	}
	v.guards = len(v.base)
	// Addresses last: they cost most.
	for pass := 0; pass < 2; pass++ {
		for _, c := range m {
			if (pass == 1) != onAddresses(c) {
				continue
			}
			alts, err := b.clause(c, k)
			switch {
			case err != nil:
				return err
			case len(alts) == 0:
				return nil
			case len(alts) == 1:
				v.base = append(v.base, alts[0]...)
			default:
				kept := make([]alternative, len(alts))
				for i, a := range alts {
					kept[i] = slices.Clone(a)
				}
				v.clauses = append(v.clauses, kept)
			}
		}
	}
	b.keepScratch(v.base)
	b.variantBuf = append(b.variantBuf, v)
	return nil
}

// demand returns the protocols of the packets that can satisfy t.
func demand(t ir.Term, f inet.Family) ir.Mask {
	switch t := t.(type) {
	case ir.InPorts:
		if !t.Not {
			return withPorts
		}
	case ir.InSet:
		if !t.Not && len(t.Fields) > 1 {
			return withPorts
		}
	case ir.InMask:
		if (t.Field == ir.ICMPType || t.Field == ir.ICMPCode) && !t.Not {
			return icmpOf(f)
		}
	}
	return allNumbers
}

func onAddresses(c ir.Clause) bool {
	for _, t := range c {
		switch t.(type) {
		case ir.InPrefixes, ir.InSet:
			return true
		}
	}
	return false
}

// clause returns the alternatives of a clause: none if it cannot hold, an empty one if it always holds. The result is
// valid until the next call.
func (b *builder) clause(c ir.Clause, k facts) ([]alternative, error) {
	b.altBuf, b.testBuf = b.altBuf[:0], b.testBuf[:0]
	for _, t := range c {
		always, err := b.term(t, k)
		if err != nil {
			return nil, err
		}
		if always {
			b.altBuf = append(b.altBuf[:0], nil)
			return b.altBuf, nil
		}
	}
	return b.altBuf, nil
}

// term appends the alternatives of a term to altBuf; none if it cannot hold. It reports true if it always holds.
func (b *builder) term(t ir.Term, k facts) (bool, error) {
	switch t := t.(type) {
	case ir.InPorts:
		key, err := portKey(t.Field)
		if err != nil {
			return false, err
		}
		if len(t.Ranges) == 0 {
			return t.Not, nil
		}
		if len(t.Ranges) == 1 && t.Ranges[0] == (inet.PortRange{Max: 65535}) { // a test that the kernel could not hold
			return b.guarded(k, withPorts, nil, t.Not), nil
		}
		return b.guarded(k, withPorts, InPorts{key, t.Ranges, t.Not}, t.Not), nil

	case ir.InPrefixes:
		key, err := addrKey(t.Field, k.family)
		if err != nil {
			return false, err
		}
		ps := ofFamily(t.Prefixes, k.family)
		switch {
		case len(ps) == 0:
			return t.Not, nil
		case len(ps) == 1 && ps[0].Bits() == 0:
			return !t.Not, nil
		}
		b.either(InPrefixes{key, ps, t.Not})
		return false, nil

	case ir.InNames:
		return b.nameTerm(t, k)

	case ir.InMask:
		return b.maskTerm(t, k)

	case ir.InSet:
		return b.setTerm(t, k)
	}
	return false, fmt.Errorf("nftables: unknown term %T", t)
}

// either appends an alternative.
func (b *builder) either(es ...Expr) {
	n := len(b.testBuf)
	b.testBuf = append(b.testBuf, es...)
	b.altBuf = append(b.altBuf, b.testBuf[n:len(b.testBuf):len(b.testBuf)])
}

// guarded appends the alternatives of a test that makes sense for packets of some protocols only. If negated, it holds
// for all others. A nil test holds for all packets with the protocols, or for none if it is negated.
func (b *builder) guarded(k facts, protocols ir.Mask, test Expr, negated bool) (always bool) {
	in := and(k.protocols, protocols)
	out := and(k.protocols, not(protocols))
	certain := out == (ir.Mask{})
	if test == nil {
		switch {
		case !negated && certain, negated && in == (ir.Mask{}):
			return true
		case !negated && in != (ir.Mask{}):
			b.either(b.protocols(in))
		case negated && !certain:
			b.either(b.protocols(out))
		}
		return false
	}
	if in == (ir.Mask{}) {
		return negated
	}
	if certain {
		b.either(test)
		return false
	}
	b.either(b.protocols(in), test)
	if negated {
		b.either(b.protocols(out))
	}
	return false
}

func (b *builder) nameTerm(t ir.InNames, k facts) (bool, error) {
	key, present, err := ifaceKey(t.Field, k.hook)
	if err != nil {
		return false, err
	}
	if !present {
		return t.Not, nil
	}
	exact := make([]string, 0, len(t.Names))
	for _, n := range t.Names {
		if _, ok := ir.Name(n.Name); !ok {
			return false, fmt.Errorf("nftables: %q is not the name of an interface", n.Name)
		}
		if quotable(n.Name, len(n.Name)) != n.Name {
			return false, b.unsupported("the interface name %q, which nft cannot write", n.Name)
		}
		if !n.Prefix && !covered(n.Name, t.Names) {
			exact = append(exact, n.Name)
		}
	}
	if t.Not {
		var all alternative
		if len(exact) > 0 {
			all = append(all, InNames{key, exact, true})
		}
		for _, n := range t.Names {
			if n.Prefix {
				all = append(all, InNamePrefix{key, n.Name, true})
			}
		}
		if len(all) == 0 {
			return true, nil
		}
		b.either(all...)
		return false, nil
	}
	if len(exact) > 0 {
		b.either(InNames{key, exact, false})
	}
	for _, n := range t.Names {
		if n.Prefix {
			b.either(InNamePrefix{key, n.Name, false})
		}
	}
	return false, nil
}

// covered reports whether some prefix pattern holds the name.
func covered(name string, patterns []ir.NamePattern) bool {
	for _, p := range patterns {
		if p.Prefix && len(p.Name) <= len(name) && name[:len(p.Name)] == p.Name {
			return true
		}
	}
	return false
}

func (b *builder) maskTerm(t ir.InMask, k facts) (bool, error) {
	switch t.Field {
	case ir.Family:
		if k.family == 0 { // a clause of its own, which the variants hold already
			return true, nil
		}
		return maskOf(t).Has(uint8(k.family)), nil
	case ir.Protocol:
		want := and(k.protocols, maskOf(t))
		if want == k.protocols {
			return true, nil
		}
		if want != (ir.Mask{}) {
			b.either(b.protocols(want))
		}
		return false, nil
	case ir.ICMPType, ir.ICMPCode:
		key := icmpKey(t.Field, k.family)
		switch {
		case t.Mask == (ir.Mask{}):
			return t.Not, nil
		case t.Mask == allNumbers:
			return b.guarded(k, icmpOf(k.family), nil, t.Not), nil
		}
		return b.guarded(k, icmpOf(k.family), InNumbers{key, t.Mask, t.Not}, t.Not), nil
	case ir.State:
		if k.hook.Stage() == flow.StageUntracked {
			return t.Not, nil
		}
		want := and(allStates, maskOf(t))
		switch want {
		case ir.Mask{}:
			return false, nil
		case allStates:
			return true, nil
		}
		b.either(InStates{stateBits(want)})
		return false, nil
	}
	return false, fmt.Errorf("nftables: %s has no small numbers", t.Field)
}

func (b *builder) setTerm(t ir.InSet, k facts) (bool, error) {
	kind, ok := b.kinds[t.Set]
	if !ok {
		return false, fmt.Errorf("nftables: set %q is not declared", t.Set)
	}
	keys, ok := setKeys(t.Fields, kind, k.family)
	if !ok {
		return false, fmt.Errorf("nftables: set %q of %s cannot be asked for %v", t.Set, kind, t.Fields)
	}
	test := InSet{keys, b.useSet(t.Set, k.family), t.Not}
	if kind == ir.SetOfPrefixes {
		b.either(test)
		return false, nil
	}
	return b.guarded(k, withPorts, test, t.Not), nil
}

var (
	keysSrc4 = []Key{Src4}
	keysDst4 = []Key{Dst4}
	keysSrc6 = []Key{Src6}
	keysDst6 = []Key{Dst6}

	keysSrcEndpoint4 = []Key{Src4, Protocol, SrcPort}
	keysDstEndpoint4 = []Key{Dst4, Protocol, DstPort}
	keysSrcEndpoint6 = []Key{Src6, Protocol, SrcPort}
	keysDstEndpoint6 = []Key{Dst6, Protocol, DstPort}
)

// setKeys returns what to look up in a set.
func setKeys(fields []ir.Field, kind ir.SetKind, f inet.Family) ([]Key, bool) {
	four := f == inet.IPv4
	switch {
	case kind == ir.SetOfPrefixes && len(fields) == 1:
		switch {
		case fields[0] == ir.SrcAddr && four:
			return keysSrc4, true
		case fields[0] == ir.SrcAddr:
			return keysSrc6, true
		case fields[0] == ir.DstAddr && four:
			return keysDst4, true
		case fields[0] == ir.DstAddr:
			return keysDst6, true
		}
	case kind == ir.SetOfEndpoints && len(fields) == 3 && fields[1] == ir.Protocol:
		switch {
		case fields[0] == ir.SrcAddr && fields[2] == ir.SrcPort && four:
			return keysSrcEndpoint4, true
		case fields[0] == ir.SrcAddr && fields[2] == ir.SrcPort:
			return keysSrcEndpoint6, true
		case fields[0] == ir.DstAddr && fields[2] == ir.DstPort && four:
			return keysDstEndpoint4, true
		case fields[0] == ir.DstAddr && fields[2] == ir.DstPort:
			return keysDstEndpoint6, true
		}
	}
	return nil, false
}

func portKey(f ir.Field) (Key, error) {
	switch f {
	case ir.SrcPort:
		return SrcPort, nil
	case ir.DstPort:
		return DstPort, nil
	}
	return 0, fmt.Errorf("nftables: %s has no ports", f)
}

func addrKey(f ir.Field, family inet.Family) (Key, error) {
	switch {
	case f == ir.SrcAddr && family == inet.IPv4:
		return Src4, nil
	case f == ir.DstAddr && family == inet.IPv4:
		return Dst4, nil
	case f == ir.SrcAddr && family == inet.IPv6:
		return Src6, nil
	case f == ir.DstAddr && family == inet.IPv6:
		return Dst6, nil
	}
	return 0, fmt.Errorf("nftables: %s has no prefixes", f)
}

func icmpKey(f ir.Field, family inet.Family) Key {
	k := ICMPType
	if f == ir.ICMPCode {
		k = ICMPCode
	}
	if family == inet.IPv6 {
		k += ICMPv6Type - ICMPType
	}
	return k
}

// ifaceKey returns the key, and whether packets at the hook have it: packets generated here came by no interface, and
// before routing and on the way to a process there is none to leave by.
func ifaceKey(f ir.Field, h flow.Hook) (Key, bool, error) {
	switch f {
	case ir.InIface:
		return InIface, h != flow.UntrackedOut && h != flow.NormalOut, nil
	case ir.OutIface:
		return OutIface, h != flow.UntrackedIn && h != flow.PreDNAT && h != flow.NormalIn, nil
	}
	return 0, false, fmt.Errorf("nftables: %s has no names", f)
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

// ctBit is the kernel's bit for a connection state. Ref: linux/netfilter/nf_conntrack_common.h, NF_CT_STATE_BIT.
var ctBit = [...]uint32{flow.New: 8, flow.Established: 2, flow.Related: 4, flow.Invalid: 1, flow.Untracked: 64}

// StateBit returns the kernel's bit for a connection state; 0 for an unknown one.
func StateBit(s flow.ConnState) uint32 {
	if int(s) >= len(ctBit) {
		return 0
	}
	return ctBit[s]
}

func stateBits(m ir.Mask) uint32 {
	var n uint32
	for s, bit := range ctBit {
		if m.Has(uint8(s)) {
			n |= bit
		}
	}
	return n
}

func isFamily(f inet.Family) Expr {
	if f == inet.IPv4 {
		return IsFamily{inet.IPv4}
	}
	return IsFamily{inet.IPv6}
}

// protocols returns the test for some, but not all protocols.
func (b *builder) protocols(m ir.Mask) Expr {
	if e, ok := b.protocolTests[m]; ok {
		return e
	}
	var e Expr = InNumbers{Protocol, m, false}
	if count(m) > 128 {
		e = InNumbers{Protocol, not(m), true}
	}
	b.protocolTests[m] = e
	return e
}
