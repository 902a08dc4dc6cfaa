// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

func TestHunksTurnOneListOfRulesIntoTheOther(t *testing.T) {
	rules := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Rule {
		return Rule{Comment: fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "rule"))}
	}), 0, 30)
	rapid.Check(t, func(t *rapid.T) {
		a, b := rules.Draw(t, "a"), rules.Draw(t, "b")
		hunks := diffRules(a, b)
		var got []Rule
		at := 0
		for _, h := range hunks {
			if h.At < at || h.Delete+h.Insert == 0 {
				t.Fatalf("%v", hunks)
			}
			got = append(append(got, a[at:h.At]...), b[h.From:h.From+h.Insert]...)
			at = h.At + h.Delete
		}
		got = append(got, a[at:]...)
		if fmt.Sprint(got) != fmt.Sprint(b) {
			t.Fatalf("%v turn %v into %v instead of %v", hunks, a, got, b)
		}
	})
}

func TestOneChangedRuleIsOneHunk(t *testing.T) {
	var a []Rule
	for i := range 1000 {
		a = append(a, Rule{Comment: fmt.Sprint(i)})
	}
	b := slices.Clone(a)
	b[500].Comment = "new"
	require.Equal(t, []Hunk{{At: 500, Delete: 1, From: 500, Insert: 1}}, diffRules(a, b))
	require.Empty(t, diffRules(a, a))
	require.Equal(t, []Hunk{{At: 0, Delete: 1, From: 0}, {At: 1000, From: 999, Insert: 1}}, diffRules(a, append(slices.Clone(a[1:]), a[0])))
}

func TestDiffOfElements(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64()
		a, b := rendertest.Elements(seed.Draw(t, "a"), ir.SetOfPrefixes), rendertest.Elements(seed.Draw(t, "b"), ir.SetOfPrefixes)
		added, removed := ir.DiffElements(a, b)
		got := slices.DeleteFunc(slices.Clone(a), func(e ir.Element) bool { return slices.Contains(removed, e) })
		got = append(got, added...)
		slices.SortFunc(got, ir.CompareElements)
		if !slices.Equal(got, b) {
			t.Fatalf("%v + %v - %v = %v", a, added, removed, got)
		}
	})
}

func TestDiffSeesEveryDifference(t *testing.T) {
	render := func(text string) *Ruleset {
		p, m, err := ir.Parse(text)
		require.NoError(t, err)
		r, err := Render(p, m, Options{})
		require.NoError(t, err)
		return r
	}
	base := `entry forward-in hook/x
set s:a prefixes
block hook/x
  rule src=@s:a -> allow by policy:t/p/ingress[0]
  rule dport=1 -> allow by policy:t/p/ingress[1]
members s:a
  10.0.0.0/8
`
	a := render(base)
	require.True(t, Diff(a, render(base)).Empty())
	require.True(t, Diff(nil, a).Replace)
	require.Equal(t, "replace the table\n", Diff(nil, a).String())
	require.False(t, (&Changes{Replace: true}).Empty())

	other := render(`entry forward-in hook/x
entry forward-out block/y
set s:a prefixes
set s:b prefixes
block block/y
  call block/z if dport=9
block block/z
  rule dst=@s:b -> deny by policy:t/p/egress[0]
block hook/x
  rule src=@s:a -> allow by policy:t/p/ingress[0]
  rule dport=2 -> allow by policy:t/p/ingress[1]
members s:a
  10.1.0.0/16
members s:b
  10.0.0.1
  fd00::/8
`)
	require.Equal(t, `+ set a4.s.b
+   10.0.0.1
+ set v6.s.b
+   fd00::/8
  set v4.s.a
-   10.0.0.0/8
+   10.1.0.0/16
+ chain block/z
+   meta nfproto ipv4 ip daddr @a4.s.b drop comment "65729ac114e72fb6 policy:t/p/egress[0]"
+   meta nfproto ipv6 ip6 daddr @v6.s.b drop comment "65729ac114e72fb6 policy:t/p/egress[0]"
+ chain forward-out
+   meta l4proto { tcp, udp, sctp, udplite } th dport 9 goto block/z
  chain forward-in
-   meta l4proto { tcp, udp, sctp, udplite } th dport 1 accept comment "76b31c136924c9ac policy:t/p/ingress[1]"
+   meta l4proto { tcp, udp, sctp, udplite } th dport 2 accept comment "76b31c136924c9ac policy:t/p/ingress[1]"
`, Diff(a, other).String())
	back := Diff(other, a)
	require.Equal(t, []string{"a4.s.b", "v6.s.b"}, back.OldSets)
	require.Len(t, back.OldChains, 2)
	require.False(t, back.Replace)
}
