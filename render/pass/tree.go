// SPDX-License-Identifier: Apache-2.0

package pass

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// A list of rules becomes a tree by choosing a field, cutting its values into cells at the ends of the narrow rules'
// ranges, and making a Switch with a case for every cell: packets of a cell go on with the rules that they can match,
// in their order. Wide rules, those that many cells would hold, are in every list.
//
// They may be copied there if few. Otherwise the lists call blocks that hold ranges of the wide rules: range [a,b) is
// put together from blocks of 2^k rules, which all cells share and which become trees on the other fields. Where even
// that would be too much, the list is cut in two that are searched one after the other.
//
// Every list holds its rules in the order of the program, but for narrow rules that stand further ahead among wide ones
// where no packet can match both, or that are asked first; see hoist.go.
//
// How large a tree becomes is known when it is there. So the first effort assumes that rules are as they mostly are, most of
// them narrow in some field, and where that fails another one with less ambition begins anew.

const (
	// switchCost is what a Switch costs, in rules looked at. Measured on nftables, where a verdict map costs about as
	// much as eight simple rules.
	switchCost = 8
	// fewWide is how many wide rules are copied into cells without a thought.
	fewWide = 12
	// chunk is the least number of wide rules that get a block of their own.
	chunk = 8
	// maxLevels is how many blocks deep a tree may be.
	maxLevels = 8
	// spareDepth is how many of the chains that a packet may go through are left to renderers.
	spareDepth = 5
	// perWide is what each wide rule may take at least in the part of a tree.
	perWide = 3
	// workPerRule bounds the work of looking for cuts. Half of it is enough for trees that are worth it.
	workPerRule = 512
	// roomToStart is what short lists may take although it is more than their share.
	roomToStart = 64
	// pathsPerRule bounds a high guess of the number of ways through a tree: kernels before 6.19 walk all of them when
	// they check for loops. Ref: linux net/netfilter/nf_tables_api.c, nft_chain_validate.
	pathsPerRule = 4000
)

// tree builds the trees of one program.
type tree struct {
	l       *lowerer
	items   []item
	blocks  map[ir.BlockID]ir.Block
	order   []ir.BlockID
	memo    map[string]ir.BlockID // of lists at a depth
	keys    map[ir.OriginID]flow.RuleKey
	drafts  [2]draft       // room
	detours map[string]ref // items with a block, by what they come of
	effort  effort
	looks   int                // that may still be spent on detours
	work    int                // looks at rules that may still be spent on cuts
	room    int                // rules, calls and cases that blocks may still have in all
	ways    map[ir.BlockID]int // through blocks
	lists   int                // lists that stayed longer than MinRules
}

// budget is what may be spent on a list.
type budget struct {
	rules int // rules and cases in all
	paths int // ways through
	depth int // blocks below

	perWide int // what each wide rule may take at least
}

// effort is how much is tried.
type effort struct {
	divisor int // of the growth that budgets are made of
	copies  int // in how many cells a narrow rule may be, on average
	wide    int // times the growth: perWide of the budget of the whole list; with 0 there is no detourBehind
}

// efforts are tried one after the other.
var efforts = [...]effort{{1, 8, 2}, {1, 4, 0}, {2, 4, 0}, {4, 2, 0}, {1 << 16, 2, 0}}

func (l *lowerer) trees(q *ir.Program) {
	t := &tree{l: l, blocks: map[ir.BlockID]ir.Block{}, memo: map[string]ir.BlockID{}, keys: map[ir.OriginID]flow.RuleKey{}, detours: map[string]ref{}, ways: map[ir.BlockID]int{}}
	growth := l.o.Growth
	if before := sizeOf(l.p).total(); before > 0 {
		growth = max(1, growth*before/max(1, sizeOf(q).total()))
	}
	for i := range q.Blocks {
		b := &q.Blocks[i]
		depth := min(maxLevels, ir.MaxDepth-spareDepth-1-l.depth[b.ID])
		if depth < 1 {
			l.note(PassTree, b.ID, "too deep below the entries for a tree")
			continue
		}
		var steps []ir.Step
		for from := 0; from < len(b.Steps); {
			to := from
			for to < len(b.Steps) && l.treeable(b.Steps[to]) {
				to++
			}
			if to-from < l.o.MinRules || len(t.items)+to-from > maxItems {
				to = max(to, from+1)
				steps = append(steps, b.Steps[from:to]...)
				from = to
				continue
			}
			list := t.load(b.Steps[from:to])
			before, stuck := len(t.order), t.lists
			got := t.grow(list, growth, depth)
			steps = append(steps, got...)
			if len(got) > 0 && ends(got[len(got)-1]) {
				to = len(b.Steps)
			}
			if len(t.order) > before {
				l.note(PassTree, b.ID, "%d rules became a tree with %d blocks; %d lists of it are searched rule by rule", len(list), len(t.order)-before, t.lists-stuck)
			} else {
				l.note(PassTree, b.ID, "%d rules stay a list: no field tells them apart well enough", len(list))
			}
			from = to
		}
		b.Steps = steps
	}
	for _, id := range t.order {
		q.Blocks = append(q.Blocks, t.blocks[id])
	}
}

// grow returns the steps that do what the rules of the list do. What becomes of budgets deep in a tree is a guess: a tree
// that is too large, that has too many ways through or that takes too much work is thrown away, and less is tried.
func (t *tree) grow(list []ref, growth, depth int) []ir.Step {
	blocks, items, lists := len(t.order), len(t.items), t.lists
	paths := pathsPerRule*len(list) + 10000
	for _, e := range efforts {
		t.effort = e
		t.looks, t.work = looksPerRule*len(list), workPerRule*len(list)
		t.room = growth*len(list)*3/2 + roomToStart
		share := max(1, growth/t.effort.divisor)
		got := plain(t.node(list, budget{share * len(list), paths, depth, max(perWide, t.effort.wide*growth)}))
		if t.room >= 0 && t.work >= 0 && t.paths(got, paths) <= paths {
			return got
		}
		for _, id := range t.order[blocks:] {
			delete(t.blocks, id)
		}
		t.order, t.items, t.lists = t.order[:blocks], t.items[:items], lists
		clear(t.memo)
		clear(t.detours)
		clear(t.ways)
	}
	return plain(t.linear(list))
}

// paths returns the number of ways through steps, or something above most.
func (t *tree) paths(steps []ir.Step, most int) int {
	n := 1
	for _, s := range steps {
		for id := range callees(s) {
			if n > most {
				return n
			}
			w, ok := t.ways[id]
			if !ok {
				w = t.paths(t.blocks[id].Steps, most)
				t.ways[id] = w
			}
			n += w
		}
	}
	return n
}

// treeable reports whether a step can be part of a tree. Failsafes stay in sight of ir.Validate.
func (l *lowerer) treeable(s ir.Step) bool {
	r, ok := s.(ir.Rule)
	return ok && !isFailsafe(l.p.Origin(r.Origin))
}

func ends(s ir.Step) bool {
	r, ok := s.(ir.Rule)
	return ok && r.Then != ir.Undecided && len(r.Match) == 0
}

// load makes items of rules.
func (t *tree) load(steps []ir.Step) []ref {
	list := make([]ref, 0, len(steps))
	text := make([]byte, 0, 256)
	for _, s := range steps {
		it := item{rule: s.(ir.Rule)}
		it.view = t.l.memory.view(it.rule.Match)
		if !it.possible || it.rule.Then == ir.Undecided && len(it.rule.Do) == 0 {
			continue
		}
		if it.text == nil {
			it.text = appendMatch(nil, it.rule.Match)
		}
		text = appendHead(binary.BigEndian.AppendUint64(text[:0], uint64(t.key(it.rule.Origin))), &it.rule)
		sum := sha256.Sum256(append(text, it.text...))
		it.digest = [16]byte(sum[:])
		t.items = append(t.items, it)
		r := ref(len(t.items)-1) << numDims
		list = append(list, r)
		if t.always(r) {
			break
		}
	}
	return list
}

// node returns the steps that do what the rules of the list do.
func (t *tree) node(list []ref, b budget) []step {
	n := len(list)
	if n < t.l.o.MinRules || b.depth < 1 || t.room < 0 || t.work < 0 {
		return t.linear(list)
	}
	total := t.always(list[n-1])
	if !total {
		// What follows the Switch is met again by packets that a cell did not decide: a log would come twice.
		for i, r := range list {
			if it := &t.items[r.index()]; len(it.rule.Do) > 0 {
				steps := t.part(list, 0, i, b)
				steps = append(steps, t.ruleStep(r))
				if i+1 < n {
					steps = append(steps, t.part(list, i+1, n, b)...)
				}
				return steps
			}
		}
	}
	c, ok := t.bestCut(list, b.rules)
	if !ok {
		return t.linear(list)
	}
	return t.split(list, c, total, b)
}

// part is node for a part of a list, with its share of the budget.
func (t *tree) part(list []ref, from, to int, b budget) []step {
	if from == to {
		return nil
	}
	n := len(list)
	return t.node(list[from:to], budget{b.rules * (to - from) / n, b.paths * (to - from) / n, b.depth, b.perWide})
}

// linear returns the rules of the list, without those that others shadow if the list is short.
func (t *tree) linear(list []ref) []step {
	if len(list) >= t.l.o.MinRules {
		t.lists++
	}
	steps := make([]step, 0, len(list))
	for i, r := range list {
		if len(list) <= 4*switchCost && t.shadowed(list[:i], r) {
			continue
		}
		steps = append(steps, t.ruleStep(r))
	}
	return steps
}

func (t *tree) shadowed(earlier []ref, r ref) bool {
	for _, e := range earlier {
		if t.shadows(e, r) {
			return true
		}
	}
	return false
}

// split writes the Switch for a cut.
func (t *tree) split(list []ref, c *cut, total bool, b budget) []step {
	n, wide := len(list), len(c.wide)
	copied := 0 // the size of all cells if wide rules are copied
	for _, cell := range c.cells {
		copied += len(cell.narrow) + wide + 1
	}
	shared := copied
	replicate := wide <= fewWide && copied <= b.rules
	heavy := func(cell *cell) bool { return len(cell.narrow) >= wide }
	if !replicate {
		paths := 0
		shared = 2 * wide
		for i := range c.cells {
			cell := &c.cells[i]
			if heavy(cell) {
				shared += len(cell.narrow) + wide
			} else {
				shared += perCopy*len(cell.narrow) + 1
			}
			paths += len(cell.narrow) + wide
		}
		if shared > b.rules || paths > b.paths || b.depth < 3 {
			if n < 4*switchCost {
				return t.linear(list)
			}
			return append(t.part(list, 0, n/2, b), t.part(list, n/2, n, b)...)
		}
	}
	rest := refs(list, c.wide)
	forWide := budget{max(b.perWide*wide, b.rules*wide/shared), b.paths / max(1, len(c.cells)), b.depth - 2, perWide}
	// Behind all wide rules of the whole list, narrow ones may have detours; see detourBehind.
	p := &pieces{t, rest, map[int][]int32{}, forWide, b.perWide > perWide && b.depth > minBehind}
	sw := ir.Switch{Key: []ir.Field{fieldOf[c.dim]}}
	var behind ir.Target
	if wide > 0 && !total {
		forWide.depth = b.depth - 1
		behind = ir.Target{Block: t.block(rest, forWide)}
	}
	add := func(s span.Span, then ir.Target, by ir.OriginID) {
		if then == (ir.Target{}) {
			return
		}
		if k := len(sw.Cases); k > 0 {
			last := &sw.Cases[k-1]
			if last.Then == then && last.Origin == by && span.KeyOf(last.Key[0].Hi).Next() == s.Lo {
				last.Key[0].Hi = s.Hi.Value()
				return
			}
		}
		sw.Cases = append(sw.Cases, ir.Case{Key: []ir.Interval{{Lo: s.Lo.Value(), Hi: s.Hi.Value()}}, Then: then, Origin: by})
	}
	var from span.Key
	open := true // values from from on are still to be covered
	var all, merged []ref
	for i := range c.cells {
		cell := &c.cells[i]
		if from.Less(cell.Lo) {
			add(span.Span{Lo: from, Hi: cell.Lo.Prev()}, behind, 0)
		}
		var then ir.Target
		var by ir.OriginID
		share := func(size int) budget {
			return budget{max(2*size, b.rules*size/shared), max(size, b.paths*size/copied), b.depth - 1, perWide}
		}
		if replicate || heavy(cell) {
			all = c.merge(all[:0], list, cell)
			merged = t.within(merged[:0], all, c.dim, cell.Span)
			then, by = t.target(merged, share(len(merged)))
		} else {
			then, by = t.store(t.hoisted(list, c, cell, p, share(len(cell.narrow)))), 0
		}
		add(cell.Span, then, by)
		if open = cell.Hi != c.dim.top(); open {
			from = cell.Hi.Next()
		}
	}
	if open {
		add(span.Span{Lo: from, Hi: c.dim.top()}, behind, 0)
	}
	steps := []step{{Step: sw}}
	if total {
		forWide.paths, forWide.depth = b.paths, b.depth
		return append(steps, t.node(rest, forWide)...)
	}
	if behind.Block != "" && c.dim.optional() {
		lacks := ir.InPorts{Field: fieldOf[c.dim], Ranges: allPorts, Not: true}
		steps = append(steps, step{Step: ir.Call{Match: ir.Match{{lacks}}, Block: behind.Block}})
	}
	return steps
}

// target returns what a case has to do for the list.
func (t *tree) target(list []ref, b budget) (ir.Target, ir.OriginID) {
	if len(list) == 0 {
		return ir.Target{}, 0
	}
	if r := list[0]; t.always(r) && len(t.items[r.index()].rule.Do) == 0 {
		rule := &t.items[r.index()].rule
		if id := t.items[r.index()].block; id != "" {
			return ir.Target{Block: id}, 0
		}
		return ir.Target{Outcome: rule.Then}, rule.Origin
	}
	return ir.Target{Block: t.block(list, b)}, 0
}

// block returns the block for a list.
func (t *tree) block(list []ref, b budget) ir.BlockID {
	key := make([]byte, 0, 4*len(list)+1)
	for _, r := range list {
		key = binary.BigEndian.AppendUint32(key, uint32(r))
	}
	key = append(key, byte(b.depth))
	if id, ok := t.memo[string(key)]; ok {
		return id
	}
	id := t.store(t.node(list, b)).Block
	t.memo[string(key)] = id
	return id
}

// step is an ir.Step under construction; of a rule also what identifies it.
type step struct {
	ir.Step
	digest [16]byte
	drop   uint64
}

func plain(steps []step) []ir.Step {
	out := make([]ir.Step, len(steps))
	for i, s := range steps {
		out[i] = s.Step
	}
	return out
}

// ruleStep returns the rule without the clauses that are known to hold.
func (t *tree) ruleStep(r ref) step {
	it := &t.items[r.index()]
	rule := t.rule(r)
	if it.block != "" {
		return step{ir.Call{Match: rule.Match, Block: it.block}, it.digest, it.dropped(r)}
	}
	return step{rule, it.digest, it.dropped(r)}
}

// store makes a block of steps. Its ID is a hash of its content, so that blocks stay the same while rules elsewhere
// change.
func (t *tree) store(steps []step) ir.Target {
	if len(steps) == 0 {
		return ir.Target{}
	}
	h := sha256.New()
	var room [512]byte
	for _, s := range steps {
		buf := room[:0]
		switch x := s.Step.(type) {
		case ir.Rule:
			buf = append(append(buf, 'r'), s.digest[:]...)
			buf = binary.BigEndian.AppendUint64(buf, s.drop)
		case ir.Call: // its match, if any, is that of the Switch before it, or of an item
			buf = append(append(buf, 'c', byte(min(len(x.Match), 255))), s.digest[:]...)
			buf = append(binary.BigEndian.AppendUint64(buf, s.drop), x.Block...)
		case ir.Switch:
			buf = append(buf, 's', byte(x.Key[0]))
			for _, c := range x.Cases {
				buf = append(append(buf, c.Key[0].Lo[:]...), c.Key[0].Hi[:]...)
				buf = append(buf, byte(c.Then.Outcome))
				buf = binary.BigEndian.AppendUint64(buf, uint64(t.key(c.Origin)))
				buf = append(append(buf, c.Then.Block...), 0)
			}
		}
		h.Write(append(buf, 0))
	}
	var sum [32]byte
	id := ir.BlockID("tree/" + hex.EncodeToString(h.Sum(sum[:0])[:8]))
	if _, ok := t.blocks[id]; !ok {
		t.blocks[id] = ir.Block{ID: id, Steps: plain(steps)}
		t.order = append(t.order, id)
		for _, s := range steps {
			t.room--
			if sw, ok := s.Step.(ir.Switch); ok {
				t.room -= len(sw.Cases) - 1
			}
		}
	}
	return ir.Target{Block: id}
}

// key returns the key of an origin; 0 for none.
func (t *tree) key(id ir.OriginID) flow.RuleKey {
	if id == 0 {
		return 0
	}
	k, ok := t.keys[id]
	if !ok {
		k = t.l.p.Origin(id).Key()
		t.keys[id] = k
	}
	return k
}
