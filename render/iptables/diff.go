// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Change is the difference between two rulesets of one instance.
type Change struct {
	Tables []TableChange // those that differ, in the order of Ruleset.Tables
	Sets   []SetChange   // those that differ, sorted by name
}

// TableChange says what must change in a table. A chain with the same name is the same chain.
type TableChange struct {
	Family  inet.Family
	Name    TableName
	Hooks   []HookChange
	Added   []Chain // sorted by name
	Removed []Chain // sorted by name
}

// HookChange is a hook that gets another root. "" means that the hook is not there.
type HookChange struct {
	Kernel   string
	Old, New string
}

// SetChange says how the elements of a set differ. Whole is Added or Removed if the set came or went, or has another
// kind.
type SetChange struct {
	Name           string
	Old, New       *Set // nil if there is none
	Added, Removed []ir.Element
}

// Empty reports whether the rulesets are the same.
func (c *Change) Empty() bool { return len(c.Tables) == 0 && len(c.Sets) == 0 }

// Diff returns what must change to make b of a. Nil stands for a ruleset with nothing in it.
func Diff(a, b *Ruleset) *Change {
	if a == nil {
		a = &Ruleset{}
	}
	if b == nil {
		b = &Ruleset{}
	}
	c := &Change{Sets: DiffSets(a.Sets, b.Sets)}
	for _, f := range [...]inet.Family{inet.IPv4, inet.IPv6} {
		for _, n := range [...]TableName{Raw, Mangle, Filter} {
			x, _ := a.Table(f, n)
			y, _ := b.Table(f, n)
			if t, ok := diffTables(f, n, x, y); ok {
				c.Tables = append(c.Tables, t)
			}
		}
	}
	return c
}

func diffTables(f inet.Family, n TableName, x, y *Table) (TableChange, bool) {
	t := TableChange{Family: f, Name: n}
	if x == nil {
		x = &Table{}
	}
	if y == nil {
		y = &Table{}
	}
	rootOf := func(t *Table, kernel string) string {
		for _, h := range t.Hooks {
			if h.Kernel == kernel {
				return h.Root
			}
		}
		return ""
	}
	for _, k := range [...]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"} {
		if o, n := rootOf(x, k), rootOf(y, k); o != n {
			t.Hooks = append(t.Hooks, HookChange{k, o, n})
		}
	}
	t.Added = missing(y.Chains, x.Chains)
	t.Removed = missing(x.Chains, y.Chains)
	return t, len(t.Hooks)+len(t.Added)+len(t.Removed) > 0
}

// missing returns the chains of a that are not in b; both are sorted.
func missing(a, b []Chain) []Chain {
	var out []Chain
	for _, c := range a {
		for len(b) > 0 && b[0].Name < c.Name {
			b = b[1:]
		}
		if len(b) == 0 || b[0].Name != c.Name {
			out = append(out, c)
		}
	}
	return out
}

// DiffSets returns what must change to make b of a; both are sorted by name.
func DiffSets(a, b []Set) []SetChange {
	var out []SetChange
	for len(a) > 0 || len(b) > 0 {
		order := 0
		switch {
		case len(a) == 0:
			order = 1
		case len(b) == 0:
			order = -1
		default:
			order = cmp.Compare(a[0].Name, b[0].Name)
		}
		switch {
		case order < 0:
			out = append(out, SetChange{Name: a[0].Name, Old: &a[0], Removed: a[0].Elements})
			a = a[1:]
		case order > 0:
			out = append(out, SetChange{Name: b[0].Name, New: &b[0], Added: b[0].Elements})
			b = b[1:]
		default:
			c := SetChange{Name: a[0].Name, Old: &a[0], New: &b[0]}
			c.Added, c.Removed = ir.DiffElements(a[0].Elements, b[0].Elements)
			if len(c.Added)+len(c.Removed) > 0 || a[0].Kind != b[0].Kind || a[0].Max != b[0].Max {
				out = append(out, c)
			}
			a, b = a[1:], b[1:]
		}
	}
	return out
}

// String returns one line for each hook, rule and element that came or went.
func (c *Change) String() string {
	var w strings.Builder
	for _, t := range c.Tables {
		where := toolOf(t.Family) + " -t " + t.Name.String()
		for _, h := range t.Hooks {
			fmt.Fprintf(&w, " %s %s: %s -> %s\n", where, h.Kernel, cmp.Or(h.Old, "none"), cmp.Or(h.New, "none"))
		}
		for _, side := range []struct {
			sign   string
			chains []Chain
		}{{"-", t.Removed}, {"+", t.Added}} {
			for i := range side.chains {
				for line := range strings.Lines(string(side.chains[i].AppendText(nil))) {
					fmt.Fprintf(&w, "%s%s %s", side.sign, where, line)
				}
			}
		}
	}
	for _, s := range c.Sets {
		kind := s.New
		if kind == nil {
			kind = s.Old
		}
		var b []byte
		if s.Old == nil {
			b = append(kind.AppendCreate(append(b, '+'), s.Name), b...)
		}
		for _, e := range s.Removed {
			b = kind.AppendElement(append(b, '-'), "add", s.Name, e)
		}
		for _, e := range s.Added {
			b = kind.AppendElement(append(b, '+'), "add", s.Name, e)
		}
		if s.New == nil {
			b = kind.AppendCreate(append(b, '-'), s.Name)
		}
		w.Write(b)
	}
	return w.String()
}
