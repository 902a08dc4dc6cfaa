// SPDX-License-Identifier: Apache-2.0

package selector

import "strings"

// scanner cuts text into tokens, as asked: which token a word is depends on what may stand there. It is apart from the
// parser because it holds the text, which outlives the parser's scratch space.
type scanner struct {
	text    string
	pos     int
	dialect Dialect
}

// fail returns an error about what stands at the current position.
func (s *scanner) fail(expected string) *Error { return errorAt(s.text, s.pos, expected) }

func (s *scanner) atEnd() bool { return s.pos == len(s.text) }

func (s *scanner) at(c byte) bool { return s.pos < len(s.text) && s.text[s.pos] == c }

func (s *scanner) hasPrefix(p string) bool { return strings.HasPrefix(s.text[s.pos:], p) }

// space skips white space between tokens.
func (s *scanner) space() {
	for s.pos < len(s.text) && (s.text[s.pos] == ' ' || s.text[s.pos] == '\t') {
		s.pos++
	}
}

// innerSpace skips white space within a token of several parts.
func (s *scanner) innerSpace() {
	for ; s.pos < len(s.text); s.pos++ {
		switch s.text[s.pos] {
		case ' ', '\t':
			continue
		case '\n', '\r', '\f':
			if s.dialect == Calico329 {
				continue
			}
		}
		return
	}
}

// label reads the name of a label; "" if there is none.
//
// Calico 3.29 cuts names at 512 bytes. What follows can only be an operator then, so a longer name is normally an
// error all the same. Later releases read the whole name and refuse it.
func (s *scanner) label() string {
	start, end := s.pos, len(s.text)
	if s.dialect == Calico329 {
		end = min(end, start+maxLabel)
	}
	for s.pos < end && labelByte[s.text[s.pos]] {
		s.pos++
	}
	return s.text[start:s.pos]
}

// quoted reads a string. There are no escapes, and any byte but the quote may be in it.
func (s *scanner) quoted(expected string) (string, *Error) {
	if !s.at('"') && !s.at('\'') {
		return "", s.fail(expected)
	}
	rest := s.text[s.pos+1:]
	end := strings.IndexByte(rest, s.text[s.pos])
	if end < 0 {
		return "", errorAt(s.text, len(s.text), expectQuote)
	}
	s.pos += end + 2
	return rest[:end], nil
}

// operator reads the operator after a label; 0 if there is none.
//
// Calico 3.29 wants a word boundary behind "in", later releases behind every word. That makes no difference here, since
// only a brace or a quote can follow.
func (s *scanner) operator() Op {
	if s.atEnd() {
		return 0
	}
	switch s.text[s.pos] {
	case '=':
		return s.word("==", "", OpEqual)
	case '!':
		return s.word("!=", "", OpNotEqual)
	case 'i':
		return s.word("in", "", OpIn)
	case 'n':
		return s.word("not", "in", OpNotIn)
	case 'c':
		return s.word("contains", "", OpContains)
	case 's':
		return s.word("starts", "with", OpStartsWith)
	case 'e':
		return s.word("ends", "with", OpEndsWith)
	}
	return 0
}

func (s *scanner) word(first, second string, op Op) Op {
	if !s.hasPrefix(first) {
		return 0
	}
	s.pos += len(first)
	if second != "" {
		s.innerSpace()
		if !s.hasPrefix(second) {
			return 0
		}
		s.pos += len(second)
	}
	return op
}
