// SPDX-License-Identifier: Apache-2.0

// Package ir is the rule IR between policy and the dataplanes: pure data, without marks, chains or jumps.
//
// A Program holds one Entry for each hook at which policy is asked. An Entry calls a Block; a Block is a function from
// a packet to an Outcome: its Steps run in order and the first one that decides ends it. Structure and membership are
// apart: a Program names sets, Members fills them.
//
// Values are immutable by convention: nobody changes a Program that was handed on.
package ir

import (
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// BlockID names a Block within a Program.
type BlockID string

// SetID names a set: "s:...", "n:..." or "svc:..." as Calico names its IP sets.
type SetID string

// OriginID is an index into Program.Origins plus one. The zero value means that a step has no origin.
type OriginID uint32

// Program is what a host enforces, but for the members of its sets.
type Program struct {
	Entries []Entry       // sorted by Hook, at most one for each
	Blocks  []Block       // sorted by ID
	Sets    []SetDecl     // sorted by ID
	Origins []flow.Origin // OriginID-1 is the index; no two are equal
}

// Entry says what happens at one hook. A hook without Entry lets every packet go on undecided.
//
// The outcome of Block means, for the packet: Deny drops it; Allow accepts it and skips the later hooks in Settles;
// Pass ("no verdict") lets it go on and takes back an Allow of an earlier hook of the same packet; Undecided becomes
// Default, and an Undecided Default lets it go on and changes nothing (no endpoint governs the interface).
type Entry struct {
	Hook    flow.Hook
	Block   BlockID
	Default Outcome
	// Always is asked before Block, and even if an earlier Allow settled this hook; "" is none. If it ends Undecided,
	// the entry goes on as if it were not there. Its Pass ends the hook and so takes back an earlier Allow.
	//
	// Calico: an accepted pre-DNAT packet of a workload still meets the workload's own rules on its way to a process
	// of the host. Ref: felix/rules/static.go, filterInputChain.
	Always  BlockID
	Settles flow.HookSet // the later hooks of the packet's path that an Allow here skips
	NoTrack bool         // an Allow here also takes the packet out of connection tracking, and so out of NAT
}

// Block is a function from a packet to an Outcome. A block whose last step does not decide ends Undecided.
type Block struct {
	ID    BlockID
	Steps []Step
}

// Outcome is what a block says of a packet. The zero value is Undecided.
type Outcome uint8

// The outcomes.
const (
	Undecided Outcome = iota
	Allow
	Deny
	Pass // leave what stands around: the tier, the profile, or (at an Entry) the hook, without a verdict
)

// OutcomeSet is a set of outcomes; bit 1<<o stands for o.
type OutcomeSet uint8

// OutcomesOf returns the set of the given outcomes.
func OutcomesOf(os ...Outcome) OutcomeSet {
	var s OutcomeSet
	for _, o := range os {
		s |= 1 << o
	}
	return s
}

// Has reports whether o is in s.
func (s OutcomeSet) Has(o Outcome) bool { return s&(1<<o) != 0 }

// Step is one step of a block: a Rule, a Call or a Switch.
//
//sumtype:decl
type Step interface{ isStep() }

// Rule does something for the packets that match. A Then of Undecided goes on with the next step.
type Rule struct {
	Match  Match
	Do     []Effect
	Then   Outcome
	Origin OriginID
}

// Effect is what a rule does besides deciding. The zero value is invalid.
type Effect uint8

// The effects.
const (
	Log Effect = iota + 1 // emit an event with the rule's Origin
)

// Call runs another block for the packets that match. If its outcome is Undecided or in Resume, the calling block goes
// on with the next step; otherwise the outcome is the caller's.
type Call struct {
	Match  Match // empty in nearly every call
	Block  BlockID
	Resume OutcomeSet
	Origin OriginID
}

// Switch looks the packet up by the values of Key. At most one Case can match, because their keys are disjoint; if
// none does, or the packet lacks one of the fields, the block goes on with the next step. The outcome of the case's
// target is treated as that of a Call.
type Switch struct {
	Key    []Field
	Cases  []Case // sorted by Key
	Resume OutcomeSet
}

// Case is one entry of a Switch.
type Case struct {
	Key    []Interval // one for each field of Switch.Key
	Then   Target
	Origin OriginID // of Then.Outcome; 0 if Then is a block
}

// Target is an outcome, or a block if Block is set.
type Target struct {
	Outcome Outcome
	Block   BlockID
}

func (Rule) isStep()   {}
func (Call) isStep()   {}
func (Switch) isStep() {}

// Match is a conjunction of clauses; an empty Match matches every packet.
type Match []Clause

// Clause is a disjunction of terms; an empty Clause matches no packet.
type Clause []Term

// Term tests one field, or one tuple of fields. A term on a field that the packet does not have (a port of an ICMP
// message, an IPv4 prefix and an IPv6 packet) does not match; with Not set it does.
//
//sumtype:decl
type Term interface{ isTerm() }

// InPorts tests SrcPort or DstPort. Ranges are sorted, disjoint and not adjacent.
type InPorts struct {
	Field  Field
	Ranges []inet.PortRange
	Not    bool
}

// InPrefixes tests SrcAddr or DstAddr. Prefixes are masked, sorted (IPv4 first) and minimal; both families may occur.
type InPrefixes struct {
	Field    Field
	Prefixes []netip.Prefix
	Not      bool
}

// InNames tests InIface or OutIface. Names are sorted.
type InNames struct {
	Field Field
	Names []NamePattern
	Not   bool
}

// NamePattern is an interface name, or the beginning of one.
type NamePattern struct {
	Name   string
	Prefix bool
}

// InMask tests a field with at most 256 values: Family, Protocol, ICMPType, ICMPCode or State.
type InMask struct {
	Field Field
	Mask  Mask
	Not   bool
}

// Mask is a set of numbers from 0 to 255. Comparable; the zero value is empty.
type Mask [4]uint64

// MaskOf returns the set of the given numbers.
func MaskOf[T ~uint8](vs ...T) Mask {
	var m Mask
	for _, v := range vs {
		m[v>>6] |= 1 << (v & 63)
	}
	return m
}

// Has reports whether v is in m.
func (m Mask) Has(v uint8) bool { return m[v>>6]&(1<<(v&63)) != 0 }

// InSet tests whether the tuple of Fields is a member of a set.
type InSet struct {
	Fields []Field // {SrcAddr}, {DstAddr}, {SrcAddr, Protocol, SrcPort} or {DstAddr, Protocol, DstPort}
	Set    SetID
	Not    bool
}

func (InPorts) isTerm()    {}
func (InPrefixes) isTerm() {}
func (InNames) isTerm()    {}
func (InMask) isTerm()     {}
func (InSet) isTerm()      {}

// Field is a property of a packet as seen at the hook. The zero value is invalid.
type Field uint8

// The fields.
const (
	InIface  Field = iota + 1 // name; empty where the packet was generated on this host
	OutIface                  // name; absent before routing
	Family                    // 4 or 6
	Protocol                  // the last header's number
	SrcAddr
	DstAddr
	SrcPort  // TCP, UDP, SCTP, UDPLite
	DstPort  // TCP, UDP, SCTP, UDPLite
	ICMPType // ICMP in IPv4 packets, ICMPv6 in IPv6 packets
	ICMPCode // likewise
	State    // flow.ConnState; absent before connection tracking
)

// Value is the value of a field as a number of 128 bits, big endian: small numbers in the last bytes, IPv4 addresses
// as ::ffff:a.b.c.d, interface names from the first byte on, filled with zeros.
type Value [16]byte

// Interval is a closed range of values.
type Interval struct{ Lo, Hi Value }

// SetKind says what the members of a set are. The zero value is invalid.
type SetKind uint8

// The kinds.
const (
	SetOfPrefixes  SetKind = iota + 1 // Element.Prefix
	SetOfEndpoints                    // address, protocol and port
)

// SetDecl declares a set.
type SetDecl struct {
	ID   SetID
	Kind SetKind
	Note string // the selector, for people; no meaning
}

// Members fills the sets of a Program.
type Members struct {
	Sets []SetMembers // sorted by ID
}

// SetMembers holds the elements of one set. Elements are sorted and unique; prefixes may overlap.
type SetMembers struct {
	ID       SetID
	Elements []Element
}

// Element is a member of a set. Comparable.
type Element struct {
	Prefix   netip.Prefix // masked; a single address for SetOfEndpoints
	Protocol inet.Protocol
	Port     uint16
}
