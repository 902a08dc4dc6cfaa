// SPDX-License-Identifier: Apache-2.0

package selector

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// zeroText is not a selector, so that nobody parses it back into something that matches.
const zeroText = "<no selector>"

// String returns the canonical text, which ID is computed from. For the zero value it is no selector. The text is made
// anew at each call, in one allocation or two.
//
// Calico: operands in the order of the source, one pair of parentheses around every "&&" and "||", strings in double
// quotes unless they contain one, sets sorted. It is not a fixed point: !(!a == "b") gives !!a == "b", which reads as
// a == "b" (see Reparse). Ref: libcalico-go/lib/selector/parser/ast.go.
func (s Selector) String() string {
	if s.tree == nil {
		return zeroText
	}
	var b strings.Builder
	b.Grow(s.tree.textLen())
	s.tree.writeTo(&b)
	return b.String()
}

// ID returns Calico's unique id of the selector, "s:" and the hash of the canonical text. Selectors with the same
// meaning and different text have different IDs. The ID of the zero value is "".
func (s Selector) ID() string {
	if s.tree == nil {
		return ""
	}
	return MakeID("s", s.String())
}

// MakeID returns prefix, a colon, and the SHA-224 of "prefix:content" in unpadded URL-safe base64: how Calico makes all
// identifiers of this kind. Ref: libcalico-go/lib/hash/unique_id.go.
func MakeID(prefix, content string) string {
	var room [256]byte
	text := append(append(append(room[:0], prefix...), ':'), content...)
	sum := sha256.Sum224(text)
	return string(base64.RawURLEncoding.AppendEncode(text[:len(prefix)+1], sum[:]))
}

// Normalise returns the canonical text of a selector, or the text without the white space (as Unicode has it) around it
// if it is none. Ref: libcalico-go/lib/selector/selector.go.
func Normalise(text string) string {
	text = strings.TrimSpace(text)
	s, err := Parse(text)
	if err != nil {
		return text
	}
	return s.String()
}

// opText is how operators are written.
var opText = [...]string{
	OpAll: "all()", OpGlobal: "global()", OpHas: "has(",
	OpEqual: " == ", OpNotEqual: " != ", OpIn: " in {", OpNotIn: " not in {",
	OpContains: " contains ", OpStartsWith: " starts with ", OpEndsWith: " ends with ",
	opNot: "!", opAnd: " && ", opOr: " || ",
}

// textLen is exact.
func (t *tree) textLen() int {
	n := 0
	for i := range t.nodes {
		d := &t.nodes[i]
		n += len(opText[d.op])
		switch d.op {
		case opAnd, opOr:
			n += 2 - 2*len(opText[d.op])
			t.children(int32(i), func(int32) { n += len(opText[d.op]) })
		case OpHas:
			n += len(d.label) + 1
		case OpIn, OpNotIn:
			n += len(d.label) + 1
			for k, v := range t.sets[d.set].sorted {
				n += len(v) + 2
				if k > 0 {
					n += 2
				}
			}
		case OpEqual, OpNotEqual, OpContains, OpStartsWith, OpEndsWith:
			n += len(d.label) + len(d.value) + 2
		}
	}
	return n
}

// writeTo goes down the tree from its root. The stack holds the inner nodes whose end is still to be written.
func (t *tree) writeTo(b *strings.Builder) {
	var buf [16]int32
	open := buf[:0]
	for i := int32(len(t.nodes) - 1); ; {
		n := &t.nodes[i]
		if !n.op.isLeaf() {
			if n.op == opNot {
				b.WriteByte('!')
			} else {
				b.WriteByte('(')
			}
			open = append(open, i)
			i = n.first
			continue
		}
		t.writeTerm(b, n)
		for n.next == none { // the last child: its parent ends, too
			if len(open) == 0 {
				return
			}
			n = &t.nodes[open[len(open)-1]]
			open = open[:len(open)-1]
			if n.op != opNot {
				b.WriteByte(')')
			}
		}
		b.WriteString(opText[t.nodes[open[len(open)-1]].op])
		i = n.next
	}
}

func (t *tree) writeTerm(b *strings.Builder, n *node) {
	switch n.op {
	case OpAll, OpGlobal:
		b.WriteString(opText[n.op])
	case OpHas:
		b.WriteString(opText[n.op])
		b.WriteString(n.label)
		b.WriteByte(')')
	case OpIn, OpNotIn:
		b.WriteString(n.label)
		b.WriteString(opText[n.op])
		for k, v := range t.sets[n.set].sorted {
			if k > 0 {
				b.WriteString(", ")
			}
			writeQuoted(b, v)
		}
		b.WriteByte('}')
	default:
		b.WriteString(n.label)
		b.WriteString(opText[n.op])
		writeQuoted(b, n.value)
	}
}

func writeQuoted(b *strings.Builder, v string) {
	q := byte('"')
	if strings.IndexByte(v, '"') >= 0 {
		q = '\''
	}
	b.WriteByte(q)
	b.WriteString(v)
	b.WriteByte(q)
}
