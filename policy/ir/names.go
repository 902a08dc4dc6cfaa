// SPDX-License-Identifier: Apache-2.0

package ir

import (
	"fmt"
	"math/bits"
	"strings"
)

// The words of the text form for the small enumerations. A value out of range prints as "name(N)", which Parse refuses.

var (
	outcomeNames = [...]string{Undecided: "undecided", Allow: "allow", Deny: "deny", Pass: "pass"}
	effectNames  = [...]string{Log: "log"}
	setKindNames = [...]string{SetOfPrefixes: "prefixes", SetOfEndpoints: "endpoints"}
	fieldNames   = [...]string{
		InIface: "iif", OutIface: "oif", Family: "family", Protocol: "protocol", SrcAddr: "src", DstAddr: "dst",
		SrcPort: "sport", DstPort: "dport", ICMPType: "icmp-type", ICMPCode: "icmp-code", State: "state",
	}
)

func enumText[T ~uint8](names []string, what string, v T) string {
	if int(v) < len(names) && names[v] != "" {
		return names[v]
	}
	return fmt.Sprintf("%s(%d)", what, v)
}

func parseEnum[T ~uint8](names []string, what, s string) (T, error) {
	var known []string
	for i, n := range names {
		if n == "" {
			continue
		}
		if n == s {
			return T(i), nil
		}
		known = append(known, n)
	}
	return 0, fmt.Errorf("unknown %s %q: want one of %s", what, s, strings.Join(known, ", "))
}

func knownEnum[T ~uint8](names []string, v T) bool { return int(v) < len(names) && names[v] != "" }

// String returns "undecided", "allow", "deny" or "pass".
func (o Outcome) String() string { return enumText(outcomeNames[:], "outcome", o) }

// Outcomes returns the outcomes in s in ascending order; unknown ones are included.
func (s OutcomeSet) Outcomes() []Outcome {
	os := make([]Outcome, 0, bits.OnesCount8(uint8(s)))
	for o := Outcome(0); o < 8; o++ {
		if s.Has(o) {
			os = append(os, o)
		}
	}
	return os
}

// String returns the outcomes, separated by commas; "" for the empty set.
func (s OutcomeSet) String() string {
	var parts []string
	for _, o := range s.Outcomes() {
		parts = append(parts, o.String())
	}
	return strings.Join(parts, ",")
}

// String returns "log".
func (e Effect) String() string { return enumText(effectNames[:], "effect", e) }

// String returns "prefixes" or "endpoints".
func (k SetKind) String() string { return enumText(setKindNames[:], "kind", k) }

// String returns the word of the text form for the field, such as "dport".
func (f Field) String() string { return enumText(fieldNames[:], "field", f) }

// ParseField reads what Field.String writes.
func ParseField(s string) (Field, error) { return parseEnum[Field](fieldNames[:], "field", s) }
