// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"golang.org/x/term"
)

// output prints for people and for machines.
type output struct {
	out, err io.Writer
	color    bool
	format   format
}

func newOutput(out, err *os.File) *output {
	_, plain := os.LookupEnv("NO_COLOR")
	return &output{out: out, err: err, format: "table", color: !plain && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(out.Fd()))}
}

// format is the value of --output. All commands know table, json and yaml; those that know more say so in an annotation.
type format string

// The annotations of commands on resources.
const outputAnnotation = "output"

var (
	names        = map[string]string{outputAnnotation: "name"}
	namesAndWide = map[string]string{outputAnnotation: "name wide"}
)

// checkFormat refuses a format that the command does not know.
func (o *output) checkFormat(cmd *cobra.Command) error {
	switch f := string(o.format); f {
	case "table", "json", "yaml":
		return nil
	default:
		more := strings.Fields(cmd.Annotations[outputAnnotation])
		if slices.Contains(more, f) {
			return nil
		}
		return fmt.Errorf("-o %s: %s knows %s", f, cmd.CommandPath(), strings.Join(append([]string{"table", "json", "yaml"}, more...), ", "))
	}
}

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }
func (f *format) Set(s string) error {
	switch s {
	case "table", "json", "yaml", "name", "wide":
		*f = format(s)
		return nil
	}
	return fmt.Errorf("want table, json or yaml; for resources of a datastore also name or wide")
}

// style is an SGR code of ECMA-48.
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
)

func (o *output) paint(s style, text string) string {
	if !o.color || s == plain || text == "" {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// cell is one field of a table.
type cell struct {
	text  string
	style style
}

func verdictCell(v string) cell {
	switch v {
	case "allow":
		return cell{v, green}
	case "deny":
		return cell{v, red}
	}
	return cell{v, yellow}
}

// table prints aligned columns. The last column is not padded.
func (o *output) table(header []string, rows [][]cell) {
	t := o.streamTable(header)
	for _, r := range rows {
		t.fit(r)
	}
	for _, r := range rows {
		t.row(r)
	}
	if len(rows) == 0 {
		t.head()
	}
}

// streamTable is a table whose rows are printed as they come: columns grow with what they have seen.
type streamTable struct {
	out    *output
	header []cell
	widths []int
	begun  bool
}

func (o *output) streamTable(header []string) *streamTable {
	t := &streamTable{out: o, widths: make([]int, len(header))}
	for _, h := range header {
		t.header = append(t.header, cell{h, bold})
	}
	t.fit(t.header)
	return t
}

func (t *streamTable) fit(r []cell) {
	for i, c := range r {
		t.widths[i] = max(t.widths[i], utf8.RuneCountInString(c.text))
	}
}

func (t *streamTable) head() {
	if !t.begun {
		t.begun = true
		t.line(t.header)
	}
}

func (t *streamTable) row(r []cell) {
	t.fit(r)
	t.head()
	t.line(r)
}

func (t *streamTable) line(r []cell) {
	var b strings.Builder
	for i, c := range r {
		b.WriteString(t.out.paint(c.style, c.text))
		if i < len(r)-1 {
			b.WriteString(strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(c.text)+2))
		}
	}
	fmt.Fprintln(t.out.out, strings.TrimRight(b.String(), " "))
}

// value prints v as one JSON document on one line, or as one YAML document.
func (o *output) value(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	if o.format != "yaml" {
		_, err := b.WriteTo(o.out)
		return err
	}
	// Through JSON, so that both forms have the same names.
	dec := json.NewDecoder(&b)
	dec.UseNumber()
	var x any
	if err := dec.Decode(&x); err != nil {
		return err
	}
	y, err := yaml.Marshal(plainNumbers(x))
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(o.out, "---\n%s", y)
	return err
}

// plainNumbers turns json.Number into numbers that YAML writes without quotes.
func plainNumbers(v any) any {
	switch x := v.(type) {
	case json.Number:
		if n, err := x.Int64(); err == nil {
			return n
		}
		f, _ := x.Float64()
		return f
	case map[string]any:
		for k := range x {
			x[k] = plainNumbers(x[k])
		}
	case []any:
		for i := range x {
			x[i] = plainNumbers(x[i])
		}
	}
	return v
}
