// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

func TestNamesAreWhatTheKernelAndNftRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "text")
		for _, n := range []string{chainName(s), setName(ir.SetID(s), inet.IPv4, false), setName(ir.SetID("s:"+s), inet.IPv6, true)} {
			if !plainName(n) || len(n) > maxNameLen+8 || !strings.ContainsAny(n, "./") {
				t.Fatalf("%q becomes %q", s, n)
			}
		}
	})
}

func TestSetsWithDifferentIDsHaveDifferentNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type key struct {
			id ir.SetID
			f  inet.Family
			e  bool
		}
		draw := rapid.Custom(func(t *rapid.T) key {
			return key{ir.SetID(rapid.StringMatching(`[a-z.:/]{0,6}`).Draw(t, "id")), rapid.SampledFrom([]inet.Family{inet.IPv4, inet.IPv6}).Draw(t, "f"), rapid.Bool().Draw(t, "e")}
		})
		a, b := draw.Draw(t, "a"), draw.Draw(t, "b")
		if a != b && setName(a.id, a.f, a.e) == setName(b.id, b.f, b.e) {
			t.Fatalf("%v and %v have one name", a, b)
		}
	})
}

func TestChainsWithTheSameNameAreToldApart(t *testing.T) {
	b := &builder{names: map[string]bool{}}
	seen := map[string]bool{}
	for _, text := range []string{"a/b", "a:b", "a.b", "a_b", "a b", "a b", strings.Repeat("x", 200), strings.Repeat("x", 201), ""} {
		n := b.freeName(text, "")
		require.False(t, seen[n], n)
		require.True(t, plainName(n), n)
		seen[n] = true
	}
}

func TestQuotableHoldsNothingThatNftReads(t *testing.T) {
	require.Equal(t, "a'b_c_d_e", quotable("a\"b\\c$d\x00e", 99))
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		q := quotable(s, 20)
		if len(q) > 20 || strings.ContainsAny(q, "\"\\$\n\x00") || quotable(q, 20) != q {
			t.Fatalf("%q becomes %q", s, q)
		}
	})
}

func TestCommentsCarryTheKeyAndFit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := flow.Origin{Kind: flow.OriginPolicy, Tier: rapid.StringMatching(`[a-z]{1,60}`).Draw(t, "tier"), Name: rapid.StringMatching(`[a-z.]{1,90}`).Draw(t, "name"), Index: 7}
		o.Pos = field.Pos{File: rapid.StringMatching(`[a-z"/.]{0,60}`).Draw(t, "file"), Line: rapid.IntRange(0, 9999).Draw(t, "line")}
		c := new(builder).ruleComment(&o)
		k, ok := CommentKey(c)
		if !ok || k != o.Key() || len(c) > maxComment {
			t.Fatalf("%q", c)
		}
		if !strings.Contains(o.Pos.File, `"`) && len(c) < maxComment && o.Pos.File != "" && len(o.String())+len(o.Pos.String()) < 100 && !strings.HasSuffix(c, o.Pos.String()) {
			t.Fatalf("%q lacks %s", c, o.Pos)
		}
	})
	_, ok := CommentKey("no early allow yet")
	require.False(t, ok)
}
