// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// String returns the script for nft -f that replaces the table by r, whatever there was before, in one transaction.
// It is canonical: equal rulesets have equal text.
func (r *Ruleset) String() string { return string(r.AppendText(nil)) }

// AppendText appends what String returns.
func (r *Ruleset) AppendText(b []byte) []byte {
	b = append(b, "table inet "...)
	b = append(b, r.Table...)
	b = append(b, "\ndelete table inet "...)
	b = append(b, r.Table...)
	b = append(b, "\ntable inet "...)
	b = append(b, r.Table...)
	b = append(b, " {\n\tcomment \""+TableComment+"\"\n"...)
	for i := range r.Sets {
		b = r.Sets[i].appendText(b, true)
	}
	for i := range r.Chains {
		b = r.Chains[i].appendText(b)
	}
	return append(b, "}\n"...)
}

func (s *Set) appendText(b []byte, elements bool) []byte {
	b = append(b, "\tset "...)
	b = append(b, s.Name...)
	b = append(b, " {\n\t\ttype "...)
	if s.Values != nil {
		return append(appendValues(b, s.Values), "\t}\n"...)
	}
	if s.Family == inet.IPv4 {
		b = append(b, "ipv4_addr"...)
	} else {
		b = append(b, "ipv6_addr"...)
	}
	switch {
	case s.Exact:
		b = append(b, '\n')
	case s.Kind == ir.SetOfPrefixes:
		b = append(b, "\n\t\tflags interval\n"...)
	default:
		b = append(b, " . inet_proto . inet_service\n"...)
	}
	if s.Comment != "" {
		b = append(b, "\t\tcomment \""...)
		b = append(b, s.Comment...)
		b = append(b, "\"\n"...)
	}
	if elements && len(s.Elements) > 0 {
		b = append(b, "\t\telements = { "...)
		b = appendElements(b, s.Elements, s.Kind)
		b = append(b, " }\n"...)
	}
	return append(b, "\t}\n"...)
}

// appendValues writes the type, the flags and the elements of a constant set.
func appendValues(b []byte, values Expr) []byte {
	head := func(typ string, ranges bool) {
		b = append(b, typ...)
		b = append(b, "\n\t\tflags constant"...)
		if ranges {
			b = append(b, ", interval"...)
		}
		b = append(b, "\n\t\telements = "...)
	}
	ranges := HasRanges(values)
	switch e := values.(type) {
	case InNumbers:
		head(setTypes[e.Key], ranges)
		b = appendMask(b, e.Key, e.Mask)
	case InPorts:
		head(setTypes[e.Key], ranges)
		b = appendList(b, len(e.Ranges), func(b []byte, i int) []byte { return appendPorts(b, e.Ranges[i]) })
	case InPrefixes:
		head(setTypes[e.Key], ranges)
		b = appendList(b, len(e.Prefixes), func(b []byte, i int) []byte { return appendPrefix(b, e.Prefixes[i]) })
	case InNames:
		head(setTypes[e.Key], ranges)
		b = appendList(b, len(e.Names), func(b []byte, i int) []byte { return appendName(b, e.Names[i]) })
	default:
		b = append(b, "<unknown list>"...)
	}
	return append(b, '\n')
}

// HasRanges reports whether some value of a list is more than one: then a set that holds it is one of intervals.
func HasRanges(e Expr) bool {
	switch e := e.(type) {
	case InNumbers:
		return slices.ContainsFunc(MaskRanges(e.Mask), func(r [2]uint8) bool { return r[0] != r[1] })
	case InPorts:
		return slices.ContainsFunc(e.Ranges, func(r inet.PortRange) bool { return r.Min != r.Max })
	case InPrefixes:
		return slices.ContainsFunc(e.Prefixes, func(p netip.Prefix) bool { return !p.IsSingleIP() })
	}
	return false
}

var setTypes = [...]string{
	InIface: "ifname", Protocol: "inet_proto", Src4: "ipv4_addr", Src6: "ipv6_addr", SrcPort: "inet_service",
	ICMPType: "icmp_type", ICMPCode: "icmp_code", ICMPv6Type: "icmpv6_type", ICMPv6Code: "icmpv6_code",
}

func appendElements(b []byte, es []ir.Element, kind ir.SetKind) []byte {
	for i, e := range es {
		if i > 0 {
			b = append(b, ", "...)
		}
		if kind == ir.SetOfPrefixes {
			b = appendPrefix(b, e.Prefix)
			continue
		}
		b = e.Prefix.Addr().AppendTo(b)
		b = append(b, " . "...)
		b = appendProtocol(b, uint8(e.Protocol))
		b = append(b, " . "...)
		b = strconv.AppendUint(b, uint64(e.Port), 10)
	}
	return b
}

func (c *Chain) appendText(b []byte) []byte {
	b = append(b, "\tchain "...)
	b = append(b, c.Name...)
	b = append(b, " {\n"...)
	if c.Base.Hook != 0 {
		b = append(b, "\t\ttype filter hook "...)
		b = append(b, c.Base.Hook.String()...)
		b = append(b, " priority "...)
		b = strconv.AppendInt(b, int64(c.Base.Priority), 10)
		b = append(b, "; policy accept;\n"...)
	}
	if c.Comment != "" {
		b = append(b, "\t\tcomment \""...)
		b = append(b, c.Comment...)
		b = append(b, "\"\n"...)
	}
	for i := range c.Rules {
		b = append(b, "\t\t"...)
		b = c.Rules[i].AppendText(b)
		b = append(b, '\n')
	}
	return append(b, "\t}\n"...)
}

var hookNames = [...]string{Prerouting: "prerouting", Input: "input", Forward: "forward", Output: "output", Postrouting: "postrouting"}

// String returns the word of nft.
func (h NetfilterHook) String() string {
	if h == 0 || int(h) >= len(hookNames) {
		return "hook(" + strconv.Itoa(int(h)) + ")"
	}
	return hookNames[h]
}

var keyNames = [...]string{
	InIface: "iifname", OutIface: "oifname", Family: "meta nfproto", Protocol: "meta l4proto",
	Src4: "ip saddr", Dst4: "ip daddr", Src6: "ip6 saddr", Dst6: "ip6 daddr", SrcPort: "th sport", DstPort: "th dport",
	ICMPType: "icmp type", ICMPCode: "icmp code", ICMPv6Type: "icmpv6 type", ICMPv6Code: "icmpv6 code", State: "ct state",
}

// String returns the words of nft.
func (k Key) String() string {
	if k == 0 || int(k) >= len(keyNames) {
		return "key(" + strconv.Itoa(int(k)) + ")"
	}
	return keyNames[k]
}

// String returns the rule as nft writes it, without counters.
func (r Rule) String() string { return string(r.AppendText(nil)) }

// AppendText appends what String returns.
func (r *Rule) AppendText(b []byte) []byte {
	for i, e := range r.Exprs {
		if i > 0 {
			b = append(b, ' ')
		}
		b = AppendExpr(b, e)
	}
	if r.Comment != "" {
		b = append(b, " comment \""...)
		b = append(b, r.Comment...)
		b = append(b, '"')
	}
	return b
}

// AppendExpr appends the expression as nft writes it.
func AppendExpr(b []byte, e Expr) []byte {
	switch e := e.(type) {
	case IsFamily:
		b = append(b, "meta nfproto "...)
		return appendFamily(b, uint8(e.Family))
	case InNumbers:
		b = appendKey(b, e.Key, e.Not)
		return appendMask(b, e.Key, e.Mask)
	case InPorts:
		b = appendKey(b, e.Key, e.Not)
		return appendList(b, len(e.Ranges), func(b []byte, i int) []byte { return appendPorts(b, e.Ranges[i]) })
	case InPrefixes:
		b = appendKey(b, e.Key, e.Not)
		return appendList(b, len(e.Prefixes), func(b []byte, i int) []byte { return appendPrefix(b, e.Prefixes[i]) })
	case InNames:
		b = appendKey(b, e.Key, e.Not)
		return appendList(b, len(e.Names), func(b []byte, i int) []byte { return appendName(b, e.Names[i]) })
	case InNamePrefix:
		b = appendKey(b, e.Key, e.Not)
		b = append(b, '"')
		b = append(b, e.Prefix...)
		return append(b, "*\""...)
	case InStates:
		b = append(b, "ct state "...)
		return appendStates(b, e.Bits)
	case IsTranslated:
		return append(b, "ct status & dnat != 0"...)
	case IsGenerated:
		return append(b, "iif 0"...)
	case IsMarked:
		b = append(b, "meta mark & "...)
		b = appendHex(b, e.Mask)
		return append(b, " != 0"...)
	case InSet:
		b = appendKeys(b, e.Keys)
		if e.Not {
			b = append(b, " !="...)
		}
		b = append(b, " @"...)
		return append(b, e.Set...)
	case VerdictMap:
		b = appendKeys(b, e.Keys)
		if e.Bits > 0 && len(e.Keys) == 1 {
			b = append(b, " & "...)
			b = Netmask(e.Bits, e.Keys[0].Len()).AppendTo(b)
		}
		b = append(b, " vmap { "...)
		for i := range e.Cases {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = e.Cases[i].appendText(b, e.Keys)
		}
		return append(b, " }"...)
	case SetMark:
		b = append(b, "meta mark set meta mark "...)
		if e.On {
			b = append(b, "| "...)
			return appendHex(b, e.Mask)
		}
		b = append(b, "& "...)
		return appendHex(b, ^e.Mask)
	case Untrack:
		return append(b, "notrack"...)
	case Count:
		return append(b, "counter"...)
	case Log:
		b = append(b, "log prefix \""...)
		b = append(b, e.Prefix...)
		b = append(b, "\" group "...)
		b = strconv.AppendUint(b, uint64(e.Group), 10)
		if e.SnapLen != 0 {
			b = append(b, " snaplen "...)
			b = strconv.AppendUint(b, uint64(e.SnapLen), 10)
		}
		return b
	case Reject:
		if e.Reset {
			return append(b, "reject with tcp reset"...)
		}
		return append(b, "reject with icmpx admin-prohibited"...)
	case Verdict:
		return e.appendText(b)
	}
	return append(b, "<unknown expression>"...)
}

var verdictNames = [...]string{Drop: "drop", Accept: "accept", Return: "return", Jump: "jump", Goto: "goto"}

func (v Verdict) appendText(b []byte) []byte {
	if int(v.Op) >= len(verdictNames) {
		return append(b, "<unknown verdict>"...)
	}
	b = append(b, verdictNames[v.Op]...)
	if v.Chain != "" {
		b = append(b, ' ')
		b = append(b, v.Chain...)
	}
	return b
}

func (c *VerdictCase) appendText(b []byte, keys []Key) []byte {
	for i, k := range keys {
		if i > 0 {
			b = append(b, " . "...)
		}
		b = appendInterval(b, k, c.Key[i])
	}
	if c.Comment != "" {
		b = append(b, " comment \""...)
		b = append(b, c.Comment...)
		b = append(b, '"')
	}
	b = append(b, " : "...)
	return c.Verdict.appendText(b)
}

func appendKey(b []byte, k Key, not bool) []byte {
	b = append(b, k.String()...)
	if not {
		return append(b, " != "...)
	}
	return append(b, ' ')
}

func appendKeys(b []byte, keys []Key) []byte {
	for i, k := range keys {
		if i > 0 {
			b = append(b, " . "...)
		}
		b = append(b, k.String()...)
	}
	return b
}

// appendList writes n values, as a set unless there is just one.
func appendList(b []byte, n int, value func([]byte, int) []byte) []byte {
	if n == 1 {
		return value(b, 0)
	}
	b = append(b, "{ "...)
	for i := range n {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = value(b, i)
	}
	return append(b, " }"...)
}

func appendMask(b []byte, k Key, m ir.Mask) []byte {
	rs := MaskRanges(m)
	return appendList(b, len(rs), func(b []byte, i int) []byte {
		return appendNumbers(b, k, rs[i][0], rs[i][1])
	})
}

// MaskRanges returns the closed ranges of numbers in m, as few as possible.
func MaskRanges(m ir.Mask) [][2]uint8 {
	var rs [][2]uint8
	for lo := 0; ; {
		n, ok := nextBit(m, lo)
		if !ok {
			return rs
		}
		end, _ := nextBit(not(m), n)
		rs = append(rs, [2]uint8{uint8(n), uint8(end - 1)})
		lo = end
	}
}

// IsList reports whether a test is for so many values that the kernel needs a set for them.
func IsList(e Expr) bool {
	switch e := e.(type) {
	case InNumbers:
		return severalRanges(e.Mask)
	case InPorts:
		return len(e.Ranges) > 1
	case InPrefixes:
		return len(e.Prefixes) > 1
	case InNames:
		return len(e.Names) > 1
	}
	return false
}

// nextBit returns the first number in m from n on; false and 256 if there is none.
func nextBit(m ir.Mask, n int) (int, bool) {
	for w := n >> 6; w < len(m); w++ {
		bitsLeft := m[w]
		if w == n>>6 {
			bitsLeft &= ^uint64(0) << (n & 63)
		}
		if bitsLeft != 0 {
			return w<<6 + bits.TrailingZeros64(bitsLeft), true
		}
	}
	return 256, false
}

// severalRanges reports whether MaskRanges has more than one.
func severalRanges(m ir.Mask) bool {
	n, ok := nextBit(m, 0)
	if !ok {
		return false
	}
	end, _ := nextBit(not(m), n)
	_, more := nextBit(m, end)
	return more
}

// appendNumbers writes a number or a range of them. The ends of a range have no names, since nft would read "icmp-4" as
// one.
func appendNumbers(b []byte, k Key, lo, hi uint8) []byte {
	switch {
	case lo != hi:
		b = strconv.AppendUint(b, uint64(lo), 10)
		b = append(b, '-')
		return strconv.AppendUint(b, uint64(hi), 10)
	case k == Protocol:
		return appendProtocol(b, lo)
	case k == Family:
		return appendFamily(b, lo)
	}
	return strconv.AppendUint(b, uint64(lo), 10)
}

// appendProtocol writes a protocol. The names are words of nft, which need no /etc/protocols.
func appendProtocol(b []byte, n uint8) []byte {
	switch inet.Protocol(n) {
	case inet.TCP:
		return append(b, "tcp"...)
	case inet.UDP:
		return append(b, "udp"...)
	case inet.ICMP:
		return append(b, "icmp"...)
	case inet.ICMPv6:
		return append(b, "icmpv6"...)
	case inet.SCTP:
		return append(b, "sctp"...)
	case inet.UDPLite:
		return append(b, "udplite"...)
	}
	return strconv.AppendUint(b, uint64(n), 10)
}

func appendFamily(b []byte, n uint8) []byte {
	if inet.Family(n) == inet.IPv4 {
		return append(b, "ipv4"...)
	}
	return append(b, "ipv6"...)
}

func appendPorts(b []byte, r inet.PortRange) []byte {
	b = strconv.AppendUint(b, uint64(r.Min), 10)
	if r.Min != r.Max {
		b = append(b, '-')
		b = strconv.AppendUint(b, uint64(r.Max), 10)
	}
	return b
}

func appendPrefix(b []byte, p netip.Prefix) []byte {
	if p.IsSingleIP() {
		return p.Addr().AppendTo(b)
	}
	return p.AppendTo(b)
}

// appendName quotes an interface name. An asterisk at its end would mean any name that begins so.
func appendName(b []byte, s string) []byte {
	b = append(b, '"')
	if n := len(s); n > 0 && s[n-1] == '*' {
		b = append(b, s[:n-1]...)
		return append(b, `\*"`...)
	}
	b = append(b, s...)
	return append(b, '"')
}

func appendHex(b []byte, n uint32) []byte {
	b = append(b, "0x"...)
	return strconv.AppendUint(b, uint64(n), 16)
}

var stateWords = [...]struct {
	state flow.ConnState
	word  string
}{{flow.New, "new"}, {flow.Established, "established"}, {flow.Related, "related"}, {flow.Invalid, "invalid"}, {flow.Untracked, "untracked"}}

func appendStates(b []byte, bits uint32) []byte {
	first := true
	for _, w := range stateWords {
		if bits&ctBit[w.state] == 0 {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, w.word...)
	}
	return b
}

// appendInterval writes the key of a case.
func appendInterval(b []byte, k Key, i ir.Interval) []byte {
	switch k {
	case InIface, OutIface:
		name, _ := i.Lo.Name()
		return appendName(b, name)
	case State:
		return append(b, stateWords[i.Lo[15]].word...)
	case Src4, Dst4, Src6, Dst6:
		if p, ok := prefixOf(i, k == Src4 || k == Dst4); ok {
			return appendPrefix(b, p)
		}
		b = i.Lo.Addr().AppendTo(b)
		b = append(b, '-')
		return i.Hi.Addr().AppendTo(b)
	case SrcPort, DstPort:
		return appendPorts(b, inet.PortRange{Min: binary.BigEndian.Uint16(i.Lo[14:]), Max: binary.BigEndian.Uint16(i.Hi[14:])})
	}
	return appendNumbers(b, k, i.Lo[15], i.Hi[15])
}

// prefixOf returns the prefix that an interval of addresses is; false if it is none.
func prefixOf(i ir.Interval, four bool) (netip.Prefix, bool) {
	n := 0
	for n < 128 && i.Lo[n/8]>>(7-n%8)&1 == i.Hi[n/8]>>(7-n%8)&1 {
		n++
	}
	for j := n; j < 128; j++ {
		if i.Lo[j/8]>>(7-j%8)&1 != 0 || i.Hi[j/8]>>(7-j%8)&1 != 1 {
			return netip.Prefix{}, false
		}
	}
	if four {
		return netip.PrefixFrom(i.Lo.Addr(), n-96), true
	}
	return netip.PrefixFrom(i.Lo.Addr(), n), true
}
