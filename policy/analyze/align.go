// SPDX-License-Identifier: Apache-2.0

package analyze

import "slices"

// maxEdits bounds the effort of finding what two chains have in common.
const maxEdits = 256

// pair returns the two chains of a diagram, the first of which has n lines, with the lines that make a difference: all
// packets that match none of those meet the same lines in the same order.
func (d *diagram) pair(n int) pairOf {
	all := make([]int32, len(d.rules))
	for i := range all {
		all[i] = int32(i)
	}
	p := pairOf{a: all[:n], b: all[n:]}
	other := d.align(d.rules[:n], d.rules[n:])
	// A jump is the same line only if it leads to the same one, past those that differ.
	for changed := true; changed; {
		changed = false
		back := make([]int, len(p.b)+1)
		for i := range back {
			back[i] = -1
		}
		back[len(p.b)] = n
		for i, j := range other {
			if j >= 0 {
				back[j] = i
			}
		}
		for i, j := range other {
			if j < 0 || d.rules[i].to < 0 {
				continue
			}
			x, y := int(d.rules[i].to), int(d.rules[n+j].to)-n
			for x < n && other[x] < 0 {
				x++
			}
			for y < len(p.b) && back[y] < 0 {
				y++
			}
			if back[y] != x {
				other[i], changed = -1, true
			}
		}
	}
	in := make([]bool, len(p.b))
	for i, j := range other {
		if j < 0 {
			p.focus = append(p.focus, int32(i))
		} else {
			in[j] = true
		}
	}
	for j, ok := range in {
		if !ok {
			p.focus = append(p.focus, int32(n+j))
		}
	}
	p.all = len(p.focus) > len(all)/2
	if p.all {
		p.focus = nil
	}
	return p
}

// align returns, for each line of a, the line of b that is the same, or -1. Those that are not -1 ascend.
func (d *diagram) align(a, b []rule) []int {
	type line struct {
		sets   [numDims]int32
		absent uint8
		class  int32 // -1 for jumps
	}
	lines := func(rs []rule) []line {
		out := make([]line, len(rs))
		for i, r := range rs {
			out[i] = line{r.sets, r.absent, -1}
			if r.to < 0 {
				out[i].class = d.class[^r.to]
			}
		}
		return out
	}
	x, y := lines(a), lines(b)
	other := make([]int, len(x))
	for i := range other {
		other[i] = -1
	}
	lo := 0
	for lo < len(x) && lo < len(y) && x[lo] == y[lo] {
		other[lo] = lo
		lo++
	}
	hiX, hiY := len(x), len(y)
	for hiX > lo && hiY > lo && x[hiX-1] == y[hiY-1] {
		hiX, hiY = hiX-1, hiY-1
		other[hiX] = hiY
	}
	shortestEdit(hiX-lo, hiY-lo, func(i, j int) bool { return x[lo+i] == y[lo+j] }, func(i, j int) { other[lo+i] = lo + j })
	return other
}

// shortestEdit finds a longest common subsequence of lists with n and m elements, and calls same for its pairs; for none if
// more than maxEdits elements are not in it. Ref: Myers, An O(ND) Difference Algorithm and Its Variations, 1986.
func shortestEdit(n, m int, equal func(i, j int) bool, same func(i, j int)) {
	limit := min(n+m, maxEdits)
	v := make([]int, 2*limit+3)
	at := func(k int) *int { return &v[k+limit+1] }
	var rounds [][]int
	for e := 0; e <= limit; e++ {
		rounds = append(rounds, slices.Clone(v))
		for k := -e; k <= e; k += 2 {
			var i int
			if k == -e || k != e && *at(k - 1) < *at(k + 1) {
				i = *at(k + 1)
			} else {
				i = *at(k - 1) + 1
			}
			j := i - k
			for i < n && j >= 0 && j < m && equal(i, j) {
				i, j = i+1, j+1
			}
			*at(k) = i
			if i >= n && j >= m {
				walkBack(rounds, limit, n, m, same)
				return
			}
		}
	}
}

// walkBack follows the edits from the end to the beginning.
func walkBack(rounds [][]int, limit, i, j int, same func(i, j int)) {
	for e := len(rounds) - 1; e >= 0; e-- {
		v := rounds[e]
		at := func(k int) int { return v[k+limit+1] }
		k := i - j
		from := k - 1
		if k == -e || k != e && at(k-1) < at(k+1) {
			from = k + 1
		}
		fromI := at(from)
		fromJ := fromI - from
		if e == 0 {
			fromI, fromJ = 0, 0
		}
		for i > fromI && j > fromJ {
			i, j = i-1, j-1
			same(i, j)
		}
		i, j = fromI, fromJ
	}
}
