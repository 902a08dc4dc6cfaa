// SPDX-License-Identifier: Apache-2.0

package pass

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Set is a set of the passes of Lower. The zero value is empty.
type Set uint8

// The passes, in the order in which Lower runs them.
const (
	// PassFlatten writes the rules of called blocks where the call stands, so that a tier is one list of rules.
	PassFlatten Set = 1 << iota
	// PassPrune drops rules that no packet can match or that stand behind one that decides for every packet.
	PassPrune
	// PassShare makes equal blocks one.
	PassShare
	// PassTree makes decision trees of long lists: each level is a Switch on the field that tells most rules apart.
	// Equal parts of trees are one block anyway.
	PassTree

	// AllPasses turns Lower into the identity when it is skipped.
	AllPasses = PassFlatten | PassPrune | PassTree | PassShare
)

var passNames = [...]string{"flatten", "prune", "share", "tree"}

// String returns the names of the passes, separated by commas.
func (s Set) String() string {
	var names []string
	for i, n := range passNames {
		if s>>i&1 != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ",")
}

// The defaults of Options.
const (
	DefaultGrowth   = 12
	DefaultMinRules = 8
)

// Options say how to lower. The zero value is useful. Comparable.
type Options struct {
	// Skip is the passes that do not run.
	Skip Set
	// Growth is about how many rules, calls and cases the result may hold for each one of the program; 0 is
	// DefaultGrowth. Every list keeps to its share, but for short ones, which may always take twice their length.
	Growth int
	// MinRules is the length from which on a list of rules is worth a tree; 0 is DefaultMinRules.
	MinRules int
}

func (o Options) withDefaults() Options {
	if o.Growth <= 0 {
		o.Growth = DefaultGrowth
	}
	if o.MinRules <= 0 {
		o.MinRules = DefaultMinRules
	}
	return o
}

// Report says what Lower did. It is canonical, as the program is.
type Report struct {
	Before, After Size
	Notes         []Note // in the order of the work
}

// Size counts what a program holds.
type Size struct{ Blocks, Rules, Calls, Cases int }

func (s Size) total() int { return s.Rules + s.Calls + s.Cases }

// Note is what a pass did to a block, and why it did no more.
type Note struct {
	Pass  Set
	Block ir.BlockID // "" if it is about the program
	Text  string
}

// String returns one line for the sizes and one for each note.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v -> %v\n", r.Before, r.After)
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "%s %s: %s\n", n.Pass, n.Block, n.Text)
	}
	return b.String()
}

// String returns the size in words.
func (s Size) String() string {
	return fmt.Sprintf("%d blocks, %d rules, %d calls, %d cases", s.Blocks, s.Rules, s.Calls, s.Cases)
}

func sizeOf(p *ir.Program) (s Size) {
	s.Blocks = len(p.Blocks)
	for _, b := range p.Blocks {
		for _, step := range b.Steps {
			switch step := step.(type) {
			case ir.Rule:
				s.Rules++
			case ir.Call:
				s.Calls++
			case ir.Switch:
				s.Cases += len(step.Cases)
			}
		}
	}
	return s
}

// Lower returns a program that does to every packet at every hook what p does, by the same origins and with the same
// logs, and that looks at far fewer rules for it. It changes structure only and never asks for members, so that changes
// of members change nothing here.
//
// The result grows with the program about as Options.Growth says, and so does the work. A program that cannot be walked
// (ir.Validate says why) is returned as it is.
func Lower(p *ir.Program, o Options) (*ir.Program, Report) {
	return new(Memory).Lower(p, o)
}

// depths returns for each block how many blocks may be entered before it, on the longest way from an entry. Blocks that
// no entry leads to are not in it.
func depths(p *ir.Program) (map[ir.BlockID]int, error) {
	blocks := make(map[ir.BlockID]*ir.Block, len(p.Blocks))
	for i := range p.Blocks {
		blocks[p.Blocks[i].ID] = &p.Blocks[i]
	}
	var order []ir.BlockID // callees first
	state := make(map[ir.BlockID]bool, len(blocks))
	var visit func(ir.BlockID) error
	visit = func(id ir.BlockID) error {
		if done, ok := state[id]; ok {
			if !done {
				return fmt.Errorf("block %q calls itself", id)
			}
			return nil
		}
		b := blocks[id]
		if b == nil {
			return fmt.Errorf("block %q does not exist", id)
		}
		state[id] = false
		for _, s := range b.Steps {
			switch s.(type) {
			case ir.Rule, ir.Call, ir.Switch:
			default:
				return fmt.Errorf("unknown step %T", s)
			}
			for c := range callees(s) {
				if err := visit(c); err != nil {
					return err
				}
			}
		}
		state[id] = true
		order = append(order, id)
		return nil
	}
	depth := make(map[ir.BlockID]int, len(blocks))
	for _, e := range p.Entries {
		for _, id := range [...]ir.BlockID{e.Always, e.Block} {
			if id == "" && e.Block != "" {
				continue
			}
			if err := visit(id); err != nil {
				return nil, err
			}
			depth[id] = 0
		}
	}
	for _, id := range slices.Backward(order) {
		for _, s := range blocks[id].Steps {
			for c := range callees(s) {
				depth[c] = max(depth[c], depth[id]+1)
			}
		}
	}
	return depth, nil
}

// callees visits the blocks that a step leads to, as often as it does.
func callees(s ir.Step) iter.Seq[ir.BlockID] {
	return func(yield func(ir.BlockID) bool) {
		switch s := s.(type) {
		case ir.Call:
			yield(s.Block)
		case ir.Switch:
			for i := range s.Cases {
				if id := s.Cases[i].Then.Block; id != "" && !yield(id) {
					return
				}
			}
		}
	}
}

// lowerer lowers one program.
type lowerer struct {
	o      Options
	p      *ir.Program
	memory *Memory
	depth  map[ir.BlockID]int
	report *Report
	blocks map[ir.BlockID]*ir.Block
	outs   map[ir.BlockID]ir.OutcomeSet
}

func (l *lowerer) note(s Set, id ir.BlockID, format string, args ...any) {
	l.report.Notes = append(l.report.Notes, Note{s, id, fmt.Sprintf(format, args...)})
}

func (l *lowerer) run() *ir.Program {
	for i := range l.p.Blocks {
		l.blocks[l.p.Blocks[i].ID] = &l.p.Blocks[i]
	}
	l.outs = ir.Outcomes(l.p)
	q := reachable(l.p)
	if l.o.Skip&PassFlatten == 0 {
		l.flatten(q)
		q = reachable(q)
	}
	if l.o.Skip&PassPrune == 0 {
		l.prune(q)
		q = reachable(q)
	}
	if l.o.Skip&PassShare == 0 {
		n := len(q.Blocks)
		if shared, err := Share(q); err == nil { // depths has walked the program: there is no error
			q = shared
		}
		if n > len(q.Blocks) {
			l.note(PassShare, "", "%d blocks became %d", n, len(q.Blocks))
		}
	}
	if l.o.Skip&PassTree == 0 {
		l.trees(q)
		q = reachable(q)
	}
	return q
}

// reachable drops the blocks that no entry leads to, and sorts the others.
func reachable(p *ir.Program) *ir.Program {
	index := make(map[ir.BlockID]int32, len(p.Blocks))
	for i := range p.Blocks {
		index[p.Blocks[i].ID] = int32(i)
	}
	seen := make([]bool, len(p.Blocks))
	var todo []int32
	n := 0
	add := func(id ir.BlockID) {
		if id == "" {
			return
		}
		if i, ok := index[id]; ok && !seen[i] {
			seen[i] = true
			todo = append(todo, i)
			n++
		}
	}
	for _, e := range p.Entries {
		add(e.Block)
		add(e.Always)
	}
	for len(todo) > 0 {
		b := &p.Blocks[todo[len(todo)-1]]
		todo = todo[:len(todo)-1]
		for _, s := range b.Steps {
			for c := range callees(s) {
				add(c)
			}
		}
	}
	q := &ir.Program{Entries: p.Entries, Sets: p.Sets, Origins: p.Origins, Blocks: make([]ir.Block, 0, n)}
	for i := range p.Blocks {
		if seen[i] {
			q.Blocks = append(q.Blocks, p.Blocks[i])
		}
	}
	byID := func(a, b ir.Block) int { return cmp.Compare(a.ID, b.ID) }
	if !slices.IsSortedFunc(q.Blocks, byID) {
		slices.SortFunc(q.Blocks, byID)
	}
	return q
}
