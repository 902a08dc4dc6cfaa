// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

// document is one document of a source.
type document struct {
	file string
	line int // of the source, before the first line of text: line 1 of a node is line+1 of the file
	text *text
	root *yaml.Node
}

// pos returns the position of a node.
func (d *document) pos(n *yaml.Node) field.Pos { return field.Pos{File: d.file, Line: d.line + n.Line} }

// source cuts a source into documents and calls do for each that is not empty.
func (p *parser) source(s Source, do func(*document)) {
	data := bytes.TrimPrefix(s.Data, []byte("\uFEFF"))
	if !utf8.Valid(data) {
		p.report(&field.Error{Pos: field.Pos{File: s.Name, Line: 1 + countLines(validPrefix(data))}, Err: field.ErrSyntax, Reason: "not UTF-8 text"})
		return
	}
	if p.used += estimateNodes(data); p.used > p.opts.MaxNodes {
		p.report(&field.Error{Pos: field.Pos{File: s.Name}, Err: field.ErrTooLarge, Reason: fmt.Sprintf("the input may have more than %d YAML nodes", p.opts.MaxNodes)})
		return
	}
	if roots, err := parseJSON(data, p.opts.MaxDepth); err == nil {
		for _, n := range roots {
			do(&document{file: s.Name, root: n})
		}
		return
	}
	line := 0
	for _, chunk := range splitDocuments(data) {
		p.chunk(s.Name, line, chunk, do)
		if p.full {
			return
		}
		line += countLines(chunk)
	}
}

// chunk parses what stands between two document markers: one document, or more where one ends in "...".
func (p *parser) chunk(file string, line int, data []byte, do func(*document)) {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	text := &text{data: data}
	for {
		var root yaml.Node
		err := decodeNode(dec, &root)
		switch {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			at, reason := syntaxError(err)
			p.report(&field.Error{Pos: field.Pos{File: file, Line: line + max(at, 1)}, Err: field.ErrSyntax, Reason: reason})
			return // the parser does not find its feet again before the next marker
		}
		if n := root.Content; len(n) == 1 && n[0].ShortTag() != "!!null" {
			do(&document{file: file, line: line, text: text, root: n[0]})
		}
	}
}

// decodeNode guards against panics of the YAML library, which lets those through that it did not raise itself.
func decodeNode(dec *yaml.Decoder, n *yaml.Node) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("yaml: the parser failed: %v", r)
		}
	}()
	return dec.Decode(n)
}

// syntaxError takes the line, if there is one, out of the text of an error, which is the only place that has it.
func syntaxError(err error) (line int, reason string) {
	reason = strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(reason, "line "); ok {
		if n, msg, ok := strings.Cut(rest, ": "); ok {
			if l, err := strconv.Atoi(n); err == nil {
				return l, msg
			}
		}
	}
	return 0, reason
}

// splitDocuments cuts YAML before each line that begins with "---". Such a line is a document marker wherever it stands,
// so that an error in one document does not hide those that follow. With directives (%YAML), which belong to the
// document after them, data is left whole.
func splitDocuments(data []byte) [][]byte {
	var chunks [][]byte
	start := 0
	for i := 0; i < len(data); {
		line := data[i:]
		if j := bytes.IndexByte(line, '\n'); j >= 0 {
			line = line[:j+1]
		}
		switch {
		case line[0] == '%':
			return [][]byte{data}
		case i > start && bytes.HasPrefix(line, []byte("---")) && (len(line) == 3 || strings.IndexByte(" \t\r\n", line[3]) >= 0):
			chunks = append(chunks, data[start:i])
			start = i
		}
		i += len(line)
	}
	return append(chunks, data[start:])
}

func countLines(b []byte) int { return bytes.Count(b, []byte("\n")) }

// validPrefix returns b up to the first byte that is not UTF-8.
func validPrefix(b []byte) []byte {
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n == 1 {
			return b[:i]
		}
		i += n
	}
	return b
}

// estimateNodes returns how many YAML nodes data can have, roughly: each begins after one of a few characters. The
// parser makes all nodes of a document at once, at about 200 bytes each, so they must be bounded before.
func estimateNodes(data []byte) int {
	n := 1
	for i, b := range data {
		switch b {
		case '\n', ',', ':', '[', '{':
			n++
		case '-', '?':
			if i+1 == len(data) || data[i+1] == ' ' || data[i+1] == '\n' {
				n++
			}
		}
	}
	return n
}

// text finds out what the YAML parser does not tell: whether a node was written with a tag. The non-specific tag "!" of
// "selector: ! has(x)" leaves no trace in a node.
type text struct {
	data  []byte
	lines []int         // offsets of the lines, made when first needed
	marks map[int][]int // by line: offsets of every markEvery-th character, likewise
}

// markEvery makes the columns of a line cheap to find that holds a whole document, as machines write it.
const markEvery = 256

// tagged reports whether n was written with a tag.
func (t *text) tagged(n *yaml.Node) bool {
	if n.Style&yaml.TaggedStyle != 0 {
		return true
	}
	if t == nil || n.Line < 1 || n.Column < 1 {
		return false
	}
	if t.lines == nil {
		t.lines = lineStarts(t.data)
	}
	if n.Line > len(t.lines) {
		return false
	}
	rest := t.data[t.lines[n.Line-1]:]
	ahead := n.Column - 1
	if ahead >= markEvery {
		marks := t.marksOf(n.Line)
		at := min(ahead/markEvery, len(marks)-1)
		rest, ahead = t.data[marks[at]:], ahead-at*markEvery
	}
	for range ahead {
		_, size := utf8.DecodeRune(rest)
		rest = rest[size:]
	}
	if len(rest) > 0 && rest[0] == '&' { // an anchor may stand before the tag
		rest = bytes.TrimLeft(rest[1:], anchorChars)
		rest = bytes.TrimLeft(rest, " \t\r\n")
	}
	return len(rest) > 0 && rest[0] == '!'
}

// marksOf returns the offsets of every markEvery-th character of a line, from the first one on.
func (t *text) marksOf(line int) []int {
	marks, ok := t.marks[line]
	if ok {
		return marks
	}
	from, to := t.lines[line-1], len(t.data)
	if line < len(t.lines) {
		to = t.lines[line]
	}
	n := 0
	for i := range string(t.data[from:to]) {
		if n%markEvery == 0 {
			marks = append(marks, from+i)
		}
		n++
	}
	if marks == nil {
		marks = []int{from}
	}
	if t.marks == nil {
		t.marks = map[int][]int{}
	}
	t.marks[line] = marks
	return marks
}

const anchorChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

// lineStarts returns the offset of each line, with the line breaks that the YAML parser counts: CR, LF, CR LF, NEL, LS
// and PS. Ref: YAML 1.1, section 4.1.4.
func lineStarts(data []byte) []int {
	starts := []int{0}
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		i += size
		switch r {
		case '\r':
			if i < len(data) && data[i] == '\n' {
				i++
			}
			starts = append(starts, i)
		case '\n', '\u0085', '\u2028', '\u2029':
			starts = append(starts, i)
		}
	}
	return starts
}
