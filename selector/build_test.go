// SPDX-License-Identifier: Apache-2.0

package selector_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/selector"
)

func ExampleParse() {
	s, err := selector.Parse(`role in {'web','api'} && !has(quarantined)`)
	if err != nil {
		panic(err)
	}
	fmt.Println(s)
	fmt.Println(s.ID())
	fmt.Println(s.Matches(selector.MapLabels{"role": "web"}))
	fmt.Println(s.Matches(selector.MapLabels{"role": "web", "quarantined": ""}))
	_, err = selector.Parse(`role = 'web'`)
	fmt.Println(err)
	// Output:
	// (role in {"api", "web"} && !has(quarantined))
	// s:m0t_G69ho2oi1Y8EFsQc70QxybLPDmmXzGxRxA
	// true
	// false
	// unexpected "=" at offset 5 of selector, expected ==, !=, in, not in, contains, starts with or ends with
}

func ExampleAnd() {
	web, err := selector.Eq("role", "web")
	if err != nil {
		panic(err)
	}
	users, err := selector.Parse("has(prod) || env == 'prod'")
	if err != nil {
		panic(err)
	}
	users, err = users.PrefixLabels("pcns.")
	if err != nil {
		panic(err)
	}
	fmt.Println(selector.And(web, selector.Not(users)))
	// Output: (role == "web" && !(has(pcns.prod) || pcns.env == "prod"))
}

func TestConstructors(t *testing.T) {
	ok := func(s selector.Selector, err error) selector.Selector {
		t.Helper()
		require.NoError(t, err)
		return s
	}
	a, b := ok(selector.Has("a")), ok(selector.Eq("b", `x"y`))
	c := ok(selector.In("c", "z", "y", "z"))
	for text, s := range map[string]selector.Selector{
		`all()`:                  selector.All(),
		`has(a)`:                 selector.And(a),
		`b == 'x"y'`:             b,
		`c in {"y", "z"}`:        c,
		`c in {}`:                ok(selector.In("c")),
		`!has(a)`:                selector.Not(a),
		`!!has(a)`:               selector.Not(selector.Not(a)),
		`(has(a) && b == 'x"y')`: selector.And(a, b),
		`((has(a) && has(a)) && c in {"y", "z"})`: selector.And(selector.And(a, a), c),
		`(has(a) || !(b == 'x"y' || has(a)))`:     selector.Or(a, selector.Not(selector.Or(b, a))),
	} {
		require.Equal(t, text, s.String())
		require.True(t, s.Equal(s.Reparse()) || strings.HasPrefix(text, "!!"))
	}
	vals := []string{"b", "a"}
	ok(selector.In("c", vals...))
	require.Equal(t, []string{"b", "a"}, vals, "the argument is left alone")

	for _, term := range []selector.Term{
		{},
		{Op: 99, Label: "a"},
		{Op: selector.OpHas},
		{Op: selector.OpHas, Label: "a b"},
		{Op: selector.OpHas, Label: "é"},
		{Op: selector.OpHas, Label: strings.Repeat("l", 513)},
		{Op: selector.OpEqual, Label: "a", Value: `"'`},
		{Op: selector.OpStartsWith, Label: "", Value: `x`},
		{Op: selector.OpNotIn, Label: "a", Values: []string{"x", `'"`}},
	} {
		s, err := term.Selector()
		require.Error(t, err, "%v", term)
		require.True(t, s.IsZero())
	}
}

func TestTermsAndMap(t *testing.T) {
	s := mustParse(t, `all( ) && !(a == 'b' || c not in {"y", "x"}) && (global() || d ends with "")`)
	want := []selector.Term{
		{Op: selector.OpAll, Spaced: true},
		{Op: selector.OpEqual, Label: "a", Value: "b"},
		{Op: selector.OpNotIn, Label: "c", Values: []string{"x", "y"}},
		{Op: selector.OpGlobal},
		{Op: selector.OpEndsWith, Label: "d"},
	}
	require.Empty(t, cmp.Diff(want, slices.Collect(s.Terms())))
	for range s.Terms() {
		break // an iterator may be left early
	}

	// A term may become a tree of any shape.
	m, err := s.Map(func(t selector.Term) (selector.Selector, error) {
		if t.Label == "a" {
			return selector.Parse("has(x) && !in in {'in'}")
		}
		return t.Selector()
	})
	require.NoError(t, err)
	require.Equal(t,
		`(all() && !((has(x) && !in in {"in"}) || c not in {"x", "y"}) && (global() || d ends with ""))`, m.String())
	require.Equal(t, `(all() && !(a == "b" || c not in {"x", "y"}) && (global() || d ends with ""))`, s.String(),
		"the original is as it was")

	boom := errors.New("boom")
	m, err = s.Map(func(selector.Term) (selector.Selector, error) { return selector.All(), boom })
	require.ErrorIs(t, err, boom)
	require.True(t, m.IsZero())
	m, err = s.Map(func(selector.Term) (selector.Selector, error) { return selector.Selector{}, nil })
	require.NoError(t, err)
	require.True(t, m.IsZero())
}

func TestPrefixLabels(t *testing.T) {
	s, err := mustParse(t, `all() && (a == 'b' || !has(c)) && d in {"x"} && global()`).PrefixLabels("pcns.")
	require.NoError(t, err)
	require.Equal(t, `(all() && (pcns.a == "b" || !has(pcns.c)) && pcns.d in {"x"} && global())`, s.String())
	_, err = mustParse(t, "has("+strings.Repeat("l", 508)+")").PrefixLabels("pcns.")
	require.Error(t, err)
	_, err = mustParse(t, "has(a)").PrefixLabels("no good ")
	require.Error(t, err)
}

func TestInherit(t *testing.T) {
	own := map[string]string{"a": "own", "empty": ""}
	first := map[string]string{"a": "1", "b": "1", "empty": "1"}
	second := map[string]string{"a": "2", "b": "2", "c": "2"}
	require.Equal(t, selector.MapLabels{"a": "own", "empty": "", "b": "1", "c": "2"}, selector.Inherit(own, first, second))
	require.Equal(t, selector.MapLabels{"a": "2", "b": "2", "c": "2", "empty": "1"}, selector.Inherit(nil, second, first))
	require.Empty(t, selector.Inherit(nil))
}

// tree is a syntax tree for a naive evaluator, the oracle of Matches.
type tree struct {
	op   string // "term", "!", "&&", "||"
	term selector.Term
	sub  []tree
}

func (n tree) text() string {
	switch n.op {
	case "term":
		s, err := n.term.Selector()
		if err != nil {
			panic(err)
		}
		return s.String()
	case "!":
		return "!(" + n.sub[0].text() + ")"
	}
	var parts []string
	for _, s := range n.sub {
		parts = append(parts, "("+s.text()+")")
	}
	return strings.Join(parts, n.op)
}

func (n tree) selector(t require.TestingT) selector.Selector {
	var sub []selector.Selector
	for _, s := range n.sub {
		sub = append(sub, s.selector(t))
	}
	switch n.op {
	case "!":
		return selector.Not(sub[0])
	case "&&":
		return selector.And(sub...)
	case "||":
		return selector.Or(sub...)
	}
	s, err := n.term.Selector()
	require.NoError(t, err)
	return s
}

func (n tree) eval(labels map[string]string) bool {
	switch n.op {
	case "!":
		return !n.sub[0].eval(labels)
	case "&&":
		return !slices.ContainsFunc(n.sub, func(s tree) bool { return !s.eval(labels) })
	case "||":
		return slices.ContainsFunc(n.sub, func(s tree) bool { return s.eval(labels) })
	}
	v, ok := labels[n.term.Label]
	switch n.term.Op {
	case selector.OpAll, selector.OpGlobal:
		return true
	case selector.OpHas:
		return ok
	case selector.OpEqual:
		return ok && v == n.term.Value
	case selector.OpNotEqual:
		return !(ok && v == n.term.Value)
	case selector.OpIn:
		return ok && slices.Contains(n.term.Values, v)
	case selector.OpNotIn:
		return !(ok && slices.Contains(n.term.Values, v))
	case selector.OpContains:
		return ok && strings.Contains(v, n.term.Value)
	case selector.OpStartsWith:
		return ok && strings.HasPrefix(v, n.term.Value)
	case selector.OpEndsWith:
		return ok && strings.HasSuffix(v, n.term.Value)
	}
	panic("unknown operation")
}

func genTree(depth int) *rapid.Generator[tree] {
	label := rapid.SampledFrom([]string{"a", "b", "c", "in"})
	value := rapid.StringMatching(`[xy"]{0,3}`)
	return rapid.Custom(func(t *rapid.T) tree {
		op := "term"
		if depth > 0 {
			op = rapid.SampledFrom([]string{"term", "!", "&&", "||"}).Draw(t, "op")
		}
		n := tree{op: op}
		switch op {
		case "term":
			n.term.Op = selector.Op(rapid.IntRange(int(selector.OpAll), int(selector.OpEndsWith)).Draw(t, "term"))
			if n.term.Op > selector.OpGlobal {
				n.term.Label = label.Draw(t, "label")
			}
			switch n.term.Op {
			case selector.OpAll, selector.OpGlobal, selector.OpHas:
			case selector.OpIn, selector.OpNotIn:
				n.term.Values = rapid.SliceOfN(value, 0, 12).Draw(t, "values")
			default:
				n.term.Value = value.Draw(t, "value")
			}
		case "!":
			n.sub = []tree{genTree(depth-1).Draw(t, "sub")}
		default:
			n.sub = rapid.SliceOfN(genTree(depth-1), 2, 4).Draw(t, "sub")
		}
		return n
	})
}

func genLabels() *rapid.Generator[map[string]string] {
	return rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "c", "in"}), rapid.StringMatching(`[xy"]{0,3}`), 0, 4)
}

// otherLabels is an implementation of Labels that is not MapLabels.
type otherLabels map[string]string

func (l otherLabels) Get(k string) (string, bool) { v, ok := l[k]; return v, ok }

func TestMatchesEqualsNaiveEvaluation(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := genTree(4).Draw(t, "tree")
		built := n.selector(t)
		parsed, err := selector.Parse(n.text())
		require.NoError(t, err)
		require.Equal(t, built.Reparse().String(), parsed.Reparse().String())
		again, err := selector.Parse(built.String())
		require.NoError(t, err)
		require.Equal(t, again.String(), built.Reparse().String())
		for range 4 {
			labels := genLabels().Draw(t, "labels")
			want := n.eval(labels)
			require.Equal(t, want, parsed.Matches(selector.MapLabels(labels)))
			require.Equal(t, want, built.Matches(otherLabels(labels)))
			require.Equal(t, want, again.Matches(selector.MapLabels(labels)))
			require.Equal(t, !want, selector.Not(built).Matches(selector.MapLabels(labels)))
		}
	})
}

// Sets are searched in four ways, depending on their size and on how their values look.
func TestSetsOfAllSizes(t *testing.T) {
	for _, n := range []int{0, 1, 3, 4, 10, 64, 65, 1000} {
		for name, format := range map[string]string{"spread": "%d", "colliding": "a%dbbbbbbbbbbbbbbbbbb"} {
			var vals []string
			for i := range n {
				vals = append(vals, fmt.Sprintf(format, 10000+i))
			}
			in, err := selector.In("k", vals...)
			require.NoError(t, err)
			for i := range n + 2 {
				v := fmt.Sprintf(format, 10000+i)
				require.Equal(t, i < n, in.Matches(selector.MapLabels{"k": v}), "%s %d %q", name, n, v)
				require.False(t, in.Matches(selector.MapLabels{"k": v + "x"}))
			}
			require.False(t, in.Matches(selector.MapLabels{"k": ""}))
			require.False(t, in.Matches(selector.MapLabels{}))
		}
	}
}
