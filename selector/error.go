// SPDX-License-Identifier: Apache-2.0

package selector

import "fmt"

// Error says where text is not a selector. The zero value is not useful.
type Error struct {
	Offset   int    // in bytes, from 0; the length of the text if it ends too early
	Token    string // what was found there, shortened; "" at the end of the text
	Expected string // what could have stood there, for people
}

// Error implements error.
func (e *Error) Error() string {
	if e.Token == "" {
		return fmt.Sprintf("selector ends at offset %d, expected %s", e.Offset, e.Expected)
	}
	return fmt.Sprintf("unexpected %q at offset %d of selector, expected %s", e.Token, e.Offset, e.Expected)
}

// What Error.Expected says.
const (
	expectOperand  = `a label, has(), all(), global(), "!" or "("`
	expectOperator = `==, !=, in, not in, contains, starts with or ends with`
	expectString   = `a quoted string`
	expectQuote    = `a closing quote`
	expectSet      = `"{"`
	expectValue    = `a quoted string or "}"`
	expectComma    = `"," or "}"`
	expectAndOr    = `&&, || or the end`
	expectParen    = `&&, || or ")"`
	expectEnd      = `")"`
	expectLabel    = `a label`
	expectShort    = `a label of at most 512 bytes`
)

// maxToken bounds Error.Token: selectors come from strangers and errors go to logs.
const maxToken = 40

// errorAt describes the token at offset.
func errorAt(text string, offset int, expected string) *Error {
	end := offset
	for end < len(text) && labelByte[text[end]] {
		end++
	}
	if end == offset && end < len(text) {
		end++
		if end < len(text) && (text[end] == text[offset] && (text[offset] == '&' || text[offset] == '|' ||
			text[offset] == '=') || text[offset] == '!' && text[end] == '=') {
			end++
		}
	}
	return &Error{Offset: offset, Token: text[offset:min(end, offset+maxToken)], Expected: expected}
}
