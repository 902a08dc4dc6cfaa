// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/iptables"
)

// Everything here is pure: what the kernel has and what it should have make a list of scripts.

var (
	tableOrder  = [...]render.TableName{render.Raw, render.Mangle, render.Filter}
	kernelOrder = [...]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
	// kernelChains are the chains of the kernel in each table that we use.
	kernelChains = map[render.TableName][]string{
		render.Raw:    {"PREROUTING", "OUTPUT"},
		render.Mangle: {"PREROUTING", "POSTROUTING"},
		render.Filter: {"INPUT", "FORWARD", "OUTPUT"},
	}
)

// hookKey is a chain of the kernel in a table.
type hookKey struct {
	table  render.TableName
	kernel string
}

// static is what one of the chains with fixed names does.
type static struct {
	exists bool
	marks  bool   // it sets the generation mark
	gated  string // where packets with the mark go
	root   string // where the others go
	odd    bool   // it holds something that we never write
	lines  []string
}

// parseStatic reads the rules of a chain with a fixed name.
func parseStatic(rules []savedRule, generation uint32) static {
	s := static{exists: true}
	for _, r := range rules {
		s.lines = append(s.lines, r.text)
		switch {
		case r.text == markLine(true, generation):
			s.marks = true
		case r.text == markLine(false, generation):
			s.marks = false
		case strings.HasPrefix(r.text, gatePrefix(generation)):
			s.gated = r.text[len(gatePrefix(generation)):]
		case strings.HasPrefix(r.text, "-g ") && s.root == "":
			s.root = r.text[len("-g "):]
		default:
			s.odd = true
		}
	}
	return s
}

func markLine(on bool, generation uint32) string {
	value := uint32(0)
	if on {
		value = generation
	}
	return fmt.Sprintf("-j MARK --set-xmark 0x%x/0x%x", value, generation)
}

func gatePrefix(generation uint32) string {
	return fmt.Sprintf("-m mark --mark 0x%x/0x%x -g ", generation, generation)
}

// plan makes the scripts for one family.
type plan struct {
	family inet.Family
	rules  *render.Ruleset
	have   saved
	roots  map[hookKey]string // that decide now
	static map[hookKey]static
	want   map[hookKey]string
	fresh  map[render.TableName][]*render.Chain // to be added or written anew
	stale  map[render.TableName][]string        // chains that nothing will lead to
	sure   bool                                 // what is not in have is as we left it

	ready            []script // what change returned
	changes, commits int      // made
	gone             counts   // of chains that were deleted
}

// script is the input of one iptables-restore.
type script struct {
	text    []byte
	ops     []elementOp // what text says, if that is nothing but elements that come and go
	origins []lineOrigin
	changes int
	commits int // of tables
}

// elementOp is a command of ipset on one element.
type elementOp struct {
	set *render.Set
	add bool
	e   ir.Element
}

// lineOrigin is the origin of a line, counted from 1.
type lineOrigin struct {
	line   int
	origin *flow.Origin
}

func newPlan(f inet.Family, r *render.Ruleset, have saved) *plan {
	p := emptyPlan(f, r, have)
	marks := false
	for _, n := range tableOrder {
		t := have.table(n)
		for _, k := range kernelChains[n] {
			if rules, ok := t.chains[r.Prefix+k]; ok {
				s := parseStatic(rules, r.Marks.Generation)
				p.static[hookKey{n, k}] = s
				marks = marks || n == render.Raw && s.marks
			}
		}
		w := p.wanted(n)
		for i := range w.Chains {
			c := &w.Chains[i]
			if rules, ok := t.chains[c.Name]; !ok || !equalRules(rules, bodies(c)) {
				p.fresh[n] = append(p.fresh[n], c)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(t.chains)) {
			if _, ok := w.Chain(name); !ok && !p.fixed(name) {
				p.stale[n] = append(p.stale[n], name)
			}
		}
	}
	for key, s := range p.static {
		root := s.root
		if marks && s.gated != "" {
			root = s.gated
		}
		if root != "" {
			p.roots[key] = root
		}
	}
	return p
}

func emptyPlan(f inet.Family, r *render.Ruleset, have saved) *plan {
	return &plan{
		family: f, rules: r, have: have,
		roots: map[hookKey]string{}, static: map[hookKey]static{}, want: map[hookKey]string{},
		fresh: map[render.TableName][]*render.Chain{}, stale: map[render.TableName][]string{},
	}
}

// wanted notes the hooks of a table and returns what it should be.
func (p *plan) wanted(n render.TableName) *render.Table {
	w, ok := p.rules.Table(p.family, n)
	if !ok {
		return &render.Table{}
	}
	for _, h := range w.Hooks {
		p.want[hookKey{n, h.Kernel}] = h.Root
	}
	return w
}

// fixed reports whether a chain has a fixed name.
func (p *plan) fixed(name string) bool {
	return slices.Contains(kernelOrder[:], strings.TrimPrefix(name, p.rules.Prefix))
}

// newSurePlan makes a plan for a kernel that has exactly the old ruleset.
func newSurePlan(f inet.Family, r, old *render.Ruleset) *plan {
	p := emptyPlan(f, r, saved{})
	p.sure = true
	for _, n := range tableOrder {
		p.wanted(n)
		if w, ok := old.Table(f, n); ok {
			for _, h := range w.Hooks {
				key := hookKey{n, h.Kernel}
				p.roots[key] = h.Root
				p.static[key] = static{exists: true, root: h.Root, lines: goTo(h.Root)}
			}
		}
	}
	for _, c := range render.Diff(old, r).Tables {
		if c.Family != f {
			continue
		}
		for i := range c.Added {
			p.fresh[c.Name] = append(p.fresh[c.Name], &c.Added[i])
		}
		for _, x := range c.Removed {
			p.stale[c.Name] = append(p.stale[c.Name], x.Name)
		}
	}
	return p
}

// halfway reports whether an earlier change of generations has not been finished.
func (p *plan) halfway() bool {
	for _, s := range p.static {
		if s.marks || s.gated != "" {
			return true
		}
	}
	return false
}

// changed returns the hooks of some tables that get another root.
func (p *plan) changed(keys ...hookKey) bool {
	return slices.ContainsFunc(keys, func(k hookKey) bool { return p.roots[k] != p.want[k] })
}

// gated reports whether the change must be made for all tables at once: on the way of some packet more than one table
// changes. From nothing, each table adds to what is denied, and what is allowed early is in place before what is asked
// later.
func (p *plan) gated() bool {
	if len(p.roots) == 0 || len(p.want) == 0 {
		return false
	}
	raw := [...]bool{
		p.changed(hookKey{render.Raw, "PREROUTING"}),
		p.changed(hookKey{render.Raw, "OUTPUT"}),
	}
	n := 0
	for _, c := range [...]bool{raw[0], p.changed(hookKey{render.Mangle, "PREROUTING"}), p.changed(hookKey{render.Filter, "INPUT"}, hookKey{render.Filter, "FORWARD"})} {
		if c {
			n++
		}
	}
	return n > 1 || raw[1] && p.changed(hookKey{render.Filter, "OUTPUT"}, hookKey{render.Mangle, "POSTROUTING"})
}

// all returns the hooks of a table that are there now or will be.
func (p *plan) all(n render.TableName) []hookKey {
	var keys []hookKey
	for _, k := range kernelChains[n] {
		key := hookKey{n, k}
		if p.static[key].exists || p.want[key] != "" || p.jumps(key) > 0 {
			keys = append(keys, key)
		}
	}
	return keys
}

func (p *plan) jumps(key hookKey) int {
	if p.sure {
		if p.static[key].exists {
			return 1
		}
		return 0
	}
	n := 0
	for _, r := range p.have.table(key.table).kernel[key.kernel] {
		if isJump(r, p.rules.Prefix+key.kernel) {
			n++
		}
	}
	return n
}

// finish returns the scripts that make every fixed chain go to one root, the one that decides now.
func (p *plan) finish() []script {
	if !p.halfway() {
		return nil
	}
	b := p.builder()
	for _, n := range [...]render.TableName{render.Filter, render.Mangle, render.Raw} {
		for _, key := range p.all(n) {
			if s := p.static[key]; s.exists {
				b.static(key, goTo(p.roots[key])...)
			}
		}
		b.commit(n)
	}
	return b.scripts()
}

func goTo(root string) []string {
	if root == "" {
		return nil
	}
	return []string{"-g " + root}
}

// change returns the scripts that make the kernel enforce the ruleset. After a gated change, the scripts are the four
// steps: put the new rules beside the old ones, switch, forget the old ones; each of them leaves something consistent.
func (p *plan) change() []script {
	if !p.gated() {
		// What can fail is to put new rules beside the old ones; to switch to them hardly can.
		order := slices.Clone(tableOrder[:])
		if len(p.want) == 0 {
			slices.Reverse(order)
		}
		turn := p.builder()
		for _, n := range order {
			for _, key := range p.all(n) {
				p.settle(turn, key)
			}
			turn.commit(n)
		}
		together := turn.commits <= 1 // a table changes as a whole
		b := p.builder()
		for _, n := range order {
			p.addChains(b, n)
			for _, key := range p.all(n) {
				if together {
					p.settle(b, key)
				}
			}
			b.commit(n)
		}
		if together {
			return b.scripts()
		}
		return append(b.scripts(), turn.scripts()...)
	}
	g := p.rules.Marks.Generation
	var out []script
	prepare := p.builder()
	for _, n := range tableOrder { // raw first: no packet may have the mark yet
		p.addChains(prepare, n)
		for _, k := range kernelChains[n] {
			key := hookKey{n, k}
			var lines []string
			if n == render.Raw {
				lines = append(lines, markLine(false, g))
			} else if w := p.want[key]; w != "" {
				lines = append(lines, gatePrefix(g)+w)
			} else if p.roots[key] != "" {
				lines = append(lines, gatePrefix(g)+p.noop(prepare, n))
			}
			lines = append(lines, goTo(p.roots[key])...)
			if len(lines) > 0 {
				prepare.static(key, lines...)
				prepare.jump(key, true)
			}
		}
		prepare.commit(n)
	}
	out = append(out, prepare.scripts()...)
	turn := p.builder()
	for _, k := range kernelChains[render.Raw] {
		key := hookKey{render.Raw, k}
		turn.static(key, append([]string{markLine(true, g)}, goTo(p.want[key])...)...)
	}
	turn.commit(render.Raw)
	out = append(out, turn.scripts()...)
	forget := p.builder()
	for _, n := range [...]render.TableName{render.Mangle, render.Filter, render.Raw} {
		for _, k := range kernelChains[n] {
			key := hookKey{n, k}
			if w := p.want[key]; w != "" {
				forget.static(key, goTo(w)...)
				continue
			}
			if n == render.Raw || p.roots[key] != "" {
				forget.remove(key, 1)
			}
		}
		forget.commit(n)
	}
	return append(out, forget.scripts()...)
}

// noop returns the name of a chain that does nothing: where packets of the new generation go if the hook goes away.
func (p *plan) noop(b *scriptBuilder, n render.TableName) string {
	name := p.rules.Prefix + "none-aaaaaaaaaaaa"
	if !slices.Contains(b.declared, name) {
		b.decl(n, name)
		b.declared = append(b.declared, name)
	}
	if !slices.Contains(p.stale[n], name) {
		p.stale[n] = append(p.stale[n], name)
	}
	return name
}

func (p *plan) addChains(b *scriptBuilder, n render.TableName) {
	size := 0
	for _, c := range p.fresh[n] {
		size += len(c.Bodies()) + len(c.Rules)*(len("-A  ")+len(c.Name))
	}
	b.adds = slices.Grow(b.adds, size)
	for _, c := range p.fresh[n] {
		b.chain(n, c)
	}
}

// settle makes a fixed chain go to its root, and the kernel's chain jump to it.
func (p *plan) settle(b *scriptBuilder, key hookKey) {
	w := p.want[key]
	if w == "" {
		b.remove(key, p.jumps(key))
		return
	}
	lines := goTo(w)
	if s := p.static[key]; !s.exists || !slices.Equal(s.lines, lines) {
		b.static(key, lines...)
	}
	b.jump(key, false)
}

// garbage returns the scripts that delete the chains that nothing leads to any more, after the change; if alone, each
// chain in a script of its own, behind one that makes all of them empty.
func (p *plan) garbage(alone bool) []script {
	b := p.builder()
	for _, n := range tableOrder {
		for _, name := range p.stale[n] {
			if alone {
				b.decl(n, name)
			} else {
				b.delete(n, name)
			}
		}
		b.commit(n)
	}
	scripts := b.scripts()
	if !alone {
		return scripts
	}
	for _, n := range tableOrder {
		for _, name := range p.stale[n] {
			one := p.builder()
			one.delete(n, name)
			one.commit(n)
			scripts = append(scripts, one.scripts()...)
		}
	}
	return scripts
}

// leaves returns the number of chains that are garbage after the change.
func (p *plan) leaves() int {
	k := 0
	for _, names := range p.stale {
		k += len(names)
	}
	return k
}

// teardown returns the scripts that remove everything.
func teardown(f inet.Family, prefix string, have saved) []script {
	p := emptyPlan(f, &render.Ruleset{Prefix: prefix}, have)
	b := p.builder()
	for _, n := range [...]render.TableName{render.Filter, render.Mangle, render.Raw} {
		t := have.table(n)
		for _, k := range kernelChains[n] {
			key := hookKey{n, k}
			if _, ok := t.chains[prefix+k]; ok {
				p.static[key] = static{exists: true}
			}
			b.remove(key, p.jumps(key))
		}
		for _, name := range slices.Sorted(maps.Keys(t.chains)) {
			if k := strings.TrimPrefix(name, prefix); !slices.Contains(kernelOrder[:], k) {
				b.delete(n, name)
			}
		}
		b.commit(n)
	}
	return b.scripts()
}
