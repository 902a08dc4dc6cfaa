// SPDX-License-Identifier: Apache-2.0

// Package selector is Calico's label selector language: parsing, canonical text and identity, matching, building and
// rewriting on the syntax tree, and an index that keeps (selector, endpoint) matches up to date under change.
//
// The language and every acceptance and rejection is that of Calico 3.29; Options can ask for the lexer of later
// releases. Selectors are immutable values, safe for concurrent use. Ref: libcalico-go/lib/selector.
package selector

import "fmt"

// Selector is a parsed selector: a predicate on labels. It is immutable, as small as a pointer, and safe for concurrent
// use. It refers to the text that it was parsed from, and so keeps that text alive.
//
// The zero value matches nothing, whatever it is negated or combined with: every constructor and rewriting that is
// given the zero value returns the zero value. Its String is not a selector, and its ID is empty. To compare Selectors,
// use Equal or ID; == compares identity.
type Selector struct {
	tree *tree
}

// Dialect says how text is cut into tokens. The zero value is Calico 3.29.
type Dialect uint8

// The dialects. They accept the same selectors except for two oddities of 3.29, which Newer refuses: a line feed,
// carriage return or form feed inside "starts with", "ends with", "not in", "has(...)", "all()" and "global()"; and an
// operator word glued to a label of exactly 512 bytes.
const (
	Calico329 Dialect = iota
	Newer
)

// Options change how ParseWith reads. The zero value is Calico 3.29. Comparable.
type Options struct {
	Dialect Dialect
}

// Parse reads a selector as Calico 3.29 does. Text that is empty but for spaces and tabs is all(). A failure is an
// *Error. There is no limit on length or nesting; time and memory are linear in the text.
func Parse(text string) (Selector, error) { return ParseWith(text, Options{}) }

// ParseWith is Parse with options. An unknown option is an error, too, though not an *Error.
func ParseWith(text string, o Options) (Selector, error) {
	if o.Dialect > Newer {
		return Selector{}, fmt.Errorf("selector: unknown dialect %d", o.Dialect)
	}
	t, err := parse(text, o.Dialect)
	if err != nil {
		return Selector{}, err
	}
	return Selector{t}, nil
}

// IsZero reports whether s is the zero value, which matches nothing.
func (s Selector) IsZero() bool { return s.tree == nil }

// Equal reports whether s and o have the same canonical text. Selectors of the same meaning and different text are
// not equal: Calico's identity is that of the text.
func (s Selector) Equal(o Selector) bool {
	return s.tree == o.tree || s.tree != nil && o.tree != nil && s.String() == o.String()
}
