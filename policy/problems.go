// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

var severityNames = [...]string{Error: "error", Warning: "warning", Info: "info"}

// String returns "error", "warning" or "info".
func (s Severity) String() string {
	if int(s) < len(severityNames) {
		return severityNames[s]
	}
	return fmt.Sprintf("severity(%d)", s)
}

// MarshalText returns the severity's String.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String returns the problem as one line: "severity object path: message", as case files list them.
func (p Problem) String() string {
	s := p.Severity.String() + " " + p.Object
	if p.Path != "" {
		s += " " + p.Path
	}
	return s + ": " + p.Message
}

// problems collects Problems; each is kept once.
type problems struct {
	list []Problem
	seen map[Problem]bool
}

func (ps *problems) add(sev Severity, code, object, path string, pos field.Pos, message string) {
	p := Problem{Severity: sev, Code: code, Object: object, Path: path, Pos: pos, Message: message}
	if ps.seen[p] {
		return
	}
	if ps.seen == nil {
		ps.seen = map[Problem]bool{}
	}
	ps.seen[p] = true
	ps.list = append(ps.list, p)
}

func (ps *problems) sorted() []Problem {
	slices.SortFunc(ps.list, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), strings.Compare(a.Object, b.Object),
			strings.Compare(a.Path, b.Path), strings.Compare(a.Code, b.Code), strings.Compare(a.Message, b.Message))
	})
	return ps.list
}

// check reports what validation finds in an object; the object is used as far as it can be understood.
func (rs *resolver) check(o hostendpoint.Object) {
	errs, warnings := o.Check()
	report := func(sev Severity, list field.List) {
		for _, e := range list {
			msg := e.Reason
			if msg == "" && e.Err != nil {
				msg = e.Err.Error()
			}
			if e.Value != "" {
				msg = fmt.Sprintf("%q: %s", e.Value, msg)
			}
			rs.problems.add(sev, "invalid", e.Object, e.Path, e.Pos, msg)
		}
	}
	report(Error, errs)
	report(Warning, warnings)
}

func (rs *resolver) missingProfile(name string, owner *hep, i int) {
	path := fmt.Sprintf("spec.profiles[%d]", i)
	rs.problems.add(Error, "missing-profile", owner.object, path, owner.obj.Source.At(path),
		fmt.Sprintf("profile %q does not exist: everything that reaches it is denied", name))
}
