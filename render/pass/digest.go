// SPDX-License-Identifier: Apache-2.0

package pass

import (
	"encoding/binary"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// appendRule appends bytes that identify a rule but for its origin: equal bytes, equal rule.
func appendRule(b []byte, r *ir.Rule) []byte { return appendMatch(appendHead(b, r), r.Match) }

// appendHead is appendRule up to the match.
func appendHead(b []byte, r *ir.Rule) []byte {
	b = append(b, 'r', byte(r.Then), byte(len(r.Do)))
	for _, e := range r.Do {
		b = append(b, byte(e))
	}
	return b
}

func appendLen(b []byte, n int) []byte { return binary.AppendUvarint(b, uint64(n)) }

func appendText(b []byte, s string) []byte { return append(appendLen(b, len(s)), s...) }

func appendBool(b []byte, x bool) []byte {
	if x {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendMatch(b []byte, m ir.Match) []byte {
	b = appendLen(b, len(m))
	for _, c := range m {
		b = appendLen(b, len(c))
		for _, t := range c {
			b = appendTerm(b, t)
		}
	}
	return b
}

func appendTerm(b []byte, t ir.Term) []byte {
	switch t := t.(type) {
	case ir.InPorts:
		b = appendLen(appendBool(append(b, 1, byte(t.Field)), t.Not), len(t.Ranges))
		for _, r := range t.Ranges {
			b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, r.Min), r.Max)
		}
	case ir.InPrefixes:
		b = appendLen(appendBool(append(b, 2, byte(t.Field)), t.Not), len(t.Prefixes))
		for _, p := range t.Prefixes {
			a := p.Addr().As16()
			b = appendBool(append(append(b, a[:]...), byte(p.Bits())), p.Addr().Is4())
		}
	case ir.InNames:
		b = appendLen(appendBool(append(b, 3, byte(t.Field)), t.Not), len(t.Names))
		for _, n := range t.Names {
			b = appendBool(appendText(b, n.Name), n.Prefix)
		}
	case ir.InMask:
		b = appendBool(append(b, 4, byte(t.Field)), t.Not)
		for _, w := range t.Mask {
			b = binary.BigEndian.AppendUint64(b, w)
		}
	case ir.InSet:
		b = appendLen(appendBool(append(b, 5), t.Not), len(t.Fields))
		for _, f := range t.Fields {
			b = append(b, byte(f))
		}
		b = appendText(b, string(t.Set))
	}
	return b
}
