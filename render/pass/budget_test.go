// SPDX-License-Identifier: Apache-2.0

package pass_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/pass"
)

// hard are rules that trees find hard, and what they may cost a packet; see TestCost.
var hard = map[string]struct {
	match func(r *rand.Rand) ir.Match
	most  float64
}{
	// Every rule matches a quarter of all packets.
	"wide ranges": {func(r *rand.Rand) ir.Match {
		lo := r.IntN(30000)
		return ir.Match{udp, {portRange(ir.DstPort, lo, lo+r.IntN(30000))}}
	}, 500},
	"nested prefixes of both sides": {func(r *rand.Rand) ir.Match {
		a := netip.AddrFrom4([4]byte{10, byte(r.IntN(4)), byte(r.IntN(256)), byte(r.IntN(256))})
		return ir.Match{{within(ir.SrcAddr, a, 1+r.IntN(16))}, {within(ir.DstAddr, a, 1+r.IntN(32))}}
	}, 130},
	// Narrow rules of either kind meet all of the other.
	"sources or ports": {func(r *rand.Rand) ir.Match {
		if r.IntN(2) == 0 {
			return ir.Match{{within(ir.SrcAddr, somewhere(r), 24)}}
		}
		return ir.Match{udp, {onePort(r, ir.DstPort)}}
	}, 40},
	"all but": {func(r *rand.Rand) ir.Match {
		not := onePort(r, ir.DstPort)
		not.Not = true
		src := within(ir.SrcAddr, somewhere(r), 24)
		src.Not = r.IntN(2) == 0
		return ir.Match{udp, {not}, {src}}
	}, 40},
	"one of four fields": {func(r *rand.Rand) ir.Match {
		return ir.Match{udp, [...]ir.Clause{{onePort(r, ir.SrcPort)}, {onePort(r, ir.DstPort)}, {within(ir.SrcAddr, somewhere(r), 24)}, {within(ir.DstAddr, somewhere(r), 24)}}[r.IntN(4)]}
	}, 60},
}

var udp = ir.Clause{ir.InMask{Field: ir.Protocol, Mask: ir.MaskOf(inet.UDP)}}

func portRange(f ir.Field, lo, hi int) ir.InPorts {
	return ir.InPorts{Field: f, Ranges: []inet.PortRange{{Min: uint16(lo), Max: uint16(hi)}}}
}

func onePort(r *rand.Rand, f ir.Field) ir.InPorts {
	p := r.IntN(65536)
	return portRange(f, p, p)
}

func within(f ir.Field, a netip.Addr, bits int) ir.InPrefixes {
	return ir.InPrefixes{Field: f, Prefixes: []netip.Prefix{netip.PrefixFrom(a, bits).Masked()}}
}

func somewhere(r *rand.Rand) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), byte(r.IntN(256)), 0})
}

// Trees keep to their budgets whatever the rules are, and do what the rules do.
func TestTreesKeepToTheirBudget(t *testing.T) {
	for name, h := range hard {
		for _, n := range []int{100, 500, 1500} {
			t.Run(fmt.Sprintf("%s/rules=%d", name, n), func(t *testing.T) {
				r := rand.New(rand.NewPCG(3, uint64(n)))
				rules := make([]rule, n)
				for i := range rules {
					rules[i] = rule{match: h.match(r), then: [...]ir.Outcome{ir.Allow, ir.Deny}[r.IntN(2)]}
				}
				p := tierOf(rules)
				q, report := pass.Lower(p, pass.Options{})
				blocks := map[ir.BlockID]ir.Block{}
				for _, b := range q.Blocks {
					blocks[b.ID] = b
				}
				size := func(s pass.Size) int { return s.Rules + s.Calls + s.Cases }
				require.LessOrEqual(t, size(report.After), 2*pass.DefaultGrowth*size(report.Before), report)
				require.LessOrEqual(t, pathsOf(blocks, q.Entries[0].Block, map[ir.BlockID]int{}), 4000*(n+1)+20000)
				a, err := ir.NewInterpreter(p, ir.Members{})
				require.NoError(t, err)
				b, err := ir.NewInterpreter(q, ir.Members{})
				require.NoError(t, err)
				var c pass.Cost
				const packets = 400
				for range packets {
					x := randomPacket(r)
					for _, a := range [...]*netip.Addr{&x.Src, &x.Dst} {
						if r.IntN(2) == 0 { // where the rules are
							*a = somewhere(r).Next()
						}
					}
					pass.CostOf(blocks, q.Entries[0].Block, &x, &c)
					v, by := a.Verdict(&x)
					w, same := b.Verdict(&x)
					require.Equal(t, v, w)
					require.Equal(t, by, same)
				}
				cost := float64(c.Rules+8*c.Switches) / packets
				t.Logf("cost %.1f; %v", cost, report.After)
				require.Less(t, cost, h.most)
			})
		}
	}
}
