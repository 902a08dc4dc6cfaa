// SPDX-License-Identifier: Apache-2.0

package eval

import (
	"strings"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Decision is what happens to a packet. The zero value denies and names nothing.
type Decision struct {
	Verdict flow.Verdict `json:"verdict"`
	By      flow.Origin  `json:"by"`              // what decided, with its position
	Trace   []Step       `json:"trace,omitempty"` // everything that was asked, in order; only from Explain
}

// Step is one thing that was asked on the way to a Decision.
type Step struct {
	Hook     flow.Hook   `json:"hook"`
	Endpoint string      `json:"endpoint,omitempty"` // the endpoint that was asked; "" if none governs the interface
	Origin   flow.Origin `json:"origin"`             // the rule, the end of the tier, the failsafe, ...
	Pos      string      `json:"pos,omitempty"`      // where it is written
	Matched  bool        `json:"matched"`
	Effect   string      `json:"effect,omitempty"` // what a rule that matched does: "Allow", "Log"
	Note     string      `json:"note,omitempty"`   // for a rule that did not match, the first criterion that failed
}

// String returns the step as one line.
func (s Step) String() string {
	var b strings.Builder
	b.WriteString(s.Hook.String())
	b.WriteByte(' ')
	b.WriteString(s.Origin.String())
	if s.Pos != "" {
		b.WriteString(" (" + s.Pos + ")")
	}
	switch {
	case s.Effect != "" && s.Matched:
		b.WriteString(": " + s.Effect)
	case s.Note != "":
		b.WriteString(": " + s.Note)
	}
	return b.String()
}

// recorder collects Steps. A nil recorder records nothing, so that the traversal need not ask.
type recorder struct{ steps []Step }

func (r *recorder) note(h flow.Hook, endpoint string, by flow.Origin, text string) {
	if r != nil {
		r.steps = append(r.steps, Step{Hook: h, Endpoint: endpoint, Origin: by, Pos: by.Pos.String(), Matched: true, Note: text})
	}
}

func (r *recorder) rule(h flow.Hook, endpoint string, by flow.Origin, rule *policy.Rule, m *miss) {
	if r == nil {
		return
	}
	s := Step{Hook: h, Endpoint: endpoint, Origin: by, Pos: by.Pos.String(), Matched: m == nil}
	if m == nil {
		s.Effect = string(rule.Action)
	} else {
		s.Note = m.String()
	}
	r.steps = append(r.steps, s)
}
