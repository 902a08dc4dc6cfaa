// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
	"github.com/hostpolicy/hostpolicy/render/iptables"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// options returns the options that a number stands for.
func options(n uint64) iptables.Options {
	return iptables.Options{
		Events: iptables.Events(n % 3), AllowAction: iptables.AllowAction(n / 3 % 2), DenyAction: render.DenyAction(n / 6 % 2),
		Insert: iptables.InsertMode(n / 12 % 2),
	}
}

// TestRulesetsKeepTheLimitsOfTheKernel looks at everything that the kernel or the tools refuse.
func TestRulesetsKeepTheLimitsOfTheKernel(t *testing.T) {
	for seed := range uint64(24) {
		p, m := rendertest.Program(seed, rendertest.Size{})
		r, err := iptables.RenderSized(p, m, options(seed), 4, 2)
		require.NoError(t, err, "seed %d", seed)
		sets := map[string]bool{}
		for i, s := range r.Sets {
			require.False(t, sets[s.Name], "two sets %s", s.Name)
			sets[s.Name] = true
			require.True(t, iptables.OwnsSet(r.Prefix, s.Name), s.Name)
			require.LessOrEqual(t, len(s.Name), iptables.MaxSetName)
			require.LessOrEqual(t, len(s.Elements), s.Max)
			require.True(t, i == 0 || r.Sets[i-1].Name < s.Name, "sets are not sorted")
			for j, e := range s.Elements {
				require.NotZero(t, e.Prefix.Bits(), "%s holds %s", s.Name, e.Prefix)
				require.Equal(t, s.Family == inet.IPv4, e.Prefix.Addr().Is4())
				require.True(t, j == 0 || ir.CompareElements(s.Elements[j-1], e) < 0, "elements of %s are not sorted", s.Name)
			}
		}
		used := map[string]bool{}
		for ti := range r.Tables {
			tab := &r.Tables[ti]
			depth := map[string]int{}
			var down func(string) int
			down = func(name string) int {
				if depth[name] > 0 {
					return depth[name]
				}
				c, ok := tab.Chain(name)
				require.True(t, ok, "%s does not exist", name)
				d := 0
				for _, rule := range c.Rules {
					if v, ok := rule.Target.(iptables.Verdict); ok && v.Chain != "" {
						d = max(d, down(v.Chain))
					}
				}
				depth[name] = d + 1
				return d + 1
			}
			for _, h := range tab.Hooks {
				require.Equal(t, r.Prefix+h.Kernel, h.Chain)
				require.LessOrEqual(t, down(h.Root)+2, iptables.MaxDepth)
			}
			for i, c := range tab.Chains {
				require.True(t, i == 0 || tab.Chains[i-1].Name < c.Name, "chains are not sorted")
				require.LessOrEqual(t, len(c.Name), iptables.MaxChain)
				require.True(t, iptables.OwnsChain(r.Prefix, c.Name), c.Name)
				require.Contains(t, depth, c.Name, "nothing leads to a chain")
				for _, rule := range c.Rules {
					checkRule(t, tab, rule, used)
				}
			}
		}
		require.Equal(t, sets, used, "seed %d: sets and their uses", seed)
	}
}

func checkRule(t *testing.T, tab *iptables.Table, r iptables.Rule, used map[string]bool) {
	t.Helper()
	text := r.String()
	require.NotContains(t, text, "--unknown")
	require.NotContains(t, text, "UNKNOWN")
	require.LessOrEqual(t, len(r.Comment), 255)
	basic := map[reflect.Type]bool{}
	proto := inet.Protocol(0)
	for _, x := range r.Tests {
		switch x := x.(type) {
		case iptables.Source, iptables.Destination, iptables.InIface, iptables.OutIface, iptables.SourcePort, iptables.DestinationPort:
			require.False(t, basic[reflect.TypeOf(x)], "%s has two of one kind", text)
			basic[reflect.TypeOf(x)] = true
		case iptables.Protocol:
			require.False(t, basic[reflect.TypeOf(x)], "%s has two of one kind", text)
			basic[reflect.TypeOf(x)] = true
			require.NotZero(t, x.Number)
			if !x.Not {
				proto = x.Number
			}
		case iptables.MultiPort:
			n := 0
			for _, p := range x.Ranges {
				n++
				if p.Min != p.Max {
					n++
				}
			}
			require.LessOrEqual(t, n, 15, text)
			require.NotZero(t, proto, text)
		case iptables.ICMP:
			require.NotZero(t, proto, text)
		case iptables.InSet:
			used[x.Set] = true
		}
	}
	switch x := r.Target.(type) {
	case iptables.Log:
		require.LessOrEqual(t, len(x.Prefix), 63)
		_, ok := flow.ParseLogPrefix(x.Prefix)
		require.True(t, ok, x.Prefix)
	case iptables.Reject:
		require.Equal(t, iptables.Filter, tab.Name)
	case iptables.Untrack:
		require.Equal(t, iptables.Raw, tab.Name)
	case iptables.Verdict:
		require.LessOrEqual(t, x.Op, iptables.Goto)
	}
	if r.Origin != nil {
		k, ok := iptables.CommentKey(r.Comment)
		require.True(t, ok, text)
		require.Equal(t, r.Origin.Key(), k)
	} else {
		_, ok := iptables.CommentKey(r.Comment)
		require.False(t, ok, "%s names an origin that it does not decide by", text)
	}
}

func TestRenderIsDeterministic(t *testing.T) {
	for seed := range uint64(6) {
		p, m := rendertest.Program(seed, rendertest.Size{})
		var first string
		for range 10 {
			r, err := iptables.Render(p, m, options(seed))
			require.NoError(t, err)
			if first == "" {
				first = r.String()
			}
			require.Equal(t, first, r.String())
		}
	}
}

// TestEveryVariantHasAText finds the variants of the sealed interfaces in the source.
func TestEveryVariantHasAText(t *testing.T) {
	known := map[string]string{}
	for _, x := range []iptables.Test{
		iptables.Source{}, iptables.Destination{}, iptables.InIface{}, iptables.OutIface{}, iptables.Protocol{}, iptables.SourcePort{},
		iptables.DestinationPort{}, iptables.MultiPort{}, iptables.ICMP{}, iptables.Bytes{}, iptables.State{}, iptables.Translated{},
		iptables.Mark{}, iptables.InSet{},
	} {
		known[reflect.TypeOf(x).Name()] = iptables.AppendTest(x)
	}
	for _, x := range []iptables.Target{iptables.Verdict{}, iptables.SetMark{}, iptables.Log{}, iptables.Untrack{}, iptables.Reject{}} {
		known[reflect.TypeOf(x).Name()] = iptables.Rule{Target: x}.String()
	}
	f, err := parser.ParseFile(token.NewFileSet(), "rule.go", nil, 0)
	require.NoError(t, err)
	n := 0
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv == nil || fn.Name.Name != "isTest" && fn.Name.Name != "isTarget" {
			continue
		}
		n++
		name := fn.Recv.List[0].Type.(*ast.Ident).Name
		text, ok := known[name]
		require.True(t, ok, "%s is not in this test", name)
		require.NotContains(t, strings.ToLower(text), "unknown", name)
	}
	require.Equal(t, n, len(known))
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]iptables.Options{
		"a prefix without hyphen":        {Prefix: "hp"},
		"a prefix with an inner hyphen":  {Prefix: "h-p-"},
		"a long prefix":                  {Prefix: "hostpol-"},
		"a prefix with a capital letter": {Prefix: "Hp-"},
		"an unknown allow action":        {AllowAction: 2},
		"an unknown deny action":         {DenyAction: 2},
		"an unknown insert mode":         {Insert: 2},
		"an unknown selection of events": {Events: 3},
		"a negative limit":               {MaxSet: -1},
	} {
		_, err := iptables.Render(&ir.Program{}, ir.Members{}, o)
		require.Error(t, err, name)
	}
	_, err := iptables.Render(nil, ir.Members{}, iptables.Options{})
	require.Error(t, err)
}

// TestWhatCannotBeExpressedIsAnError checks that there is never a ruleset that means something else.
func TestWhatCannotBeExpressedIsAnError(t *testing.T) {
	iface := func(name string) *ir.Program {
		return &ir.Program{
			Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b"}},
			Blocks: []ir.Block{{ID: "b", Steps: []ir.Step{ir.Rule{
				Match: ir.Match{{ir.InNames{Field: ir.InIface, Names: []ir.NamePattern{{Name: name}}}}}, Then: ir.Deny, Origin: 1,
			}}}},
			Origins: []flow.Origin{{Kind: flow.OriginPolicy, Tier: "t", Name: "p", Pos: field.Pos{File: "a.yaml", Line: 3}}},
		}
	}
	var ue *render.UnsupportedError
	for _, name := range []string{"eth+", "a b", `a"b`, "!x", "-x", "é"} {
		_, err := iptables.Render(iface(name), ir.Members{}, iptables.Options{})
		require.ErrorAs(t, err, &ue, name)
		require.Equal(t, "policy:t/p/ingress[0]", ue.Origin.String())
		require.ErrorContains(t, err, "a.yaml:3")
	}
	for _, name := range []string{"eth0", "eth0.10", "br-lan", "a+b", "veth@if3"} {
		_, err := iptables.Render(iface(name), ir.Members{}, iptables.Options{})
		require.NoError(t, err, name)
	}
	p, m := compiled(t, "stages")
	_, err := iptables.Render(p, m, iptables.Options{MarkMask: 1})
	require.ErrorAs(t, err, &ue)
	p, m = compiled(t, "simple")
	_, err = iptables.Render(p, m, iptables.Options{MaxSet: 1})
	require.NoError(t, err)
	m.Sets[0].Elements = append(m.Sets[0].Elements, ir.Element{Prefix: netip.MustParsePrefix("10.9.0.4/32")})
	_, err = iptables.Render(p, m.Canonical(), iptables.Options{MaxSet: 1})
	require.ErrorAs(t, err, &ue)

	for _, broken := range []*ir.Program{
		{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "gone"}}},
		{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b", Default: ir.Deny}}, Blocks: []ir.Block{{ID: "b"}}},
		{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b", Settles: flow.HooksOf(flow.PreDNAT)}}, Blocks: []ir.Block{{ID: "b"}}},
		{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b", NoTrack: true}}, Blocks: []ir.Block{{ID: "b"}}},
		{Blocks: []ir.Block{{ID: "b", Steps: []ir.Step{ir.Call{Block: "b"}}}}},
		{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b"}}, Blocks: []ir.Block{{ID: "b", Steps: []ir.Step{ir.Rule{Then: 9}}}}},
		{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b"}}, Blocks: []ir.Block{{ID: "b", Steps: []ir.Step{ir.Rule{Do: []ir.Effect{9}}}}}},
		{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b"}}, Blocks: []ir.Block{{ID: "b", Steps: []ir.Step{nil}}}},
		{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b"}}, Blocks: []ir.Block{{ID: "b", Steps: []ir.Step{ir.Switch{}}}}},
		{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b"}}, Blocks: []ir.Block{{ID: "b", Steps: []ir.Step{ir.Rule{Match: ir.Match{{nil}}, Then: ir.Deny}}}}},
		{Sets: []ir.SetDecl{{ID: "s"}}},
	} {
		_, err := iptables.Render(broken, ir.Members{}, iptables.Options{})
		require.Error(t, err, "%+v", broken)
		require.False(t, errors.As(err, &ue))
	}
}

func TestNamesTellInstancesAndSetsApart(t *testing.T) {
	require.True(t, iptables.OwnsChain("hp-", "hp-INPUT"))
	require.True(t, iptables.OwnsChain("hp-", "hp-web-abcdefghijkm"))
	for _, name := range []string{"hp-", "hp-web", "hp-x-INPUT", "hpx-INPUT", "hp-web-abcdefghijkl", "hp-web-abcdefghijk", "INPUT", "hp-web-x-abcdefghijkm"} {
		require.False(t, iptables.OwnsChain("hp-", name), name)
	}
	require.False(t, iptables.OwnsSet("hp-", "hpx-4s:a"))
	require.False(t, iptables.OwnsSet("hp-", "hp-x"))

	rapid.Check(t, func(t *rapid.T) {
		a := ir.SetID(rapid.StringMatching(`[a-z]{1,3}[:~@= ][a-zA-Z0-9_@~-]{0,40}`).Draw(t, "a"))
		b := ir.SetID(rapid.StringMatching(`[a-z]{1,3}[:~@= ][a-zA-Z0-9_@~-]{0,40}`).Draw(t, "b"))
		x, y := iptables.SetName("hp-", a, inet.IPv4), iptables.SetName("hp-", b, inet.IPv4)
		if (a == b) != (x == y) || len(x) > iptables.MaxSetName || strings.ContainsAny(x, " @=") {
			t.Fatalf("%q and %q are %q and %q", a, b, x, y)
		}
	})
}

func TestCommentsCannotBreakOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := flow.Origin{
			Kind: flow.OriginPolicy, Tier: rapid.String().Draw(t, "tier"), Name: rapid.String().Draw(t, "name"),
			Pos: field.Pos{File: rapid.String().Draw(t, "file"), Line: 1},
		}
		c := iptables.Comment(o)
		if len(c) > 255 || strings.ContainsAny(c, "\"\\'`\n") {
			t.Fatalf("comment %q", c)
		}
		if k, ok := iptables.CommentKey(c); !ok || k != o.Key() {
			t.Fatalf("%q has key %v, %v, not %v", c, k, ok, o.Key())
		}
	})
}

func TestRefillIsRender(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64Range(0, 12).Draw(t, "seed")
		p, m := rendertest.Program(seed, rendertest.Size{})
		r, err := iptables.Render(p, m, iptables.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			q := ir.Members{Sets: slices.Clone(m.Sets)}
			for i := range q.Sets {
				if rapid.Bool().Draw(t, "change") {
					q.Sets[i].Elements = rendertest.Elements(rapid.Uint64().Draw(t, "elements"), kindOf(p, q.Sets[i].ID))
				}
			}
			r2, err := r.Refill(q)
			if err != nil {
				t.Fatal(err)
			}
			want, err := iptables.Render(p, q, iptables.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if r2.String() != want.String() || r2.Fingerprint() != want.Fingerprint() {
				t.Fatalf("%s\nis not\n%s", r2, want)
			}
			if same := r.String() == r2.String(); same != (r.Fingerprint() == r2.Fingerprint()) || same != iptables.Diff(r, r2).Empty() {
				t.Fatal("text, fingerprint and difference disagree")
			}
			r, m = r2, q
		}
	})
}

// TestRefillOfOneSet makes many small changes of a large set.
func TestRefillOfOneSet(t *testing.T) {
	p, m := rendertest.Large(10, 0)
	rapid.Check(t, func(t *rapid.T) {
		element := rapid.Custom(func(t *rapid.T) ir.Element {
			bits := rapid.SampledFrom([]int{0, 1, 24, 31, 32}).Draw(t, "bits")
			b := rapid.SliceOfN(rapid.ByteRange(0, 3), 4, 4).Draw(t, "address")
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte(b)), bits)
			if rapid.Bool().Draw(t, "six") {
				p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0: b[0] << 6, 15: b[3]}), 96+bits)
			}
			return ir.Element{Prefix: p.Masked()}
		})
		m := m
		r, err := iptables.Render(p, m, iptables.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for range 8 {
			es := slices.Clone(m.Sets[0].Elements)
			for range rapid.IntRange(0, 3).Draw(t, "changes") {
				if len(es) > 0 && rapid.IntRange(0, 3).Draw(t, "remove") == 0 {
					i := rapid.IntRange(0, len(es)-1).Draw(t, "which")
					es = slices.Delete(es, i, i+1)
				} else {
					es = append(es, rapid.SliceOfN(element, 1, 4).Draw(t, "elements")...)
				}
			}
			m = ir.Members{Sets: []ir.SetMembers{{ID: "s:all", Elements: es}}}.Canonical()
			if r, err = r.Refill(m); err != nil {
				t.Fatal(err)
			}
			want, err := iptables.Render(p, m, iptables.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if r.String() != want.String() || r.Fingerprint() != want.Fingerprint() {
				t.Fatalf("%s\nis not\n%s", r, want)
			}
		}
	})
}

func kindOf(p *ir.Program, id ir.SetID) ir.SetKind {
	for _, s := range p.Sets {
		if s.ID == id {
			return s.Kind
		}
	}
	return 0
}

func TestDiffTurnsOneRulesetIntoAnother(t *testing.T) {
	for seed := range uint64(20) {
		p, m := rendertest.Program(seed, rendertest.Size{})
		q, n := rendertest.Program(seed+1, rendertest.Size{})
		a, err := iptables.Render(p, m, iptables.Options{})
		require.NoError(t, err)
		b, err := iptables.Render(q, n, iptables.Options{})
		require.NoError(t, err)
		d := iptables.Diff(a, b)
		for _, c := range d.Tables {
			x, _ := a.Table(c.Family, c.Name)
			have := map[string]string{}
			if x != nil {
				for i := range x.Chains {
					have[x.Chains[i].Name] = string(x.Chains[i].AppendText(nil))
				}
			}
			for _, k := range c.Removed {
				require.Contains(t, have, k.Name)
				delete(have, k.Name)
			}
			for i := range c.Added {
				require.NotContains(t, have, c.Added[i].Name)
				have[c.Added[i].Name] = string(c.Added[i].AppendText(nil))
			}
			want := map[string]string{}
			if y, ok := b.Table(c.Family, c.Name); ok {
				for i := range y.Chains {
					want[y.Chains[i].Name] = string(y.Chains[i].AppendText(nil))
				}
			}
			require.Equal(t, want, have)
		}
		require.True(t, iptables.Diff(a, a).Empty())
		require.Equal(t, iptables.Diff(nil, a).String() == "", a.String() == "# ipset\n")
	}
}

func TestElements(t *testing.T) {
	e := func(s string) ir.Element { return ir.Element{Prefix: netip.MustParsePrefix(s)} }
	in := []ir.Element{e("0.0.0.0/0"), e("10.0.0.0/8"), e("10.1.0.0/16"), e("::/0"), e("::ffff:1.2.3.0/120"), e("fd00::/8")}
	require.Equal(t, []ir.Element{e("0.0.0.0/1"), e("1.2.3.0/24"), e("10.0.0.0/8"), e("10.1.0.0/16"), e("128.0.0.0/1")}, iptables.Elements(in, ir.SetOfPrefixes, inet.IPv4))
	require.Equal(t, []ir.Element{e("::/1"), e("8000::/1"), e("fd00::/8")}, iptables.Elements(in, ir.SetOfPrefixes, inet.IPv6))
	ep := func(p inet.Protocol) ir.Element {
		return ir.Element{Prefix: netip.MustParsePrefix("10.0.0.1/32"), Protocol: p, Port: 1}
	}
	require.Equal(t, []ir.Element{ep(inet.TCP), ep(inet.SCTP)}, iptables.Elements([]ir.Element{ep(inet.ICMP), ep(inet.TCP), ep(inet.SCTP)}, ir.SetOfEndpoints, inet.IPv4),
		"an ICMP message would be found by its type")
}

func TestUsesFollowTheOutcome(t *testing.T) {
	in := func(id ir.SetID, not bool) ir.Match {
		return ir.Match{{ir.InSet{Fields: []ir.Field{ir.SrcAddr}, Set: id, Not: not}}}
	}
	p := &ir.Program{
		Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b"}},
		Origins: []flow.Origin{{Kind: flow.OriginWorkload}},
	}
	b := ir.Block{ID: "b"}
	want := map[ir.SetID]iptables.Use{}
	for id, x := range map[ir.SetID]struct {
		then ir.Outcome
		not  bool
		use  iptables.Use
	}{
		"a": {ir.Allow, false, iptables.Opens}, "b": {ir.Deny, false, iptables.Closes}, "c": {ir.Allow, true, iptables.Closes},
		"d": {ir.Deny, true, iptables.Opens}, "e": {ir.Pass, false, iptables.Ambiguous},
	} {
		p.Sets = append(p.Sets, ir.SetDecl{ID: id, Kind: ir.SetOfPrefixes})
		b.Steps = append(b.Steps, ir.Rule{Match: in(id, x.not), Then: x.then, Origin: 1})
		want[id] = x.use
	}
	p.Blocks = []ir.Block{b}
	r, err := iptables.Render(p, ir.Members{}, iptables.Options{})
	require.NoError(t, err)
	got := map[ir.SetID]iptables.Use{}
	for _, s := range r.Sets {
		got[s.ID] = s.Use
	}
	require.Equal(t, want, got)
}

func ExampleRender() {
	p, _, err := ir.Parse(`entry normal-in hook/normal-in

block hook/normal-in
  rule iif=eth0 protocol=tcp dport=80,8000-8080 src=10.0.0.0/8 -> allow by policy:default/web/ingress[0]
  rule iif=eth0 -> deny by tier:default/ingress
`)
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := iptables.Render(p, ir.Members{}, iptables.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	t, _ := r.Table(inet.IPv4, iptables.Filter)
	c, _ := t.Chain(t.Hooks[0].Root)
	for _, rule := range c.Rules {
		fmt.Println(rule)
	}
	// Output:
	// -s 10.0.0.0/8 -i eth0 -p tcp -m multiport --dports 80,8000:8080 -m comment --comment "d82fa0d100a2d782 policy:default/web/ingress[0]" -j ACCEPT
	// -i eth0 -m comment --comment "a6ac444d26484888 tier:default/ingress" -j DROP
}
