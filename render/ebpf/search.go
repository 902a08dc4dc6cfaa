// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"slices"

	"github.com/cilium/ebpf/asm"

	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// The functions. All get the frame in R1, but for step, which is called back with it in R2.
const (
	fnConsult = Consult    // context, view, hook -> outcome
	fnAsk     = "ask"      // field, dispatch -> outcome
	fnStep    = "step"     // one step of a search: 1 ends it
	fnPage    = "page"     // page, first of half its words -> 0, or 1 if it failed; what is in common is in the frame
	fnSummary = "summary"  // word -> 0, or 1 if it failed; what is left of the word is in the frame
	fnAct     = "act"      // rule -> outcome, or actGoesOn
	fnTrie32  = "trie32"   // root, key -> cell
	fnTrie128 = "trie128"  // root, key, key -> cell
	fnPoint   = "endpoint" // line, shift, 1 for the destination, cell of all others -> cell
	fnEvent   = "event"    // event
	fnFar     = "far"      // line -> its address, or 0
)

// Consult is the name of the one function of a program that is global. Its arguments are the program's context, or a
// number in programs at places that match, memory of ViewSize bytes, and a hook.
const (
	Consult  = "consult"
	ViewSize = vSize
)

// failed is what functions return instead of a cell or class.
const failed = 1 << 31

const (
	actGoesOn   = 4
	outcomeNone = 6       // of a search that has not ended
	maxSteps    = 1 << 20 // of a search; the tables of a list end it far earlier
	numAxes     = int(classify.DstEndpoint) + 1
)

// functions writes what all programs have in common.
func (e *emitter) functions() {
	functions := [...]func(){e.consult, e.ask, e.step, e.page, e.summary, e.act, e.trie32, e.trie128, e.endpoint, e.farLine}
	for _, write := range functions {
		write()
		e.end()
	}
	if !e.quiet {
		e.event()
		e.end()
	}
}

// list loads a cell of the list in the frame. The frame has its address and not what it holds: to the verifier, two reads
// of memory have nothing to do with each other, and it need not follow each combination of dimensions.
func (e *emitter) list(dst asm.Register, cell int) {
	e.field64(dst, fList)
	e.load(dst, dst, 4*cell, asm.Word)
}

// none sets no bits, and all sets all, which the verifier does not know: it would follow what becomes of them bit by bit.
func (e *emitter) none(dst asm.Register) {
	e.field64(dst, fList)
	e.load(dst, dst, 4*listZero, asm.DWord)
}

func (e *emitter) all(dst asm.Register) {
	e.none(dst)
	e.imm(asm.Sub, dst, 1)
}

// common are the axes that most rules ask about. A list that asks about no other ones need not be asked about each.
var common = [...]classify.Axis{classify.L4, classify.SrcAddr, classify.DstAddr}

// rareAxes are all others, as bits.
func rareAxes() (rare int32) {
	for axis := classify.L4; int(axis) < numAxes; axis++ {
		if axis != classify.DstPort && !slices.Contains(common[:], axis) { // destination ports are with L4
			rare |= 1 << axis
		}
	}
	return rare
}

// axes does something for each axis that the list has; next is the label behind it. It uses R1.
func (e *emitter) axes(do func(axis classify.Axis, next string)) {
	one := e.each(do)
	for _, axis := range common {
		one(axis)
	}
	e.rare(one)
}

// each returns what does something for an axis if the list has it.
func (e *emitter) each(do func(axis classify.Axis, next string)) func(classify.Axis) {
	return func(axis classify.Axis) {
		has, next := e.label("axis"), e.label("axis.next")
		e.list(r1, listAxes)
		e.add(asm.JSet.Imm(r1, 1<<axis, has))
		e.jump(next)
		e.mark(has)
		do(axis, next)
		e.mark(next)
	}
}

// rare does something for each axis that is not common, if there are any. It uses R1.
func (e *emitter) rare(one func(classify.Axis)) {
	rare := rareAxes()
	some, end := e.label("axes.rare"), e.label("axes.end")
	e.list(r1, listAxes)
	e.add(asm.JSet.Imm(r1, rare, some))
	e.jump(end)
	e.mark(some)
	for axis := classify.L4; int(axis) < numAxes; axis++ {
		if rare&(1<<axis) != 0 {
			one(axis)
		}
	}
	e.mark(end)
}

// summary joins a word of the summaries of all dimensions.
func (e *emitter) summary() {
	e.mark(fnSummary)
	e.mov(r6, r1)
	e.mov(r7, r2)
	e.imm(asm.LSh, r7, 1)
	join := func(axis classify.Axis, first bool) {
		e.field(r9, fRow(axis))
		e.reg(asm.Add, r9, r7)
		e.cell(r9, 2, "summary.fail")
		if first {
			e.load(r8, r0, 0, asm.DWord)
			return
		}
		e.load(r0, r0, 0, asm.DWord)
		e.reg(asm.And, r8, r0)
	}
	for i, axis := range common {
		join(axis, i == 0)
	}
	e.rare(e.each(func(axis classify.Axis, _ string) { join(axis, false) }))
	e.setSum(r8)
	e.set(r0, 0)
	e.ret()
	e.mark("summary.fail")
	e.set(r0, 1)
	e.ret()
}

// step looks at one page of the row, or at one word of the summary.
func (e *emitter) step() {
	const fail = "step.fail"
	e.mark(fnStep)
	e.mov(r6, r2)
	e.sum(r7, r1)
	e.list(r1, listPages)
	e.ifImm(asm.JNE, r7, 0, "step.some")
	e.ifImm(asm.JEq, r1, 0, "step.end")
	e.field(r2, fWord)
	e.imm(asm.Add, r2, 1)
	e.list(r1, listSums)
	e.ifReg(asm.JGE, r2, r1, "step.end")
	e.setField(fWord, r2)
	e.mov(r1, r6)
	e.call(fnSummary)
	e.ifImm(asm.JNE, r0, 0, fail)
	e.ret()

	e.mark("step.some")
	e.mov(r8, r7)
	e.lowest(r8, r2)
	e.ifImm(asm.JEq, r1, 0, "step.found")
	e.list(r1, listAxes)
	e.add(asm.JSet.Imm(r1, rareAxes(), "step.one"))
	// Most lists ask about one of the addresses only.
	both, onlySrc := e.label("pages.both"), e.label("pages.src")
	e.imm(asm.And, r1, 1<<classify.SrcAddr|1<<classify.DstAddr)
	e.ifImm(asm.JEq, r1, 1<<classify.SrcAddr, onlySrc)
	e.ifImm(asm.JNE, r1, 1<<classify.DstAddr, both)
	e.pages(fail, classify.L4, classify.DstAddr)
	e.mark(onlySrc)
	e.pages(fail, classify.L4, classify.SrcAddr)
	e.mark(both)
	e.pages(fail, common[:]...)

	e.mark("step.one") // R8 is the first page of the summary here, too
	e.mov(r1, r7)
	e.imm(asm.Sub, r1, 1)
	e.reg(asm.And, r7, r1)
	e.setSum(r7)
	e.field(r7, fWord)
	e.imm(asm.LSh, r7, 6)
	e.reg(asm.Add, r7, r8) // the page
	// The first rule among those of the page.
	e.list(r9, listZero) // the word, which the verifier need not follow
	for first := 0; first < pageWords; first += halfWords {
		e.mov(r1, r6)
		e.mov(r2, r7)
		e.set(r3, int32(first))
		e.call(fnPage)
		e.ifImm(asm.JNE, r0, 0, fail)
		for i := range halfWords {
			e.field64(r8, fPage+8*i)
			e.ifImm(asm.JNE, r8, 0, "step.bit")
			e.imm(asm.Add, r9, 1)
		}
	}
	e.set(r0, 0)
	e.ret()
	e.mark("pages.found")
	e.setSum(r7)
	e.load(r7, fp, -8*(len(common)+1), asm.DWord)
	e.mark("step.bit")
	e.lowest(r8, r2)
	e.imm(asm.LSh, r7, 3)
	e.reg(asm.Add, r7, r9)
	e.imm(asm.LSh, r7, 6)
	e.reg(asm.Add, r8, r7)
	e.mark("step.found")
	e.hide(r8)
	e.mov(r1, r6)
	e.mov(r2, r8)
	e.call(fnAct)
	e.ifImm(asm.JNE, r0, actGoesOn, "step.done")
	// On with the search behind the rule.
	e.forget()
	e.field(r7, fStart)
	e.list(r1, listRules)
	e.ifReg(asm.JGE, r7, r1, "step.end")
	e.mov(r2, r7)
	e.imm(asm.RSh, r2, pageShift+6)
	e.setField(fWord, r2)
	e.mov(r1, r6)
	e.call(fnSummary)
	e.ifImm(asm.JNE, r0, 0, fail)
	e.list(r1, listPages)
	e.ifImm(asm.JEq, r1, 0, "step.small")
	e.imm(asm.RSh, r7, pageShift)
	e.mark("step.small")
	e.imm(asm.And, r7, 63)
	e.set(r1, -1)
	e.reg(asm.LSh, r1, r7)
	e.sum(r2, r3)
	e.reg(asm.And, r2, r1)
	e.setSum(r2)
	e.set(r0, 0)
	e.ret()
	e.mark("step.end")
	e.noOrigin()
	e.list(r0, listZero) // Undecided
	e.mark("step.done")
	e.setField(fOutcome, r0)
	e.set(r0, 1)
	e.ret()
	e.mark(fail)
	e.forget()
	e.noOrigin()
	e.set(r0, int32(ir.Deny))
	e.jump("step.done")
}

// page joins half of a page of the rows of all dimensions, and leaves out the rules before the one at which the search
// stands. The whole would not be of use to the first rule in it, and is more than there is room for.
func (e *emitter) page() {
	const fail = "page.fail"
	e.mark(fnPage)
	e.mov(r6, r1)
	e.mov(r7, r2)
	e.store(fp, -8, r3, asm.DWord)
	for i := range halfWords {
		e.all(r8) // each by itself: the verifier remembers which numbers are the same
		e.setField64(fPage+8*i, r8)
	}
	e.axes(func(axis classify.Axis, _ string) {
		e.list(r9, listSums)
		e.imm(asm.LSh, r9, 1)
		e.field(r1, fRow(axis))
		e.reg(asm.Add, r9, r1)
		e.reg(asm.Add, r9, r7)
		e.cell(r9, 1, fail)
		e.load(r1, r0, 0, asm.Word)
		e.line(r1, fail)
		e.load(r1, fp, -8, asm.DWord)
		e.imm(asm.LSh, r1, 3)
		e.reg(asm.Add, r0, r1)
		for i := range halfWords {
			e.load(r1, r0, 8*i, asm.DWord)
			e.field64(r2, fPage+8*i)
			e.reg(asm.And, r1, r2)
			e.setField64(fPage+8*i, r1)
		}
	})
	e.field(r1, fStart)
	e.mov(r2, r1)
	e.imm(asm.RSh, r2, pageShift)
	e.ifReg(asm.JNE, r2, r7, "page.done")
	e.set(r3, -1)
	e.mov(r4, r1)
	e.imm(asm.And, r4, 63)
	e.reg(asm.LSh, r3, r4)
	e.imm(asm.RSh, r1, 6)
	e.imm(asm.And, r1, pageWords-1) // the word
	e.load(r2, fp, -8, asm.DWord)
	e.reg(asm.Sub, r1, r2)
	for i := range halfWords {
		partly, next := e.label("page.partly"), e.label("page.word")
		e.ifImm(asm.JSLT, r1, int32(i), "page.done")
		e.ifImm(asm.JEq, r1, int32(i), partly)
		e.none(r5)
		e.setField64(fPage+8*i, r5)
		e.jump(next)
		e.mark(partly)
		e.field64(r2, fPage+8*i)
		e.reg(asm.And, r2, r3)
		e.setField64(fPage+8*i, r2)
		e.mark(next)
	}
	e.mark("page.done")
	e.set(r0, 0)
	e.ret()
	e.mark(fail)
	e.set(r0, 1)
	e.ret()
}

// pagesAtOnce is how many pages one step looks at.
const pagesAtOnce = 2

// pages looks at the pages of a word of the summary, which is in R7 and not 0, in the rows of some dimensions. It goes on at
// step.bit with the page in R7, the first word in which they have bits in common in R8 and its number in R9; at step.one,
// with the summary in R7 and its first page in R8, if the search stands within the page; or it returns.
func (e *emitter) pages(fail string, axes ...classify.Axis) {
	const number = -8 * (len(common) + 1)
	none := e.label("pages.none")
	for n := range pagesAtOnce {
		if n > 0 {
			e.ifImm(asm.JEq, r7, 0, none)
			e.mov(r8, r7)
			e.lowest(r8, r2)
		}
		e.field(r9, fWord)
		e.imm(asm.LSh, r9, 6)
		e.reg(asm.Add, r9, r8)
		e.field(r1, fStart)
		e.mov(r2, r9)
		e.imm(asm.LSh, r2, pageShift)
		e.ifReg(asm.JGT, r1, r2, "step.one")
		e.store(fp, number, r9, asm.DWord)
		e.mov(r1, r7)
		e.imm(asm.Sub, r1, 1)
		e.reg(asm.And, r7, r1)
		e.list(r8, listSums)
		e.imm(asm.LSh, r8, 1)
		e.reg(asm.Add, r9, r8)
		for i, axis := range axes {
			e.field(r8, fRow(axis))
			e.reg(asm.Add, r8, r9)
			e.cell(r8, 1, fail)
			e.load(r1, r0, 0, asm.Word)
			e.line(r1, fail)
			e.store(fp, -8*(i+1), r0, asm.DWord)
		}
		pages := []asm.Register{r2, r3, r4}[:len(axes)]
		for i, p := range pages {
			e.load(p, fp, -8*(i+1), asm.DWord)
		}
		for w := range pageWords {
			e.load(r8, pages[0], 8*w, asm.DWord)
			for _, p := range pages[1:] {
				e.load(r1, p, 8*w, asm.DWord)
				e.reg(asm.And, r8, r1)
			}
			word := e.label("pages.word")
			e.ifImm(asm.JNE, r8, 0, word)
			e.aside(func() {
				e.mark(word)
				e.set(r9, int32(w))
				e.jump("pages.found")
			})
		}
	}
	e.mark(none)
	e.setSum(r7)
	e.set(r0, 0)
	e.ret()
}

// act does what a rule does for a packet that matches.
func (e *emitter) act() {
	e.mark(fnAct)
	e.mov(r6, r1)
	e.mov(r7, r2)
	e.imm(asm.LSh, r7, 2)
	e.list(r1, listActions)
	e.reg(asm.Add, r7, r1)
	e.cell(r7, 4, "act.fail")
	e.mov(r8, r0)
	e.load(r9, r8, 4*actionOutcome, asm.Word)
	e.load(r2, r8, 4*actionOrigin, asm.Word)
	e.setOrigin(r2)
	if !e.quiet {
		e.view(r1, vQuiet, asm.Word)
		if e.device {
			e.ifImm(asm.JEq, r1, loud, "act.count")
			e.ifImm(asm.JNE, r1, denyOnly, "act.decide")
			e.mov(r2, r9)
			e.imm(asm.And, r2, actionLog|3)
			e.ifImm(asm.JEq, r2, int32(ir.Deny), "act.count")
			e.field64(r1, fView)
			e.storeImm(r1, vQuiet, missed, asm.Word)
			e.jump("act.decide")
			e.mark("act.count")
		} else {
			e.ifImm(asm.JNE, r1, loud, "act.decide")
		}
		e.mov(r2, r8)
		e.imm(asm.Add, r2, 4*actionSlot)
		e.add(asm.LoadMapPtr(r1, 0).WithReference(MapCounters))
		e.add(asm.FnMapLookupElem.Call())
		e.ifImm(asm.JEq, r0, 0, "act.log")
		e.set(r1, 1)
		e.add(asm.AddAtomic.Mem(r0, r1, asm.DWord, 0))
		e.view(r1, vLen, asm.Word)
		e.add(asm.AddAtomic.Mem(r0, r1, asm.DWord, 8))
		e.mark("act.log")
		e.add(asm.JSet.Imm(r9, actionLog, "act.event"))
		e.jump("act.decide")
		e.mark("act.event")
		e.mov(r1, r6)
		e.set(r2, int32(flow.EventLog))
		e.call(fnEvent)
		e.mark("act.decide")
	}
	e.mov(r0, r9)
	e.imm(asm.And, r0, 3)
	e.ifImm(asm.JNE, r0, int32(ir.Undecided), "act.return")
	e.load(r1, r8, 4*actionNext, asm.Word)
	e.setField(fStart, r1)
	e.set(r0, actGoesOn)
	e.mark("act.return")
	e.ret()
	e.mark("act.fail")
	e.noOrigin()
	e.set(r0, int32(ir.Deny))
	e.ret()
}
