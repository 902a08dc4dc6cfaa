// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/selector"
)

// selectorLine is what `hep selector` says of one selector, and the form of the vectors that --jsonl reads. In64 and
// Canonical64 stand in for text that is not UTF-8.
type selectorLine struct {
	In          *string        `json:"in,omitempty"`
	In64        []byte         `json:"in64,omitempty"`
	OK          bool           `json:"ok"`
	Canonical   string         `json:"canonical"`
	Canonical64 []byte         `json:"canonical64,omitempty"`
	UID         string         `json:"uid"`
	Match       *bool          `json:"match,omitempty"`
	Eval        []selectorEval `json:"eval,omitempty"`
	Error       string         `json:"error,omitempty"`
	Offset      *int           `json:"offset,omitempty"`
}

type selectorEval struct {
	Labels map[string]string `json:"labels"`
	Match  bool              `json:"match"`
}

func selectorCommand(out *output, in *os.File) *cobra.Command {
	var (
		labels  []string
		vectors string
		newer   bool
	)
	cmd := &cobra.Command{
		Use:   "selector [TEXT...]",
		Short: "Show the canonical text and id of selectors, and what they match",
		Long: `selector parses each TEXT and prints its canonical text and unique id and, with --labels, whether it matches.

With --jsonl FILE (or -) it reads one JSON object a line, {"in": TEXT, "eval": [{"labels": {...}}]}, and prints the same
with ok, canonical, uid and match filled in. Where the line has these already they are compared, and a difference makes
the exit code 1.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			opts := selector.Options{}
			if newer {
				opts.Dialect = selector.Newer
			}
			if vectors != "" {
				if len(args) > 0 {
					return errors.New("selector: TEXT and --jsonl exclude each other")
				}
				return selectorVectors(out, in, vectors, opts)
			}
			if len(args) == 0 {
				return errors.New("selector: give a TEXT, or --jsonl FILE")
			}
			set, err := parseLabels(labels)
			if err != nil {
				return err
			}
			bad := false
			var rows [][]cell
			for _, text := range args {
				l, sel := describe(text, opts)
				if l.OK && cmd.Flags().Changed("labels") {
					m := sel.Matches(set)
					l.Match = &m
				}
				bad = bad || !l.OK
				if out.format != "table" {
					if err := out.value(l); err != nil {
						return err
					}
					continue
				}
				match := cell{"-", dim}
				if l.Match != nil && *l.Match {
					match = cell{"yes", green}
				} else if l.Match != nil {
					match = cell{"no", red}
				}
				if !l.OK {
					rows = append(rows, []cell{{text, plain}, {"-", dim}, {"-", dim}, {l.Error, red}})
					continue
				}
				rows = append(rows, []cell{{text, plain}, match, {l.UID, dim}, {l.Canonical, cyan}})
			}
			if out.format == "table" {
				out.table([]string{"SELECTOR", "MATCH", "ID", "CANONICAL"}, rows)
			}
			if bad {
				return errMismatch
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&labels, "labels", nil, "labels to match, as k=v,k=v (repeatable)")
	cmd.Flags().StringVar(&vectors, "jsonl", "", "read selectors from a file of JSON lines, - for standard input")
	cmd.Flags().BoolVar(&newer, "newer", false, "cut tokens as releases after Calico 3.29 do")
	return cmd
}

// describe parses text.
func describe(text string, opts selector.Options) (selectorLine, selector.Selector) {
	l := selectorLine{In: &text}
	sel, err := selector.ParseWith(text, opts)
	if err != nil {
		l.Error = err.Error()
		var e *selector.Error
		if errors.As(err, &e) {
			l.Offset = &e.Offset
		}
		return l, sel
	}
	l.OK, l.Canonical, l.UID = true, sel.String(), sel.ID()
	return l, sel
}

// parseLabels reads k=v lists.
func parseLabels(lists []string) (selector.MapLabels, error) {
	m := selector.MapLabels{}
	for _, list := range lists {
		for _, kv := range strings.Split(list, ",") {
			if kv = strings.TrimSpace(kv); kv == "" {
				continue
			}
			k, v, ok := strings.Cut(kv, "=")
			if !ok || k == "" {
				return nil, fmt.Errorf("selector: --labels %q: want k=v", kv)
			}
			m[k] = v
		}
	}
	return m, nil
}

// selectorVectors answers a file of vectors and compares where there is something to compare with.
func selectorVectors(out *output, in io.Reader, file string, opts selector.Options) error {
	r := in
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		r = f
	}
	w := bufio.NewWriter(out.out)
	defer w.Flush()
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	lines := bufio.NewReader(r)
	differ, n := 0, 0
	for no := 1; ; no++ {
		line, err := lines.ReadBytes('\n')
		if len(strings.TrimSpace(string(line))) > 0 {
			n++
			same, ferr := selectorVector(enc, line, opts)
			if ferr != nil {
				return fmt.Errorf("%s:%d: %w", file, no, ferr)
			}
			if !same {
				differ++
				fmt.Fprintf(out.err, "%s:%d: differs from what the line says\n", file, no)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if differ > 0 {
		fmt.Fprintf(out.err, "%d of %d selectors differ\n", differ, n)
		return errMismatch
	}
	return nil
}

func selectorVector(enc *json.Encoder, line []byte, opts selector.Options) (same bool, err error) {
	var given map[string]json.RawMessage
	if err := json.Unmarshal(line, &given); err != nil {
		return false, err
	}
	var want selectorLine
	if err := json.Unmarshal(line, &want); err != nil {
		return false, err
	}
	text := string(want.In64)
	if want.In != nil {
		text = *want.In
	} else if want.In64 == nil {
		return false, errors.New(`neither "in" nor "in64"`)
	}
	got, sel := describe(text, opts)
	got.In, got.In64 = want.In, want.In64
	if want.In == nil && got.OK {
		got.Canonical, got.Canonical64 = "", []byte(got.Canonical)
	}
	same = true
	for _, e := range want.Eval {
		m := got.OK && sel.Matches(selector.MapLabels(e.Labels))
		got.Eval = append(got.Eval, selectorEval{e.Labels, m})
		same = same && m == e.Match
	}
	if _, ok := given["ok"]; ok {
		same = same && got.OK == want.OK
	}
	if _, ok := given["uid"]; ok {
		same = same && got.UID == want.UID
	}
	if _, ok := given["canonical"]; ok && got.Canonical64 == nil {
		same = same && got.Canonical == want.Canonical
	}
	if _, ok := given["canonical64"]; ok {
		same = same && base64.StdEncoding.EncodeToString(got.Canonical64) == base64.StdEncoding.EncodeToString(want.Canonical64)
	}
	if _, ok := given["match"]; ok {
		same = same && got.Match != nil && want.Match != nil && *got.Match == *want.Match
	}
	return same, enc.Encode(got)
}
