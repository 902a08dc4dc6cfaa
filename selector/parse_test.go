// SPDX-License-Identifier: Apache-2.0

package selector_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/selector"
)

func mustParse(t testing.TB, text string) selector.Selector {
	t.Helper()
	s, err := selector.Parse(text)
	require.NoError(t, err, "%.100q", text)
	return s
}

func TestErrors(t *testing.T) {
	for text, want := range map[string]selector.Error{
		"a":              {Offset: 1, Token: "", Expected: "=="},
		"a = 'b'":        {Offset: 2, Token: "=", Expected: "=="},
		"a == b":         {Offset: 5, Token: "b", Expected: "a quoted string"},
		"a == 'b":        {Offset: 7, Token: "", Expected: "a closing quote"},
		"'a' == 'b'":     {Offset: 0, Token: "'", Expected: "a label"},
		"a == 'b' junk":  {Offset: 9, Token: "junk", Expected: "&&"},
		"a == 'b' & c":   {Offset: 9, Token: "&", Expected: "&&"},
		"a == 'b' &&":    {Offset: 11, Token: "", Expected: "a label"},
		"a == 'b' && &&": {Offset: 12, Token: "&&", Expected: "a label"},
		"(a == 'b'":      {Offset: 9, Token: "", Expected: `")"`},
		"a == 'b')":      {Offset: 8, Token: ")", Expected: "the end"},
		"( )":            {Offset: 2, Token: ")", Expected: "a label"},
		"!= 'b'":         {Offset: 0, Token: "!=", Expected: "a label"},
		"has(":           {Offset: 4, Token: "", Expected: "a label"},
		"has(a b)":       {Offset: 6, Token: "b", Expected: `")"`},
		"has (a)":        {Offset: 4, Token: "(", Expected: "=="},
		"all(x)":         {Offset: 4, Token: "x", Expected: `")"`},
		"global( ":       {Offset: 8, Token: "", Expected: `")"`},
		"ALL()":          {Offset: 3, Token: "(", Expected: "=="},
		"a in 'b'":       {Offset: 5, Token: "'", Expected: `"{"`},
		"a in {,}":       {Offset: 6, Token: ",", Expected: "a quoted string"},
		"a in {'b' 'c'}": {Offset: 10, Token: "'", Expected: `","`},
		"a in {b}":       {Offset: 6, Token: "b", Expected: "a quoted string"},
		"a in {'b'":      {Offset: 9, Token: "", Expected: `","`},
		"a starts 'b'":   {Offset: 2, Token: "starts", Expected: "starts with"},
		"a like 'b'":     {Offset: 2, Token: "like", Expected: "contains"},
		"a\n== 'b'":      {Offset: 1, Token: "\n", Expected: "=="},
		"a == 'b' \xff":  {Offset: 9, Token: "\xff", Expected: "&&"},

		strings.Repeat("x", 600) + " == 'b'":    {Offset: 512, Token: strings.Repeat("x", 40), Expected: "=="},
		"has(" + strings.Repeat("x", 600) + ")": {Offset: 4, Token: strings.Repeat("x", 40), Expected: "512"},
	} {
		s, err := selector.Parse(text)
		require.True(t, s.IsZero(), "%q", text)
		var e *selector.Error
		require.ErrorAs(t, err, &e, "%q", text)
		require.Equal(t, want.Offset, e.Offset, "%q: %v", text, err)
		require.Equal(t, want.Token, e.Token, "%q: %v", text, err)
		require.Contains(t, e.Expected, want.Expected, "%q", text)
		require.Contains(t, e.Error(), e.Expected)
		requireErrorFits(t, text, e)
	}
}

// What later releases of Calico read otherwise. Ref: libcalico-go/lib/selector/tokenizer/tokenizer.go of each.
func TestDialects(t *testing.T) {
	l512 := strings.Repeat("l", 512)
	for _, c := range []struct {
		text        string
		v329, newer bool
	}{
		{"a not in {'b'}", true, true},
		{"a notin {'b'}", true, true},
		{"a not \t in {'b'}", true, true},
		{"a not\nin {'b'}", true, false},
		{"a starts\rwith 'b'", true, false},
		{"a ends\fwith 'b'", true, false},
		{"has(\na )", true, false},
		{"has(\ta )", true, true},
		{"all(\r)", true, false},
		{"global( \f)", true, false},
		{"a\n== 'b'", false, false},
		{"a in_ {'b'}", false, false},
		{"a in-x {'b'}", false, false},
		{l512 + " == 'b'", true, true},
		{l512 + "in {'b'}", true, false},
		{l512 + "contains 'b'", true, false},
		{l512 + "l in {'b'}", false, false},
		{"has(" + l512 + ")", true, true},
		{"has(" + l512 + "l)", false, false},
	} {
		_, err := selector.Parse(c.text)
		require.Equal(t, c.v329, err == nil, "%.40q: %v", c.text, err)
		_, err = selector.ParseWith(c.text, selector.Options{Dialect: selector.Newer})
		require.Equal(t, c.newer, err == nil, "%.40q: %v", c.text, err)
	}
	s, err := selector.ParseWith("all()", selector.Options{Dialect: 77})
	require.Error(t, err)
	require.True(t, s.IsZero())
}

// The dialects agree wherever both accept.
func TestDialectsAgree(t *testing.T) {
	refused := 0
	for _, v := range readVectors(t, "selectors.jsonl") {
		s, err := selector.ParseWith(v.In, selector.Options{Dialect: selector.Newer})
		if err == nil {
			require.True(t, v.OK, "%q", v.In)
			require.Equal(t, v.Canonical, s.String())
		} else if v.OK {
			require.True(t, strings.ContainsAny(v.In, "\n\r\f"), "%q", v.In)
			refused++
		}
	}
	require.NotZero(t, refused)
}

func TestDeepNesting(t *testing.T) {
	for _, n := range []int{5_000, 1 << 18} {
		s := mustParse(t, strings.Repeat("(", n)+"a=='b'"+strings.Repeat(")", n))
		require.Equal(t, `a == "b"`, s.String())

		_, err := selector.Parse(strings.Repeat("(", n))
		var e *selector.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, n, e.Offset)

		s = mustParse(t, strings.Repeat("!", n)+"has(a)")
		require.Equal(t, "has(a)", s.String())

		text := strings.Repeat("!(", n) + "has(a)" + strings.Repeat(")", n)
		s = mustParse(t, text)
		require.Equal(t, strings.Repeat("!", n)+"has(a)", s.String())
		require.True(t, s.Matches(selector.MapLabels{"a": ""}))
		require.False(t, s.Matches(selector.MapLabels{}))
		require.Equal(t, "has(a)", s.Reparse().String())

		text = strings.Repeat("(has(a)&&", n) + "has(b)" + strings.Repeat(")", n)
		s = mustParse(t, text)
		require.True(t, s.Matches(selector.MapLabels{"a": "", "b": ""}))
		require.False(t, s.Matches(selector.MapLabels{"a": ""}))
		require.Len(t, s.String(), len(text)-len("()")+(len(" && ")-len("&&"))*n+len("()"))

		s = mustParse(t, strings.Repeat("a=='b'||", n)+"has(b)")
		require.True(t, s.Matches(selector.MapLabels{"b": ""}))
		_, err = s.PrefixLabels("p.")
		require.NoError(t, err)
	}
}

func TestZeroValue(t *testing.T) {
	var zero selector.Selector
	require.True(t, zero.IsZero())
	require.Empty(t, zero.ID())
	_, err := selector.Parse(zero.String())
	require.Error(t, err, "the text of the zero value must not be a selector")
	prefixed, err := zero.PrefixLabels("p.")
	require.NoError(t, err)
	for _, s := range []selector.Selector{
		zero, prefixed, zero.Reparse(), selector.Not(zero), selector.And(), selector.Or(), selector.And(zero),
		selector.And(selector.All(), zero), selector.Or(selector.All(), zero), selector.Or(zero, selector.All()),
	} {
		require.True(t, s.IsZero())
		require.False(t, s.Matches(selector.MapLabels{"a": "b"}))
		require.False(t, s.Matches(nil))
	}
	require.True(t, zero.Equal(zero))
	require.False(t, zero.Equal(selector.All()))
	require.False(t, selector.All().Equal(zero))
	for range zero.Terms() {
		t.Fatal("the zero value has a term")
	}
}

func TestNormalise(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "all()",
		" a=='b'&&has(c) \n":      `(a == "b" && has(c))`,
		"\u00a0!(!a=='b')":        `!!a == "b"`,
		" not a selector ":        "not a selector",
		"\u2003a == 'b\u2003'":    "a == \"b\u2003\"",
		"a in {'c', 'b', 'c'}   ": `a in {"b", "c"}`,
	} {
		require.Equal(t, want, selector.Normalise(in), "%q", in)
	}
}

func FuzzParse(f *testing.F) {
	for _, file := range []string{"selectors.jsonl", "selectors_bytes.jsonl"} {
		for _, v := range readVectors(f, file) {
			f.Add(v.In)
		}
	}
	labels := []selector.MapLabels{
		nil, {"a": "b"}, {"a": "", "b": "b"}, {"a": "b", "b": "a", "c": "d", "all": "x", "in": "in", "has": "has"},
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, newer := selector.ParseWith(text, selector.Options{Dialect: selector.Newer})
		s, err := selector.Parse(text)
		if err != nil {
			require.Error(t, newer)
			require.True(t, s.IsZero())
			e, ok := err.(*selector.Error)
			require.True(t, ok)
			requireErrorFits(t, text, e)
			return
		}
		canonical := s.String()
		again, err := selector.Parse(canonical)
		require.NoError(t, err, canonical)
		require.Equal(t, again.String(), s.Reparse().String())
		require.True(t, again.Equal(s.Reparse()))
		require.Equal(t, again.String(), mustParse(t, again.String()).String(), "stable after one round")
		for _, l := range labels {
			require.Equal(t, s.Matches(l), again.Matches(l), canonical)
			require.NotEqual(t, s.Matches(l), selector.Not(s).Matches(l), canonical)
		}
	})
}
