// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"cmp"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// Sample is a packet that two programs treat differently, found by trying where nobody looked at all packets.
type Sample struct {
	Before, After Decision
	Packet        flow.Packet
}

// The bounds of sampling: packets that are tried at all, lines that they are compared with, and samples that are reported.
const (
	maxDraws     = 20_000
	maxSamplings = 8_000_000
	maxSamples   = 64
)

// unfinished is a family of a group whose packets were not all decided.
type unfinished struct {
	group  *group
	family inet.Family
	chains []chain
}

// sampler tries packets. It is deterministic.
type sampler struct {
	*analysis
	c     *collector
	class []int32
	state uint64
}

// sample tries packets of what was left unfinished, and returns one for each pair of decisions that some packet changes
// between, if it is in no change of the report.
func (a *analysis) sample(c *collector, left []unfinished, changes []Change, by bool) []Sample {
	if len(left) == 0 {
		return nil
	}
	s := &sampler{analysis: a, c: c, class: a.class(by), state: 1}
	lines := 0
	for i := range left {
		lines += len(left[i].chains[0]) + len(left[i].chains[1])
	}
	draws := min(maxDraws/len(left), maxSamplings/max(lines, 1)) + 1
	found := map[pair]bool{}
	var out []Sample
	for i := range left {
		for range draws {
			p, at, ok := s.try(&left[i])
			if !ok || found[p] || len(out) == maxSamples {
				continue
			}
			packet := s.c.packet(left[i].group, left[i].family, at, s.below)
			if slices.ContainsFunc(changes, func(x Change) bool {
				return slices.ContainsFunc(x.Boxes, func(b Box) bool { return b.Contains(&packet) })
			}) {
				continue
			}
			found[p] = true
			out = append(out, Sample{a.decisions[p.a], a.decisions[p.b], packet})
		}
	}
	slices.SortFunc(out, func(x, y Sample) int {
		return cmp.Or(compareDecisions(x.Before, y.Before), compareDecisions(x.After, y.After))
	})
	return out
}

// try draws a packet, and reports what becomes of it and whether that changes.
func (s *sampler) try(u *unfinished) (pair, [numDims]*key, bool) {
	// A packet that some line matches, at the edges of what it and other lines ask for.
	var at [numDims]*key
	main := s.line(u)
	for d := range at {
		set := main.sets[d]
		if set == 0 && s.below(4) > 0 {
			set = s.line(u).sets[d]
		}
		spans := dim(d).domain(u.family)
		if set != 0 {
			spans = s.sets.list[set]
		}
		if len(spans) == 0 {
			return pair{}, at, false
		}
		k := s.key(spans[s.below(len(spans))])
		if dim(d) == dimL4 && inet.Protocol(k.Lo>>16) != icmpOf(u.family) {
			k.Lo &^= 0xffff
		}
		at[d] = &k
	}
	ports := hasPorts(inet.Protocol(at[dimL4].Lo >> 16))
	p := pair{s.run(u.chains[0], &at, ports), s.run(u.chains[1], &at, ports)}
	return p, at, s.class[p.a] != s.class[p.b]
}

func (s *sampler) line(u *unfinished) *rule {
	n := len(u.chains[0])
	i := s.below(n + len(u.chains[1]))
	if i < n {
		return &u.chains[0][i]
	}
	return &u.chains[1][i-n]
}

// run returns the decision of a chain on a packet.
func (s *sampler) run(c chain, at *[numDims]*key, ports bool) int32 {
	for i := int32(0); ; {
		switch r := &c[i]; {
		case !s.meets(r, at, ports):
			i++
		case r.to < 0:
			return ^r.to
		default:
			i = r.to
		}
	}
}

func (s *sampler) meets(r *rule, at *[numDims]*key, ports bool) bool {
	for d, id := range r.sets {
		switch {
		case dim(d).isPort() && !ports:
			if r.absent&(1<<d) == 0 {
				return false
			}
		case id != 0 && !span.Contains(s.sets.list[id], *at[d]):
			return false
		}
	}
	return true
}

// key returns a key of a span: an end of it, or one in between.
func (s *sampler) key(x span.Span) key {
	switch s.below(3) {
	case 0:
		return x.Lo
	case 1:
		return x.Hi
	}
	k := key{Hi: s.next(), Lo: s.next()}
	// Below the first bit in which the ends differ everything may be.
	for n := 128; n > 0; n-- {
		if bit(x.Lo, n-1) != bit(x.Hi, n-1) {
			low := lowBits(key{}, n-1)
			return x.Hi.And(low.Not().Or(k))
		}
	}
	return x.Lo
}

// next is SplitMix64. Ref: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators, 2014.
func (s *sampler) next() uint64 {
	s.state += 0x9e3779b97f4a7c15
	z := s.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (s *sampler) below(n int) int { return int(s.next() % uint64(n)) }
