// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

// decoder turns the nodes of one object into the JSON of its Go type. It checks everything that JSON decoding would
// take silently, and remembers the lines of the fields. Errors go to the parser; failed says that there was one.
type decoder struct {
	p      *parser
	doc    *document
	object string
	lines  map[string]int
	out    []byte
	depth  int
	failed bool
	faults []string // the paths of all errors
}

// value appends the JSON of n to d.out. Path is the path of n in the object, and line the line from which field.Source
// would take it to be: that of its parent.
func (d *decoder) value(n *yaml.Node, s *schema, path string, line int) {
	if d.p.full {
		return
	}
	if n = d.enter(n, path); n == nil {
		d.null()
		return
	}
	defer func() { d.depth-- }()
	if s.kind == anything {
		d.any(n, path)
		return
	}
	if isNull(n) {
		d.null()
		return
	}
	switch s.kind {
	case object:
		d.objectValue(n, s, path, line)
	case list:
		d.listValue(n, s.elem, path, line)
	case textMap:
		d.textMap(n, path, line)
	case failsafes:
		d.failsafes(n, s, path, line)
	case some:
		d.some(n, s.elem, path, line)
	case textOr:
		if n.Kind != yaml.ScalarNode {
			d.objectValue(n, s, path, line)
			return
		}
		d.out = append(d.out, `{"text":`...)
		d.scalar(n, aText, path)
		d.out = append(d.out, '}')
	default:
		d.scalar(n, s, path)
	}
}

// enter follows an alias and checks the limits. It returns nil after an error; otherwise the caller must lower d.depth
// when it is done with the node.
func (d *decoder) enter(n *yaml.Node, path string) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if d.doc.text.tagged(n) {
		d.fail(n, path, n.Tag, field.ErrForbidden, "YAML tags are not allowed; if the value begins with '!', put it in quotes")
		return nil
	}
	if d.depth >= d.p.opts.MaxDepth {
		d.fail(n, path, "", field.ErrTooLarge, "nested more than %d deep", d.p.opts.MaxDepth)
		return nil
	}
	// Aliases can make much of little: nodes and their text are counted as often as they are read. Without aliases there
	// are no more of them than the source has.
	d.p.visited++
	d.p.bytes += len(n.Value)
	if d.p.visited > d.p.opts.MaxNodes || d.p.bytes > 2*d.p.opts.MaxBytes {
		d.fail(n, path, "", field.ErrTooLarge, "with its aliases, the input has more than %d YAML nodes or %d bytes of text", d.p.opts.MaxNodes, 2*d.p.opts.MaxBytes)
		d.p.full = true
		return nil
	}
	d.depth++
	return n
}

func (d *decoder) fail(n *yaml.Node, path, value string, kind error, format string, args ...any) {
	d.failed = true
	d.faults = append(d.faults, path)
	d.p.report(&field.Error{
		Object: d.object, Path: path, Pos: d.doc.pos(n), Value: shorten(value), Err: kind, Reason: fmt.Sprintf(format, args...),
	})
}

func (d *decoder) null() { d.out = append(d.out, "null"...) }

// quote appends s as a JSON string.
func (d *decoder) quote(s string) {
	if strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) < 0 {
		d.out = append(append(append(d.out, '"'), s...), '"')
		return
	}
	b, err := json.Marshal(s)
	if err != nil { // strings can always be encoded
		b = []byte(`""`)
	}
	d.out = append(d.out, b...)
}

// mark remembers where path stands, unless that is the line which is assumed for it anyway. It returns the line.
func (d *decoder) mark(path string, n *yaml.Node, assumed int) int {
	l := d.doc.line + n.Line
	if l != assumed {
		d.lines[path] = l
	}
	return l
}

// entries returns the key and value nodes of a mapping, with those that merge keys (<<) bring in at the end, and reports
// duplicate keys and keys that are not text.
func (d *decoder) entries(n *yaml.Node, path string) [][2]*yaml.Node {
	out := make([][2]*yaml.Node, 0, len(n.Content)/2)
	seen := make(map[string]*yaml.Node, len(n.Content)/2)
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		if k.Kind == yaml.ScalarNode && k.Tag == "!!merge" {
			merges = append(merges, v)
			continue
		}
		key := d.enter(k, path)
		if key == nil {
			continue
		}
		d.depth--
		if key.Kind != yaml.ScalarNode {
			d.fail(k, path, "", field.ErrInvalid, "a key must be text")
			continue
		}
		if first := seen[key.Value]; first != nil {
			d.fail(k, join(path, key.Value), "", field.ErrDuplicate, "given more than once, first in line %d", d.doc.line+first.Line)
			continue
		}
		seen[key.Value] = k
		out = append(out, [2]*yaml.Node{key, v})
	}
	for _, v := range merges {
		out = d.merge(v, path, seen, out)
	}
	return out
}

// merge adds the entries of the mapping v, or of a list of mappings, whose keys are not there yet: what is written in
// place wins, then the first of the list. Ref: https://yaml.org/type/merge.html.
func (d *decoder) merge(v *yaml.Node, path string, seen map[string]*yaml.Node, out [][2]*yaml.Node) [][2]*yaml.Node {
	n := d.enter(v, path)
	if n == nil {
		return out
	}
	defer func() { d.depth-- }()
	switch n.Kind {
	case yaml.SequenceNode:
		for _, e := range n.Content {
			out = d.merge(e, path, seen, out)
		}
	case yaml.MappingNode:
		for _, e := range d.entries(n, path) {
			if seen[e[0].Value] == nil {
				seen[e[0].Value] = e[0]
				out = append(out, e)
			}
		}
	default:
		d.fail(n, path, "", field.ErrInvalid, "only a mapping or a list of mappings can be merged")
	}
	return out
}

func (d *decoder) objectValue(n *yaml.Node, s *schema, path string, line int) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, n.Value, field.ErrInvalid, "must be a mapping of fields%s", not(n))
		d.null()
		return
	}
	d.out = append(d.out, '{')
	first := true
	for _, e := range d.entries(n, path) {
		key := e[0].Value
		at := join(path, key)
		ms := s.member(key)
		if ms == nil {
			d.unknown(e[0], s, at, key)
			continue
		}
		if !first {
			d.out = append(d.out, ',')
		}
		first = false
		d.quote(key)
		d.out = append(d.out, ':')
		d.value(e[1], ms, at, d.mark(at, e[0], line))
	}
	d.out = append(d.out, '}')
}

func (d *decoder) unknown(n *yaml.Node, s *schema, path, key string) {
	for _, m := range s.members {
		if strings.EqualFold(m.name, key) {
			d.fail(n, path, "", field.ErrUnknown, "unknown field; did you mean %s? (field names are case sensitive)", m.name)
			return
		}
	}
	names := make([]string, len(s.members))
	for i, m := range s.members {
		names[i] = m.name
	}
	slices.Sort(names)
	d.fail(n, path, "", field.ErrUnknown, "unknown field; there are %s", strings.Join(names, ", "))
}

func (d *decoder) listValue(n *yaml.Node, elem *schema, path string, line int) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, path, n.Value, field.ErrInvalid, "must be a list%s", not(n))
		d.null()
		return
	}
	if len(n.Content) == 0 {
		d.null() // as absent, which is how it would be written back
		return
	}
	d.out = append(d.out, '[')
	for i, e := range n.Content {
		if i > 0 {
			d.out = append(d.out, ',')
		}
		at := path + "[" + strconv.Itoa(i) + "]"
		d.value(e, elem, at, d.mark(at, e, line))
	}
	d.out = append(d.out, ']')
}

// some appends a list, which may be written as its only element.
func (d *decoder) some(n *yaml.Node, elem *schema, path string, line int) {
	if n.Kind == yaml.SequenceNode {
		d.listValue(n, elem, path, line)
		return
	}
	d.out = append(d.out, '[')
	d.value(n, elem, path, line)
	d.out = append(d.out, ']')
}

func (d *decoder) textMap(n *yaml.Node, path string, line int) {
	if n.Kind != yaml.MappingNode {
		d.fail(n, path, n.Value, field.ErrInvalid, "must be a mapping of names to text%s", not(n))
		d.null()
		return
	}
	if len(n.Content) == 0 {
		d.null()
		return
	}
	d.out = append(d.out, '{')
	for i, e := range d.entries(n, path) {
		if i > 0 {
			d.out = append(d.out, ',')
		}
		at := join(path, e[0].Value)
		d.mark(at, e[0], line)
		d.quote(e[0].Value)
		d.out = append(d.out, ':')
		d.value(e[1], aText, at, line)
	}
	d.out = append(d.out, '}')
}

func (d *decoder) scalar(n *yaml.Node, s *schema, path string) {
	if n.Kind != yaml.ScalarNode {
		d.fail(n, path, "", field.ErrInvalid, "must be a single value%s", not(n))
		d.null()
		return
	}
	switch s.kind {
	case boolean:
		v, ok := readBool(n)
		if !ok {
			d.fail(n, path, n.Value, field.ErrInvalid, "must be true or false%s", not(n))
		}
		d.out = strconv.AppendBool(d.out, v)
	case integer:
		d.integer(n, s.min, s.max, path)
	case number:
		v, ok := readNumber(n)
		if !ok {
			d.fail(n, path, n.Value, field.ErrInvalid, "must be a finite number%s", not(n))
		}
		d.out = strconv.AppendFloat(d.out, v, 'g', -1, 64)
	case timestamp:
		v, err := hostendpoint.NormalizeTimestamp(n.Value)
		if err != nil {
			d.fail(n, path, n.Value, field.ErrInvalid, "must be a time such as 2024-01-02T03:04:05Z")
		}
		d.quote(v)
	case protocol, port, asNumber:
		d.union(n, s.kind, path)
	default:
		// Calico turns numbers and YAML 1.1 booleans into JSON before it makes text of them ("010" becomes 8, on
		// becomes true). Deviation: what was written is the text.
		d.quote(n.Value)
	}
}

func (d *decoder) integer(n *yaml.Node, lo, hi int64, path string) {
	v, ok := readNumber(n)
	if !ok || v != math.Trunc(v) || v < float64(lo) || v > float64(hi) {
		d.fail(n, path, n.Value, field.ErrInvalid, "must be a whole number from %d to %d%s", lo, hi, not(n))
		v = 0
	}
	d.out = strconv.AppendInt(d.out, int64(v), 10)
}

// union reads a value that may be a number or text.
func (d *decoder) union(n *yaml.Node, k kind, path string) {
	isNumber := n.Tag == "!!int" || n.Tag == "!!float"
	switch {
	case k == protocol && isNumber:
		d.integer(n, 0, 255, path)
	case k == port && isNumber:
		d.integer(n, 0, 65535, path)
	case k == asNumber && isNumber && !strings.Contains(n.Value, "."):
		d.integer(n, 0, 1<<32-1, path)
	case k == asNumber:
		v, ok := readASNumber(n.Value)
		if !ok {
			d.fail(n, path, n.Value, field.ErrInvalid, "must be an AS number such as 64512 or 1.10")
		}
		d.out = strconv.AppendUint(d.out, v, 10)
	case n.Tag == "!!bool":
		d.fail(n, path, n.Value, field.ErrInvalid, "must be a number or a name%s", not(n))
		d.null()
	case k == port:
		if _, err := hostendpoint.ParsePort(n.Value); err != nil {
			d.fail(n, path, n.Value, field.ErrInvalid, "must be a number from 0 to 65535, a range such as 80:90, or a name")
		}
		d.quote(n.Value)
	default:
		d.quote(n.Value)
	}
}

// any appends the JSON of a value of no known type.
func (d *decoder) any(n *yaml.Node, path string) {
	switch n.Kind {
	case yaml.MappingNode:
		entries := d.entries(n, path)
		slices.SortFunc(entries, func(a, b [2]*yaml.Node) int { return strings.Compare(a[0].Value, b[0].Value) })
		d.out = append(d.out, '{')
		for i, e := range entries {
			if i > 0 {
				d.out = append(d.out, ',')
			}
			d.quote(e[0].Value)
			d.out = append(d.out, ':')
			d.value(e[1], anAny, join(path, e[0].Value), 0)
		}
		d.out = append(d.out, '}')
	case yaml.SequenceNode:
		d.out = append(d.out, '[')
		for i, e := range n.Content {
			if i > 0 {
				d.out = append(d.out, ',')
			}
			d.value(e, anAny, path+"["+strconv.Itoa(i)+"]", 0)
		}
		d.out = append(d.out, ']')
	default:
		if isNull(n) {
			d.null()
			return
		}
		if v, ok := readNumber(n); ok {
			d.out = strconv.AppendFloat(d.out, v, 'g', -1, 64)
			return
		}
		if n.Tag == "!!bool" {
			v, _ := readBool(n)
			d.out = strconv.AppendBool(d.out, v)
			return
		}
		d.quote(n.Value)
	}
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// readBool reads plain true and false, and the other words that YAML 1.1, which Calico follows, has for them.
func readBool(n *yaml.Node) (v, ok bool) {
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return false, false
	}
	switch n.Value {
	case "true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y":
		return true, true
	case "false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "n", "N":
		return false, true
	}
	return false, false
}

// readNumber reads a plain number, as YAML 1.1 has them: 80, 8_0, 0x50, 0o120, 0120, 8e1.
func readNumber(n *yaml.Node) (float64, bool) {
	plain := strings.ReplaceAll(n.Value, "_", "")
	switch n.Tag {
	case "!!int":
		if i, err := strconv.ParseInt(plain, 0, 64); err == nil {
			return float64(i), true
		}
		f, err := strconv.ParseFloat(plain, 64)
		return f, err == nil
	case "!!float":
		f, err := strconv.ParseFloat(plain, 64) // .inf and .nan are none
		return f, err == nil
	}
	return 0, false
}

// readASNumber reads text: "64512", or "1.10" for 1*65536 + 10. Ref: api/pkg/lib/numorstring/asnumber.go.
func readASNumber(s string) (uint64, bool) {
	high, low, dotted := strings.Cut(s, ".")
	if !dotted {
		n, err := strconv.ParseUint(s, 10, 32)
		return n, err == nil
	}
	h, err1 := strconv.ParseUint(high, 10, 16)
	l, err2 := strconv.ParseUint(low, 10, 16)
	return h<<16 | l, err1 == nil && err2 == nil
}

// not says what a node is instead of what it must be; "" if its value says enough.
func not(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return ", not a mapping"
	case n.Kind == yaml.SequenceNode:
		return ", not a list"
	case n.Tag == "!!str" && n.Style != 0:
		return ", not quoted text"
	case n.Tag == "!!str":
		return ", not text"
	case n.Tag == "!!bool":
		return ", not a boolean"
	case isNull(n):
		return ", not nothing"
	}
	return ""
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// shorten bounds what an error repeats of its input.
func shorten(s string) string {
	const most = 80
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
