// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"cmp"
	"crypto/sha256"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Changes say what turns one ruleset into another. The zero value is no change.
type Changes struct {
	// Replace says that the table has to be made anew, because the kernel cannot change an object in place: a base chain,
	// or the type or the comment of a set. No program does that whose sets are named after what they hold. The other
	// fields are empty then.
	Replace bool

	NewSets   []*Set   // sorted by name; they point into the new ruleset
	OldSets   []string // sorted
	Elements  []ElementsChange
	NewChains []*Chain // sorted by name; they point into the new ruleset
	OldChains []*Chain // sorted by name; they point into the old one
	Rules     []RulesChange
}

// ElementsChange says how the elements of a set that stays differ. Both lists are sorted.
type ElementsChange struct {
	Set            *Set // of the new ruleset
	Added, Removed []ir.Element
}

// RulesChange says how the rules of a chain that stays differ.
type RulesChange struct {
	Old, New *Chain
	Hunks    []Hunk // in order
}

// Hunk replaces a run of rules: Delete rules of the old chain from index At on by Insert rules of the new chain from
// index From on.
type Hunk struct{ At, Delete, From, Insert int }

// Empty reports whether nothing changes.
func (c *Changes) Empty() bool {
	return !c.Replace && len(c.NewSets)+len(c.OldSets)+len(c.Elements)+len(c.NewChains)+len(c.OldChains)+len(c.Rules) == 0
}

// Diff returns what turns a into b. A nil a is a table that does not exist.
func Diff(a, b *Ruleset) *Changes {
	d := &Changes{}
	if a == nil || a.Table != b.Table {
		return &Changes{Replace: true}
	}
	merge(a.Sets, b.Sets, func(s *Set) string { return s.Name }, func(x, y *Set) {
		switch {
		case x == nil:
			d.NewSets = append(d.NewSets, y)
		case y == nil:
			d.OldSets = append(d.OldSets, x.Name)
		case x.Values != nil && y.Values != nil: // the name says what they are
		case x.Kind != y.Kind || x.Family != y.Family || x.Exact != y.Exact || x.Comment != y.Comment || (x.Values == nil) != (y.Values == nil):
			d.Replace = true
		default:
			added, removed := ir.DiffElements(x.Elements, y.Elements)
			if len(added)+len(removed) > 0 {
				d.Elements = append(d.Elements, ElementsChange{y, added, removed})
			}
		}
	})
	olds, news := byName(a.Chains), byName(b.Chains)
	merge(olds, news, func(c **Chain) string { return (*c).Name }, func(x, y **Chain) {
		switch {
		case x == nil:
			d.NewChains = append(d.NewChains, *y)
		case y == nil:
			d.OldChains = append(d.OldChains, *x)
		case (*x).Base != (*y).Base || (*x).Comment != (*y).Comment:
			d.Replace = true
		case (*x).digest == (*y).digest && (*x).digest != [sha256.Size]byte{}:
		default:
			if hunks := diffRules((*x).Rules, (*y).Rules); len(hunks) > 0 {
				d.Rules = append(d.Rules, RulesChange{*x, *y, hunks})
			}
		}
	})
	if d.Replace {
		return &Changes{Replace: true}
	}
	return d
}

func byName(cs []Chain) []*Chain {
	ps := make([]*Chain, len(cs))
	for i := range cs {
		ps[i] = &cs[i]
	}
	slices.SortFunc(ps, func(a, b *Chain) int { return strings.Compare(a.Name, b.Name) })
	return ps
}

// merge walks two sorted lists side by side. One of the arguments of f is nil where a name is in one list only.
func merge[T any](a, b []T, name func(*T) string, f func(x, y *T)) {
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		c := 0
		switch {
		case i == len(a):
			c = 1
		case j == len(b):
			c = -1
		default:
			c = strings.Compare(name(&a[i]), name(&b[j]))
		}
		switch {
		case c < 0:
			f(&a[i], nil)
			i++
		case c > 0:
			f(nil, &b[j])
			j++
		default:
			f(&a[i], &b[j])
			i, j = i+1, j+1
		}
	}
}

// ruleSum identifies the text of a rule.
type ruleSum [sha256.Size]byte

func ruleSums(rules []Rule) []ruleSum {
	sums := make([]ruleSum, len(rules))
	var text []byte
	for i := range rules {
		text = rules[i].AppendText(text[:0])
		sums[i] = sha256.Sum256(text)
	}
	return sums
}

// diffRules returns how two lists of rules differ: few hunks rather than the fewest, in time that does not grow with
// the square of the lists.
func diffRules(a, b []Rule) []Hunk {
	x, y := ruleSums(a), ruleSums(b)
	head := 0
	for head < len(a) && head < len(b) && x[head] == y[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && x[len(a)-1-tail] == y[len(b)-1-tail] {
		tail++
	}
	endA, endB := len(a)-tail, len(b)-tail
	if head == endA && head == endB {
		return nil
	}
	// Give every rule of b in between the next unused rule of a that is the same, and keep the longest run of those
	// pairs that is in order in both lists.
	where := make(map[ruleSum][]int, endA-head)
	for i := head; i < endA; i++ {
		where[x[i]] = append(where[x[i]], i)
	}
	var pairs [][2]int
	for j := head; j < endB; j++ {
		if is := where[y[j]]; len(is) > 0 {
			pairs = append(pairs, [2]int{is[0], j})
			where[y[j]] = is[1:]
		}
	}
	var hunks []Hunk
	i, j := head, head
	for _, p := range append(increasing(pairs), [2]int{endA, endB}) {
		if p[0] > i || p[1] > j {
			hunks = append(hunks, Hunk{At: i, Delete: p[0] - i, From: j, Insert: p[1] - j})
		}
		i, j = p[0]+1, p[1]+1
	}
	return hunks
}

// increasing returns a longest subsequence of pairs whose first numbers increase; the second ones do already.
func increasing(pairs [][2]int) [][2]int {
	var ends []int // ends[n] is the index of the pair with the smallest first number that ends a run of length n+1
	before := make([]int, len(pairs))
	for k, p := range pairs {
		n, _ := slices.BinarySearchFunc(ends, p[0], func(e, v int) int { return cmp.Compare(pairs[e][0], v) })
		before[k] = -1
		if n > 0 {
			before[k] = ends[n-1]
		}
		if n == len(ends) {
			ends = append(ends, k)
		} else {
			ends[n] = k
		}
	}
	out := make([][2]int, len(ends))
	if len(ends) > 0 {
		for n, k := len(ends)-1, ends[len(ends)-1]; n >= 0; n, k = n-1, before[k] {
			out[n] = pairs[k]
		}
	}
	return out
}

// String returns one line for each object, rule and element that comes or goes, "+" or "-" in front of it.
func (c *Changes) String() string {
	if c.Replace {
		return "replace the table\n"
	}
	var b []byte
	line := func(sign string, f func([]byte) []byte) {
		b = append(b, sign...)
		b = f(b)
		b = append(b, '\n')
	}
	text := func(s ...string) func([]byte) []byte {
		return func(b []byte) []byte { return append(b, strings.Join(s, "")...) }
	}
	for _, s := range c.OldSets {
		line("- ", text("set ", s))
	}
	for _, s := range c.NewSets {
		line("+ ", text("set ", s.Name))
		for _, e := range s.Elements {
			line("+   ", func(b []byte) []byte { return appendElements(b, []ir.Element{e}, s.Kind) })
		}
	}
	for _, s := range c.Elements {
		line("  ", text("set ", s.Set.Name))
		for _, e := range s.Removed {
			line("-   ", func(b []byte) []byte { return appendElements(b, []ir.Element{e}, s.Set.Kind) })
		}
		for _, e := range s.Added {
			line("+   ", func(b []byte) []byte { return appendElements(b, []ir.Element{e}, s.Set.Kind) })
		}
	}
	for _, ch := range c.OldChains {
		line("- ", text("chain ", ch.Name))
		for i := range ch.Rules {
			line("-   ", ch.Rules[i].AppendText)
		}
	}
	for _, ch := range c.NewChains {
		line("+ ", text("chain ", ch.Name))
		for i := range ch.Rules {
			line("+   ", ch.Rules[i].AppendText)
		}
	}
	for _, r := range c.Rules {
		line("  ", text("chain ", r.New.Name))
		for _, h := range r.Hunks {
			for i := range h.Delete {
				line("-   ", r.Old.Rules[h.At+i].AppendText)
			}
			for i := range h.Insert {
				line("+   ", r.New.Rules[h.From+i].AppendText)
			}
		}
	}
	return string(b)
}
