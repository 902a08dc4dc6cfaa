// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"

	"github.com/cilium/ebpf/asm"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Place is where a program stands. The zero value is invalid.
type Place uint8

// The places.
const (
	AtUntrackedIn  Place = iota + 1 // before connection tracking, arriving
	AtPreDNAT                       // before NAT, arriving
	AtInput                         // to a process of this host
	AtForward                       // forwarded; both directions
	AtUntrackedOut                  // before connection tracking, locally generated
	AtOutput                        // locally generated, unless the destination was translated
	AtTranslated                    // locally generated with a translated destination, behind routing
	MatchIn                         // says to a rule before connection tracking which packets to leave alone, arriving
	MatchOut                        // likewise, locally generated
	AtDevice                        // before anything else, at the device: drops early what AtUntrackedIn would drop
)

// Places are all places.
var Places = [...]Place{AtUntrackedIn, AtPreDNAT, AtInput, AtForward, AtUntrackedOut, AtOutput, AtTranslated, MatchIn, MatchOut, AtDevice}

var placeNames = [...]string{
	AtUntrackedIn: "untracked_in", AtPreDNAT: "prednat", AtInput: "input", AtForward: "forward", AtUntrackedOut: "untracked_out",
	AtOutput: "output", AtTranslated: "translated", MatchIn: "match_in", MatchOut: "match_out", AtDevice: "device",
}

// String returns the name of the program at p, such as "prednat".
func (p Place) String() string {
	if int(p) < len(placeNames) && p != 0 {
		return placeNames[p]
	}
	return fmt.Sprintf("place(%d)", uint8(p))
}

// Hooks returns the hooks that the program at p asks, in order; nil for an unknown place.
func (p Place) Hooks() []flow.Hook {
	switch p {
	case AtUntrackedIn, MatchIn, AtDevice:
		return []flow.Hook{flow.UntrackedIn}
	case AtPreDNAT:
		return []flow.Hook{flow.PreDNAT}
	case AtInput:
		return []flow.Hook{flow.NormalIn}
	case AtForward:
		return []flow.Hook{flow.ForwardIn, flow.ForwardOut}
	case AtUntrackedOut, MatchOut:
		return []flow.Hook{flow.UntrackedOut}
	case AtOutput, AtTranslated:
		return []flow.Hook{flow.NormalOut}
	}
	return nil
}

// Match reports whether the program at p is a socket filter that a rule of the kernel asks.
func (p Place) Match() bool { return p == MatchIn || p == MatchOut }

// Program returns the program at a place, which is the same for all policies. Its maps are named by references, and its
// functions but the first are static.
func Program(p Place, k Kernel) (asm.Instructions, error) {
	if p.Hooks() == nil {
		return nil, fmt.Errorf("ebpf: unknown %s", p)
	}
	e := &emitter{k: &k, quiet: p.Match(), device: p == AtDevice}
	e.main(p)
	e.functions()
	if err := check(e.ins); err != nil {
		return nil, err
	}
	return e.ins, nil
}
