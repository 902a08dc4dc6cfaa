// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go4.org/netipx"

	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
	"github.com/hostpolicy/hostpolicy/render/nftables"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// some returns random programs and options.
func some(n uint64, f func(seed uint64, p *ir.Program, m ir.Members, o nftables.Options)) {
	for seed := range n {
		p, m := rendertest.Program(seed, rendertest.Size{})
		f(seed, p, m, nftables.Options{
			Caps: render.Caps{ConcatRanges: true}, Events: nftables.Events(seed % 3), Counters: seed%2 == 0,
			DenyAction: render.DenyAction(seed / 2 % 2), Linear: seed%4 != 0,
		})
	}
}

func TestRenderIsDeterministic(t *testing.T) {
	some(40, func(seed uint64, p *ir.Program, m ir.Members, o nftables.Options) {
		first, err := nftables.Render(p, m, o)
		require.NoError(t, err)
		for range 10 {
			again, err := nftables.Render(p, m, o)
			require.NoError(t, err)
			require.Equal(t, first.String(), again.String())
			require.Equal(t, first.Fingerprint(), again.Fingerprint())
			require.True(t, nftables.Diff(first, again).Empty())
		}
	})
}

func TestFingerprintsTellRulesetsApart(t *testing.T) {
	texts := map[string]string{}
	some(200, func(seed uint64, p *ir.Program, m ir.Members, o nftables.Options) {
		r, err := nftables.Render(p, m, o)
		require.NoError(t, err)
		if old, ok := texts[r.Fingerprint()]; ok {
			require.Equal(t, old, r.String())
		}
		texts[r.Fingerprint()] = r.String()
	})
	require.Greater(t, len(texts), 190)
}

// TestRulesetsAreWhole checks what the kernel would refuse, or a reader miss.
func TestRulesetsAreWhole(t *testing.T) {
	some(200, func(seed uint64, p *ir.Program, m ir.Members, o nftables.Options) {
		r, err := nftables.Render(p, m, o)
		require.NoError(t, err)
		sets, used := map[string]bool{}, map[string]bool{}
		for _, s := range r.Sets {
			require.False(t, sets[s.Name], s.Name)
			sets[s.Name] = true
			for i, e := range s.Elements[:max(0, len(s.Elements)-1)] {
				require.False(t, s.Kind == ir.SetOfPrefixes && e.Prefix.Overlaps(s.Elements[i+1].Prefix))
			}
		}
		origins := map[string]bool{}
		for _, c := range r.Chains {
			require.LessOrEqual(t, len(c.Comment), 127)
			for i, rule := range c.Rules {
				require.LessOrEqual(t, len(rule.Comment), 127)
				if rule.Origin != nil {
					k, ok := nftables.CommentKey(rule.Comment)
					require.True(t, ok)
					require.Equal(t, rule.Origin.Key(), k)
					origins[rule.Origin.String()] = true
				}
				for j, e := range rule.Exprs {
					switch e := e.(type) {
					case nftables.Verdict:
						require.Equal(t, len(rule.Exprs)-1, j, "%s[%d]: %s", c.Name, i, rule)
						if e.Chain != "" {
							_, ok := r.Chain(e.Chain)
							require.True(t, ok, e.Chain)
						}
					case nftables.InSet:
						require.True(t, sets[e.Set], e.Set)
						used[e.Set] = true
					}
				}
			}
		}
		require.Equal(t, sets, used, "sets that nobody asks for")
	})
}

func TestRenderRefusesWhatIsNoProgram(t *testing.T) {
	for name, text := range map[string]string{
		"a block that is missing":           "entry prednat nowhere\n",
		"a block that calls itself":         "entry prednat a\nblock a\n  call b\nblock b\n  call a\n",
		"a set that is missing":             "entry prednat a\nblock a\n  rule src=@s:x -> allow by policy:t/p/ingress[0]\n",
		"a settled hook that is not behind": "entry normal-in a settles prednat\nblock a\n  rule -> allow by policy:t/p/ingress[0]\n",
		"a default without origin":          "entry normal-in a default deny\nblock a\n",
	} {
		p, m, err := ir.Parse(text)
		require.NoError(t, err, name)
		_, err = nftables.Render(p, m, nftables.Options{Linear: true})
		require.Error(t, err, name)
	}
	for name, b := range map[string]ir.Step{
		"an unknown step":    nil,
		"an unknown outcome": ir.Rule{Then: 9},
		"an unknown effect":  ir.Rule{Do: []ir.Effect{9}},
		"an unknown term":    ir.Rule{Then: ir.Allow, Match: ir.Match{{nil}}},
		"an unknown field":   ir.Rule{Then: ir.Allow, Match: ir.Match{{ir.InMask{Field: 99, Mask: ir.MaskOf(uint8(1))}}}},
		"an unknown key":     ir.Switch{Key: []ir.Field{99}},
		"no key":             ir.Switch{},
	} {
		p := &ir.Program{Entries: []ir.Entry{{Hook: 4, Block: "a"}}, Blocks: []ir.Block{{ID: "a", Steps: []ir.Step{b}}}}
		_, err := nftables.Render(p, ir.Members{}, nftables.Options{Linear: true})
		require.Error(t, err, name)
	}
}

func TestUnsupportedNamesTheRule(t *testing.T) {
	for name, text := range map[string]string{
		"ranges of several fields":    "entry forward-in a\nblock a\n  switch src,dport\n    case 10.0.0.0/8 80 -> allow by policy:t/p/ingress[3]\n",
		"a name that nft cannot read": "entry forward-in a\nblock a\n  rule iif=\"a\\\"b\" -> allow by policy:t/p/ingress[3]\n",
		"one bit for two meanings": "entry untracked-in a settles normal-in\nentry prednat a settles normal-in,forward-in\nentry normal-in b\nentry forward-in b\n" +
			"block a\n  rule -> allow by policy:t/p/ingress[3]\nblock b\n",
	} {
		p, m, err := ir.Parse(text)
		require.NoError(t, err, name)
		require.NoError(t, ir.Validate(p, m), name)
		_, err = nftables.Render(p, m, nftables.Options{Linear: true})
		var u *render.UnsupportedError
		require.True(t, errors.As(err, &u), "%s: %v", name, err)
		require.Equal(t, "nftables", u.Backend)
	}
}

// TestEveryExpressionHasText finds the variants in the source, so that none can be forgotten.
func TestEveryExpressionHasText(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "expr.go", nil, 0)
	require.NoError(t, err)
	var declared []string
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Name.Name == "isExpr" {
			declared = append(declared, fn.Recv.List[0].Type.(*ast.Ident).Name)
		}
	}
	var texts []string
	for name, e := range variants {
		texts = append(texts, name)
		require.NotContains(t, string(nftables.AppendExpr(nil, e)), "<unknown", name)
	}
	slices.Sort(declared)
	slices.Sort(texts)
	require.Equal(t, declared, texts)
	require.Contains(t, string(nftables.AppendExpr(nil, nil)), "<unknown")
}

var variants = map[string]nftables.Expr{
	"IsFamily": nftables.IsFamily{}, "InNumbers": nftables.InNumbers{}, "InPorts": nftables.InPorts{}, "InPrefixes": nftables.InPrefixes{},
	"InNames": nftables.InNames{}, "InNamePrefix": nftables.InNamePrefix{}, "InStates": nftables.InStates{}, "IsTranslated": nftables.IsTranslated{},
	"IsGenerated": nftables.IsGenerated{}, "IsMarked": nftables.IsMarked{}, "InSet": nftables.InSet{}, "VerdictMap": nftables.VerdictMap{},
	"SetMark": nftables.SetMark{}, "Untrack": nftables.Untrack{}, "Count": nftables.Count{}, "Log": nftables.Log{}, "Reject": nftables.Reject{},
	"Verdict": nftables.Verdict{},
}

// TestTheLargestFieldIsFirst counts what the kernel makes of the fields of maps with ranges; see largestFirst.
func TestTheLargestFieldIsFirst(t *testing.T) {
	large := 0
	some(60, func(_ uint64, p *ir.Program, m ir.Members, o nftables.Options) {
		r, err := nftables.Render(p, m, o)
		require.NoError(t, err)
		for _, c := range r.Chains {
			for _, rule := range c.Rules {
				for _, e := range rule.Exprs {
					m, ok := e.(nftables.VerdictMap)
					if !ok || !m.ConcatRanges() {
						continue
					}
					n := make([]int, len(m.Keys))
					for _, c := range m.Cases {
						require.Len(t, c.Key, len(m.Keys))
						for i, k := range c.Key {
							n[i] += len(netipx.IPRangeFrom(netip.AddrFrom16(k.Lo), netip.AddrFrom16(k.Hi)).Prefixes())
						}
					}
					if slices.Max(n) > 32 {
						large++
						require.Equal(t, slices.Max(n), n[0], "%s", &rule)
					}
				}
			}
		}
	})
	require.Greater(t, large, 5)

	p, m, err := ir.Parse(`entry normal-in a
block a
  switch protocol,dst,dport
    case tcp 10.0.0.0/8 1-65534 -> allow by policy:t/p/ingress[0]
    case tcp 11.0.0.0/8 2-65533 -> deny by policy:t/p/ingress[1]
`)
	require.NoError(t, err)
	r, err := nftables.Render(p, m, nftables.Options{Caps: render.Caps{ConcatRanges: true}, Linear: true})
	require.NoError(t, err)
	require.Contains(t, r.String(), "th dport . meta l4proto . ip daddr vmap { 1-65534 . tcp . 10.0.0.0/8 ")
}
