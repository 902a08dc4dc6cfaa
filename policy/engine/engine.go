// SPDX-License-Identifier: Apache-2.0

// Package engine keeps the program of a host up to date while resources and the host change. An Engine takes changes in
// and says what became of program and members, at a cost that grows with the change and not with what is there: it is
// policy.Resolve and compile.Compile for callers who watch a datastore.
//
//	resources, host --Apply--> policy.Resolver --Changes--> compile.Incremental --Delta--> caller
//
// State depends on the present resources and host alone, never on the way to them: at any time Snapshot, Program and
// Members are what Resolve and Compile return for the same resources.
package engine

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Options change how an Engine works. The zero value is what Resolve and Compile do.
type Options struct {
	Config policy.Config

	// KeepLastGood makes the Engine refuse a new version of an object that cannot be used at all (its Check returns
	// errors) while it has a version that can: that one stays in force, and a Problem with the code "kept-last-good"
	// says so for each error. Deleting the object ends it. Without this, and for an object that was never good, the new
	// version is used as far as it can be understood, as in Resolve.
	KeepLastGood bool
}

// Engine holds the resources and the host, and what follows from them. It is for one goroutine at a time; what it hands
// out is immutable and stays valid. New makes one; the zero value is not useful.
type Engine struct {
	keep     bool
	resolver *policy.Resolver
	program  *compile.Incremental

	objects map[hostendpoint.ID]hostendpoint.Object // in force, by stored ID; only with KeepLastGood
	kept    map[hostendpoint.ID][]policy.Problem    // of those whose newest version is not the one in force

	snapshot *policy.Snapshot // nil if it is out of date

	// Problems that came (true) and went since the last Delta, if its Apply failed.
	problems map[policy.Problem]bool
}

// Change is one change of the world. Upsert, Delete and SetHost make them; the zero value is an error.
type Change struct {
	object hostendpoint.Object
	id     hostendpoint.ID
	host   *hostendpoint.Host
}

// Upsert says that an object exists with this content: it is new, or in place of the one of its name. The Engine keeps
// it; it must not change afterwards.
func Upsert(o hostendpoint.Object) Change { return Change{object: o} }

// Delete says that there is no object of this name. It is no error if there was none.
func Delete(id hostendpoint.ID) Change { return Change{id: id} }

// SetHost says what the host is now: all its interfaces and their addresses.
func SetHost(h hostendpoint.Host) Change { return Change{host: &h} }

// Delta says what an Apply changed. Blocks are named; Engine.Fragment has their contents as long as no other Apply
// happens. The zero value is no change.
type Delta struct {
	compile.Delta
	Raised, Solved []policy.Problem // problems that came and went, sorted
}

// Empty reports whether nothing changed.
func (d *Delta) Empty() bool { return d.Delta.Empty() && len(d.Raised)+len(d.Solved) == 0 }

// New returns an Engine for a host without resources. Its first Delta tells the whole program from the empty one. The
// error is that of policy.Resolve: host or configuration make no sense.
func New(h hostendpoint.Host, o Options) (*Engine, error) {
	rs, err := policy.NewResolver(h, o.Config)
	if err != nil {
		return nil, err
	}
	p, err := compile.NewIncremental(rs)
	if err != nil {
		return nil, err
	}
	return &Engine{
		keep: o.KeepLastGood, resolver: rs, program: p, problems: map[policy.Problem]bool{},
		objects: map[hostendpoint.ID]hostendpoint.Object{}, kept: map[hostendpoint.ID][]policy.Problem{},
	}, nil
}

// Apply takes changes in, all or none, and returns what they change. Of several changes of one object only the last
// counts. Deltas add up: all of them together make the present program from the empty one.
//
// An error that Is ErrChange means that a change makes no sense, and that nothing was taken in. Any other error is that of
// compile.Compile: no program can enforce the present resources (two policies have one name as far as programs know
// names). The changes are taken in then, the last program should stay in force, and the next Delta says what changed
// since the one before.
func (e *Engine) Apply(changes ...Change) (Delta, error) {
	todo, host, err := plan(changes)
	if err != nil {
		return Delta{}, err
	}
	if host != nil {
		if err := e.resolver.SetHost(*host); err != nil {
			return Delta{}, fmt.Errorf("%w: %w", ErrChange, err)
		}
	}
	if len(changes) > 0 {
		e.snapshot = nil
	}
	if len(todo) >= manyChanges {
		n := 0
		for _, c := range todo {
			if _, ok := c.object.(*hostendpoint.HostEndpoint); ok {
				n++
			}
		}
		e.resolver.Grow(n)
	}
	for _, c := range todo {
		if c.object != nil {
			e.upsert(c.object)
		} else {
			e.delete(c.id.Stored())
		}
	}
	ch := e.resolver.Commit()
	e.note(ch.Raised, ch.Solved)
	d, err := e.program.Apply(ch)
	if err != nil {
		return Delta{}, err
	}
	out := Delta{Delta: d}
	for p, came := range e.problems {
		if came {
			out.Raised = append(out.Raised, p)
		} else {
			out.Solved = append(out.Solved, p)
		}
	}
	clear(e.problems)
	slices.SortFunc(out.Raised, policy.CompareProblems)
	slices.SortFunc(out.Solved, policy.CompareProblems)
	return out, nil
}

// manyChanges is from where on it is worth to count them.
const manyChanges = 64

// ErrChange is the error of a Change that makes no sense.
var ErrChange = errors.New("invalid change")

// plan looks at all changes before the first one is taken in. It returns the last of each object, in an order that suits
// the index of labels (what is inherited, what has labels, what selects), and the last host.
func plan(changes []Change) ([]*Change, *hostendpoint.Host, error) {
	var host *hostendpoint.Host
	last := make(map[hostendpoint.ID]int, len(changes))
	ids := make([]hostendpoint.ID, len(changes))
	for i := range changes {
		switch c := &changes[i]; {
		case c.host != nil:
			host = c.host
		case isNil(c.object) && c.id == (hostendpoint.ID{}):
			return nil, nil, fmt.Errorf("%w: number %d names neither an object nor the host", ErrChange, i)
		default:
			ids[i] = c.stored()
			last[ids[i]] = i
		}
	}
	todo := make([]*Change, 0, len(last))
	for turn := range 3 {
		for i := range changes {
			if c := &changes[i]; c.host == nil && turnOf(ids[i].Kind) == turn && last[ids[i]] == i {
				todo = append(todo, c)
			}
		}
	}
	return todo, host, nil
}

// turnOf returns when objects of a kind are taken in.
func turnOf(kind string) int {
	switch kind {
	case hostendpoint.KindGlobalNetworkPolicy, hostendpoint.KindNetworkPolicy:
		return 2
	case hostendpoint.KindHostEndpoint, hostendpoint.KindGlobalNetworkSet, hostendpoint.KindNetworkSet:
		return 1
	}
	return 0
}

// isNil reports whether there is no object: an Object is a pointer that may be nil.
func isNil(o hostendpoint.Object) bool {
	switch o := o.(type) {
	case nil:
		return true
	case *hostendpoint.HostEndpoint:
		return o == nil
	case *hostendpoint.Profile:
		return o == nil
	case *hostendpoint.Tier:
		return o == nil
	case *hostendpoint.GlobalNetworkPolicy:
		return o == nil
	case *hostendpoint.NetworkPolicy:
		return o == nil
	case *hostendpoint.GlobalNetworkSet:
		return o == nil
	case *hostendpoint.NetworkSet:
		return o == nil
	case *hostendpoint.Node:
		return o == nil
	}
	return false
}

// stored returns the identity of the object that a change is about.
func (c *Change) stored() hostendpoint.ID {
	if c.object != nil {
		return c.object.ID().Stored()
	}
	return c.id.Stored()
}

func (e *Engine) upsert(o hostendpoint.Object) {
	id := o.ID().Stored()
	if e.keep {
		errs, _ := o.Check()
		if e.objects[id] != nil && len(errs) > 0 {
			e.setKept(id, keptProblems(errs))
			return
		}
		e.setKept(id, nil)
		if len(errs) == 0 {
			e.objects[id] = o
		}
	}
	e.resolver.Put(o)
}

func (e *Engine) delete(id hostendpoint.ID) {
	if e.keep {
		e.setKept(id, nil)
		delete(e.objects, id)
	}
	e.resolver.Delete(id)
}

// keptProblems says why a version of an object is not used.
func keptProblems(errs field.List) []policy.Problem {
	var out []policy.Problem
	for _, x := range errs {
		msg := x.Reason
		if x.Value != "" {
			msg = fmt.Sprintf("%q: %s", x.Value, msg)
		}
		p := policy.Problem{Severity: policy.Error, Code: "kept-last-good", Object: x.Object, Path: x.Path, Pos: x.Pos,
			Message: "the last version that can be used stays in force: " + msg}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

func (e *Engine) setKept(id hostendpoint.ID, now []policy.Problem) {
	old := e.kept[id]
	if len(now) > 0 {
		e.kept[id] = now
	} else {
		delete(e.kept, id)
	}
	has := func(list []policy.Problem) func(policy.Problem) bool {
		return func(p policy.Problem) bool { return slices.Contains(list, p) }
	}
	e.note(slices.DeleteFunc(slices.Clone(now), has(old)), slices.DeleteFunc(slices.Clone(old), has(now)))
}

// note adds up changes of problems.
func (e *Engine) note(raised, solved []policy.Problem) {
	add := func(list []policy.Problem, came bool) {
		for _, p := range list {
			if was, ok := e.problems[p]; ok && was != came {
				delete(e.problems, p)
			} else {
				e.problems[p] = came
			}
		}
	}
	add(raised, true)
	add(solved, false)
}

// Fragment returns a canonical program that holds nothing but the present blocks of the given IDs and the origins that
// they name. IDs without block are left out.
func (e *Engine) Fragment(ids ...ir.BlockID) *ir.Program { return e.program.Fragment(ids...) }

// Program returns the whole present program. After changes it is made anew, at a cost that grows with the program. The
// error is that of the last Apply.
func (e *Engine) Program() (*ir.Program, error) { return e.program.Program() }

// Members returns the members of all sets of the present program.
func (e *Engine) Members() ir.Members { return e.program.Members() }

// Snapshot returns what policy.Resolve returns for the resources in force, and the problems of those that were refused.
func (e *Engine) Snapshot() *policy.Snapshot {
	if e.snapshot == nil {
		s := *e.resolver.Snapshot()
		if len(e.kept) > 0 {
			s.Problems = slices.Clone(s.Problems)
			for _, list := range slices.Collect(maps.Values(e.kept)) {
				s.Problems = append(s.Problems, list...)
			}
			slices.SortFunc(s.Problems, policy.CompareProblems)
		}
		e.snapshot = &s
	}
	return e.snapshot
}

// Problems returns all present problems, the worst first.
func (e *Engine) Problems() []policy.Problem { return e.Snapshot().Problems }
