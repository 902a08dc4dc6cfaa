// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
)

// builder renders one table of one family.
type builder struct {
	*program
	family    inet.Family
	table     TableName
	done      map[blockKey]*chain
	seqs      map[string]*chain // chains of a few targets, by their text
	order     []*chain          // finished
	treeDepth int

	origin ir.OriginID // of the step at work, for errors
	usesR  bool        // the hook at work uses the marks for results
	testA  arena[Test]
	ruleA  arena[rule]
	cutA   arena[*cut]
	spanA  arena[span]
	outA   arena[Rule]
	textA  arena[byte]
	scr    scratch
}

// chain is a Chain under construction.
type chain struct {
	label string
	rules []rule
	out   *Chain // when finished
	name  string
	depth int    // chains from here down, this one included
	split bool   // a part of a tree
	goTo  Target // the verdict that goes here
}

// rule is a Rule under construction: it leads to a chain that may have no name yet.
type rule struct {
	tests  []Test
	target Target
	to     *chain // with op Jump or Goto, instead of target
	op     VerdictOp
	note   string
	by     *flow.Origin
}

// root is what a chain of the kernel leads to.
type root struct {
	kernel string
	root   *chain
}

// final is what outcomes mean that decide a hook.
type final struct {
	hook     flow.Hook
	allow    []Target // what an Allow does besides its verdict
	end      VerdictOp
	settled  VerdictOp // what an Allow of an earlier hook does
	takeBack bool      // a Pass takes back an Allow of an earlier hook
	reject   bool
	literal  bool // failsafes accept
}

// hooks renders the hooks of the table.
func (b *builder) hooks() ([]root, error) {
	var out []root
	add := func(kernel string, c *chain, err error) error {
		if err == nil && c != nil {
			out = append(out, root{kernel, c})
		}
		return err
	}
	var err error
	one := func(kernel string, h flow.Hook) {
		if err == nil {
			var c *chain
			c, err = b.hook(h)
			err = add(kernel, c, err)
		}
	}
	switch b.table {
	case Raw:
		one("PREROUTING", flow.UntrackedIn)
		one("OUTPUT", flow.UntrackedOut)
	case Mangle:
		one("PREROUTING", flow.PreDNAT)
		one("POSTROUTING", flow.NormalOut)
	case Filter:
		one("INPUT", flow.NormalIn)
		if err == nil {
			var c *chain
			c, err = b.forward()
			err = add("FORWARD", c, err)
		}
		one("OUTPUT", flow.NormalOut)
	}
	return out, err
}

// final returns what outcomes mean at a hook.
//
// Calico: failsafes accept even if allowed packets return, and accept in the tables before filter, too. What is decided
// behind routing always returns. Ref: felix/rules/static.go, failsafeInChain, StaticManglePostroutingChain.
func (b *builder) final(e ir.Entry) *final {
	f := &final{hook: e.Hook, end: Accept, literal: true}
	if b.o.AllowAction == AllowReturn || b.table == Mangle && e.Hook == flow.NormalOut || e.Hook == flow.ForwardIn {
		f.end = Return
	}
	f.settled = f.end
	if e.Hook == flow.ForwardIn {
		f.literal = false // the interface by which it leaves has a say, too
	}
	if e.NoTrack {
		f.allow = append(f.allow, Untrack{})
	}
	if b.plan.sets.Has(e.Hook) {
		f.allow = append(f.allow, SetMark{b.plan.bits, b.plan.bits})
	}
	if e.Hook == flow.PreDNAT || e.Hook == flow.ForwardIn || e.Hook == flow.ForwardOut {
		for _, early := range flow.Hooks {
			if early < e.Hook && b.plan.sets.Has(early) && meetsAfter(early, e.Hook) {
				f.takeBack = true
			}
		}
	}
	// Deviation: the kernel refuses to reject outside of the table filter; Calico's table cannot be programmed then.
	f.reject = b.o.DenyAction == render.Reject && b.table == Filter
	return f
}

// hook renders one hook; nil if the program has nothing to say there.
func (b *builder) hook(h flow.Hook) (*chain, error) {
	e, ok := b.p.Entry(h)
	if !ok {
		return nil, nil
	}
	fin := b.final(e)
	c := b.newChain(h.String())
	cv := conv{fin: fin, own: decided}
	if e.Default == ir.Pass {
		cv.dflt = ir.Pass
	}
	b.usesR = false
	if b.plan.clears.Has(h) && !(b.table == Mangle && h == flow.NormalOut) {
		b.put(c, rule{target: SetMark{0, b.plan.bits}, note: "no early allow yet"})
	}
	clearAt := len(c.rules)
	todo := []frame{{steps: b.blocks[e.Block].Steps}}
	if h == flow.NormalOut {
		// Deviation: what is translated is decided behind routing, where its final interface is known, and only there.
		// Calico in nftables mode decides twice.
		if b.marks.Translated == 0 {
			return nil, b.unsupported("no bit of the mark mask for translated connections")
		}
	}
	if b.plan.tests.Has(h) && !(b.table == Mangle && h == flow.NormalOut) {
		todo = append(todo, frame{settled: true})
	}
	if e.Always != "" {
		todo = append(todo, frame{steps: b.blocks[e.Always].Steps})
	}
	if b.table == Filter && h == flow.NormalOut {
		todo = append(todo, frame{translated: true})
	}
	open, err := b.emit(c, todo, cv)
	if err != nil {
		return nil, err
	}
	if _, ok := b.p.Entry(flow.NormalOut); !ok && open && h.Stage() == flow.StageUntracked {
		b.keepConntrack(c)
	}
	if b.usesR {
		c.rules = append(c.rules, rule{})
		copy(c.rules[clearAt+1:], c.rules[clearAt:])
		c.rules[clearAt] = rule{target: SetMark{0, b.marks.ResultA | b.marks.ResultP | b.marks.ResultD}, note: "no result yet"}
	}
	if b.table == Mangle && h == flow.NormalOut {
		outer := b.newChain(h.String())
		b.put(outer, rule{tests: []Test{Mark{b.marks.Translated, b.marks.Translated}}, to: c, op: Goto, note: "generated here and translated"})
		clear := rule{target: SetMark{0, b.marks.Translated}}
		c.rules = append([]rule{clear}, c.rules...)
		return outer, nil
	}
	return c, nil
}

// keepConntrack adds a rule that keeps connection tracking on: the kernel puts fragments together before any chain sees
// them as long as a rule asks for the state, and a fragment has no ports.
func (b *builder) keepConntrack(c *chain) {
	b.put(c, rule{tests: []Test{State{ir.MaskOf(flow.New)}}, target: Verdict{Op: Return}, note: "keeps connection tracking on"})
}

// forward renders the two hooks that share a chain of the kernel.
func (b *builder) forward() (*chain, error) {
	in, err := b.hook(flow.ForwardIn)
	if err != nil {
		return nil, err
	}
	out, err := b.hook(flow.ForwardOut)
	if err != nil || in == nil && out == nil {
		return nil, err
	}
	c := b.newChain("forward")
	if in != nil {
		b.put(c, rule{to: in, op: Jump})
	}
	if out != nil {
		b.put(c, rule{to: out, op: Jump})
	}
	carried := b.plan.sets & flow.HooksOf(flow.UntrackedIn, flow.PreDNAT, flow.ForwardIn)
	if carried != 0 && b.o.AllowAction == AllowAccept {
		b.put(c, rule{tests: []Test{Mark{b.marks.Allow, b.marks.Allow}}, target: Verdict{Op: Accept}, note: "allowed, and not taken back"})
	}
	return c, nil
}

func (b *builder) newChain(text string) *chain { return &chain{label: label(b.o.Prefix, text)} }

func (b *builder) put(c *chain, r rule) { c.rules = append(c.rules, r) }
