// SPDX-License-Identifier: Apache-2.0

package ir_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

func parse(t *testing.T, text string) (*ir.Program, ir.Members) {
	t.Helper()
	p, m, err := ir.Parse(text)
	require.NoError(t, err)
	return p, m
}

func TestDiffIsReadable(t *testing.T) {
	a, am := parse(t, `entry normal-in a
set s:1 prefixes
block a
  rule dport=1 -> allow by policy:t/p/ingress[0]
  rule dport=2 -> allow by policy:t/p/ingress[1]
  rule dport=3 -> allow by policy:t/p/ingress[2]
  rule dport=4 -> allow by policy:t/p/ingress[3]
  call old
block old
block same
members s:1
  10.0.0.1
  10.0.0.2
members s:2
  10.0.0.1
members s:3
`)
	b, bm := parse(t, `entry normal-in a always new
set s:1 endpoints
block a
  rule dport=1 -> allow by policy:t/p/ingress[0]
  rule dport=2 -> allow by policy:t/p/ingress[1]
  rule dport=3 -> deny by policy:t/p/ingress[2]
  rule dport=4 -> allow by policy:t/p/ingress[3]
  call new
block new
  rule -> deny by workload
block same
members s:1
  10.0.0.2
  10.0.0.3
members s:2
  10.0.0.1
members s:4
  10.0.0.9
`)
	cs := ir.Diff(a, b)
	require.Equal(t, `-entry normal-in a
+entry normal-in a always new
-set s:1 prefixes
+set s:1 endpoints
 block a
   rule dport=2 -> allow by policy:t/p/ingress[1]
-  rule dport=3 -> allow by policy:t/p/ingress[2]
+  rule dport=3 -> deny by policy:t/p/ingress[2]
   rule dport=4 -> allow by policy:t/p/ingress[3]
-  call old
+  call new
+block new
+  rule -> deny by workload
-block old
`, cs.String())
	var ops []string
	for _, c := range cs {
		ops = append(ops, c.Kind.String()+" "+c.Name+" "+[]string{"changed", "added", "removed"}[c.Op()])
	}
	require.Equal(t, []string{"entry normal-in changed", "set s:1 changed", "block a changed", "block new added", "block old removed"}, ops)
	require.Empty(t, ir.Diff(a, a))
	require.Len(t, ir.Diff(nil, a), 5)

	ms := ir.DiffMembers(am, bm)
	require.Equal(t, ` members s:1
-  10.0.0.1
+  10.0.0.3
 members s:4
+  10.0.0.9
`, ms.String())
	require.Empty(t, ir.DiffMembers(am, am))
}

// The lines that stayed and came are the new program; those that stayed and went are the old one.
func TestDiffLeadsFromOneProgramToTheOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := programGen().Draw(t, "a"), programGen().Draw(t, "b")
		cs := ir.Diff(a, b)
		if (len(cs) == 0) != (a.String() == b.String()) || (len(cs) == 0) != (a.Fingerprint() == b.Fingerprint()) {
			t.Fatalf("%d changes between\n%s\n%s", len(cs), a, b)
		}
		for _, c := range cs {
			if c.Kind != ir.ObjectBlock {
				continue
			}
			side := func(p *ir.Program, gone ir.LineOp) {
				var lines []string
				for _, l := range c.Lines {
					if l.Op != gone {
						lines = append(lines, l.Text)
					}
				}
				want := ""
				if x, ok := p.Block(ir.BlockID(c.Name)); ok {
					want = strings.TrimSuffix((&ir.Program{Blocks: []ir.Block{x}, Origins: p.Origins}).String(), "\n")
				}
				if got := strings.Join(lines, "\n"); got != want {
					t.Fatalf("%q is not %q", got, want)
				}
			}
			side(a, ir.Added)
			side(b, ir.Removed)
		}
	})
}
