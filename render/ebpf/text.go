// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// Object is a part of a generation with a name: an entry, a list, a dimension of a matcher.
type Object struct {
	Name string // "entry normal-in", "list 3", "matcher 1 dport"
	Text string // its lines
}

// Objects returns the parts of a in the order of the text.
func (a *Artifact) Objects() []Object {
	t := a.tables
	var out []Object
	add := func(name string, write func(w *strings.Builder)) {
		var w strings.Builder
		write(&w)
		out = append(out, Object{name, w.String()})
	}
	add("options", func(w *strings.Builder) {
		fmt.Fprintf(w, "  events %d rate %d burst %d\n", a.options.Events, a.options.EventRate, a.options.EventBurst)
	})
	add("interfaces", func(w *strings.Builder) {
		for _, c := range t.NameCuts() {
			fmt.Fprintf(w, "  %d from %q\n", c.Class, strings.TrimRight(string(c.First[:]), "\x00"))
		}
	})
	for i := range t.Entries {
		e := &t.Entries[i]
		add("entry "+e.Hook.String(), func(w *strings.Builder) {
			fmt.Fprintf(w, "  default %s", e.Default)
			for _, h := range flow.Hooks {
				if e.Settles.Has(h) {
					fmt.Fprintf(w, " settles %s", h)
				}
			}
			if e.NoTrack {
				w.WriteString(" notrack")
			}
			w.WriteByte('\n')
			if e.HasAlways {
				writeDispatch(w, "always", &e.Always)
			}
			writeDispatch(w, "block", &e.Block)
		})
	}
	for i := range t.Lists {
		l := &t.Lists[i]
		add(fmt.Sprintf("list %d", i), func(w *strings.Builder) {
			switch {
			case l.Decided:
				w.WriteString("  decided\n")
			case len(l.Actions) > 0:
				fmt.Fprintf(w, "  matcher %d\n", l.Matcher)
			}
			for j, x := range l.Actions {
				fmt.Fprintf(w, "  %d", j)
				if x.Log {
					w.WriteString(" log")
				}
				if x.Outcome == ir.Undecided {
					fmt.Fprintf(w, " goto %d", x.Next)
				} else {
					fmt.Fprintf(w, " %s", x.Outcome)
				}
				if x.Origin != 0 {
					fmt.Fprintf(w, " %s", a.Origins[x.Origin-1])
				}
				w.WriteByte('\n')
			}
		})
	}
	for i := range t.Matchers {
		for j := range t.Matchers[i].Dims {
			d := &t.Matchers[i].Dims[j]
			add(fmt.Sprintf("matcher %d %s", i, d.Axis), func(w *strings.Builder) { writeDimension(w, d) })
		}
	}
	return out
}

func writeDispatch(w *strings.Builder, name string, d *classify.Dispatch) {
	for class, lists := range d.Lists {
		fmt.Fprintf(w, "  %s", name)
		if d.Field != 0 {
			fmt.Fprintf(w, " %s %d", d.Field, class)
		}
		fmt.Fprintf(w, " lists %v\n", lists)
	}
}

func writeDimension(w *strings.Builder, d *classify.Dimension) {
	fmt.Fprintf(w, "  absent class %d\n", d.Absent)
	for _, c := range d.Cuts {
		from := fmt.Sprintf("%#x", span.KeyOf(c.From).Lo)
		if d.Axis == classify.SrcAddr || d.Axis == classify.DstAddr {
			from = c.From.Addr().String()
		}
		fmt.Fprintf(w, "  from %s class %d\n", from, c.Class)
	}
	for i, c := range d.ByInterface {
		fmt.Fprintf(w, "  interface %d class %d\n", i, c)
	}
	for _, p := range d.Points {
		fmt.Fprintf(w, "  %s %s %d class %d\n", p.Addr, p.Protocol, p.Port, p.Class)
	}
	for c := range d.Rows.Len() {
		fmt.Fprintf(w, "  class %d rules %s\n", c, runs(d.Rows.Row(uint32(c))))
	}
}

// runs writes the bits of a row as ranges of rules.
func runs(row []uint64) string {
	var parts []string
	first := -1
	end := 0
	flush := func() {
		switch {
		case first < 0:
		case first == end-1:
			parts = append(parts, fmt.Sprint(first))
		default:
			parts = append(parts, fmt.Sprintf("%d-%d", first, end-1))
		}
	}
	for w, x := range row {
		for ; x != 0; x &= x - 1 {
			i := 64*w + bits.TrailingZeros64(x)
			if first < 0 || i != end {
				flush()
				first = i
			}
			end = i + 1
		}
	}
	flush()
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ",")
}

// String returns the canonical text: the tables by name, not the memory that holds them.
func (a *Artifact) String() string {
	var w strings.Builder
	for _, o := range a.Objects() {
		fmt.Fprintf(&w, "%s\n%s", o.Name, o.Text)
	}
	return w.String()
}

// Change is one difference between two generations. Old or New is "" where there is no such object.
type Change struct{ Name, Old, New string }

// Diff returns what differs, sorted by name. Lists and matchers are known by number.
func Diff(old, new *Artifact) []Change {
	texts := map[string]*Change{}
	at := func(name string) *Change {
		if texts[name] == nil {
			texts[name] = &Change{Name: name}
		}
		return texts[name]
	}
	if old != nil {
		for _, o := range old.Objects() {
			at(o.Name).Old = o.Text
		}
	}
	if new != nil {
		for _, o := range new.Objects() {
			at(o.Name).New = o.Text
		}
	}
	var out []Change
	for _, c := range texts {
		if c.Old != c.New {
			out = append(out, *c)
		}
	}
	slices.SortFunc(out, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	return out
}
