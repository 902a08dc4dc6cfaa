// SPDX-License-Identifier: Apache-2.0

package selector

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// weighEvenly prefers values, and labels late in the alphabet among them.
func weighEvenly(a atom) int64 {
	if a.any {
		return 1000
	}
	return 100 - int64(a.label[0]-'a')
}

func TestRestriction(t *testing.T) {
	is := func(label, value string) atom { return atom{label: label, value: value} }
	has := func(label string) atom { return atom{label: label, any: true} }
	for text, want := range map[string]restriction{
		`all()`:                            {none: true},
		`!all()`:                           {exact: true},
		`a == "x"`:                         {atoms: []atom{is("a", "x")}, exact: true},
		`a != "x"`:                         {none: true},
		`!a != "x"`:                        {atoms: []atom{is("a", "x")}, exact: true},
		`a in {"x", "y"}`:                  {atoms: []atom{is("a", "x"), is("a", "y")}, exact: true},
		`!(a not in {"x"})`:                {atoms: []atom{is("a", "x")}, exact: true},
		`a in {}`:                          {exact: true},
		`a not in {}`:                      {none: true},
		`has(a)`:                           {atoms: []atom{has("a")}, exact: true},
		`!has(a)`:                          {none: true},
		`a contains ""`:                    {atoms: []atom{has("a")}},
		`has(a) && b == "x"`:               {atoms: []atom{is("b", "x")}},
		`a == "x" && b == "y" && !has(c)`:  {atoms: []atom{is("b", "y")}},
		`!(a != "x" || b != "y")`:          {atoms: []atom{is("b", "y")}},
		`b == "y" || has(a)`:               {atoms: []atom{has("a"), is("b", "y")}, exact: true},
		`!(b != "y" && a not in {"x"})`:    {atoms: []atom{is("a", "x"), is("b", "y")}, exact: true},
		`(b == "y" && has(c)) || a == "x"`: {atoms: []atom{is("a", "x"), is("b", "y")}},
		`b == "y" || c != "z"`:             {none: true},
		`(b == "y" || c != "z") && d ends with ""`: {atoms: []atom{has("d")}},
		`a == "x" && global()`:                     {atoms: []atom{is("a", "x")}},
		`a == "x" || !global()`:                    {atoms: []atom{is("a", "x")}, exact: true},
	} {
		s, err := Parse(text)
		require.NoError(t, err)
		require.Equal(t, want, s.restriction(weighEvenly), text)
	}
	require.Equal(t, restriction{exact: true}, Selector{}.restriction(weighEvenly))
}

// Whatever the weights, a selector matches nothing that meets no atom, and everything that does if that is exact.
func TestRestrictionIsSound(t *testing.T) {
	terms := []string{`all()`, `has(a)`, `has(b)`, `a == "x"`, `a != "y"`, `b in {"x", "y"}`, `b not in {"y"}`, `a starts with "x"`}
	rapid.Check(t, func(t *rapid.T) {
		build := func(op Op, subs ...Selector) Selector {
			if op == opNot {
				return Not(subs[0])
			}
			return join(op, subs)
		}
		var pool []Selector
		for _, text := range terms {
			s, err := Parse(text)
			require.NoError(t, err)
			pool = append(pool, s)
		}
		pick := rapid.IntRange(0, 1<<20)
		for range rapid.IntRange(0, 12).Draw(t, "steps") {
			op := rapid.SampledFrom([]Op{opNot, opAnd, opOr}).Draw(t, "op")
			a, b := pick.Draw(t, "a")%len(pool), pick.Draw(t, "b")%len(pool)
			pool = append(pool, build(op, pool[a], pool[b]))
		}
		seed := rapid.IntRange(1, 50).Draw(t, "weights")
		r := pool[len(pool)-1].restriction(func(a atom) int64 {
			return int64(1 + (len(a.value)*7+int(a.label[0])*seed)%13)
		})
		for _, av := range []string{"-", "x", "y", "z"} {
			for _, bv := range []string{"-", "x", "y", "z"} {
				labels := MapLabels{}
				if av != "-" {
					labels["a"] = av
				}
				if bv != "-" {
					labels["b"] = bv
				}
				met := r.none
				for _, a := range r.atoms {
					v, ok := labels[a.label]
					met = met || ok && (a.any || v == a.value)
				}
				matches := pool[len(pool)-1].Matches(labels)
				require.True(t, met || !matches, "%v on %v", pool[len(pool)-1], labels)
				require.True(t, matches || !met || !r.exact, "%v on %v", pool[len(pool)-1], labels)
			}
		}
	})
}
