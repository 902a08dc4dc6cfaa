// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// A map of ranges is a tree in the kernel, and a packet meets a memory access at each of its levels. Measured with
// 1,000 prefixes of one length: the tree costs 300 ns, and a hash of the leading bits of the address 40 ns. So a switch
// on an address whose cases are prefixes of few lengths becomes a hash for each length.

// minMasked is from how many cases on a hash costs less than a tree. Measured with ten cases: a third of the tree.
const minMasked = maxTests + 1

// asMasks writes a switch on an address as lookups of its leading bits. It reports false, and writes nothing, if a tree
// is better.
func (b *builder) asMasks(c *chain, tests []Expr, g *group) bool {
	if len(g.keys) != 1 || len(g.cases) < minMasked || !(VerdictMap{Cases: g.cases}).Ranges() {
		return false
	}
	key := g.keys[0]
	four := false
	switch key {
	case Src4, Dst4:
		four = true
	case Src6, Dst6:
	default:
		return false
	}
	cases, rest := g.cases, (*VerdictCase)(nil)
	if four {
		cases, rest = withoutRest(cases)
	}
	byLen, n := [129][]VerdictCase{}, 0
	for _, k := range cases {
		for i := k.Key[0]; ; {
			first, ones := firstPrefix(i)
			byLen[ones] = append(byLen[ones], VerdictCase{[]ir.Interval{ir.Exactly(first.Lo)}, k.Verdict, k.Comment})
			if n++; n > 2*len(g.cases) {
				return false
			}
			if first.Hi == i.Hi {
				break
			}
			i.Lo = first.Hi.Next()
		}
	}
	lens := 0
	for ones, l := range byLen {
		if len(l) > 0 {
			if ones == 0 || four && ones <= 96 {
				return false
			}
			lens++
		}
	}
	if lens > 1 && lens > bits.Len(uint(len(g.cases)))/3 {
		return false
	}
	var order []int // the fullest first: most packets need no other
	for ones, l := range byLen {
		if len(l) > 0 {
			order = append(order, ones)
		}
	}
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(len(byLen[y]), len(byLen[x])) })
	for _, ones := range order {
		m := VerdictMap{Keys: g.keys, Cases: byLen[ones]}
		if ones < 128 {
			m.Bits = uint8(ones)
			if four {
				m.Bits -= 96
			}
		}
		b.put(c, tests, []Expr{m}, "", nil)
	}
	if rest != nil {
		b.put(c, tests, []Expr{rest.Verdict}, rest.Comment, nil)
	}
	return true
}

// withoutRest takes out the cases that lead where most of the ranges lead, if the cases cover all IPv4 addresses and no
// packet comes back from any of them: then what is in no other case is in one of these.
func withoutRest(cases []VerdictCase) ([]VerdictCase, *VerdictCase) {
	next := mapped.Lo
	type target struct {
		Verdict
		comment string
	}
	ranges := make(map[target]int)
	var most *VerdictCase
	for i := range cases {
		k := &cases[i]
		if k.Key[0].Lo != next || k.Verdict.Op == Jump || k.Verdict.Op == Return {
			return cases, nil
		}
		next = k.Key[0].Hi.Next()
		if _, ok := prefixOf(k.Key[0], true); !ok {
			t := target{k.Verdict, k.Comment}
			ranges[t]++
			if most == nil || ranges[t] > ranges[target{most.Verdict, most.Comment}] {
				most = k
			}
		}
	}
	if next != mapped.Hi.Next() || most == nil {
		return cases, nil
	}
	others := make([]VerdictCase, 0, len(cases))
	for _, k := range cases {
		if k.Verdict != most.Verdict || k.Comment != most.Comment {
			others = append(others, k)
		}
	}
	return others, most
}

// firstPrefix returns the largest prefix that begins where the interval does and lies in it.
func firstPrefix(i ir.Interval) (p ir.Interval, ones int) {
	p = ir.Exactly(i.Lo)
	for ones = 128; ones > 0; ones-- {
		n := ones - 1
		bit := byte(0x80) >> (n % 8)
		wider := p.Hi
		wider[n/8] |= bit
		if i.Lo[n/8]&bit != 0 || wider.Compare(i.Hi) > 0 {
			break
		}
		p.Hi = wider
	}
	return p, ones
}
