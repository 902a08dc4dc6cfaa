// SPDX-License-Identifier: Apache-2.0

package confirm

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// positions stands between a program and where its rules are written, which is not part of the text of programs but shows
// in comments of rules.
const positions = "# positions\n"

// record returns what a file holds of a generation.
func record(p *ir.Program, m ir.Members) []byte {
	b := []byte(p.String() + m.String() + positions)
	for _, o := range p.Origins {
		if o.Pos != (field.Pos{}) {
			b = fmt.Appendf(b, "# %d %q %s\n", o.Pos.Line, o.Pos.File, o)
		}
	}
	return b
}

// recordKey is the Key of what a file holds.
func recordKey(data []byte) string {
	text, _, _ := strings.Cut(string(data), positions)
	return key(text)
}

// parseRecord is the inverse of record.
func parseRecord(data []byte) (*ir.Program, ir.Members, error) {
	text, rest, _ := strings.Cut(string(data), positions)
	p, m, err := ir.Parse(text)
	if err != nil {
		return nil, ir.Members{}, err
	}
	p, m = ir.Canonical(p), m.Canonical()
	at := map[string]field.Pos{}
	for _, line := range strings.Split(rest, "\n") {
		var pos field.Pos
		var n string
		line, ok := strings.CutPrefix(line, "# ")
		if !ok {
			continue
		}
		n, line, _ = strings.Cut(line, " ")
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			continue
		}
		pos.File, _ = strconv.Unquote(quoted)
		pos.Line, _ = strconv.Atoi(n)
		at[strings.TrimPrefix(line[len(quoted):], " ")] = pos
	}
	origins := make([]flow.Origin, len(p.Origins))
	for i, o := range p.Origins {
		o.Pos = at[o.String()]
		origins[i] = o
	}
	p.Origins = origins
	return p, m, nil
}
