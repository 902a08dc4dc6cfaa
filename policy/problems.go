// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"maps"
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

// UnmarshalText reads what MarshalText writes.
func (s *Severity) UnmarshalText(b []byte) error {
	for i, n := range severityNames {
		if n == string(b) {
			*s = Severity(i)
			return nil
		}
	}
	return fmt.Errorf("unknown severity %q", b)
}

// String returns the problem as one line: "severity object path: message", as case files list them.
func (p Problem) String() string {
	s := p.Severity.String() + " " + p.Object
	if p.Path != "" {
		s += " " + p.Path
	}
	return s + ": " + p.Message
}

// CompareProblems orders problems by severity, the worst first, then by object, path, code, message and position.
func CompareProblems(a, b Problem) int {
	return cmp.Or(cmp.Compare(a.Severity, b.Severity), strings.Compare(a.Object, b.Object),
		strings.Compare(a.Path, b.Path), strings.Compare(a.Code, b.Code), strings.Compare(a.Message, b.Message),
		strings.Compare(a.Pos.File, b.Pos.File), cmp.Compare(a.Pos.Line, b.Pos.Line))
}

// problemSet holds the problems that all objects together have. Several objects may have the same; it is there once.
type problemSet struct {
	count   map[Problem]int
	touched map[Problem]bool // since the last Commit, and whether it was there then
}

// replace takes old problems of an object out and its new ones in. It returns the new ones.
func (ps *problemSet) replace(old, now []Problem) []Problem {
	if len(old) == 0 && len(now) == 0 {
		return nil
	}
	if ps.count == nil {
		ps.count, ps.touched = map[Problem]int{}, map[Problem]bool{}
	}
	for _, p := range now {
		ps.touch(p)
		ps.count[p]++
	}
	for _, p := range old {
		ps.touch(p)
		if ps.count[p]--; ps.count[p] == 0 {
			delete(ps.count, p)
		}
	}
	return now
}

func (ps *problemSet) touch(p Problem) {
	if _, ok := ps.touched[p]; !ok {
		ps.touched[p] = ps.count[p] > 0
	}
}

// commit returns the problems that came and went since the last commit, both sorted.
func (ps *problemSet) commit() (raised, solved []Problem) {
	for p, before := range ps.touched {
		switch now := ps.count[p] > 0; {
		case now && !before:
			raised = append(raised, p)
		case before && !now:
			solved = append(solved, p)
		}
	}
	clear(ps.touched)
	slices.SortFunc(raised, CompareProblems)
	slices.SortFunc(solved, CompareProblems)
	return raised, solved
}

func (ps *problemSet) sorted() []Problem {
	return slices.SortedFunc(maps.Keys(ps.count), CompareProblems)
}

// check returns what validation finds in an object; the object is used as far as it can be understood.
func (rs *Resolver) check(o hostendpoint.Object) []Problem {
	errs, warnings := hostendpoint.CheckWith(o, rs.parse)
	var out []Problem
	report := func(sev Severity, list field.List) {
		for _, e := range list {
			msg := e.Reason
			if msg == "" && e.Err != nil {
				msg = e.Err.Error()
			}
			if e.Value != "" {
				msg = fmt.Sprintf("%q: %s", e.Value, msg)
			}
			out = append(out, Problem{Severity: sev, Code: "invalid", Object: e.Object, Path: e.Path, Pos: e.Pos, Message: msg})
		}
	}
	report(Error, errs)
	report(Warning, warnings)
	return out
}
