// SPDX-License-Identifier: Apache-2.0

// Package field holds the words in which the model reports what is wrong and where: a position in a
// manifest, an error about one field of one object, and a sorted list of such errors.
package field

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Pos is a line of a file. The zero value means that the position is not known (an object that was built in Go or
// read from a datastore).
type Pos struct {
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"` // from 1; 0 means unknown
}

// String returns "file:line", "file", or "" for the zero value.
func (p Pos) String() string {
	switch {
	case p == Pos{}:
		return ""
	case p.Line == 0:
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// Source says where the fields of one object stand in the file it was read from. A nil *Source is valid and knows
// nothing. A Source is immutable after NewSource and safe for concurrent use.
type Source struct {
	pos   Pos
	lines map[string]int
}

// NewSource returns a Source for an object that starts at pos. Lines maps field paths ("spec.ingress[2].action") to
// line numbers; NewSource keeps the map, so the caller must not change it afterwards.
func NewSource(pos Pos, lines map[string]int) *Source {
	return &Source{pos: pos, lines: lines}
}

// Pos returns where the object starts.
func (s *Source) Pos() Pos {
	if s == nil {
		return Pos{}
	}
	return s.pos
}

// At returns the position of the field at path, or of its nearest known ancestor, or of the object.
func (s *Source) At(path string) Pos {
	if s == nil {
		return Pos{}
	}
	for p := path; p != ""; {
		if l, ok := s.lines[p]; ok {
			return Pos{File: s.pos.File, Line: l}
		}
		i := strings.LastIndexAny(p, ".[")
		if i < 0 {
			break
		}
		p = p[:i]
	}
	return s.pos
}

// Sentinels that classify an Error; use errors.Is.
var (
	ErrInvalid   = errors.New("invalid value")
	ErrRequired  = errors.New("required value missing")
	ErrDuplicate = errors.New("duplicate value")
	ErrForbidden = errors.New("forbidden")
	ErrUnknown   = errors.New("unknown field or kind")
	ErrSyntax    = errors.New("syntax error")
	ErrTooLarge  = errors.New("input too large")
)

// Error says what is wrong with one field of one object. The zero value is not useful.
type Error struct {
	Object string // "HostEndpoint(web)", "NetworkPolicy(ns/web)"; "" if the document has no known kind
	Path   string // "spec.ingress[2].destination.ports[0]"; "" for the whole object
	Pos    Pos
	Value  string // the offending value as written, shortened; "" if there is none
	Reason string // what is wrong and, where it helps, what is expected
	Err    error  // one of the sentinels above or a more special error (a *selector.Error); never nil
}

// Error implements error: "web.yaml:31: HostEndpoint(web): spec.node: required value missing: ...".
func (e *Error) Error() string {
	var b strings.Builder
	for _, s := range []string{e.Pos.String(), e.Object, e.Path} {
		if s != "" {
			b.WriteString(s)
			b.WriteString(": ")
		}
	}
	if e.Value != "" {
		fmt.Fprintf(&b, "%q: ", e.Value)
	}
	switch {
	case e.Reason != "":
		b.WriteString(e.Reason)
	case e.Err != nil:
		b.WriteString(e.Err.Error())
	}
	return b.String()
}

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// List is a sorted collection of errors. It is an error itself only through its Err method, so that an empty list
// never becomes a non-nil error.
type List []*Error

// Err returns nil for an empty list and otherwise an error that holds a sorted copy of all of them and works with
// errors.Is and errors.As.
func (l List) Err() error {
	if len(l) == 0 {
		return nil
	}
	s := slices.Clone(l)
	slices.SortStableFunc(s, func(a, b *Error) int {
		return cmp.Or(
			strings.Compare(a.Pos.File, b.Pos.File), cmp.Compare(a.Pos.Line, b.Pos.Line),
			strings.Compare(a.Object, b.Object), strings.Compare(a.Path, b.Path), strings.Compare(a.Reason, b.Reason))
	})
	return &Errors{list: s}
}

// Errors is the error that List.Err returns.
type Errors struct{ list List }

// List returns the errors, sorted by file, line, object and path. The caller must not change it.
func (e *Errors) List() List { return e.list }

// Error implements error, one line for each error.
func (e *Errors) Error() string {
	var b strings.Builder
	for i, x := range e.list {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(x.Error())
	}
	return b.String()
}

// Unwrap makes errors.Is and errors.As look at every error of the list.
func (e *Errors) Unwrap() []error {
	out := make([]error, len(e.list))
	for i, x := range e.list {
		out[i] = x
	}
	return out
}
