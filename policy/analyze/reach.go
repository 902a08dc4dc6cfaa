// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"fmt"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Reachability says of every origin of a program whether it can decide anything.
type Reachability struct {
	Rules []Rule // in the order of Program.Origins
	Extent
}

// Rule is what is known of one origin: of a rule, or of the end of a tier, a failsafe and so on.
type Rule struct {
	Origin flow.Origin
	Status Status
	// Redundant says that without the rule every packet would have the verdict that it has. True of every rule that is
	// Shadowed or Empty.
	Redundant bool
	// By are the rules that take its packets: those that come first if it is Shadowed; those that would decide instead
	// of it if it is Redundant and not Shadowed. In the order in which packets meet them.
	By []flow.Origin
	// Through are the rules with action Pass one of which every packet met that reaches this rule; nil if some packet
	// reaches it without.
	Through []flow.Origin
	// Witness is a packet that the rule decides, or that it matches if it is Matches; nil otherwise.
	Witness *flow.Packet
}

// Status says what a rule does. The zero value is Unknown.
type Status uint8

// The statuses.
const (
	Unknown  Status = iota // the work was stopped before it was known
	Decides                // it has the last word on some packet
	Matches                // it takes some packet, but never has the last word: it passes, logs, or a later hook overrules it
	Shadowed               // other rules take all of its packets before
	Empty                  // it can match nothing, whatever stands around it
)

var statusNames = [...]string{Unknown: "unknown", Decides: "decides", Matches: "matches", Shadowed: "shadowed", Empty: "empty"}

// String returns a lower-case word such as "shadowed".
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("status(%d)", s)
}

// MarshalText returns the status's String.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Dead reports whether the rule takes no packet at all.
func (s Status) Dead() bool { return s == Shadowed || s == Empty }
