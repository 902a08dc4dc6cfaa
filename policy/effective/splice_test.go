// SPDX-License-Identifier: Apache-2.0

package effective_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy/effective"
	"github.com/hostpolicy/hostpolicy/selector"
)

// The oracle here splices text, as Calico does.

const (
	hasNamespace      = "has(projectcalico.org/namespace)"
	hasServiceAccount = "has(projectcalico.org/serviceaccount)"
)

// prefix returns the canonical text of a selector with prefixed labels. The way is not that of Selector.PrefixLabels:
// it finds labels in the canonical text.
func prefix(t require.TestingT, text, p string) string {
	s, err := selector.Parse(text)
	require.NoError(t, err)
	var out strings.Builder
	in := s.String()
	for i := 0; i < len(in); {
		c := in[i]
		switch {
		case c == '"' || c == '\'':
			end := i + 2 + strings.IndexByte(in[i+1:], c)
			out.WriteString(in[i:end])
			i = end
		case strings.HasPrefix(in[i:], "all()"), strings.HasPrefix(in[i:], "global()"):
			end := i + strings.IndexByte(in[i:], ')') + 1
			out.WriteString(in[i:end])
			i = end
		case c == '(' || c == '!' || c == ')':
			out.WriteByte(c)
			i++
		case strings.HasPrefix(in[i:], "has("):
			end := i + strings.IndexByte(in[i:], ')') + 1
			out.WriteString("has(" + p + in[i+len("has("):end])
			i = end
		case strings.HasPrefix(in[i:], " && "), strings.HasPrefix(in[i:], " || "):
			out.WriteString(in[i : i+4])
			i += 4
		default: // label, operator, value
			end := i + strings.IndexAny(in[i:], `"'{`)
			out.WriteString(p + in[i:end])
			i = end
			if in[i] != '{' {
				break
			}
			for in[i] != '}' {
				if c := in[i]; c == '"' || c == '\'' {
					n := 2 + strings.IndexByte(in[i+1:], c)
					out.WriteString(in[i : i+n])
					i += n
					continue
				}
				out.WriteByte(in[i])
				i++
			}
			out.WriteByte('}')
			i++
		}
	}
	return out.String()
}

func spliceGlobal(t require.TestingT, s, ns, sa string) string {
	text := s
	for _, x := range []struct{ sel, p, has string }{{ns, "pcns.", hasNamespace}, {sa, "pcsa.", hasServiceAccount}} {
		if x.sel == "" {
			continue
		}
		if p := prefix(t, x.sel, x.p); text == "" {
			text = p
		} else {
			text = fmt.Sprintf("(%s) && %s", text, p)
		}
		text = strings.ReplaceAll(text, "all()", x.has)
	}
	return text
}

func spliceNamespaced(t require.TestingT, s, ns, sa string) string {
	text := "projectcalico.org/namespace == '" + ns + "'"
	if s != "" {
		text = fmt.Sprintf("(%s) && %s", s, text)
	}
	if sa != "" {
		text = fmt.Sprintf("(%s) && %s", text, prefix(t, sa, "pcsa."))
	}
	return text
}

func spliceSide(t require.TestingT, namespace string, e hostendpoint.EntityRule) string {
	sa := ""
	if m := e.ServiceAccounts; m != nil {
		if m.Selector != "" {
			sa = prefix(t, m.Selector, "pcsa.")
		}
		if len(m.Names) > 0 {
			s, err := selector.Parse("projectcalico.org/serviceaccount in {'" + strings.Join(m.Names, "', '") + "'}")
			require.NoError(t, err)
			if sa != "" {
				sa = fmt.Sprintf("(%s) && (%s)", sa, s)
			} else {
				sa = s.String()
			}
		}
	}
	text := e.Selector
	switch {
	case sa != "" && text != "":
		text = fmt.Sprintf("(%s) && (%s)", sa, text)
	case sa != "":
		text = sa
	}
	ns := ""
	switch {
	case e.NamespaceSelector != "":
		ns = prefix(t, e.NamespaceSelector, "pcns.")
		ns = strings.ReplaceAll(ns, "all()", hasNamespace)
		ns = strings.ReplaceAll(ns, "global()", "!"+hasNamespace)
	case namespace != "" && (text != "" || e.NotSelector != ""):
		ns = "projectcalico.org/namespace == '" + namespace + "'"
	}
	switch {
	case ns != "" && text != "":
		text = fmt.Sprintf("(%s) && (%s)", ns, text)
	case ns != "":
		text = ns
	}
	return text
}

// genSelector makes texts of selectors, with everything that the rewriting looks for in them.
func genSelector() *rapid.Generator[string] {
	value := rapid.SampledFrom([]string{`"a"`, `'b'`, `""`, `"all()"`, `'global()'`, `"xall()y"`, `'q"q'`, `"it's"`, `"alall()l()"`})
	label := rapid.SampledFrom([]string{"a", "b", "x/y", "all", "has", "global", "in", "pcns.a", "projectcalico.org/namespace"})
	term := rapid.Custom(func(t *rapid.T) string {
		l := label.Draw(t, "label")
		switch rapid.IntRange(0, 9).Draw(t, "term") {
		case 0:
			return "all()"
		case 1:
			return "all( )"
		case 2:
			return "global()"
		case 3:
			return "global(\t)"
		case 4:
			return "has(" + l + ")"
		case 5:
			return l + " in {" + value.Draw(t, "v") + "," + value.Draw(t, "v") + "}"
		case 6:
			return l + " not in { " + value.Draw(t, "v") + ",}"
		case 7:
			return l + rapid.SampledFrom([]string{"!=", " starts with ", " ends with", " contains"}).Draw(t, "op") + value.Draw(t, "v")
		default:
			return l + "==" + value.Draw(t, "v")
		}
	})
	var expr func(depth int) *rapid.Generator[string]
	expr = func(depth int) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			n := 0
			if depth > 0 {
				n = rapid.IntRange(0, 6).Draw(t, "shape")
			}
			sub := func() string { return expr(depth-1).Draw(t, "sub") }
			switch n {
			case 1:
				return "!" + strings.Repeat(" !", rapid.IntRange(0, 2).Draw(t, "nots")) + "(" + sub() + ")"
			case 2:
				return "(" + sub() + ")&&" + sub()
			case 3:
				return sub() + " || " + sub()
			case 4:
				return " " + sub() + "\t"
			case 5:
				return "!" + term.Draw(t, "term")
			default:
				return term.Draw(t, "term")
			}
		})
	}
	return rapid.OneOf(rapid.Just(""), expr(0), expr(2), expr(3))
}

// requireSame compares with spliced text that parses; "" is no selector.
func requireSame(t require.TestingT, text string, got *selector.Selector) {
	if text == "" {
		require.Nil(t, got)
		return
	}
	want, err := selector.Parse(text)
	require.NoError(t, err, text)
	require.NotNil(t, got, text)
	require.Equal(t, want.String(), got.String(), text)
}

func TestRewritingEqualsSplicing(t *testing.T) {
	gen := genSelector()
	name := rapid.SampledFrom([]string{"a", "sa.2", `q"q`, "a } ", "", "all()", "a, b"})
	entity := rapid.Custom(func(t *rapid.T) hostendpoint.EntityRule {
		e := hostendpoint.EntityRule{
			Selector: gen.Draw(t, "selector"), NotSelector: gen.Draw(t, "notSelector"),
			NamespaceSelector: gen.Draw(t, "namespaceSelector"),
		}
		if rapid.Bool().Draw(t, "sa") {
			e.ServiceAccounts = &hostendpoint.ServiceAccountMatch{
				Names: rapid.SliceOfN(name, 0, 3).Draw(t, "names"), Selector: gen.Draw(t, "saSelector"),
			}
		}
		return e
	})
	rapid.Check(t, func(t *rapid.T) {
		s, ns, sa := gen.Draw(t, "s"), gen.Draw(t, "ns"), gen.Draw(t, "sa")
		var gnp hostendpoint.GlobalNetworkPolicy
		gnp.Spec.Selector, gnp.Spec.NamespaceSelector, gnp.Spec.ServiceAccountSelector = s, ns, sa
		got, err := effective.GlobalNetworkPolicy(&gnp)
		require.NoError(t, err)
		if text := spliceGlobal(t, s, ns, sa); text == "" {
			require.Equal(t, "all()", got.String())
		} else {
			requireSame(t, text, &got)
		}

		var np hostendpoint.NetworkPolicy
		np.Metadata.Namespace, np.Spec.Selector, np.Spec.ServiceAccountSelector = "ns.1", s, sa
		got, err = effective.NetworkPolicy(&np)
		require.NoError(t, err)
		requireSame(t, spliceNamespaced(t, s, "ns.1", sa), &got)

		r := hostendpoint.Rule{Source: entity.Draw(t, "src"), Destination: entity.Draw(t, "dst")}
		namespace := rapid.SampledFrom([]string{"", "ns.1"}).Draw(t, "namespace")
		src, dst, err := effective.Rule(namespace, &r)
		require.NoError(t, err)
		requireSame(t, spliceSide(t, namespace, r.Source), src.Pos)
		requireSame(t, spliceSide(t, namespace, r.Destination), dst.Pos)
		requireSame(t, r.Source.NotSelector, src.Neg)
		requireSame(t, r.Destination.NotSelector, dst.Neg)

		sets, _, err := effective.RuleSets(namespace, &r)
		require.NoError(t, err)
		switch {
		case src.Pos != nil && src.Neg != nil:
			text := fmt.Sprintf("(%s) && (!(%s))", spliceSide(t, namespace, r.Source), r.Source.NotSelector)
			require.Len(t, sets.Sets, 1)
			requireSame(t, text, &sets.Sets[0].Selector)
			require.Empty(t, sets.NotSets)
		case src.Neg != nil:
			require.Len(t, sets.NotSets, 1)
			require.Equal(t, src.Neg.ID(), sets.NotSets[0].ID)
			require.Empty(t, sets.Sets)
		case src.Pos != nil:
			require.Len(t, sets.Sets, 1)
			require.Equal(t, src.Pos.ID(), sets.Sets[0].ID)
		default:
			require.Zero(t, len(sets.Sets)+len(sets.NotSets))
		}
	})
}
