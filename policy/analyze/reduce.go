// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"encoding/binary"
	"sort"
)

// reducer makes lists short without changing what they decide. It holds scratch space.
type reducer struct {
	starts []bool  // by place in the list: a jump leads there
	kept   []int32 // places of rules that some packet may reach
	index  []int32 // by place: its index in kept
	target []int32 // by index: the place to which the rule leads
	effect []int32 // by index: what a packet that matches comes to, as place
	place  []int32 // by index: what a packet that comes here comes to: a rule that asks something, or ^d for decision d
	drop   []bool
	rules  []rule
	class  []int32
}

// reduce appends to out the rules of a list that can make a difference, for packets whose fields before those of suffix are
// settled: not those behind a rule for all packets, nor those that lead to where the packet goes anyway. It returns ^d if
// the list has nothing left to ask and decides d; then one rule remains. With class, decisions are classes.
func (w *reducer) reduce(rules []rule, suffix, class, list, out []int32) ([]int32, int32) {
	n := len(list)
	if n == 0 {
		return out, 0
	}
	w.rules, w.class = rules, class
	w.starts = grown(w.starts, n)
	w.index = grown(w.index, n)
	w.target = grown(w.target, n)
	clear(w.starts)
	w.kept = w.kept[:0]
	run := true
	for i, id := range list {
		if !run && !w.starts[i] {
			continue
		}
		r := &rules[id]
		w.index[i] = int32(len(w.kept))
		if r.to >= 0 {
			t := i + 1
			if t < n && list[t] < r.to {
				t = i + 1 + sort.Search(n-i-1, func(j int) bool { return list[i+1+j] >= r.to })
			}
			w.target[len(w.kept)] = int32(t)
			w.starts[t] = true
		}
		w.kept = append(w.kept, int32(i))
		run = suffix[id] != 0
	}
	k := len(w.kept)
	w.effect, w.place, w.drop = grown(w.effect, k), grown(w.place, k), grown(w.drop, k)
	for j := k - 1; j >= 0; j-- {
		id := list[w.kept[j]]
		e := rules[id].to
		switch {
		case e >= 0:
			e = w.place[w.index[w.target[j]]]
		case class != nil:
			e = ^class[^e]
		}
		w.effect[j] = e
		w.drop[j] = j+1 < k && e == w.place[j+1]
		switch {
		case w.drop[j] || suffix[id] == 0:
			w.place[j] = e
		default:
			w.place[j] = id
		}
	}
	if e := w.place[0]; e < 0 {
		// The rule for all packets that says so stands for the list.
		for _, i := range w.kept {
			r := &rules[list[i]]
			if suffix[list[i]] == 0 && r.to < 0 && (r.to == e || class != nil && ^class[^r.to] == e) {
				return append(out, list[i]), e
			}
		}
	}
	// What stands before the first question is behind the packet.
	first := 0
	for list[w.kept[first]] != w.place[0] {
		first++
	}
	m := 0
	for j := first; j < k; j++ {
		if !w.drop[j] {
			out = append(out, list[w.kept[j]])
			w.effect[m] = w.effect[j]
			m++
		}
	}
	return out, 0
}

// reachable appends to out the rules of a list that some packet may reach.
func (w *reducer) reachable(rules []rule, suffix, list, out []int32) []int32 {
	n := len(list)
	w.starts = grown(w.starts, n)
	clear(w.starts)
	run := true
	for i, id := range list {
		if !run && !w.starts[i] {
			continue
		}
		if to := rules[id].to; to >= 0 {
			if t := i + 1 + sort.Search(n-i-1, func(j int) bool { return list[i+1+j] >= to }); t < n {
				w.starts[t] = true
			}
		}
		out = append(out, id)
		run = suffix[id] != 0
	}
	return out
}

// content appends what the list that reduce returned last says, as far as packets can tell.
func (w *reducer) content(suffix, list []int32, decided int32, buf []byte) []byte {
	if decided < 0 {
		return binary.LittleEndian.AppendUint32(buf, uint32(decided))
	}
	for i, id := range list {
		e := w.effect[i]
		if e >= 0 {
			e = int32(i + sort.Search(len(list)-i, func(j int) bool { return list[i+j] >= e }))
		}
		buf = binary.LittleEndian.AppendUint32(buf, uint32(suffix[id]))
		buf = binary.LittleEndian.AppendUint32(buf, uint32(e))
	}
	return buf
}

// grown returns s with n elements, whatever they are.
func grown[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n, n+n/2)
	}
	return s[:n]
}
