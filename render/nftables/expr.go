// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// Expr is one expression of a rule: a test, a statement or a verdict. Expressions run in order; the first test that
// fails ends the rule, and so does a field that the packet does not have. Values are immutable; slices may be shared
// with the program that was rendered.
//
//sumtype:decl
type Expr interface{ isExpr() }

// Key is a property of a packet that the kernel can load. The zero value is invalid.
type Key uint8

// The keys, with the words of nft.
const (
	InIface    Key = iota + 1 // iifname
	OutIface                  // oifname
	Family                    // meta nfproto
	Protocol                  // meta l4proto
	Src4                      // ip saddr
	Dst4                      // ip daddr
	Src6                      // ip6 saddr
	Dst6                      // ip6 daddr
	SrcPort                   // th sport
	DstPort                   // th dport
	ICMPType                  // icmp type
	ICMPCode                  // icmp code
	ICMPv6Type                // icmpv6 type
	ICMPv6Code                // icmpv6 code
	State                     // ct state
)

// IsFamily tests the family of the packet.
type IsFamily struct{ Family inet.Family }

// InNumbers tests Protocol or a key of ICMP. The set is neither empty nor full.
type InNumbers struct {
	Key  Key
	Mask ir.Mask
	Not  bool
}

// InPorts tests SrcPort or DstPort. Ranges are sorted, disjoint and not adjacent.
type InPorts struct {
	Key    Key
	Ranges []inet.PortRange
	Not    bool
}

// InPrefixes tests Src4, Dst4, Src6 or Dst6. Prefixes are of that family, sorted and disjoint.
type InPrefixes struct {
	Key      Key
	Prefixes []netip.Prefix
	Not      bool
}

// InNames tests InIface or OutIface for whole names, which are sorted.
type InNames struct {
	Key   Key
	Names []string
	Not   bool
}

// InNamePrefix tests InIface or OutIface for the beginning of a name.
type InNamePrefix struct {
	Key    Key
	Prefix string
	Not    bool
}

// InStates tests connection tracking for any of some states, in the bits of the kernel. Ref: linux/netfilter/
// nf_conntrack_common.h, NF_CT_STATE_BIT.
type InStates struct{ Bits uint32 }

// IsTranslated tests whether the connection's destination was translated. It fails for packets that connection
// tracking does not know; there is no negation, since that would fail for them too.
type IsTranslated struct{}

// IsGenerated tests whether the packet was generated on this host.
type IsGenerated struct{}

// IsMarked tests a bit of the packet mark.
type IsMarked struct{ Mask uint32 }

// InSet tests whether the tuple of keys is in a named set of the table.
type InSet struct {
	Keys []Key
	Set  string
	Not  bool
}

// VerdictMap looks the packet up by the values of Keys and takes the verdict of the case that holds them. Cases are
// sorted and disjoint; no case matching fails like a test.
type VerdictMap struct {
	Keys  []Key
	Bits  uint8 // of the address that is the only key: how many of its leading bits are looked up; 0 is all of them
	Cases []VerdictCase
}

// VerdictCase is one entry of a VerdictMap.
type VerdictCase struct {
	Key     []ir.Interval // one for each key, in the form that the IR gives values
	Verdict Verdict
	Comment string // at most 127 bytes
}

// SetMark sets or clears a bit of the packet mark.
type SetMark struct {
	Mask uint32
	On   bool
}

// Untrack takes the packet out of connection tracking.
type Untrack struct{}

// Count counts packets and bytes.
type Count struct{}

// Log reports the packet to an NFLOG group.
type Log struct {
	Group   uint16
	SnapLen uint32 // 0 is all
	Prefix  string
}

// Reject drops the packet and answers it: a TCP packet with a reset, others with ICMP "administratively prohibited".
type Reject struct{ Reset bool }

// Verdict ends the rule, and for Accept and Drop the base chain.
type Verdict struct {
	Op    VerdictOp
	Chain string // for Jump and Goto
}

// VerdictOp is a kind of verdict. The zero value is Drop.
type VerdictOp uint8

// The verdicts.
const (
	Drop VerdictOp = iota
	Accept
	Return
	Jump
	Goto
)

func (IsFamily) isExpr()     {}
func (InNumbers) isExpr()    {}
func (InPorts) isExpr()      {}
func (InPrefixes) isExpr()   {}
func (InNames) isExpr()      {}
func (InNamePrefix) isExpr() {}
func (InStates) isExpr()     {}
func (IsTranslated) isExpr() {}
func (IsGenerated) isExpr()  {}
func (IsMarked) isExpr()     {}
func (InSet) isExpr()        {}
func (VerdictMap) isExpr()   {}
func (SetMark) isExpr()      {}
func (Untrack) isExpr()      {}
func (Count) isExpr()        {}
func (Log) isExpr()          {}
func (Reject) isExpr()       {}
func (Verdict) isExpr()      {}

// ConcatRanges reports whether the map needs render.Caps.ConcatRanges.
func (m VerdictMap) ConcatRanges() bool { return len(m.Keys) > 1 && m.Ranges() }

// wordOfRules is how many rules of a field the kernel holds in one word, at least.
const wordOfRules = 32

// largestFirst returns the map with that field first of which the kernel keeps most. It has a rule for each prefix of each
// range of a field, and a bit for each rule. In older kernels (5.10.223 and 6.2 are, 6.1.176 and 6.12 are not) the bits
// that the first field does not have come into the search as set, and cases are found that the packet is not in.
// Ref: linux/net/netfilter/nft_set_pipapo.c, pipapo_get and nft_pipapo_lookup.
func (m VerdictMap) largestFirst() VerdictMap {
	largest, most := 0, 0
	for i := range m.Keys {
		n := 0
		for _, c := range m.Cases {
			n += span.Of(c.Key[i]).Prefixes()
		}
		if n > most {
			largest, most = i, n
		}
	}
	if largest == 0 || most <= wordOfRules {
		return m
	}
	out := VerdictMap{Keys: toFront(m.Keys, largest), Cases: slices.Clone(m.Cases)}
	for i := range out.Cases {
		out.Cases[i].Key = toFront(out.Cases[i].Key, largest)
	}
	return out
}

func toFront[T any](s []T, i int) []T { return slices.Concat(s[i:i+1], s[:i], s[i+1:]) }

// Ranges reports whether some case holds more than one value of some key.
func (m VerdictMap) Ranges() bool {
	for _, c := range m.Cases {
		for _, k := range c.Key {
			if k.Lo != k.Hi {
				return true
			}
		}
	}
	return false
}

// Len returns the number of bytes that the kernel loads.
func (k Key) Len() int {
	switch k {
	case InIface, OutIface, Src6, Dst6:
		return 16
	case Src4, Dst4, State:
		return 4
	case SrcPort, DstPort:
		return 2
	case Family, Protocol, ICMPType, ICMPCode, ICMPv6Type, ICMPv6Code:
		return 1
	}
	return 0
}

// Netmask returns the address of n bytes (4 or 16) that has the given number of leading ones.
func Netmask(bits uint8, n int) netip.Addr {
	var m [16]byte
	for i := range min(int(bits), 8*n) {
		m[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(m[:n])
	return a
}
