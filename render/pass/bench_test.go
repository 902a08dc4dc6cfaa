// SPDX-License-Identifier: Apache-2.0

package pass_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/pass"
)

// rule is one policy rule of the generated lists.
type rule struct {
	match ir.Match
	then  ir.Outcome
	hit   flow.Packet // a packet that it matches, but for negations
}

// tierOf returns a program with one tier of one-rule policies.
func tierOf(rules []rule) *ir.Program {
	p := &ir.Program{Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "hook/normal-in"}}}
	origin := func(o flow.Origin) ir.OriginID {
		p.Origins = append(p.Origins, o)
		return ir.OriginID(len(p.Origins))
	}
	tier := ir.Block{ID: "tier/t/normal-in"}
	for i, r := range rules {
		id := ir.BlockID(fmt.Sprintf("policy/t/p%05d/normal-in", i))
		p.Blocks = append(p.Blocks, ir.Block{ID: id, Steps: []ir.Step{ir.Rule{Match: r.match, Then: r.then, Origin: origin(flow.Origin{Kind: flow.OriginPolicy, Tier: "t", Name: fmt.Sprintf("p%05d", i)})}}})
		tier.Steps = append(tier.Steps, ir.Call{Block: id})
	}
	tier.Steps = append(tier.Steps, ir.Rule{Then: ir.Deny, Origin: origin(flow.Origin{Kind: flow.OriginTier, Tier: "t"})})
	p.Blocks = append(p.Blocks, tier,
		ir.Block{ID: "endpoint/e/normal-in", Steps: []ir.Step{
			ir.Call{Block: tier.ID, Resume: ir.OutcomesOf(ir.Pass)},
			ir.Rule{Then: ir.Deny, Origin: origin(flow.Origin{Kind: flow.OriginDefault, Name: "e"})},
		}},
		ir.Block{ID: "hook/normal-in", Steps: []ir.Step{ir.Call{Block: "endpoint/e/normal-in"}}})
	return ir.Canonical(p)
}

// uniform returns rules of one shape: a source net and a UDP port.
func uniform(n int) []rule {
	rules := make([]rule, n)
	for i := range rules {
		src := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0})
		port := uint16(1000 + i%5000)
		rules[i] = rule{
			match: ir.Match{
				{ir.InMask{Field: ir.Protocol, Mask: ir.MaskOf(inet.UDP)}},
				{ir.InPrefixes{Field: ir.SrcAddr, Prefixes: []netip.Prefix{netip.PrefixFrom(src, 24)}}},
				{ir.InPorts{Field: ir.DstPort, Ranges: []inet.PortRange{{Min: port, Max: port}}}},
			},
			then: ir.Allow,
			hit:  flow.Packet{Path: flow.Input, In: "eth0", Protocol: inet.UDP, Src: src.Next(), Dst: netip.MustParseAddr("192.0.2.1"), SrcPort: 40000, DstPort: port},
		}
	}
	return rules
}

// mixed returns rules of many shapes: nets of all lengths that nest, ranges of ports, negation, denies among allows. No
// rule matches nearly everything: those behind it would not count.
func mixed(n int, seed uint64) []rule {
	r := rand.New(rand.NewPCG(seed, 7))
	bases := make([]uint32, 1+n/8)
	for i := range bases {
		bases[i] = r.Uint32()
	}
	prefix := func() netip.Prefix {
		a := r.Uint32()
		if r.IntN(2) == 0 {
			a = bases[r.IntN(len(bases))]&0xffff0000 | a&0xffff
		}
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)}), 8+r.IntN(25)).Masked()
	}
	rules := make([]rule, n)
	for i := range rules {
		x := &rules[i]
		x.then = ir.Allow
		if r.IntN(3) == 0 {
			x.then = ir.Deny
		}
		h := flow.Packet{Path: flow.Input, In: "eth0", Protocol: inet.UDP, Src: prefix().Addr(), Dst: netip.MustParseAddr("192.0.2.1"), SrcPort: 40000, DstPort: uint16(r.IntN(65536))}
		if r.IntN(3) == 0 {
			h.Protocol = inet.TCP
		}
		x.match = append(x.match, ir.Clause{ir.InMask{Field: ir.Protocol, Mask: ir.MaskOf(h.Protocol)}})
		narrow := r.IntN(20) < 17
		if narrow {
			p := prefix()
			h.Src = p.Addr()
			x.match = append(x.match, ir.Clause{ir.InPrefixes{Field: ir.SrcAddr, Prefixes: []netip.Prefix{p}}})
		}
		if r.IntN(10) == 0 {
			x.match = append(x.match, ir.Clause{ir.InPrefixes{Field: ir.SrcAddr, Prefixes: []netip.Prefix{prefix()}, Not: true}})
		}
		lo := 1 + r.IntN(65535)
		hi := lo
		if r.IntN(3) == 0 {
			hi = min(65535, lo+r.IntN(2000))
		}
		ports := ir.InPorts{Field: ir.DstPort, Ranges: []inet.PortRange{{Min: uint16(lo), Max: uint16(hi)}}}
		switch k := r.IntN(20); {
		case k == 0 && narrow:
			ports.Not = true
			x.match = append(x.match, ir.Clause{ports})
		case k < 18 || !narrow:
			h.DstPort = uint16(lo)
			x.match = append(x.match, ir.Clause{ports})
		}
		x.hit = h
	}
	return rules
}

// TestCost holds the trees to what they cost the packets: half of them made for a rule, half at random.
func TestCost(t *testing.T) {
	for _, tt := range []struct {
		name  string
		rules []rule
		most  float64 // in rules; a Switch is eight
	}{
		{"uniform-1000", uniform(1000), 12}, {"uniform-5000", uniform(5000), 12},
		{"mixed-1000", mixed(1000, 0), 30}, {"mixed-5000", mixed(5000, 0), 30},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q, report := pass.Lower(tierOf(tt.rules), pass.Options{})
			blocks := map[ir.BlockID]ir.Block{}
			for _, b := range q.Blocks {
				blocks[b.ID] = b
			}
			r := rand.New(rand.NewPCG(1, 2))
			var c pass.Cost
			const n = 400
			for i := range n {
				h := tt.rules[r.IntN(len(tt.rules))].hit
				if i%2 == 0 {
					h = randomPacket(r)
				}
				pass.CostOf(blocks, q.Entries[0].Block, &h, &c)
			}
			cost := float64(c.Rules+8*c.Switches) / n
			t.Logf("cost %.1f: %.1f rules, %.1f switches, %.1f calls; paths %d; %s", cost, float64(c.Rules)/n, float64(c.Switches)/n, float64(c.Calls)/n, pathsOf(blocks, q.Entries[0].Block, map[ir.BlockID]int{}), report)
			require.Less(t, cost, tt.most)
		})
	}
}

// pathsOf returns the number of ways from a block downwards.
func pathsOf(blocks map[ir.BlockID]ir.Block, id ir.BlockID, memo map[ir.BlockID]int) int {
	if n, ok := memo[id]; ok {
		return n
	}
	n := 1
	for _, s := range blocks[id].Steps {
		switch s := s.(type) {
		case ir.Call:
			n += pathsOf(blocks, s.Block, memo)
		case ir.Switch:
			for _, c := range s.Cases {
				if c.Then.Block != "" {
					n += pathsOf(blocks, c.Then.Block, memo)
				}
			}
		}
	}
	memo[id] = n
	return n
}

// Random packets and packets made for the rules, on rule lists as large as real ones.
func TestLowerKeepsEveryVerdictOfLargeTiers(t *testing.T) {
	for name, rules := range map[string][]rule{"uniform": uniform(1000), "mixed": mixed(1000, 1), "mixed-2": mixed(600, 2)} {
		for _, growth := range []int{1, 2, 8} {
			t.Run(fmt.Sprint(name, "/growth=", growth), func(t *testing.T) {
				p := tierOf(rules)
				q, report := pass.Lower(p, pass.Options{Growth: growth})
				require.LessOrEqual(t, report.After.Rules+report.After.Cases+report.After.Calls, 2*(growth+1)*(report.Before.Rules+report.Before.Calls))
				a, err := ir.NewInterpreter(p, ir.Members{})
				require.NoError(t, err)
				b, err := ir.NewInterpreter(q, ir.Members{})
				require.NoError(t, err)
				r := rand.New(rand.NewPCG(1, 2))
				blocks := 0
				for i := range 2000 {
					h := rules[r.IntN(len(rules))].hit
					if i%2 == 0 {
						h = randomPacket(r)
					}
					v, by := a.Verdict(&h)
					got := b.Explain(&h)
					require.Equal(t, v, got.Verdict)
					require.Equal(t, by, got.By)
					blocks += len(got.Hooks[0].Blocks)
				}
				t.Logf("%.1f blocks a packet; %s", float64(blocks)/2000, report)
			})
		}
	}
}

func randomPacket(r *rand.Rand) flow.Packet {
	addr := func() netip.Addr {
		return netip.AddrFrom4([4]byte{byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))})
	}
	h := flow.Packet{Path: flow.Input, In: "eth0", Protocol: inet.UDP, Src: addr(), Dst: addr(), SrcPort: 40000, DstPort: uint16(r.IntN(65536))}
	if r.IntN(2) == 0 {
		h.Protocol = inet.TCP
	}
	return h
}

func BenchmarkLower(b *testing.B) {
	for _, shape := range []struct {
		name string
		make func(int) []rule
	}{{"uniform", uniform}, {"mixed", func(n int) []rule { return mixed(n, 1) }}} {
		for _, n := range []int{100, 1000, 5000} {
			b.Run(fmt.Sprintf("shape=%s/rules=%d", shape.name, n), func(b *testing.B) {
				p := tierOf(shape.make(n))
				b.ReportAllocs()
				for b.Loop() {
					pass.Lower(p, pass.Options{})
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "us/rule")
			})
		}
	}
}
