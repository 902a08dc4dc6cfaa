// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"bytes"
	"errors"
	"net/netip"
	"sort"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// ErrTooLarge is what the errors of Build and New wrap if a program grows beyond reason when its blocks are inlined.
// Programs that compile makes stay far below the limits: see MaxListRules.
var ErrTooLarge = errors.New("program is too large when its blocks are inlined")

// The limits that keep a program of a few lines, whose blocks call each other many times over, from taking all memory.
const (
	MaxListRules  = 1 << 18 // rules of one list
	maxTotalRules = 1 << 25 // rules of all lists, before equal lists become one
	maxSplit      = 1 << 12 // bits that one rule may become
)

// Tables is a program in the form that a classifier runs: pure data, immutable, safe for concurrent use. Equal programs
// and members give equal tables.
type Tables struct {
	Entries  []Entry   // as in the program: sorted by Hook, at most one for each
	Lists    []List    // no two are equal
	Matchers []Matcher // no two serve the same rules

	names nameClasses
	conjs *conjs     // of the rules; without members
	rules [][]conjID // of the matchers
}

// Entry is what happens at one hook, as in ir.Entry. A settled hook asks Always alone; otherwise Block is asked if
// Always ends Undecided. Then an Undecided outcome becomes Default.
type Entry struct {
	Hook      flow.Hook
	Always    Dispatch
	Block     Dispatch
	Default   ir.Outcome
	Settles   flow.HookSet
	NoTrack   bool
	HasAlways bool // without it Always means nothing, and a settled hook is not asked
}

// States is the number of connection states that a Dispatch knows: those of flow.ConnState, and NoState.
const States = int(flow.Untracked) + 2

// NoState stands for the state of a packet at a hook before connection tracking, and for unknown states.
const NoState = States - 1

// Dispatch chooses the list that speaks for a packet.
type Dispatch struct {
	Field ir.Field         // InIface or OutIface: whose class is the index of Lists; 0 if there is one element only
	Lists [][States]uint32 // by class of the interface and state: index into Tables.Lists
}

// List holds the rules that one kind of packet can meet at one hook, in order.
type List struct {
	// Matcher is an index into Tables.Matchers. It means nothing if Decided is set or if there are no Actions, for then
	// there is nothing to look up.
	Matcher uint32
	Decided bool     // the first rule matches every packet and ends the search
	Actions []Action // one for each rule
}

// Action is the consequence of a rule.
type Action struct {
	Outcome ir.Outcome // Undecided: the search goes on at Next
	Log     bool       // the packet is logged with Origin
	Next    uint32     // above the rule's own index; the number of rules ends the search with Undecided
	Origin  ir.OriginID
}

// Matcher tells which rules of a list a packet matches: those whose bits are set in the rows of all dimensions. Without
// dimensions all rules match.
type Matcher struct {
	Rules int
	Dims  []Dimension // sorted by Axis; an axis that no rule asks about has none
}

// Axis is what a dimension looks at. The zero value is invalid.
type Axis uint8

// The axes. Not every packet has a value on each of them: one without value is of the class Absent.
const (
	// L4 is family<<24 | protocol<<16, and below that ICMP type<<8 | ICMP code for ICMP of the family, the destination port
	// for protocols that have ports, and 0 for others. What rules ask about destination ports, most ask about a protocol
	// too, and one lookup answers both.
	L4      Axis = iota + 1
	SrcAddr      // ir.Addr
	DstAddr      // ir.Addr
	SrcPort
	DstPort     // what rules demand; its dimension is L4
	InIface     // the class that Tables.InterfaceClass gives
	OutIface    // likewise
	SrcEndpoint // source address, protocol and source port together
	DstEndpoint // destination address, protocol and destination port together
	numAxes     = int(iota) + 1
)

var axisNames = [...]string{
	L4: "l4", SrcAddr: "src", DstAddr: "dst", SrcPort: "sport", DstPort: "dport", InIface: "iif", OutIface: "oif",
	SrcEndpoint: "src-endpoint", DstEndpoint: "dst-endpoint",
}

// String returns a short lower-case word such as "dport".
func (a Axis) String() string {
	if int(a) < len(axisNames) && a != 0 {
		return axisNames[a]
	}
	return "unknown axis"
}

// Dimension turns a packet's value on one axis into a class, and a class into a row of bits.
type Dimension struct {
	Axis Axis
	// Cuts is for L4, addresses and ports: the class of a value is that of the last cut at or below it. Cuts are sorted,
	// the first one is at zero, and neighbours differ in class.
	Cuts []Cut
	// ByInterface is for interfaces: the class for each class that Tables.InterfaceClass gives.
	ByInterface []uint32
	// Points is for endpoints: the class of the values that are listed; all others are Absent. Sorted by address,
	// protocol and port.
	Points []Point
	Absent uint32
	Rows   Rows
}

// Cut begins a run of values of one class.
type Cut struct {
	From  ir.Value
	Class uint32
}

// Point is one endpoint and its class.
type Point struct {
	Addr     netip.Addr
	Protocol inet.Protocol
	Port     uint16
	Class    uint32
}

// ClassOf returns the class of a value of an ordered axis.
func (d *Dimension) ClassOf(v ir.Value) uint32 {
	i := sort.Search(len(d.Cuts), func(i int) bool { return bytes.Compare(d.Cuts[i].From[:], v[:]) > 0 })
	if i == 0 {
		return d.Absent
	}
	return d.Cuts[i-1].Class
}

// InterfaceClasses is the number of classes that InterfaceClass gives.
func (t *Tables) InterfaceClasses() int { return t.names.count() }

// InterfaceClass returns the class of an interface name; "" stands for a packet that has none. Names that the program
// treats alike may have different classes.
func (t *Tables) InterfaceClass(name string) int { return int(t.names.classOf(name)) }

// Stats describes the size of tables.
type Stats struct {
	Lists, Matchers int
	Rules           int // of all matchers: rules that lists share count once
	Classes         int // of all dimensions
	Bytes           int // of rows, cuts, points, actions and dispatch
}

// Stats returns the size of t.
func (t *Tables) Stats() Stats {
	s := Stats{Lists: len(t.Lists), Matchers: len(t.Matchers)}
	for _, e := range t.Entries {
		s.Bytes += (len(e.Always.Lists) + len(e.Block.Lists)) * States * 4
	}
	for _, l := range t.Lists {
		s.Bytes += len(l.Actions) * 12
	}
	for _, m := range t.Matchers {
		s.Rules += m.Rules
		for _, d := range m.Dims {
			s.Classes += d.Rows.Len()
			s.Bytes += len(d.Cuts)*20 + len(d.ByInterface)*4 + len(d.Points)*32 + d.Rows.bytes()
		}
	}
	return s
}
