// SPDX-License-Identifier: Apache-2.0

package ir

import (
	"encoding/hex"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// String returns the canonical text of p, one line for each entry, set, step and case:
//
//	entry prednat hook/prednat settles normal-in,forward-in
//	set s:vp0q prefixes "has(web)"
//
//	block policy/default/web/normal-in
//	  rule protocol=tcp dport=80,443|dst.protocol.dport=@n:7rm2 src!=10.9.0.0/16 log by policy:default/web/ingress[0]
//	  rule -> deny by policy:default/web/ingress[1]
//	block hook/prednat
//	  switch iif
//	    case eth0 -> call endpoint/web/prednat
//	  call endpoint/all/prednat if iif!=lo resume pass
//
// A word of a match is a clause; terms of a clause stand around "|". Names that are not plain are quoted as in Go.
// Origins are shown by their text, without number and position, so Parse(p.String()) is Canonical(p) without
// positions. A program that Validate refuses may have a text that Parse refuses.
func (p *Program) String() string {
	var w strings.Builder
	for _, e := range p.Entries {
		w.WriteString(e.String())
		w.WriteByte('\n')
	}
	for _, s := range p.Sets {
		w.WriteString(s.String())
		w.WriteByte('\n')
	}
	for i, b := range p.Blocks {
		if i > 0 || w.Len() > 0 {
			w.WriteByte('\n')
		}
		p.writeBlock(&w, b)
	}
	return w.String()
}

// String returns the text of m, which Parse reads together with that of the program:
//
//	members s:vp0q
//	  10.9.0.0/16
//	members n:7rm2
//	  10.9.0.1 tcp 80
func (m Members) String() string {
	var w strings.Builder
	for _, s := range m.Sets {
		w.WriteString("members ")
		w.WriteString(quoteID(string(s.ID)))
		w.WriteByte('\n')
		for _, e := range s.Elements {
			w.WriteString("  ")
			w.WriteString(e.String())
			w.WriteByte('\n')
		}
	}
	return w.String()
}

// String returns the line of the text form.
func (e Entry) String() string {
	s := "entry " + e.Hook.String() + " " + quoteID(string(e.Block))
	if e.Always != "" {
		s += " always " + quoteID(string(e.Always))
	}
	if e.Default != Undecided {
		s += " default " + e.Default.String()
	}
	if e.Settles != 0 {
		s += " settles " + hookSetText(e.Settles)
	}
	if e.NoTrack {
		s += " notrack"
	}
	return s
}

func hookSetText(hs flow.HookSet) string {
	var parts []string
	for h := flow.Hook(0); h < 16; h++ {
		if hs.Has(h) {
			parts = append(parts, h.String())
		}
	}
	return strings.Join(parts, ",")
}

// String returns the line of the text form.
func (d SetDecl) String() string {
	s := "set " + quoteID(string(d.ID)) + " " + d.Kind.String()
	if d.Note != "" {
		s += " " + strconv.Quote(d.Note)
	}
	return s
}

// String returns the line of the text form.
func (e Element) String() string {
	s := prefixText(e.Prefix)
	if e.Protocol != 0 || e.Port != 0 {
		s += " " + e.Protocol.String() + " " + strconv.Itoa(int(e.Port))
	}
	return s
}

// String returns the text of the clauses, separated by blanks; "" for the match that matches everything.
func (m Match) String() string {
	parts := make([]string, len(m))
	for i, c := range m {
		parts[i] = c.String()
	}
	return strings.Join(parts, " ")
}

// String returns the text of the terms, separated by "|"; "false" for the clause that matches nothing.
func (c Clause) String() string {
	if len(c) == 0 {
		return "false"
	}
	parts := make([]string, len(c))
	for i, t := range c {
		parts[i] = termText(t)
	}
	return strings.Join(parts, "|")
}

// String returns the name, quoted if it is not plain, and a "*" behind a prefix.
func (n NamePattern) String() string {
	s := quoteName(n.Name)
	if n.Prefix {
		s += "*"
	}
	return s
}

// writeBlock writes the block's header and one line for each step and case.
func (p *Program) writeBlock(w *strings.Builder, b Block) {
	w.WriteString("block ")
	w.WriteString(quoteID(string(b.ID)))
	w.WriteByte('\n')
	for _, s := range b.Steps {
		for i, line := range p.stepLines(s) {
			w.WriteString("  ")
			if i > 0 {
				w.WriteString("  ")
			}
			w.WriteString(line)
			w.WriteByte('\n')
		}
	}
}

// stepLines returns the line of a step, and behind it those of its cases.
func (p *Program) stepLines(s Step) []string {
	switch s := s.(type) {
	case Rule:
		line := "rule"
		if len(s.Match) > 0 {
			line += " " + s.Match.String()
		}
		for _, e := range s.Do {
			line += " " + e.String()
		}
		if s.Then != Undecided {
			line += " -> " + s.Then.String()
		}
		return []string{line + p.by(s.Origin)}
	case Call:
		line := "call " + quoteID(string(s.Block))
		if len(s.Match) > 0 {
			line += " if " + s.Match.String()
		}
		return []string{line + resumeText(s.Resume) + p.by(s.Origin)}
	case Switch:
		names := make([]string, len(s.Key))
		for i, f := range s.Key {
			names[i] = f.String()
		}
		lines := []string{"switch " + strings.Join(names, ",") + resumeText(s.Resume)}
		for _, c := range s.Cases {
			lines = append(lines, caseText(s.Key, c)+p.by(c.Origin))
		}
		return lines
	}
	return []string{fmt.Sprintf("unknown step %T", s)}
}

func resumeText(r OutcomeSet) string {
	if r == 0 {
		return ""
	}
	return " resume " + r.String()
}

// by returns the end of a line that names its origin.
func (p *Program) by(id OriginID) string {
	if id == 0 {
		return ""
	}
	o := p.Origin(id)
	if o.Kind == 0 {
		return " by origin(" + strconv.FormatUint(uint64(id), 10) + ")"
	}
	return " by " + quoteOrigin(o.String())
}

func caseText(key []Field, c Case) string {
	s := "case"
	for i, k := range c.Key {
		f := Field(0)
		if i < len(key) {
			f = key[i]
		}
		s += " " + intervalText(f, k)
	}
	if c.Then.Block != "" {
		return s + " -> call " + quoteID(string(c.Then.Block))
	}
	return s + " -> " + c.Then.Outcome.String()
}

func termText(t Term) string {
	op := func(not bool) string {
		if not {
			return "!="
		}
		return "="
	}
	var vals []string
	switch t := t.(type) {
	case InPorts:
		for _, r := range t.Ranges {
			vals = append(vals, rangeText(r))
		}
		return t.Field.String() + op(t.Not) + strings.Join(vals, ",")
	case InPrefixes:
		for _, p := range t.Prefixes {
			vals = append(vals, prefixText(p))
		}
		return t.Field.String() + op(t.Not) + strings.Join(vals, ",")
	case InNames:
		for _, n := range t.Names {
			vals = append(vals, n.String())
		}
		return t.Field.String() + op(t.Not) + strings.Join(vals, ",")
	case InMask:
		return t.Field.String() + op(t.Not) + maskText(t.Field, t.Mask)
	case InSet:
		for _, f := range t.Fields {
			vals = append(vals, f.String())
		}
		return strings.Join(vals, ".") + op(t.Not) + "@" + quoteID(string(t.Set))
	}
	return fmt.Sprintf("unknown term %T", t)
}

func rangeText(r inet.PortRange) string {
	if r.Min == r.Max {
		return strconv.Itoa(int(r.Min))
	}
	return strconv.Itoa(int(r.Min)) + "-" + strconv.Itoa(int(r.Max))
}

// prefixText writes a prefix of full length as an address.
func prefixText(p netip.Prefix) string {
	if p.IsValid() && p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// maskText writes runs of three and more numbers as a range, but names for states and families.
func maskText(f Field, m Mask) string {
	var vals []string
	for v := 0; v < 256; v++ {
		if !m.Has(uint8(v)) {
			continue
		}
		end := v
		for end < 255 && m.Has(uint8(end+1)) {
			end++
		}
		if end-v >= 2 && f != State && f != Family {
			vals = append(vals, strconv.Itoa(v)+"-"+strconv.Itoa(end))
			v = end
			continue
		}
		vals = append(vals, numberText(f, uint16(v)))
	}
	return strings.Join(vals, ",")
}

// numberText writes a small value of a field: with its name, if it has one.
func numberText(f Field, v uint16) string {
	switch {
	case f == Protocol && v < 256:
		return inet.Protocol(v).String()
	case f == State && v <= uint16(flow.Untracked):
		return flow.ConnState(v).String()
	}
	return strconv.Itoa(int(v))
}

// intervalText writes an interval as people write values of the field where it is such, "*" for all of them, and in
// hexadecimal otherwise.
func intervalText(f Field, i Interval) string {
	if i == f.Domain() {
		return "*"
	}
	raw := "0x" + hex.EncodeToString(i.Lo[:]) + "-0x" + hex.EncodeToString(i.Hi[:])
	switch f {
	case InIface, OutIface:
		name, ok := i.Lo.Name()
		if !ok {
			return raw
		}
		if i.Lo == i.Hi {
			return quoteName(name)
		}
		if p, _ := NamePrefix(name); p == i {
			return quoteName(name) + "*"
		}
		return raw
	case SrcAddr, DstAddr:
		lo, hi := i.Lo.Addr(), i.Hi.Addr()
		if lo == hi {
			return lo.String()
		}
		if lo.BitLen() != hi.BitLen() {
			return raw
		}
		if p, ok := prefixOf(i); ok {
			return p.String()
		}
		return lo.String() + "-" + hi.String()
	}
	lo, lok := i.Lo.Number()
	hi, hok := i.Hi.Number()
	switch {
	case !lok || !hok || f.Domain().Lo == allOnes:
		return raw
	case lo == hi:
		return numberText(f, lo)
	}
	return strconv.Itoa(int(lo)) + "-" + strconv.Itoa(int(hi))
}

// prefixOf returns the prefix that is exactly i.
func prefixOf(i Interval) (netip.Prefix, bool) {
	n := 0
	for n < 16 && i.Lo[n] == i.Hi[n] {
		n++
	}
	ones := n * 8
	if n < 16 {
		ones += bits.LeadingZeros8(i.Lo[n] ^ i.Hi[n])
	}
	a := i.Lo.Addr()
	p := netip.PrefixFrom(a, ones-(128-a.BitLen()))
	if !p.IsValid() || p != p.Masked() {
		return p, false
	}
	is := AddrPrefix(p)
	return p, len(is) == 1 && is[0] == i
}

// quoteID quotes the name of a block or set that would not be read back as one word.
func quoteID(s string) string {
	return quoteUnless(s, func(c byte) bool {
		return isWordByte(c) || strings.IndexByte("/:%+[]", c) >= 0
	})
}

// quoteName quotes the name of an interface that would not be read back as one value.
func quoteName(s string) string {
	return quoteUnless(s, func(c byte) bool { return isWordByte(c) || c == ':' })
}

// quoteOrigin quotes the text of an origin that would not be read back from the end of a line.
func quoteOrigin(s string) string {
	return quoteUnless(s, func(c byte) bool { return ' ' < c && c < 0x7f && c != '"' && c != '\\' })
}

func quoteUnless(s string, plain func(byte) bool) string {
	for i := 0; i < len(s); i++ {
		if !plain(s[i]) {
			return strconv.Quote(s)
		}
	}
	if s == "" {
		return `""`
	}
	return s
}

func isWordByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-' || c == '.'
}
