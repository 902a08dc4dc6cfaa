// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Input is a program with the members of its sets. The zero value is the program of a host without policy.
type Input struct {
	Program *ir.Program // nil is an empty program
	Members ir.Members
}

// Options bound the work. The zero value is useful.
type Options struct {
	// By also reports packets whose verdict stays but whose deciding rule becomes another one. Where rules are written
	// (Origin.Pos) never counts.
	By bool
	// MaxStates is how many nodes of the decision diagram may be built before the answer is partial; 0 is
	// DefaultMaxStates. A node costs between 100 bytes and some kilobytes.
	MaxStates int
	// MaxBoxes is how many boxes an answer may have before it is partial; 0 is DefaultMaxBoxes.
	MaxBoxes int
}

// The defaults of Options. They keep an answer below 512 MiB.
const (
	DefaultMaxStates = 400_000
	DefaultMaxBoxes  = 100_000
)

// Decision is what becomes of packets, and what decides it. The zero value is a denial by nothing.
type Decision struct {
	Verdict flow.Verdict
	By      flow.Origin
}

// String returns "allow by policy:t/n/ingress[0] (web.yaml:31)".
func (d Decision) String() string {
	s := d.Verdict.String() + " by " + d.By.String()
	if p := d.By.Pos.String(); p != "" {
		s += " (" + p + ")"
	}
	return s
}

// Extent says how far an answer reaches.
type Extent struct {
	// Partial says that the work was stopped before everything was known: what is reported is true, but there may be
	// more.
	Partial bool
	Reason  string // why, for people; "" unless Partial
	States  int    // nodes of decision diagrams that were built
}
