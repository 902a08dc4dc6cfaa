// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"encoding"
	"fmt"
	"strings"
)

// The text of the small enumerations. A value out of range prints as "name(N)" and does not marshal.

var (
	pathNames      = [...]string{Input: "input", Output: "output", Forward: "forward", Local: "local"}
	hookNames      = [...]string{UntrackedIn: "untracked-in", PreDNAT: "prednat", NormalIn: "normal-in", ForwardIn: "forward-in", ForwardOut: "forward-out", UntrackedOut: "untracked-out", NormalOut: "normal-out"}
	stageNames     = [...]string{StageNormal: "normal", StageUntracked: "untracked", StagePreDNAT: "prednat", StageForward: "forward"}
	directionNames = [...]string{Ingress: "ingress", Egress: "egress"}
	verdictNames   = [...]string{Deny: "deny", Allow: "allow", None: "none"}
	stateNames     = [...]string{New: "new", Established: "established", Related: "related", Invalid: "invalid", Untracked: "untracked"}
)

func enumText[T ~uint8](names []string, what string, v T) string {
	if int(v) < len(names) && names[v] != "" {
		return names[v]
	}
	return fmt.Sprintf("%s(%d)", what, v)
}

func parseEnum[T ~uint8](names []string, what, s string) (T, error) {
	for i, n := range names {
		if n != "" && n == s {
			return T(i), nil
		}
	}
	known := make([]string, 0, len(names))
	for _, n := range names {
		if n != "" {
			known = append(known, n)
		}
	}
	return 0, fmt.Errorf("unknown %s %q: want one of %s", what, s, strings.Join(known, ", "))
}

// String returns "input", "output", "forward" or "local".
func (p Path) String() string { return enumText(pathNames[:], "path", p) }

// String returns the name of the hook, such as "normal-in".
func (h Hook) String() string { return enumText(hookNames[:], "hook", h) }

// String returns "normal", "untracked", "prednat" or "forward".
func (s Stage) String() string { return enumText(stageNames[:], "stage", s) }

// String returns "ingress" or "egress".
func (d Direction) String() string { return enumText(directionNames[:], "direction", d) }

// String returns "allow", "deny" or "none".
func (v Verdict) String() string { return enumText(verdictNames[:], "verdict", v) }

// String returns the name of the state, such as "established".
func (s ConnState) String() string { return enumText(stateNames[:], "state", s) }

// ParsePath reads what Path.String writes.
func ParsePath(s string) (Path, error) { return parseEnum[Path](pathNames[:], "path", s) }

// ParseHook reads what Hook.String writes.
func ParseHook(s string) (Hook, error) { return parseEnum[Hook](hookNames[:], "hook", s) }

// ParseStage reads what Stage.String writes.
func ParseStage(s string) (Stage, error) { return parseEnum[Stage](stageNames[:], "stage", s) }

// ParseDirection reads what Direction.String writes.
func ParseDirection(s string) (Direction, error) {
	return parseEnum[Direction](directionNames[:], "direction", s)
}

// ParseVerdict reads what Verdict.String writes.
func ParseVerdict(s string) (Verdict, error) {
	return parseEnum[Verdict](verdictNames[:], "verdict", s)
}

// ParseConnState reads what ConnState.String writes.
func ParseConnState(s string) (ConnState, error) {
	return parseEnum[ConnState](stateNames[:], "state", s)
}

// MarshalText returns the verdict's String.
func (v Verdict) MarshalText() ([]byte, error) {
	if int(v) >= len(verdictNames) {
		return nil, fmt.Errorf("unknown %s", v)
	}
	return []byte(v.String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (v *Verdict) UnmarshalText(b []byte) error {
	x, err := ParseVerdict(string(b))
	if err == nil {
		*v = x
	}
	return err
}

// MarshalText returns the hook's String.
func (h Hook) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

var (
	_ encoding.TextMarshaler   = Deny
	_ encoding.TextUnmarshaler = (*Verdict)(nil)
)
