// SPDX-License-Identifier: Apache-2.0

package pass_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/pass"
)

// The universe of the generated programs: prefixes nest, ports lie at the ends of ranges.
var (
	prefixes = []string{
		"10.0.0.0/8", "10.1.0.0/16", "10.1.1.0/24", "10.1.1.1/32", "10.2.0.0/16", "0.0.0.0/0", "192.0.2.0/25", "192.0.2.128/25",
		"fd00::/8", "fd00:1::/32", "fd00:1::1/128", "::/0", "::ffff:0:0/90",
	}
	addresses = []string{"10.1.1.1", "10.1.1.2", "10.2.0.1", "192.0.2.1", "192.0.2.200", "8.8.8.8", "fd00:1::1", "fd00:2::1", "2001:db8::1"}
	ports     = []uint16{0, 22, 80, 443, 8080, 65535}
	protocols = []inet.Protocol{inet.TCP, inet.UDP, inet.ICMP, inet.ICMPv6, 47}
)

func universe() []flow.Packet {
	var ps []flow.Packet
	for i, s := range addresses {
		for j, d := range addresses {
			src, dst := netip.MustParseAddr(s), netip.MustParseAddr(d)
			if src.Is4() != dst.Is4() || i%3 == 2 && j%2 == 1 {
				continue
			}
			for _, proto := range protocols {
				p := flow.Packet{Path: flow.Input, In: "eth0", Protocol: proto, Src: src, Dst: dst}
				switch {
				case proto == inet.TCP || proto == inet.UDP:
					for _, dp := range ports {
						for _, sp := range []uint16{22, 443, 65535} {
							p.SrcPort, p.DstPort = sp, dp
							ps = append(ps, p)
						}
					}
				case proto == inet.ICMP && src.Is4(), proto == inet.ICMPv6 && src.Is6():
					for _, ty := range []uint8{0, 8, 135} {
						p.ICMPType = ty
						ps = append(ps, p)
					}
				default:
					ps = append(ps, p)
				}
			}
		}
	}
	return ps
}

var packets = universe()

func drawPrefixes(t *rapid.T) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range rapid.SliceOfN(rapid.SampledFrom(prefixes), 1, 3).Draw(t, "prefixes") {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ir.MergePrefixes(ps)
}

func drawTerm(t *rapid.T) ir.Term {
	not := rapid.IntRange(0, 4).Draw(t, "not") == 0
	addr := rapid.SampledFrom([]ir.Field{ir.SrcAddr, ir.SrcAddr, ir.DstAddr}).Draw(t, "addr")
	switch rapid.IntRange(0, 9).Draw(t, "term") {
	case 0, 1, 2:
		return ir.InPrefixes{Field: addr, Prefixes: drawPrefixes(t), Not: not}
	case 3, 4, 5:
		f := rapid.SampledFrom([]ir.Field{ir.DstPort, ir.DstPort, ir.SrcPort}).Draw(t, "port")
		var rs []inet.PortRange
		for range rapid.IntRange(1, 2).Draw(t, "ranges") {
			a, b := rapid.SampledFrom(ports).Draw(t, "a"), rapid.SampledFrom(ports).Draw(t, "b")
			rs = append(rs, inet.PortRange{Min: min(a, b), Max: max(a, b)})
		}
		return ir.InPorts{Field: f, Ranges: ir.MergePorts(rs), Not: not}
	case 6:
		return ir.InMask{Field: ir.Protocol, Mask: ir.MaskOf(rapid.SampledFrom(protocols).Draw(t, "protocol")), Not: not}
	case 7:
		return ir.InMask{Field: ir.Family, Mask: ir.MaskOf(rapid.SampledFrom([]inet.Family{4, 6}).Draw(t, "family")), Not: not}
	case 8:
		return ir.InMask{Field: ir.ICMPType, Mask: ir.MaskOf[uint8](8, 135), Not: not}
	}
	if addr == ir.SrcAddr {
		return ir.InSet{Fields: []ir.Field{addr}, Set: "s:1", Not: not}
	}
	return ir.InSet{Fields: []ir.Field{addr, ir.Protocol, ir.DstPort}, Set: "n:1", Not: not}
}

// drawRules draws rules whose origins tell them apart.
func drawRules(t *rapid.T, p *ir.Program, name string, most int) []ir.Step {
	var steps []ir.Step
	logs := rapid.Bool().Draw(t, "logs")
	for i := range rapid.IntRange(0, most).Draw(t, "rules") {
		p.Origins = append(p.Origins, flow.Origin{Kind: flow.OriginPolicy, Tier: "t", Name: name, Index: i})
		r := ir.Rule{Origin: ir.OriginID(len(p.Origins)), Then: rapid.SampledFrom([]ir.Outcome{ir.Allow, ir.Deny, ir.Pass}).Draw(t, "then")}
		if logs && rapid.IntRange(0, 6).Draw(t, "log") == 0 {
			r.Do, r.Then = []ir.Effect{ir.Log}, ir.Undecided
		}
		for range rapid.IntRange(1, 3).Draw(t, "clauses") {
			c := ir.Clause{drawTerm(t)}
			if rapid.IntRange(0, 7).Draw(t, "alternative") == 0 {
				c = append(c, drawTerm(t))
			}
			r.Match = append(r.Match, c)
		}
		steps = append(steps, r)
	}
	return steps
}

// drawProgram draws an endpoint with two tiers, the second of which may come to no end, and profiles.
func drawProgram(t *rapid.T) (*ir.Program, ir.Members) {
	p := &ir.Program{
		Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "hook"}},
		Sets:    []ir.SetDecl{{ID: "n:1", Kind: ir.SetOfEndpoints}, {ID: "s:1", Kind: ir.SetOfPrefixes}},
	}
	end := func(o ir.Outcome, name string) ir.Step {
		p.Origins = append(p.Origins, flow.Origin{Kind: flow.OriginTier, Tier: name})
		return ir.Rule{Then: o, Origin: ir.OriginID(len(p.Origins))}
	}
	var endpoint []ir.Step
	for _, name := range []string{"one", "two"} {
		var tier []ir.Step
		for i := range rapid.IntRange(1, 4).Draw(t, "policies") {
			id := ir.BlockID(fmt.Sprintf("policy/%s/%d", name, i))
			p.Blocks = append(p.Blocks, ir.Block{ID: id, Steps: drawRules(t, p, string(id[7:10])+fmt.Sprint(i), 14)})
			c := ir.Call{Block: id}
			if rapid.IntRange(0, 5).Draw(t, "matched") == 0 {
				c.Match = ir.Match{{drawTerm(t)}}
			}
			tier = append(tier, c)
		}
		if name == "one" || rapid.Bool().Draw(t, "ends") {
			tier = append(tier, end(rapid.SampledFrom([]ir.Outcome{ir.Deny, ir.Pass}).Draw(t, "end"), name))
		}
		p.Blocks = append(p.Blocks, ir.Block{ID: ir.BlockID("tier/" + name), Steps: tier})
		endpoint = append(endpoint, ir.Call{Block: ir.BlockID("tier/" + name), Resume: ir.OutcomesOf(ir.Pass)})
	}
	endpoint = append(endpoint, drawRules(t, p, "profile", 12)...)
	endpoint = append(endpoint, end(ir.Deny, "last"))
	p.Blocks = append(p.Blocks,
		ir.Block{ID: "endpoint/e", Steps: endpoint},
		ir.Block{ID: "hook", Steps: []ir.Step{ir.Call{Block: "endpoint/e"}}})
	m := ir.Members{Sets: []ir.SetMembers{
		{ID: "n:1", Elements: []ir.Element{{Prefix: netip.MustParsePrefix("10.1.1.1/32"), Protocol: inet.TCP, Port: 80}}},
		{ID: "s:1", Elements: []ir.Element{{Prefix: netip.MustParsePrefix("10.1.0.0/16")}, {Prefix: netip.MustParsePrefix("fd00::/8")}}},
	}}
	return ir.Canonical(p), m
}

// same fails unless both programs say the same of every packet.
func same(t interface{ Fatalf(string, ...any) }, p, q *ir.Program, m ir.Members) {
	a, err := ir.NewInterpreter(p, m)
	if err != nil {
		t.Fatalf("before: %v", err)
	}
	b, err := ir.NewInterpreter(q, m)
	if err != nil {
		t.Fatalf("after: %v\n%s", err, q)
	}
	for i := range packets {
		x, y := a.Explain(&packets[i]), b.Explain(&packets[i])
		for _, r := range []*ir.Result{&x, &y} {
			for h := range r.Hooks {
				r.Hooks[h].Blocks = nil
			}
		}
		if d := cmp.Diff(x, y); d != "" {
			t.Fatalf("%+v:\n%s\nbefore:\n%s\nafter:\n%s", packets[i], d, p, q)
		}
	}
}

func drawOptions(t *rapid.T) pass.Options {
	return pass.Options{
		Skip:     pass.Set(rapid.IntRange(0, 15).Draw(t, "skip")),
		Growth:   rapid.SampledFrom([]int{0, 1, 2, 3, 8, 100}).Draw(t, "growth"),
		MinRules: rapid.IntRange(0, 9).Draw(t, "min"),
	}
}

func TestLowerKeepsEveryVerdict(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, m := drawProgram(t)
		before := p.String()
		q, _ := pass.Lower(p, drawOptions(t))
		if p.String() != before {
			t.Fatalf("the program was changed")
		}
		same(t, p, q, m)
	})
}

// Programs whose rules are as many and as mixed as wide and narrow ones have to be to share blocks of wide rules.
func TestLowerKeepsEveryVerdictOfLongLists(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &ir.Program{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b"}}, Sets: []ir.SetDecl{{ID: "n:1", Kind: ir.SetOfEndpoints}, {ID: "s:1", Kind: ir.SetOfPrefixes}}}
		steps := drawRules(t, p, "a", 150)
		if rapid.Bool().Draw(t, "total") {
			p.Origins = append(p.Origins, flow.Origin{Kind: flow.OriginTier, Tier: "t"})
			steps = append(steps, ir.Rule{Then: ir.Deny, Origin: ir.OriginID(len(p.Origins))})
		}
		p.Blocks = []ir.Block{{ID: "b", Steps: steps}}
		m := ir.Members{Sets: []ir.SetMembers{{ID: "n:1"}, {ID: "s:1", Elements: []ir.Element{{Prefix: netip.MustParsePrefix("10.1.0.0/16")}}}}}
		o := drawOptions(t)
		q, r := pass.Lower(p, o)
		same(t, p, q, m)
		again, r2 := pass.Lower(p, o)
		if q.String() != again.String() || r.String() != r2.String() {
			t.Fatalf("two runs differ")
		}
	})
}

// A Memory gives what Lower gives, whatever it has seen before.
func TestMemoryChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &ir.Program{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "b"}}, Sets: []ir.SetDecl{{ID: "n:1", Kind: ir.SetOfEndpoints}, {ID: "s:1", Kind: ir.SetOfPrefixes}}}
		rules := drawRules(t, p, "a", 60)
		var m pass.Memory
		for range 5 {
			q := *p // other rules at other places, with matches in the same places of memory
			from := rapid.IntRange(0, len(rules)).Draw(t, "from")
			q.Blocks = []ir.Block{{ID: "b", Steps: slices.Concat(rules[from:], rules[:from], rules[:min(1, len(rules))])}}
			o := drawOptions(t)
			want, report := pass.Lower(&q, o)
			got, again := m.Lower(&q, o)
			if got.String() != want.String() || again.String() != report.String() {
				t.Fatalf("got\n%s\nwant\n%s", got, want)
			}
		}
	})
}

func TestSkippingAllPassesIsTheIdentity(t *testing.T) {
	p := &ir.Program{Blocks: []ir.Block{{ID: "unused"}}}
	q, r := pass.Lower(p, pass.Options{Skip: pass.AllPasses})
	require.Same(t, p, q)
	require.Equal(t, r.Before, r.After)
}

func TestLowerReturnsWhatItCannotWalk(t *testing.T) {
	for name, p := range map[string]*ir.Program{
		"nil":         nil,
		"cycle":       {Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "a"}}, Blocks: []ir.Block{{ID: "a", Steps: []ir.Step{ir.Call{Block: "a"}}}}},
		"dangling":    {Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "a"}}},
		"strange":     {Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "a"}}, Blocks: []ir.Block{{ID: "a", Steps: []ir.Step{nil}}}},
		"no prefixes": {Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "a"}}, Blocks: []ir.Block{{ID: "a", Steps: slices.Repeat([]ir.Step{ir.Rule{Match: ir.Match{{ir.InPrefixes{Field: ir.SrcAddr, Prefixes: []netip.Prefix{{}}}}}, Then: ir.Allow}}, 20)}}},
	} {
		t.Run(name, func(t *testing.T) {
			q, _ := pass.Lower(p, pass.Options{})
			if name != "no prefixes" {
				require.Same(t, p, q)
			}
		})
	}
}
