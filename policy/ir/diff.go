// SPDX-License-Identifier: Apache-2.0

package ir

import (
	"cmp"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// ObjectKind says what kind of object a Change is about. The zero value is invalid.
type ObjectKind uint8

// The kinds of objects, in the order of the text form.
const (
	ObjectEntry ObjectKind = iota + 1
	ObjectSet
	ObjectBlock
)

var objectNames = [...]string{ObjectEntry: "entry", ObjectSet: "set", ObjectBlock: "block"}

// String returns "entry", "set" or "block".
func (k ObjectKind) String() string { return enumText(objectNames[:], "object", k) }

// Change says how one object of a program differs from its namesake in another program.
type Change struct {
	Kind ObjectKind
	Name string // the hook of an entry, the ID of a set or block
	// Lines is the object's text: every line of it that either program has, in order. Unchanged lines are there only if
	// the object is in both.
	Lines []LineChange
}

// LineChange is a line of the text form, and whether it came, went or stayed.
type LineChange struct {
	Op   LineOp
	Text string
}

// LineOp says what became of a line. The zero value means that it stayed.
type LineOp uint8

// The operations.
const (
	Kept LineOp = iota
	Added
	Removed
)

// Op returns Added or Removed if the whole object came or went, and Kept if it is in both programs and changed.
func (c Change) Op() LineOp {
	op := Kept
	for i, l := range c.Lines {
		if i > 0 && l.Op != op {
			return Kept
		}
		op = l.Op
	}
	return op
}

// Changes is the difference of two programs: entries, then sets, then blocks, each sorted by name. It is empty if they
// have the same text.
type Changes []Change

// String returns the changes as lines that begin with "+", "-" or a blank; unchanged lines are left out but for the
// first of an object and those next to a change.
func (cs Changes) String() string {
	var w strings.Builder
	for _, c := range cs {
		for i, l := range c.Lines {
			near := i == 0 || l.Op != Kept || c.Lines[i-1].Op != Kept || i+1 < len(c.Lines) && c.Lines[i+1].Op != Kept
			if !near {
				continue
			}
			w.WriteByte([]byte{Kept: ' ', Added: '+', Removed: '-'}[l.Op])
			w.WriteString(l.Text)
			w.WriteByte('\n')
		}
	}
	return w.String()
}

// Diff returns what must change to make b of a. Nil stands for the empty program. Positions of origins do not count.
func Diff(a, b *Program) Changes {
	if a == nil {
		a = &Program{}
	}
	if b == nil {
		b = &Program{}
	}
	var cs Changes
	hook := func(e Entry) flow.Hook { return e.Hook }
	cs = append(cs, diffObjects(ObjectEntry, a.Entries, b.Entries, hook, flow.Hook.String,
		Entry.lines, Entry.lines)...)
	setID := func(s SetDecl) SetID { return s.ID }
	cs = append(cs, diffObjects(ObjectSet, a.Sets, b.Sets, setID, func(id SetID) string { return string(id) },
		SetDecl.lines, SetDecl.lines)...)
	blockID := func(x Block) BlockID { return x.ID }
	cs = append(cs, diffObjects(ObjectBlock, a.Blocks, b.Blocks, blockID, func(id BlockID) string { return string(id) },
		a.blockLines, b.blockLines)...)
	return cs
}

func (e Entry) lines() []string   { return []string{e.String()} }
func (d SetDecl) lines() []string { return []string{d.String()} }

func (p *Program) blockLines(b Block) []string {
	var w strings.Builder
	p.writeBlock(&w, b)
	return strings.Split(strings.TrimSuffix(w.String(), "\n"), "\n")
}

// diffObjects compares two lists that are sorted by key.
func diffObjects[T any, K cmp.Ordered](kind ObjectKind, a, b []T, key func(T) K, name func(K) string, aLines, bLines func(T) []string) Changes {
	var cs Changes
	add := func(k K, x, y []string) {
		if lines := diffLines(x, y); !slices.Equal(x, y) {
			cs = append(cs, Change{Kind: kind, Name: name(k), Lines: lines})
		}
	}
	for len(a) > 0 || len(b) > 0 {
		c := 0
		switch {
		case len(a) == 0:
			c = 1
		case len(b) == 0:
			c = -1
		default:
			c = cmp.Compare(key(a[0]), key(b[0]))
		}
		switch {
		case c < 0:
			add(key(a[0]), aLines(a[0]), nil)
			a = a[1:]
		case c > 0:
			add(key(b[0]), nil, bLines(b[0]))
			b = b[1:]
		default:
			add(key(a[0]), aLines(a[0]), bLines(b[0]))
			a, b = a[1:], b[1:]
		}
	}
	return cs
}

// maxLCS bounds the table of the longest common subsequence. Longer blocks are compared by their common beginning and
// end only, which is still a correct difference.
const maxLCS = 1 << 22

// diffLines returns a shortest edit from a to b, removals before additions.
func diffLines(a, b []string) []LineChange {
	out := make([]LineChange, 0, max(len(a), len(b)))
	mark := func(op LineOp, lines []string) {
		for _, l := range lines {
			out = append(out, LineChange{op, l})
		}
	}
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	mark(Kept, a[:head])
	x, y := a[head:len(a)-tail], b[head:len(b)-tail]
	if len(x)*len(y) <= maxLCS {
		// common[i][j] is the length of the longest common subsequence of x[i:] and y[j:].
		common := make([][]int, len(x)+1)
		for i := range common {
			common[i] = make([]int, len(y)+1)
		}
		for i := len(x) - 1; i >= 0; i-- {
			for j := len(y) - 1; j >= 0; j-- {
				if x[i] == y[j] {
					common[i][j] = common[i+1][j+1] + 1
				} else {
					common[i][j] = max(common[i+1][j], common[i][j+1])
				}
			}
		}
		i, j := 0, 0
		for i < len(x) && j < len(y) {
			switch {
			case x[i] == y[j]:
				mark(Kept, x[i:i+1])
				i, j = i+1, j+1
			case common[i+1][j] >= common[i][j+1]:
				mark(Removed, x[i:i+1])
				i++
			default:
				mark(Added, y[j:j+1])
				j++
			}
		}
		x, y = x[i:], y[j:]
	}
	mark(Removed, x)
	mark(Added, y)
	mark(Kept, a[len(a)-tail:])
	return out
}

// MembersChange says how the members of one set differ. Both lists are sorted.
type MembersChange struct {
	ID             SetID
	Added, Removed []Element
}

// MembersChanges is the difference of two Members, sorted by ID. Sets that do not differ are not in it, nor is an empty
// set that came or went.
type MembersChanges []MembersChange

// String returns one line for each set and each element that came or went.
func (cs MembersChanges) String() string {
	var w strings.Builder
	for _, c := range cs {
		w.WriteString(" members " + quoteID(string(c.ID)) + "\n")
		for _, e := range c.Removed {
			w.WriteString("-  " + e.String() + "\n")
		}
		for _, e := range c.Added {
			w.WriteString("+  " + e.String() + "\n")
		}
	}
	return w.String()
}

// DiffMembers returns what must change to make b of a. Both must be canonical.
func DiffMembers(a, b Members) MembersChanges {
	var cs MembersChanges
	add := func(id SetID, x, y []Element) {
		c := MembersChange{ID: id}
		c.Added, c.Removed = DiffElements(x, y)
		if len(c.Added)+len(c.Removed) > 0 {
			cs = append(cs, c)
		}
	}
	x, y := a.Sets, b.Sets
	for len(x) > 0 || len(y) > 0 {
		switch {
		case len(y) == 0 || len(x) > 0 && x[0].ID < y[0].ID:
			add(x[0].ID, x[0].Elements, nil)
			x = x[1:]
		case len(x) == 0 || y[0].ID < x[0].ID:
			add(y[0].ID, nil, y[0].Elements)
			y = y[1:]
		default:
			add(x[0].ID, x[0].Elements, y[0].Elements)
			x, y = x[1:], y[1:]
		}
	}
	return cs
}

// DiffElements returns what b has more than a, and what it has less. Both are sorted as CompareElements does, without
// duplicates.
func DiffElements(a, b []Element) (added, removed []Element) {
	if len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) {
		return nil, nil
	}
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	common := 0 // lists are long; to count first costs less than to let the results grow
	for x, y := a, b; len(x) > 0 && len(y) > 0; {
		switch c := CompareElements(x[0], y[0]); {
		case c == 0:
			common++
			x, y = x[1:], y[1:]
		case c < 0:
			x = x[1:]
		default:
			y = y[1:]
		}
	}
	added, removed = slices.Grow(added, len(b)-common), slices.Grow(removed, len(a)-common)
	for len(a) > 0 && len(b) > 0 {
		switch c := CompareElements(a[0], b[0]); {
		case c == 0:
			a, b = a[1:], b[1:]
		case c < 0:
			removed, a = append(removed, a[0]), a[1:]
		default:
			added, b = append(added, b[0]), b[1:]
		}
	}
	return append(added, b...), append(removed, a...)
}
