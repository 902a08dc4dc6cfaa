// SPDX-License-Identifier: Apache-2.0

package ir_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

func TestValidateFindsFaultsInTexts(t *testing.T) {
	const end = "  rule -> deny by default:web/ingress\n"
	tests := map[string]struct{ text, want string }{
		"an entry that leads nowhere":        {"entry normal-in b\n", `entry normal-in: block "b" does not exist`},
		"an always that leads nowhere":       {"entry normal-in b always c\nblock b\n", `entry normal-in: block "c" does not exist`},
		"two entries of one hook":            {"entry normal-in b\nentry normal-in b\nblock b\n", "hooks are not sorted and unique at 1"},
		"entries out of order":               {"entry normal-in b\nentry prednat b\nblock b\n", "hooks are not sorted and unique at 1"},
		"a default that allows":              {"entry normal-in b default allow\nblock b\n", "default allow has no origin"},
		"settling an earlier hook":           {"entry normal-in b settles prednat\nblock b\n", "settles prednat, which no packet meets behind it"},
		"settling a hook of another path":    {"entry prednat b settles normal-out\nblock b\n", "settles normal-out"},
		"notrack behind conntrack":           {"entry prednat b notrack\nblock b\n", "notrack behind connection tracking"},
		"blocks out of order":                {"block b\nblock a\n", "blocks are not sorted and unique at 1"},
		"two blocks of one name":             {"block b\nblock b\n", "blocks are not sorted and unique at 1"},
		"a block without name":               {"block \"\"\n", "has no name"},
		"sets out of order":                  {"set s:b prefixes\nset s:a prefixes\nmembers s:a\nmembers s:b\n", "sets are not sorted and unique at 1"},
		"a call that leads nowhere":          {"block b\n  call c\n", `block b step 0: block "c" does not exist`},
		"a case that leads nowhere":          {"block b\n  switch iif\n    case a -> call c\n", `block b step 0 case 0: block "c" does not exist`},
		"a case that says nothing":           {"block b\n  switch iif\n    case a -> undecided by workload\n", "leads nowhere"},
		"a block that calls itself":          {"block b\n  call b\n", "block b: calls itself through b"},
		"blocks that call each other":        {"block a\n  call b\nblock b\n  switch iif\n    case x -> call a\n", "calls itself through a"},
		"a decision without origin":          {"block b\n  rule -> deny\n", "block b step 0: has no origin"},
		"a log without origin":               {"block b\n  rule log\n", "has no origin"},
		"a case without origin":              {"block b\n  switch iif\n    case a -> deny\n", "step 0 case 0: has no origin"},
		"cases out of order":                 {"block b\n  switch dport\n    case 2 -> deny by workload\n    case 1 -> deny by workload\n", "cases are not sorted and unique at 1"},
		"cases that overlap":                 {"block b\n  switch dport\n    case 1-5 -> deny by workload\n    case 3 -> deny by workload\n", "cases 0 and 1 overlap"},
		"boxes that overlap in every field":  {"block b\n  switch sport,dport\n    case 1-5 1-5 -> deny by workload\n    case 2-6 5-9 -> deny by workload\n", "cases 0 and 1 overlap"},
		"a key that occurs twice":            {"block b\n  switch dport,dport\n", "dport occurs twice in the key"},
		"a family that does not exist":       {"block b\n  switch family\n    case 5 -> deny by workload\n", "there is no family 5"},
		"a protocol above 255":               {"block b\n  switch icmp-type\n    case 0x00000000000000000000000000000100-0x00000000000000000000000000000100 -> deny by workload\n", "is not a value of icmp-type"},
		"an interval that is empty":          {"block b\n  switch src\n    case 10.0.0.2-10.0.0.1 -> deny by workload\n", "the interval of src is empty"},
		"ports out of order":                 {"block b\n  rule dport=2,1\n", "dport=2,1 is not a list of sorted ports"},
		"ports that touch":                   {"block b\n  rule dport=1-2,3\n", "is not a list of sorted ports"},
		"no ports":                           {"block b\n  rule dport=\n", "is not a list of sorted ports"},
		"prefixes that could be fewer":       {"block b\n  rule src=10.0.0.0/9,10.128.0.0/9\n", "as few as possible"},
		"a prefix with host bits":            {"block b\n  rule src=10.0.0.1/8\n", "as few as possible"},
		"a prefix that is IPv4-mapped":       {"block b\n  rule src=::ffff:10.0.0.0/104\n", "as few as possible"},
		"names out of order":                 {"block b\n  rule iif=b,a\n", "names are not sorted and unique at 1"},
		"no names":                           {"block b\n  rule iif=\n", "has no names"},
		"a name that is too long":            {"block b\n  rule iif=abcdefghijklmnop\n", "is not the name of an interface"},
		"a mask of nothing":                  {"block b\n  rule state=\n", "has no values"},
		"a mask with an unknown state":       {"block b\n  rule state=7\n", "values that the field cannot have"},
		"a mask with family 5":               {"block b\n  rule family=5\n", "values that the field cannot have"},
		"a set that is not declared":         {"block b\n  rule src=@s:1\n", `set "s:1" is not declared`},
		"a set asked for the wrong fields":   {"set s:1 prefixes\nblock b\n  rule src.protocol.sport=@s:1\nmembers s:1\n", "do not fit a set of prefixes"},
		"a set of endpoints asked for less":  {"set s:1 endpoints\nblock b\n  rule src=@s:1\nmembers s:1\n", "do not fit a set of endpoints"},
		"source address, destination port":   {"set s:1 endpoints\nblock b\n  rule src.protocol.dport=@s:1\nmembers s:1\n", "do not fit a set of endpoints"},
		"a set without members":              {"set s:1 prefixes\n", "members s:1: missing"},
		"members of no set":                  {"members s:1\n", "the set is not declared"},
		"elements out of order":              {"set s:1 prefixes\nmembers s:1\n  10.0.0.2\n  10.0.0.1\n", "elements are not sorted and unique at 1"},
		"an element twice":                   {"set s:1 prefixes\nmembers s:1\n  10.0.0.2\n  10.0.0.2\n", "elements are not sorted and unique at 1"},
		"an element with host bits":          {"set s:1 prefixes\nmembers s:1\n  10.0.0.2/8\n", "not a masked prefix"},
		"an element that is IPv4-mapped":     {"set s:1 prefixes\nmembers s:1\n  ::ffff:10.0.0.2\n", "not a masked prefix"},
		"an element with a port too many":    {"set s:1 prefixes\nmembers s:1\n  10.0.0.2 tcp 80\n", "has no protocols and ports"},
		"an element with a port missing":     {"set s:1 endpoints\nmembers s:1\n  10.0.0.2\n", "has no protocol"},
		"an endpoint that is a net":          {"set s:1 endpoints\nmembers s:1\n  10.0.0.0/8 tcp 80\n", "is not a single address"},
		"an endpoint that may not decide":    {"block endpoint/web/normal-in\n  rule dport=1 -> deny by default:web/ingress\n", "an endpoint must not end without a decision"},
		"an endpoint whose last call passes": {"block endpoint/web/normal-in\n  call t resume pass\nblock t\n  rule -> pass by tier:t/ingress\n", "an endpoint must not end without a decision"},
		"a failsafe behind a policy": {"block endpoint/web/normal-in\n  rule dport=1 -> allow by policy:t/p/ingress[0]\n  rule dport=22 -> allow by failsafe:in/tcp/22\n" + end,
			"block endpoint/web/normal-in: failsafe:in/tcp/22 stands behind policy:t/p/ingress[0]"},
		"a failsafe behind a policy that is called": {"block a\n  rule -> deny by tier:t/ingress\nblock endpoint/web/normal-in\n  call a\n  rule -> allow by failsafe:nd\n",
			"failsafe:nd stands behind tier:t/ingress"},
		"a failsafe for forwarding": {"entry forward-in endpoint/web/x\nblock endpoint/web/x\n  rule -> allow by failsafe:nd\n", "has the failsafe failsafe:nd: forwarding has none"},
		"an endpoint that lacks a failsafe": {"entry normal-in h\nblock endpoint/a/x\n  rule protocol=6 -> allow by failsafe:in/tcp/22\n" + end + "block endpoint/b/x\n" + end +
			"block h\n  switch iif\n    case a -> call endpoint/a/x\n    case b -> call endpoint/b/x\n",
			"entry normal-in: endpoint/a/x and endpoint/b/x have different failsafes"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, m := parse(t, tt.text)
			require.ErrorContains(t, ir.Validate(p, m), tt.want)
		})
	}
}

// What no text says.
func TestValidateFindsFaultsInValues(t *testing.T) {
	deny := ir.Rule{Then: ir.Deny, Origin: 1}
	origins := []flow.Origin{{Kind: flow.OriginWorkload}}
	steps := func(s ...ir.Step) *ir.Program {
		return &ir.Program{Blocks: []ir.Block{{ID: "b", Steps: s}}, Origins: origins}
	}
	term := func(t ir.Term) *ir.Program { return steps(ir.Rule{Match: ir.Match{{t}}}) }
	one := []ir.Interval{ir.Exactly(ir.Number(uint8(1)))}
	tests := map[string]struct {
		p    *ir.Program
		want string
	}{
		"no program":               {nil, "is nil"},
		"a nil step":               {steps(nil), "unknown step"},
		"a nil term":               {term(nil), "unknown term"},
		"an unknown outcome":       {steps(ir.Rule{Then: 9, Origin: 1}), "unknown outcome(9)"},
		"an unknown effect":        {steps(ir.Rule{Do: []ir.Effect{9}, Origin: 1}), "unknown effect(9)"},
		"an unknown resume":        {steps(ir.Call{Block: "b", Resume: 1 << 6}), "unknown outcome(6)"},
		"an unknown default":       {&ir.Program{Entries: []ir.Entry{{Hook: flow.PreDNAT, Block: "b", Default: 9}}, Blocks: []ir.Block{{ID: "b"}}}, "unknown outcome(9)"},
		"an unknown hook":          {&ir.Program{Entries: []ir.Entry{{Hook: 12, Block: "b"}}, Blocks: []ir.Block{{ID: "b"}}}, "unknown hook"},
		"an unknown hook settled":  {&ir.Program{Entries: []ir.Entry{{Hook: flow.PreDNAT, Block: "b", Settles: 1 << 15}}, Blocks: []ir.Block{{ID: "b"}}}, "settles hook(15)"},
		"an unknown kind of set":   {&ir.Program{Sets: []ir.SetDecl{{ID: "s"}}}, "unknown kind(0)"},
		"a set without name":       {&ir.Program{Sets: []ir.SetDecl{{Kind: ir.SetOfPrefixes}}}, "has no name"},
		"an origin that is none":   {&ir.Program{Origins: []flow.Origin{{}}}, "has no canonical text"},
		"an origin of many parts":  {&ir.Program{Origins: []flow.Origin{{Kind: flow.OriginTier, Tier: "a", Name: "b"}}}, "has no canonical text"},
		"an origin twice":          {&ir.Program{Origins: []flow.Origin{origins[0], origins[0]}}, "workload occurs twice"},
		"an origin out of range":   {steps(ir.Rule{Then: ir.Deny, Origin: 2}), "origin 2 does not exist"},
		"a call's origin, too":     {steps(deny, ir.Call{Block: "b", Origin: 7}), "origin 7 does not exist"},
		"an unknown key":           {steps(ir.Switch{Key: []ir.Field{0}}), "unknown field(0)"},
		"no key":                   {steps(ir.Switch{}), "switch without key"},
		"a key of two for one":     {steps(ir.Switch{Key: []ir.Field{ir.Protocol}, Cases: []ir.Case{{Key: append(one, one...), Then: ir.Target{Outcome: ir.Deny}, Origin: 1}}}), "has 2 keys for 1 fields"},
		"a case that leads twice":  {steps(ir.Switch{Key: []ir.Field{ir.Protocol}, Cases: []ir.Case{{Key: one, Then: ir.Target{Outcome: ir.Deny, Block: "b"}, Origin: 1}}}), "leads to a block and to an outcome"},
		"ports of an address":      {term(ir.InPorts{Field: ir.SrcAddr, Ranges: []inet.PortRange{{Min: 1, Max: 2}}}), "src has no ports"},
		"a port range upside down": {term(ir.InPorts{Field: ir.SrcPort, Ranges: []inet.PortRange{{Min: 2, Max: 1}}}), "is not a list of sorted ports"},
		"prefixes of a port":       {term(ir.InPrefixes{Field: ir.SrcPort, Prefixes: []netip.Prefix{netip.MustParsePrefix("::/0")}}), "sport has no prefixes"},
		"an invalid prefix":        {term(ir.InPrefixes{Field: ir.SrcAddr, Prefixes: []netip.Prefix{{}}}), "as few as possible"},
		"names of a protocol":      {term(ir.InNames{Field: ir.Protocol, Names: []ir.NamePattern{{Name: "tcp"}}}), "protocol has no names"},
		"a mask of a port":         {term(ir.InMask{Field: ir.DstPort, Mask: ir.MaskOf[uint8](1)}), "dport has no small numbers"},
		"a mask of no field":       {term(ir.InMask{Mask: ir.MaskOf[uint8](1)}), "field(0) has no small numbers"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			require.ErrorContains(t, ir.Validate(tt.p, ir.Members{}), tt.want)
			_, err := ir.NewInterpreter(tt.p, ir.Members{})
			require.Error(t, err)
			if tt.p != nil {
				require.NotPanics(t, func() { _ = tt.p.String() })
				require.NotPanics(t, func() { _ = ir.Canonical(tt.p).String() })
			}
		})
	}
}

func TestValidateCollectsEverything(t *testing.T) {
	p, m := parse(t, "entry normal-in a\nblock b\n  rule -> deny\n  call c\n  rule dport=2,1\n")
	err := ir.Validate(p, m)
	joined, ok := err.(interface{ Unwrap() []error })
	require.True(t, ok)
	require.Len(t, joined.Unwrap(), 4)
	var f *ir.Fault
	require.ErrorAs(t, joined.Unwrap()[1], &f)
	require.Equal(t, &ir.Fault{Where: "block b step 0", Reason: "has no origin"}, f)
}

func TestCallsMayBeSoManyBlocksDeep(t *testing.T) {
	chain := func(n int) *ir.Program {
		p := &ir.Program{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b10"}}}
		for i := range n {
			b := ir.Block{ID: ir.BlockID(fmt.Sprintf("b%d", 10+i))}
			if i+1 < n {
				b.Steps = []ir.Step{ir.Call{Block: ir.BlockID(fmt.Sprintf("b%d", 11+i))}}
			}
			p.Blocks = append(p.Blocks, b)
		}
		return p
	}
	require.NoError(t, ir.Validate(chain(ir.MaxDepth), ir.Members{}))
	require.ErrorContains(t, ir.Validate(chain(ir.MaxDepth+1), ir.Members{}), "calls are 17 blocks deep")
}

// A small universe with boxes in three dimensions, against a comparison of all pairs.
func TestOverlapIsFoundExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := ir.Switch{Key: []ir.Field{ir.Protocol, ir.ICMPType, ir.ICMPCode}}
		for range rapid.IntRange(0, 8).Draw(t, "cases") {
			c := ir.Case{Then: ir.Target{Outcome: ir.Deny}, Origin: 1}
			for range s.Key {
				lo := rapid.Uint8Range(0, 5).Draw(t, "lo")
				c.Key = append(c.Key, ir.Interval{Lo: ir.Number(lo), Hi: ir.Number(rapid.Uint8Range(lo, 5).Draw(t, "hi"))})
			}
			s.Cases = append(s.Cases, c)
		}
		slices.SortFunc(s.Cases, ir.CompareCases)
		want := false
		for i, a := range s.Cases {
			want = want || slices.ContainsFunc(s.Cases[i+1:], func(b ir.Case) bool { return overlapping(a, b) })
		}
		p := &ir.Program{Blocks: []ir.Block{{ID: "b", Steps: []ir.Step{s}}}, Origins: []flow.Origin{{Kind: flow.OriginND}}}
		if err := ir.Validate(p, ir.Members{}); (err != nil) != want {
			t.Fatalf("overlap is %v, but %v in\n%s", want, err, p)
		}
	})
}

// Outcomes may say too much, never too little.
func TestOutcomesHoldWhatBlocksDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := programGen().Draw(t, "program")
		in, err := ir.NewInterpreter(p, membersOf(t, p))
		if err != nil {
			t.Fatal(err)
		}
		may := ir.Outcomes(p)
		for range 5 {
			for _, h := range in.Explain(packetGen().Draw(t, "packet")).Hooks {
				e, _ := p.Entry(h.Hook)
				if got := h.Outcome; e.Always == "" && got != e.Default && !may[e.Block].Has(got) {
					t.Fatalf("%s of %s is not in %s\n%s", got, e.Block, may[e.Block], p)
				}
			}
		}
	})
}
