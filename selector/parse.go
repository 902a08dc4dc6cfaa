// SPDX-License-Identifier: Apache-2.0

package selector

import (
	"math"
	"strings"
)

// parser builds the tree of one selector. It works from left to right with a stack of its own for parentheses, which
// costs a few bytes each.
type parser struct {
	builder
	frame         // the innermost one
	outer []frame // the others
}

// frame is an open parenthesis, or the whole text: a disjunction whose last conjunction is still growing.
type frame struct {
	and, or list
	negated bool // a "!" stands before the parenthesis
}

// parse reads
//
//	selector   = ws [ or ] ws
//	or         = and { "||" and }
//	and        = unary { "&&" unary }
//	unary      = { "!" } primary                       only the parity counts
//	primary    = "all(" ")" | "global(" ")" | "has(" label ")" | "(" or ")" | label comparison
//	comparison = ( "==" | "!=" | "contains" | "starts" "with" | "ends" "with" ) string
//	           | ( "in" | "not" "in" ) "{" [ string { "," string } [ "," ] ] "}"
//
// with white space (space and tab) allowed between any two tokens. Words that are operators after a label are ordinary
// labels anywhere else.
//
// Calico: has(, all( and global( are one token each; inside them, and inside two-word operators, release 3.29 takes
// line feed, carriage return and form feed for white space, too. Operators that are words need not be separated from
// what follows. Ref: libcalico-go/lib/selector/tokenizer/tokenizer.go, libcalico-go/lib/selector/parser/parser.go.
func parse(text string, d Dialect) (*tree, error) {
	if len(text) > math.MaxInt32 { // nodes are counted with 32 bits
		return nil, &Error{Offset: math.MaxInt32, Token: text[math.MaxInt32:][:1], Expected: "the end"}
	}
	s := scanner{text: text, dialect: d}
	s.space()
	if s.atEnd() {
		return All().tree, nil
	}
	p := parser{builder: builder{nodes: make([]node, 0, estimate(text))}}
	if err := p.selector(&s); err != nil {
		return nil, err
	}
	return p.finish(), nil
}

// estimate says for how many nodes to make room at first. It is exact for the simplest selectors, too great for most
// others, and bounded, because operators in strings count, too.
func estimate(text string) int {
	binary := (strings.Count(text, "&") + strings.Count(text, "|")) / 2
	inner := min(binary, 1+strings.Count(text, "("))
	return min(1+binary+inner+strings.Count(text, "!"), 64)
}

func (p *parser) selector(s *scanner) *Error {
	for {
		negated := false
		for s.space(); s.at('!') && !s.hasPrefix("!="); s.space() {
			s.pos++
			negated = !negated
		}
		if s.at('(') {
			s.pos++
			p.open(negated)
			continue
		}
		operand, err := p.primary(s)
		if err != nil {
			return err
		}
		if negated {
			operand = p.not(operand)
		}
		more, err := p.after(s, operand)
		if err != nil || !more {
			return err
		}
	}
}

// after files an operand and reads on until another one must follow (true) or the text ends.
func (p *parser) after(s *scanner, operand int32) (bool, *Error) {
	for {
		p.add(&p.and, operand)
		s.space()
		switch {
		case s.hasPrefix("&&"):
			s.pos += 2
			return true, nil
		case s.hasPrefix("||"):
			s.pos += 2
			p.add(&p.or, p.group(opAnd, p.and))
			p.and = list{}
			return true, nil
		case s.at(')') && len(p.outer) > 0:
			s.pos++
			operand = p.close()
		case s.atEnd() && len(p.outer) == 0:
			p.whole()
			return false, nil
		case len(p.outer) > 0:
			return false, s.fail(expectParen)
		default:
			return false, s.fail(expectAndOr)
		}
	}
}

func (p *parser) open(negated bool) {
	if p.outer == nil {
		p.outer = make([]frame, 0, 8)
	}
	p.outer = append(p.outer, p.frame)
	p.frame = frame{negated: negated}
}

// close ends the innermost parenthesis and returns what it holds.
func (p *parser) close() int32 {
	i := p.whole()
	if p.negated {
		i = p.not(i)
	}
	last := len(p.outer) - 1
	p.frame, p.outer = p.outer[last], p.outer[:last]
	return i
}

// whole returns all of the innermost frame.
func (p *parser) whole() int32 {
	p.add(&p.or, p.group(opAnd, p.and))
	return p.group(opOr, p.or)
}

// primary reads an operand other than a parenthesis.
func (p *parser) primary(s *scanner) (int32, *Error) {
	start := s.pos
	label := s.label()
	if label == "" {
		return 0, s.fail(expectOperand)
	}
	if s.at('(') {
		switch label {
		case "has":
			return p.has(s)
		case "all":
			return p.constant(s, OpAll)
		case "global":
			return p.constant(s, OpGlobal)
		}
	}
	if len(label) > maxLabel {
		return 0, errorAt(s.text, start, expectShort)
	}
	return p.comparison(s, label)
}

func (p *parser) has(s *scanner) (int32, *Error) {
	s.pos++
	s.innerSpace()
	start := s.pos
	label := s.label()
	switch {
	case label == "":
		return 0, s.fail(expectLabel)
	case len(label) > maxLabel || s.pos < len(s.text) && labelByte[s.text[s.pos]]:
		return 0, errorAt(s.text, start, expectShort)
	}
	s.innerSpace()
	if !s.at(')') {
		return 0, s.fail(expectEnd)
	}
	s.pos++
	return p.term(node{op: OpHas, label: label}), nil
}

func (p *parser) constant(s *scanner, op Op) (int32, *Error) {
	s.pos++
	start := s.pos
	s.innerSpace()
	if !s.at(')') {
		return 0, s.fail(expectEnd)
	}
	s.pos++
	return p.term(node{op: op, space: s.pos-1 > start}), nil
}

func (p *parser) comparison(s *scanner, label string) (int32, *Error) {
	s.space()
	start := s.pos
	n := node{op: s.operator(), label: label}
	var err *Error
	switch n.op {
	case 0:
		return 0, errorAt(s.text, start, expectOperator)
	case OpIn, OpNotIn:
		n.set, err = p.braces(s)
	default:
		s.space()
		n.value, err = s.quoted(expectString)
	}
	if err != nil {
		return 0, err
	}
	return p.term(n), nil
}

func (p *parser) braces(s *scanner) (int32, *Error) {
	s.space()
	if !s.at('{') {
		return 0, s.fail(expectSet)
	}
	s.pos++
	vals := make([]string, 0, 8)
	for s.space(); !s.at('}'); s.space() {
		v, err := s.quoted(expectValue)
		if err != nil {
			return 0, err
		}
		vals = append(vals, v)
		s.space()
		if s.at(',') {
			s.pos++
		} else if !s.at('}') {
			return 0, s.fail(expectComma)
		}
	}
	s.pos++
	return p.set(vals), nil
}
