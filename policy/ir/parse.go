// SPDX-License-Identifier: Apache-2.0

package ir

import (
	"errors"
	"fmt"
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
