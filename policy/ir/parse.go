// SPDX-License-Identifier: Apache-2.0

package ir

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// SyntaxError says in which line a text is not that of a program.
type SyntaxError struct {
	Line   int // from 1
	Reason string
}

// Error implements error: "line 7: unknown outcome ...".
func (e *SyntaxError) Error() string { return "line " + strconv.Itoa(e.Line) + ": " + e.Reason }

// Parse reads what Program.String and Members.String write, in one text. Empty lines and lines that begin with "#" are
// skipped. The order of entries, sets, blocks and members is kept as written; Origins are as Canonical leaves them. An
// error is a *SyntaxError. Parse checks the form only: Validate says whether the program makes sense.
func Parse(text string) (*Program, Members, error) {
	p := &parser{prog: &Program{}, origins: map[flow.Origin]OriginID{}}
	for i, line := range strings.Split(text, "\n") {
		if err := p.line(strings.TrimSuffix(line, "\r")); err != nil {
			return nil, Members{}, &SyntaxError{Line: i + 1, Reason: err.Error()}
		}
	}
	p.sortOrigins()
	return p.prog, p.members, nil
}

type parser struct {
	prog    *Program
	members Members
	origins map[flow.Origin]OriginID
	section section
}

// section says what indented lines belong to.
type section uint8

const (
	nothing section = iota
	inBlock
	inMembers
)

func (p *parser) line(line string) error {
	depth := len(line) - len(strings.TrimLeft(line, " "))
	body := line[depth:]
	if body == "" || body[0] == '#' {
		return nil
	}
	l := &lineReader{rest: body}
	word, err := l.word()
	if err != nil {
		return err
	}
	switch {
	case depth == 0 && word == "entry":
		p.section = nothing
		return p.entry(l)
	case depth == 0 && word == "set":
		p.section = nothing
		return p.set(l)
	case depth == 0 && word == "block":
		p.section = inBlock
		id, err := l.id()
		p.prog.Blocks = append(p.prog.Blocks, Block{ID: BlockID(id)})
		return errors.Join(err, l.end())
	case depth == 0 && word == "members":
		p.section = inMembers
		id, err := l.id()
		p.members.Sets = append(p.members.Sets, SetMembers{ID: SetID(id)})
		return errors.Join(err, l.end())
	case depth == 2 && p.section == inMembers:
		return p.element(word, l)
	case depth == 2 && p.section == inBlock:
		return p.step(word, l)
	case depth == 4 && p.section == inBlock && word == "case":
		return p.switchCase(l)
	}
	return fmt.Errorf("unexpected %q at this place", word)
}

func (p *parser) entry(l *lineReader) error {
	var e Entry
	word, err := l.word()
	if err != nil {
		return err
	}
	if e.Hook, err = flow.ParseHook(word); err != nil {
		return err
	}
	id, err := l.id()
	if err != nil {
		return err
	}
	e.Block = BlockID(id)
	if l.accept("always") {
		if id, err = l.id(); err != nil {
			return err
		}
		e.Always = BlockID(id)
	}
	if l.accept("default") {
		if word, err = l.word(); err != nil {
			return err
		}
		if e.Default, err = parseEnum[Outcome](outcomeNames[:], "outcome", word); err != nil {
			return err
		}
	}
	if l.accept("settles") {
		if word, err = l.word(); err != nil {
			return err
		}
		for _, s := range strings.Split(word, ",") {
			h, err := flow.ParseHook(s)
			if err != nil {
				return err
			}
			e.Settles |= flow.HooksOf(h)
		}
	}
	e.NoTrack = l.accept("notrack")
	p.prog.Entries = append(p.prog.Entries, e)
	return l.end()
}

func (p *parser) set(l *lineReader) error {
	id, err := l.id()
	if err != nil {
		return err
	}
	word, err := l.word()
	if err != nil {
		return err
	}
	kind, err := parseEnum[SetKind](setKindNames[:], "kind of set", word)
	if err != nil {
		return err
	}
	d := SetDecl{ID: SetID(id), Kind: kind}
	if !l.done() {
		if d.Note, err = l.id(); err != nil {
			return err
		}
	}
	p.prog.Sets = append(p.prog.Sets, d)
	return l.end()
}

func (p *parser) element(word string, l *lineReader) error {
	prefix, err := parsePrefix(word)
	if err != nil {
		return err
	}
	e := Element{Prefix: prefix}
	if !l.done() {
		proto, err := l.word()
		if err != nil {
			return err
		}
		n, err := parseNumber(Protocol, proto)
		if err != nil {
			return err
		}
		port, err := l.word()
		if err != nil {
			return err
		}
		if e.Port, err = parseNumber(DstPort, port); err != nil {
			return err
		}
		e.Protocol = inet.Protocol(n)
	}
	s := &p.members.Sets[len(p.members.Sets)-1]
	s.Elements = append(s.Elements, e)
	return l.end()
}

func (p *parser) step(word string, l *lineReader) error {
	var s Step
	var err error
	switch word {
	case "rule":
		s, err = p.rule(l)
	case "call":
		s, err = p.call(l)
	case "switch":
		s, err = p.switchStep(l)
	default:
		return fmt.Errorf("unknown step %q: want rule, call or switch", word)
	}
	if err != nil {
		return err
	}
	b := &p.prog.Blocks[len(p.prog.Blocks)-1]
	b.Steps = append(b.Steps, s)
	return l.end()
}

func (p *parser) rule(l *lineReader) (Step, error) {
	var r Rule
	var err error
	if r.Match, err = l.match(); err != nil {
		return nil, err
	}
	for i := 1; i < len(effectNames); i++ {
		for l.accept(effectNames[i]) {
			r.Do = append(r.Do, Effect(i))
		}
	}
	if l.accept("->") {
		word, err := l.word()
		if err != nil {
			return nil, err
		}
		if r.Then, err = parseEnum[Outcome](outcomeNames[:], "outcome", word); err != nil {
			return nil, err
		}
	}
	r.Origin, err = p.by(l)
	return r, err
}

func (p *parser) call(l *lineReader) (Step, error) {
	id, err := l.id()
	if err != nil {
		return nil, err
	}
	c := Call{Block: BlockID(id)}
	if l.accept("if") {
		if c.Match, err = l.match(); err != nil {
			return nil, err
		}
		if len(c.Match) == 0 {
			return nil, errors.New("no condition behind if")
		}
	}
	if c.Resume, err = l.resume(); err != nil {
		return nil, err
	}
	c.Origin, err = p.by(l)
	return c, err
}

func (p *parser) switchStep(l *lineReader) (Step, error) {
	var s Switch
	word, err := l.word()
	if err != nil {
		return nil, err
	}
	for _, name := range strings.Split(word, ",") {
		f, err := ParseField(name)
		if err != nil {
			return nil, err
		}
		s.Key = append(s.Key, f)
	}
	s.Resume, err = l.resume()
	return s, err
}

func (p *parser) switchCase(l *lineReader) error {
	b := &p.prog.Blocks[len(p.prog.Blocks)-1]
	var s Switch
	if n := len(b.Steps); n > 0 {
		s, _ = b.Steps[n-1].(Switch)
	}
	if s.Key == nil {
		return errors.New("case without switch")
	}
	var c Case
	for _, f := range s.Key {
		word, err := l.word()
		if err != nil {
			return err
		}
		i, err := parseInterval(f, word)
		if err != nil {
			return err
		}
		c.Key = append(c.Key, i)
	}
	if !l.accept("->") {
		return errors.New(`want "->" behind the key`)
	}
	var err error
	if l.accept("call") {
		id, err := l.id()
		if err != nil {
			return err
		}
		c.Then.Block = BlockID(id)
	} else {
		word, err := l.word()
		if err != nil {
			return err
		}
		if c.Then.Outcome, err = parseEnum[Outcome](outcomeNames[:], "outcome", word); err != nil {
			return err
		}
	}
	if c.Origin, err = p.by(l); err != nil {
		return err
	}
	s.Cases = append(s.Cases, c)
	b.Steps[len(b.Steps)-1] = s
	return l.end()
}

func (p *parser) by(l *lineReader) (OriginID, error) {
	if !l.accept("by") {
		return 0, nil
	}
	text, err := l.id()
	if err != nil {
		return 0, err
	}
	o, err := flow.ParseOrigin(text)
	if err != nil {
		return 0, err
	}
	id, ok := p.origins[o]
	if !ok {
		p.prog.Origins = append(p.prog.Origins, o)
		id = OriginID(len(p.prog.Origins))
		p.origins[o] = id
	}
	return id, nil
}

// sortOrigins gives origins the numbers that Canonical gives them.
func (p *parser) sortOrigins() {
	order := make([]OriginID, len(p.prog.Origins))
	for i := range order {
		order[i] = OriginID(i + 1)
	}
	old := p.prog.Origins
	slices.SortFunc(order, func(a, b OriginID) int { return CompareOrigins(old[a-1], old[b-1]) })
	renumbered := make([]OriginID, len(old)+1)
	p.prog.Origins = nil
	for _, id := range order {
		p.prog.Origins = append(p.prog.Origins, old[id-1])
		renumbered[id] = OriginID(len(p.prog.Origins))
	}
	for _, b := range p.prog.Blocks {
		for i, s := range b.Steps {
			b.Steps[i] = renameOrigins(s, func(o OriginID) OriginID { return renumbered[o] })
		}
	}
}

// lineReader takes a line apart at blanks that are not inside quotes.
type lineReader struct{ rest string }

func (l *lineReader) done() bool {
	l.rest = strings.TrimLeft(l.rest, " ")
	return l.rest == ""
}

func (l *lineReader) end() error {
	if l.done() {
		return nil
	}
	return fmt.Errorf("unexpected %q at the end of the line", l.rest)
}

// peek returns the next word without taking it.
func (l *lineReader) peek() (string, error) {
	if l.done() {
		return "", errors.New("line ends too early")
	}
	for i := 0; i < len(l.rest); {
		switch l.rest[i] {
		case ' ':
			return l.rest[:i], nil
		case '"':
			q, err := strconv.QuotedPrefix(l.rest[i:])
			if err != nil {
				return "", errors.New("quote is not closed")
			}
			i += len(q)
		default:
			i++
		}
	}
	return l.rest, nil
}

func (l *lineReader) word() (string, error) {
	w, err := l.peek()
	if err == nil {
		l.rest = l.rest[len(w):]
	}
	return w, err
}

// accept takes the next word if it is w.
func (l *lineReader) accept(w string) bool {
	next, err := l.peek()
	if err != nil || next != w {
		return false
	}
	l.rest = l.rest[len(w):]
	return true
}

// id reads a word that may be quoted.
func (l *lineReader) id() (string, error) {
	w, err := l.word()
	if err != nil {
		return "", err
	}
	return unquote(w)
}

func (l *lineReader) resume() (OutcomeSet, error) {
	if !l.accept("resume") {
		return 0, nil
	}
	word, err := l.word()
	if err != nil {
		return 0, err
	}
	var r OutcomeSet
	for _, s := range strings.Split(word, ",") {
		o, err := parseEnum[Outcome](outcomeNames[:], "outcome", s)
		if err != nil {
			return 0, err
		}
		r |= OutcomesOf(o)
	}
	return r, nil
}

// match reads clauses up to a word that cannot be one: a clause is "false" or has a "=".
func (l *lineReader) match() (Match, error) {
	var m Match
	for !l.done() {
		w, err := l.peek()
		if err != nil {
			return nil, err
		}
		if w != "false" && !strings.Contains(w, "=") {
			break
		}
		l.rest = l.rest[len(w):]
		c, err := parseClause(w)
		if err != nil {
			return nil, err
		}
		m = append(m, c)
	}
	return m, nil
}

func parseClause(w string) (Clause, error) {
	c := Clause{}
	if w == "false" {
		return c, nil
	}
	for _, s := range splitOutsideQuotes(w, '|') {
		t, err := parseTerm(s)
		if err != nil {
			return nil, err
		}
		c = append(c, t)
	}
	return c, nil
}

func parseTerm(s string) (Term, error) {
	names, value, ok := strings.Cut(s, "=")
	if !ok {
		return nil, fmt.Errorf("%q is not a term: want FIELD=VALUES or FIELD!=VALUES", s)
	}
	names, not := strings.CutSuffix(names, "!")
	var fields []Field
	for _, n := range strings.Split(names, ".") {
		f, err := ParseField(n)
		if err != nil {
			return nil, err
		}
		fields = append(fields, f)
	}
	if strings.HasPrefix(value, "@") {
		id, err := unquote(value[1:])
		return InSet{Fields: fields, Set: SetID(id), Not: not}, err
	}
	if len(fields) != 1 {
		return nil, fmt.Errorf("%q: only sets have members of several fields", s)
	}
	var vals []string
	if value != "" {
		vals = splitOutsideQuotes(value, ',')
	}
	switch f := fields[0]; f {
	case InIface, OutIface:
		t := InNames{Field: f, Not: not}
		for _, v := range vals {
			name, prefix := strings.CutSuffix(v, "*")
			name, err := unquote(name)
			if err != nil {
				return nil, err
			}
			t.Names = append(t.Names, NamePattern{Name: name, Prefix: prefix})
		}
		return t, nil
	case SrcAddr, DstAddr:
		t := InPrefixes{Field: f, Not: not}
		for _, v := range vals {
			p, err := parsePrefix(v)
			if err != nil {
				return nil, err
			}
			t.Prefixes = append(t.Prefixes, p)
		}
		return t, nil
	case SrcPort, DstPort:
		t := InPorts{Field: f, Not: not}
		for _, v := range vals {
			lo, hi, err := parseRange(f, v)
			if err != nil {
				return nil, err
			}
			t.Ranges = append(t.Ranges, inet.PortRange{Min: lo, Max: hi})
		}
		return t, nil
	default:
		t := InMask{Field: f, Not: not}
		for _, v := range vals {
			lo, hi, err := parseRange(f, v)
			if err != nil {
				return nil, err
			}
			for n := int(lo); n <= int(hi); n++ {
				m := MaskOf(uint8(n))
				for i := range t.Mask {
					t.Mask[i] |= m[i]
				}
			}
		}
		return t, nil
	}
}

// parseRange reads a number, a name of the field, or two of them around a "-".
func parseRange(f Field, s string) (lo, hi uint16, err error) {
	a, b, ok := strings.Cut(s, "-")
	if !ok {
		lo, err = parseNumber(f, s)
		return lo, lo, err
	}
	if lo, err = parseNumber(f, a); err != nil {
		return 0, 0, err
	}
	if hi, err = parseNumber(f, b); err != nil {
		return 0, 0, err
	}
	if lo > hi {
		return 0, 0, fmt.Errorf("%q: the range is empty", s)
	}
	return lo, hi, nil
}

func parseNumber(f Field, s string) (uint16, error) {
	switch f {
	case Protocol:
		if p, ok := inet.ParseProtocol(s); ok {
			return uint16(p), nil
		}
		return 0, fmt.Errorf("unknown protocol %q", s)
	case State:
		if st, err := flow.ParseConnState(s); err == nil {
			return uint16(st), nil
		}
	}
	size := 8
	if f == SrcPort || f == DstPort {
		size = 16
	}
	n, err := strconv.ParseUint(s, 10, size)
	if err != nil {
		return 0, fmt.Errorf("%q is not a value of the field %s", s, f)
	}
	return uint16(n), nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("%q is not a prefix", s)
		}
		return p, nil
	}
	a, err := parseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an address", s)
	}
	return a, nil
}

func parseInterval(f Field, s string) (Interval, error) {
	if s == "*" {
		return f.Domain(), nil
	}
	if len(s) == 69 && strings.HasPrefix(s, "0x") && s[34:37] == "-0x" {
		var i Interval
		_, err := hex.Decode(i.Lo[:], []byte(s[2:34]))
		if err == nil {
			_, err = hex.Decode(i.Hi[:], []byte(s[37:]))
		}
		return i, err
	}
	switch f {
	case InIface, OutIface:
		body, prefix := strings.CutSuffix(s, "*")
		name, err := unquote(body)
		if err != nil {
			return Interval{}, err
		}
		v, ok := Name(name)
		if !ok {
			return Interval{}, fmt.Errorf("%q is not the name of an interface", name)
		}
		if prefix {
			i, _ := NamePrefix(name)
			return i, nil
		}
		return Exactly(v), nil
	case SrcAddr, DstAddr:
		if strings.Contains(s, "/") {
			p, err := parsePrefix(s)
			if err != nil {
				return Interval{}, err
			}
			is := AddrPrefix(p.Masked())
			if len(is) != 1 || p != p.Masked() {
				return Interval{}, fmt.Errorf("%q is not one interval", s)
			}
			return is[0], nil
		}
		a, b, ok := strings.Cut(s, "-")
		lo, err := parseAddr(a)
		if err != nil {
			return Interval{}, err
		}
		if !ok {
			return Exactly(Addr(lo)), nil
		}
		hi, err := parseAddr(b)
		if err != nil {
			return Interval{}, err
		}
		return Interval{Addr(lo), Addr(hi)}, nil
	}
	lo, hi, err := parseRange(f, s)
	return Interval{Number(lo), Number(hi)}, err
}

// splitOutsideQuotes cuts s at each sep that is not inside quotes. Quotes are known to be closed.
func splitOutsideQuotes(s string, sep byte) []string {
	var parts []string
	start := 0
	for i := 0; i < len(s); {
		switch s[i] {
		case sep:
			parts = append(parts, s[start:i])
			i++
			start = i
		case '"':
			q, err := strconv.QuotedPrefix(s[i:])
			if err != nil {
				return append(parts, s[start:])
			}
			i += len(q)
		default:
			i++
		}
	}
	return append(parts, s[start:])
}

// unquote returns the text of a word that may be quoted.
func unquote(w string) (string, error) {
	if strings.HasPrefix(w, `"`) {
		s, err := strconv.Unquote(w)
		if err != nil {
			return "", fmt.Errorf("%s is not a quoted name", w)
		}
		return s, nil
	}
	if w == "" || strings.Contains(w, `"`) {
		return "", fmt.Errorf("%q is not a name", w)
	}
	return w, nil
}
