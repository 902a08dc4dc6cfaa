// SPDX-License-Identifier: Apache-2.0

package pass

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// In a cell with few narrow rules among many wide ones, the narrow ones are asked first, whatever their place. A packet
// that one of them matches goes on with the few wide rules before it that can match such a packet at all, and is decided
// by the narrow rule behind them. All other packets meet the wide rules as one tree, and not piece by piece.

const (
	// maxBefore is how many rules may be asked again for a packet that a narrow rule matches.
	maxBefore = 16
	// looksPerRule bounds the work of finding them.
	looksPerRule = 1000
	// behindDepth is how many blocks deep a detour may be that asks more than that, and minBehind how many a cell must
	// have left for such detours.
	behindDepth = 4
	minBehind   = behindDepth + 2
)

// hoisted returns the steps of a cell.
func (t *tree) hoisted(list []ref, c *cut, at *cell, p *pieces, b budget) []step {
	if b.depth < 2 {
		return t.composed(list, c, at, p, b)
	}
	run := make([]ref, 0, len(at.narrow))
	stuck := cell{Span: at.Span} // narrow rules that stay at their place
	w := 0
	for _, i := range at.narrow {
		for w < len(c.wide) && c.wide[w] < i {
			w++
		}
		r, ok := t.inCell(list[i], c.dim, at.Span)
		if !ok {
			continue
		}
		before, ok := t.before(list[i], list, c, &stuck, p, w)
		switch n := len(before); {
		case !ok:
			r, ok = t.detourBehind(r, list, c, &stuck, p, w)
		case n > 0 && t.always(before[n-1]):
			continue // never asked
		case n > 0:
			r, ok = t.detour(r, before)
		}
		if !ok {
			stuck.narrow = append(stuck.narrow, i)
			continue
		}
		if run = append(run, r); t.always(r) {
			break
		}
	}
	if len(run) == 0 {
		return t.composed(list, c, at, p, b)
	}
	inside := b
	inside.depth--
	if p.behind {
		inside.depth -= behindDepth
	}
	steps := t.node(run, inside)
	if t.always(run[len(run)-1]) {
		return steps
	}
	return append(steps, t.composed(list, c, &stuck, p, b)...)
}

// inCell returns the rule with what is known of it in a cell; false if it cannot match there.
func (t *tree) inCell(r ref, d dim, in span.Span) (ref, bool) {
	if s := t.set(r, d); s != nil {
		switch s.relate(in) {
		case disjoint:
			return r, false
		case covers:
			r = r.know(d)
		}
	}
	return r, true
}

// before returns the rules of the cell, in order, that a packet which matches the narrow rule r may match before it: of
// the first w wide ones and of the stuck ones. It reports false if they are too many, or if r must stay at its place.
func (t *tree) before(r ref, list []ref, c *cut, stuck *cell, p *pieces, w int) ([]ref, bool) {
	if rule := &t.items[r.index()].rule; rule.Then == ir.Undecided || len(rule.Do) > 0 {
		return nil, false
	}
	meets, ok := p.meets[r.index()]
	if !ok {
		if t.looks -= w; t.looks < 0 {
			return nil, false
		}
		for i, x := range p.wide[:w] {
			if t.overlap(r, x, c.dim) {
				if meets = append(meets, c.wide[i]); len(meets) > maxBefore {
					break
				}
			}
		}
		p.meets[r.index()] = meets
	}
	if len(meets) > maxBefore {
		return nil, false
	}
	var out []ref
	for a, b := meets, stuck.narrow; len(a)+len(b) > 0; {
		var i int32
		if len(b) == 0 || len(a) > 0 && a[0] < b[0] {
			i, a = a[0], a[1:]
		} else {
			if i, b = b[0], b[1:]; !t.overlap(r, list[i], c.dim) {
				continue
			}
		}
		x, ok := t.inCell(list[i], c.dim, stuck.Span)
		if !ok {
			continue
		}
		if out = append(out, x); len(out) > maxBefore {
			return nil, false
		}
		if t.always(x) {
			break
		}
	}
	return out, true
}

// detour returns an item that matches what r matches, and leads to a block that asks the rules before r and then does
// what r does.
func (t *tree) detour(r ref, before []ref) (ref, bool) {
	steps := make([]step, 0, len(before)+1)
	for i, x := range before {
		if !t.shadowed(before[:i], x) {
			steps = append(steps, t.ruleStep(x))
		}
	}
	return t.detourBy(r, steps)
}

// detourBehind is detour for rules that too many wide ones stand before: all of the first w are asked, as trees.
func (t *tree) detourBehind(r ref, list []ref, c *cut, stuck *cell, p *pieces, w int) (ref, bool) {
	if rule := &t.items[r.index()].rule; rule.Then == ir.Undecided || len(rule.Do) > 0 || !p.behind {
		return r, false
	}
	for _, i := range stuck.narrow {
		if t.overlap(r, list[i], c.dim) {
			return r, false
		}
	}
	return t.detourBy(r, p.before(w))
}

// detourBy returns an item that matches what r matches, and leads to a block that takes the steps and then does what r
// does.
func (t *tree) detourBy(r ref, steps []step) (ref, bool) {
	of := &t.items[r.index()]
	last := ir.Rule{Do: of.rule.Do, Then: of.rule.Then, Origin: of.rule.Origin}
	id := t.store(append(steps, step{last, of.digest, ^uint64(0)})).Block
	key := string(binary.BigEndian.AppendUint32(nil, uint32(r.index()))) + string(id)
	d, ok := t.detours[key]
	if !ok {
		if len(t.items) >= maxItems {
			return r, false
		}
		it := item{rule: of.rule, view: of.view, block: id}
		sum := sha256.Sum256(append(append([]byte("detour "), of.digest[:]...), id...))
		it.digest = [16]byte(sum[:])
		t.items = append(t.items, it)
		d = ref(len(t.items)-1) << numDims
		t.detours[key] = d
	}
	return d | r&(1<<numDims-1), true
}
