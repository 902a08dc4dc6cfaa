// SPDX-License-Identifier: Apache-2.0

package pass

import (
	"strings"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// Cost is what a packet meets in a program.
type Cost struct{ Rules, Switches, Calls int }

// CostOf walks a packet with ports through a program whose matches are all constant.
func CostOf(blocks map[ir.BlockID]ir.Block, id ir.BlockID, p *flow.Packet, c *Cost) ir.Outcome {
	values := [numDims]span.Key{span.KeyOf(ir.Addr(p.Src)), span.KeyOf(ir.Addr(p.Dst)), {Lo: uint64(p.DstPort)}, {Lo: uint64(p.SrcPort)}, {Lo: uint64(p.Protocol)}}
	for _, s := range blocks[id].Steps {
		outcome := ir.Undecided
		switch s := s.(type) {
		case ir.Rule:
			c.Rules++
			it := look(s.Match)
			ok := it.possible
			for d := range numDims {
				if it.sets[d] != nil && it.sets[d].relate(span.Span{Lo: values[d], Hi: values[d]}) != covers {
					ok = false
				}
			}
			if ok {
				outcome = s.Then
			}
		case ir.Call:
			if len(s.Match) > 0 { // for packets without ports
				c.Rules++
				continue
			}
			c.Calls++
			outcome = CostOf(blocks, s.Block, p, c)
		case ir.Switch:
			c.Switches++
			d, _ := dimOf(s.Key[0])
			for _, k := range s.Cases {
				if !values[d].Less(span.KeyOf(k.Key[0].Lo)) && !span.KeyOf(k.Key[0].Hi).Less(values[d]) {
					if outcome = k.Then.Outcome; k.Then.Block != "" {
						if strings.HasPrefix(string(k.Then.Block), "tree/") {
							c.Calls++
						}
						outcome = CostOf(blocks, k.Then.Block, p, c)
					}
					break
				}
			}
		}
		if outcome != ir.Undecided {
			return outcome
		}
	}
	return ir.Undecided
}
