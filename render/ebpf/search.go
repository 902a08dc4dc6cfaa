// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
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
	fnSummary = "summary"  // word -> 0, or 1 if it failed; what is left of the word is in the frame
	fnAct     = "act"      // rule -> outcome, or actGoesOn
	fnTrie32  = "trie32"   // root, key -> cell
	fnTrie128 = "trie128"  // root, key, key -> cell
	fnPoint   = "endpoint" // line, shift, 1 for the destination, cell of all others -> cell
	fnEvent   = "event"    // event
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
	actGoesOn = 4
	maxSteps  = 1 << 20 // of a search; the tables of a list end it far earlier
	numAxes   = int(classify.DstEndpoint) + 1
)

// functions writes what all programs have in common.
func (e *emitter) functions() {
	e.consult()
	e.ask()
	e.step()
	e.summary()
	e.act()
	e.trie32()
	e.trie128()
	e.endpoint()
	if !e.quiet {
		e.event()
	}
}

// consult asks the entry of a hook, as ir.Interpreter does. The verifier looks at it once, whatever the main function
// does: it is global, and gets the packet as memory of which nothing is known.
func (e *emitter) consult() {
	e.mark(fnConsult)
	e.ifImm(asm.JNE, r2, 0, "consult.view")
	e.set(r0, int32(ir.Deny))
	e.ret()
	e.mark("consult.view")
	e.mov(r6, fp)
	e.imm(asm.Add, r6, -(fSize + 8))
	e.setField64(fCtx, r1)
	e.setField64(fView, r2)
	e.setField(fHook, r3)
	e.mov(r7, r3)
	e.noOrigin()
	e.storeImm(fp, -4, 0, asm.Word)
	e.mov(r2, fp)
	e.imm(asm.Add, r2, -4)
	e.add(asm.LoadMapPtr(r1, 0).WithReference(MapGeneration))
	e.add(asm.FnMapLookupElem.Call())
	e.ifImm(asm.JEq, r0, 0, "consult.fail")
	e.setField64(fBlob, r0)
	e.set(r8, 0)
	e.line(r8, "consult.fail")
	e.load(r1, r0, 4*headMagic, asm.Word)
	e.ifImm(asm.JNE, r1, magic, "consult.fail")
	e.setField64(fHead, r0)
	// What the hook does not see.
	e.load(r9, r0, 4*headZero, asm.Word)
	e.setField(fInC, r9)
	e.setField(fOutC, r9)
	e.set(r8, 1)
	e.reg(asm.LSh, r8, r7)
	e.load(r9, r0, 4*headNoState, asm.Word)
	e.add(asm.JSet.Imm(r8, int32(flow.HooksOf(flow.UntrackedIn, flow.UntrackedOut)), "consult.state"))
	e.view(r9, vState, asm.Word)
	e.imm(asm.And, r9, dispatchWidth-1)
	e.mark("consult.state")
	e.setField(fState, r9)
	sees := flow.HookSet(0)
	for _, h := range flow.Hooks {
		if seesOut(h) {
			sees |= 1 << h
		}
	}
	e.set(r5, 0)
	e.add(asm.JSet.Imm(r8, int32(sees), "consult.out"))
	e.set(r5, flagOut)
	e.mark("consult.out")
	e.store(fp, -8, r5, asm.Word) // flags that mean nothing here

	e.imm(asm.And, r7, 7)
	e.imm(asm.Add, r7, 1)
	e.line(r7, "consult.fail")
	e.mov(r8, r0)
	e.load(r7, r8, 4*entryFlags, asm.Word)
	e.add(asm.JSet.Imm(r7, flagEntry, "consult.entry"))
	e.jump("consult.undecided")
	e.mark("consult.entry")
	e.load(r5, fp, -8, asm.Word)
	e.imm(asm.Xor, r5, -1)
	e.reg(asm.And, r5, r7)
	e.mov(r9, r5)
	for _, i := range [...]struct {
		flag     int32
		name, to int
	}{{flagIn, vIn, fInC}, {flagOut, vOut, fOutC}} {
		known := e.label("consult.class")
		e.mov(r1, r9)
		e.imm(asm.And, r1, i.flag)
		e.ifImm(asm.JEq, r1, 0, known)
		e.view(r3, i.name, asm.DWord)
		e.ifImm(asm.JEq, r3, 0, known) // a packet without the interface is of class 0
		e.view(r4, i.name+8, asm.DWord)
		e.mov(r1, r6)
		e.field64(r2, fHead)
		e.load(r2, r2, 4*headNames, asm.Word)
		e.call(fnTrie128)
		e.ifImm(asm.JGE, r0, maxCells, "consult.fail")
		e.setField(i.to, r0)
		e.mark(known)
	}
	e.field(r1, fHook)
	e.view(r9, vSettled, asm.Word)
	e.reg(asm.RSh, r9, r1)
	e.imm(asm.And, r9, 1)
	e.add(asm.JSet.Imm(r7, flagAlways, "consult.always"))
	e.jump("consult.block")
	e.mark("consult.always")
	e.mov(r1, r6)
	e.load(r2, r8, 4*entryAlways, asm.Word)
	e.load(r3, r8, 4*entryAlways+4, asm.Word)
	e.call(fnAsk)
	e.ifImm(asm.JNE, r0, int32(ir.Undecided), "consult.outcome")
	e.mark("consult.block")
	e.ifImm(asm.JNE, r9, 0, "consult.undecided")
	e.mov(r1, r6)
	e.load(r2, r8, 4*entryField, asm.Word)
	e.load(r3, r8, 4*entryLists, asm.Word)
	e.call(fnAsk)
	e.ifImm(asm.JNE, r0, int32(ir.Undecided), "consult.outcome")
	e.noOrigin()
	e.load(r0, r8, 4*entryDefault, asm.Word)
	e.mark("consult.outcome")
	if !e.quiet {
		e.report()
	}
	e.ifImm(asm.JNE, r0, int32(ir.Allow), "consult.return")
	e.field64(r3, fView)
	e.load(r1, r3, vSettled, asm.Word)
	e.load(r2, r8, 4*entrySettles, asm.Word)
	e.reg(asm.Or, r1, r2)
	e.store(r3, vSettled, r1, asm.Word)
	e.mark("consult.return")
	e.ret()
	e.mark("consult.undecided")
	e.set(r0, int32(ir.Undecided))
	e.ret()
	e.mark("consult.fail")
	e.noOrigin()
	e.set(r0, int32(ir.Deny))
	e.ret()
}

// report makes an event of the outcome, which is in R0 and stays there, if it is asked for.
func (e *emitter) report() {
	const done, send = "report.done", "report.send"
	e.mov(r7, r0)
	e.view(r1, vQuiet, asm.Word)
	e.ifImm(asm.JNE, r1, 0, done)
	e.view(r1, vOrigin, asm.Word)
	e.ifImm(asm.JEq, r1, 0, done)
	e.field64(r1, fHead)
	e.load(r1, r1, 4*headEvents, asm.Word)
	e.ifImm(asm.JEq, r1, int32(NoEvents), done)
	e.set(r2, int32(flow.EventDeny))
	e.ifImm(asm.JEq, r7, int32(ir.Deny), send)
	e.ifImm(asm.JNE, r1, int32(AllEvents), done)
	e.set(r2, int32(flow.EventAllow))
	e.ifImm(asm.JEq, r7, int32(ir.Allow), send)
	e.set(r2, int32(flow.EventPass))
	e.ifImm(asm.JNE, r7, int32(ir.Pass), done)
	e.mark(send)
	e.mov(r1, r6)
	e.call(fnEvent)
	e.mark(done)
	e.mov(r0, r7)
}

// ask finds the list for the packet and searches it.
func (e *emitter) ask() {
	const fail = "ask.fail"
	e.mark(fnAsk)
	e.mov(r6, r1)
	e.mov(r7, r3)
	e.set(r0, 0)
	e.ifImm(asm.JEq, r2, 0, "ask.class")
	e.field(r0, fInC)
	e.ifImm(asm.JEq, r2, int32(ir.InIface), "ask.class")
	e.field(r0, fOutC)
	e.mark("ask.class")
	e.imm(asm.Mul, r0, dispatchWidth)
	e.reg(asm.Add, r7, r0)
	e.field(r1, fState)
	e.reg(asm.Add, r7, r1)
	e.cell(r7, 1, fail)
	e.load(r7, r0, 0, asm.Word)
	e.line(r7, fail)
	e.mov(r8, r0)
	e.setField64(fList, r8)
	e.load(r1, r8, 4*listKind, asm.Word)
	e.ifImm(asm.JEq, r1, kindSearch, "ask.search")
	e.ifImm(asm.JEq, r1, kindEmpty, "ask.empty")
	e.mov(r1, r6)
	e.set(r2, 0)
	e.call(fnAct)
	e.ifImm(asm.JGE, r0, actGoesOn, fail)
	e.ret()
	e.mark("ask.empty")
	e.set(r0, int32(ir.Undecided))
	e.ret()

	e.mark("ask.search")
	e.imm(asm.Add, r7, 1)
	e.line(r7, fail)
	e.mov(r9, r0)
	// So that the verifier need not tell which rows are there when it follows the search: it would try all combinations.
	e.load(r1, r8, 4*listZero, asm.Word)
	for axis := classify.L4; int(axis) < numAxes; axis++ {
		e.setField(fRows+4*int(axis), r1)
	}
	for axis := classify.L4; int(axis) < numAxes; axis++ {
		has, next := e.label("ask.axis"), e.label("ask.next")
		e.load(r7, r8, 4*listAxes, asm.Word)
		e.add(asm.JSet.Imm(r7, 1<<axis, has))
		e.jump(next)
		e.mark(has)
		e.lookup(axis, next, fail)
		e.ifImm(asm.JGE, r0, maxCells, fail)
		e.setField(fRows+4*int(axis), r0)
		e.mark(next)
	}
	// Zero, but not to the verifier: it would follow a number that it knows through each step of the search.
	e.load(r1, r8, 4*listZero, asm.Word)
	e.setField(fStart, r1)
	e.setField(fWord, r1)
	e.noOrigin()
	e.set(r1, int32(ir.Deny))
	e.setField(fOutcome, r1) // if the steps do not suffice
	e.mov(r1, r6)
	e.set(r2, 0)
	e.call(fnSummary)
	e.ifImm(asm.JNE, r0, 0, fail)
	e.set(r1, 0)
	e.mov(r2, r6)
	e.call(fnStep)
	e.ifImm(asm.JNE, r0, 0, "ask.done")
	e.set(r1, maxSteps)
	e.add(asm.Instruction{OpCode: asm.LoadImmOp(asm.DWord), Dst: r2, Src: asm.PseudoFunc, Constant: -1}.WithReference(fnStep))
	e.mov(r3, r6)
	e.set(r4, 0)
	e.add(asm.FnLoop.Call())
	e.mark("ask.done")
	e.field(r0, fOutcome)
	e.ret()
	e.mark(fail)
	e.noOrigin()
	e.set(r0, int32(ir.Deny))
	e.ret()
}

// lookup leaves the cell of the row of the packet on an axis in R0. R8 and R9 are the two lines of the list.
func (e *emitter) lookup(axis classify.Axis, next, fail string) {
	number := func(root int, key int) {
		e.mov(r1, r6)
		e.load(r2, r8, 4*root, asm.Word)
		e.view(r3, key, asm.Word)
		e.call(fnTrie32)
	}
	address := func(roots, key int) {
		wide, done := e.label("ask.ipv6"), e.label("ask.addr")
		e.mov(r1, r6)
		e.view(r5, vWide, asm.Word)
		e.ifImm(asm.JNE, r5, 0, wide)
		e.load(r2, r9, 4*(roots-lineCells), asm.Word)
		e.view(r3, key+8, asm.Word)
		e.call(fnTrie32)
		e.jump(done)
		e.mark(wide)
		e.load(r2, r9, 4*(roots-lineCells)+4, asm.Word)
		e.view(r3, key, asm.DWord)
		e.view(r4, key+8, asm.DWord)
		e.call(fnTrie128)
		e.mark(done)
	}
	port := func(root, key int) {
		none, done := e.label("ask.noport"), e.label("ask.port")
		e.view(r5, vPorts, asm.Word)
		e.ifImm(asm.JEq, r5, 0, none)
		e.mov(r1, r6)
		e.load(r2, r9, 4*(root-lineCells), asm.Word)
		e.view(r3, key, asm.Word)
		e.call(fnTrie32)
		e.jump(done)
		e.mark(none)
		e.load(r0, r9, 4*(root-lineCells)+4, asm.Word)
		e.mark(done)
	}
	iface := func(class, rows int) {
		e.field(r7, class)
		e.load(r1, r8, 4*rows, asm.Word)
		e.reg(asm.Add, r7, r1)
		e.cell(r7, 1, fail)
		e.load(r0, r0, 0, asm.Word)
	}
	endpoint := func(line asm.Register, at int, dst int32) {
		none, done := e.label("ask.noport"), e.label("ask.port")
		e.load(r5, line, 4*at+8, asm.Word)
		e.view(r1, vPorts, asm.Word)
		e.ifImm(asm.JEq, r1, 0, none)
		e.mov(r1, r6)
		e.load(r2, line, 4*at, asm.Word)
		e.load(r3, line, 4*at+4, asm.Word)
		e.set(r4, dst)
		e.call(fnPoint)
		e.jump(done)
		e.mark(none)
		e.mov(r0, r5)
		e.mark(done)
	}
	switch axis {
	case classify.L4:
		number(listL4, vL4)
	case classify.SrcAddr:
		address(listSrc, vSrc)
	case classify.DstAddr:
		address(listDst, vDst)
	case classify.SrcPort:
		port(listSrcPort, vSrcPort)
	case classify.DstPort:
		port(listDstPort, vDstPort)
	case classify.InIface:
		iface(fInC, listIn)
	case classify.OutIface:
		iface(fOutC, listOut)
	case classify.SrcEndpoint:
		endpoint(r8, listSrcEnd, 0)
	case classify.DstEndpoint:
		endpoint(r9, listDstEnd-lineCells, 1)
	}
}

// list loads a cell of the list in the frame. The frame has its address and not what it holds: to the verifier, two reads
// of memory have nothing to do with each other, and it need not follow each combination of dimensions.
func (e *emitter) list(dst asm.Register, cell int) {
	e.field64(dst, fList)
	e.load(dst, dst, 4*cell, asm.Word)
}

// all sets all bits, which the verifier does not know: it would follow what becomes of them bit by bit.
func (e *emitter) all(dst asm.Register) {
	e.list(dst, listZero)
	e.imm(asm.Sub, dst, 1)
}

// summary joins a word of the summaries of all dimensions.
func (e *emitter) summary() {
	e.mark(fnSummary)
	e.mov(r6, r1)
	e.mov(r7, r2)
	e.imm(asm.LSh, r7, 1)
	e.all(r8)
	for axis := classify.L4; int(axis) < numAxes; axis++ {
		has, next := e.label("summary.axis"), e.label("summary.next")
		e.list(r1, listAxes)
		e.add(asm.JSet.Imm(r1, 1<<axis, has))
		e.jump(next)
		e.mark(has)
		e.field(r9, fRows+4*int(axis))
		e.reg(asm.Add, r9, r7)
		e.cell(r9, 2, "summary.fail")
		e.load(r0, r0, 0, asm.DWord)
		e.reg(asm.And, r8, r0)
		e.mark(next)
	}
	e.setSum(r8)
	e.set(r0, 0)
	e.ret()
	e.mark("summary.fail")
	e.set(r0, 1)
	e.ret()
}

// step looks at one word of the row, or at one of the summary.
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
	e.lowest(r8, r2, r3)
	e.ifImm(asm.JEq, r1, 0, "step.found")
	e.mov(r1, r7)
	e.imm(asm.Sub, r1, 1)
	e.reg(asm.And, r7, r1)
	e.setSum(r7)
	e.field(r7, fWord)
	e.imm(asm.LSh, r7, 6)
	e.reg(asm.Add, r7, r8) // the word of the row
	e.all(r8)
	for axis := classify.L4; int(axis) < numAxes; axis++ {
		has, next := e.label("step.axis"), e.label("step.next")
		e.list(r1, listAxes)
		e.add(asm.JSet.Imm(r1, 1<<axis, has))
		e.jump(next)
		e.mark(has)
		e.list(r9, listSums)
		e.imm(asm.LSh, r9, 1)
		e.field(r1, fRows+4*int(axis))
		e.reg(asm.Add, r9, r1)
		e.mov(r1, r7)
		e.imm(asm.RSh, r1, 3)
		e.reg(asm.Add, r9, r1)
		e.cell(r9, 1, fail)
		e.load(r1, r0, 0, asm.Word)
		e.line(r1, fail)
		e.mov(r1, r7)
		e.imm(asm.And, r1, pageWords-1)
		e.imm(asm.LSh, r1, 3)
		e.reg(asm.Add, r0, r1)
		e.load(r1, r0, 0, asm.DWord)
		e.reg(asm.And, r8, r1)
		e.mark(next)
	}
	// What is before the rule at which the search stands does not count.
	e.field(r1, fStart)
	e.mov(r2, r1)
	e.imm(asm.RSh, r2, 6)
	e.ifReg(asm.JNE, r2, r7, "step.find")
	e.imm(asm.And, r1, 63)
	e.set(r3, -1)
	e.reg(asm.LSh, r3, r1)
	e.reg(asm.And, r8, r3)
	e.mark("step.find")
	e.ifImm(asm.JNE, r8, 0, "step.bit")
	e.set(r0, 0)
	e.ret()
	e.mark("step.bit")
	e.lowest(r8, r2, r3)
	e.imm(asm.LSh, r7, 6)
	e.reg(asm.Add, r8, r7)
	e.mark("step.found")
	e.mov(r1, r6)
	e.mov(r2, r8)
	e.call(fnAct)
	e.ifImm(asm.JNE, r0, actGoesOn, "step.done")
	// On with the search behind the rule.
	e.field(r7, fStart)
	e.list(r1, listRules)
	e.ifReg(asm.JGE, r7, r1, "step.end")
	e.mov(r2, r7)
	e.imm(asm.RSh, r2, 12)
	e.setField(fWord, r2)
	e.mov(r1, r6)
	e.call(fnSummary)
	e.ifImm(asm.JNE, r0, 0, fail)
	e.list(r1, listPages)
	e.ifImm(asm.JEq, r1, 0, "step.small")
	e.imm(asm.RSh, r7, 6)
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
	e.noOrigin()
	e.set(r0, int32(ir.Deny))
	e.jump("step.done")
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
		e.ifImm(asm.JNE, r1, 0, "act.decide")
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

// follow writes one step of a trie: R7 is the result so far, R0 the node, R1 the byte. The result is in R7.
func (e *emitter) follow(fail string) {
	e.mov(r2, r1)
	e.imm(asm.RSh, r2, 6)
	e.imm(asm.And, r2, 3)
	e.mov(r3, r0)
	e.reg(asm.Add, r3, r2)
	e.load(r7, r3, 4*nodeBefore, asm.Byte)
	e.imm(asm.LSh, r2, 3)
	e.mov(r3, r0)
	e.reg(asm.Add, r3, r2)
	e.load(r3, r3, 0, asm.DWord)
	e.load(r4, r0, 4*nodeValues, asm.Word)
	e.reg(asm.Add, r7, r4)
	e.imm(asm.And, r1, 63)
	e.imm(asm.Xor, r1, 63)
	e.reg(asm.LSh, r3, r1)
	e.ones(r3, r1, r2)
	e.reg(asm.Add, r7, r3)
	e.imm(asm.Sub, r7, 1)
	e.cell(r7, 1, fail)
	e.load(r7, r0, 0, asm.Word)
}

// trie32 follows a trie with a key of 32 bits: four nodes at most.
func (e *emitter) trie32() {
	const fail = "trie32.fail"
	e.mark(fnTrie32)
	e.mov(r6, r1)
	e.mov(r7, r2)
	e.mov(r8, r3)
	for range 4 {
		e.ifImm(asm.JLT, r7, maxCells, "trie32.return")
		e.add(asm.And.Imm32(r7, isNode-1))
		e.line(r7, fail)
		e.load(r1, r0, 4*nodeMask, asm.Word)
		e.reg(asm.And, r1, r8)
		e.load(r2, r0, 4*nodePrefix, asm.Word)
		e.ifReg(asm.JLT, r1, r2, "trie32.below")
		e.ifReg(asm.JGT, r1, r2, "trie32.above")
		e.mov(r1, r8)
		e.load(r2, r0, 4*nodeShift, asm.Word)
		e.reg(asm.RSh, r1, r2)
		e.imm(asm.And, r1, 255)
		e.follow(fail)
	}
	e.mark("trie32.return")
	e.mov(r0, r7)
	e.ret()
	e.mark("trie32.below")
	e.load(r0, r0, 4*nodeBelow, asm.Word)
	e.ret()
	e.mark("trie32.above")
	e.load(r0, r0, 4*nodeAbove, asm.Word)
	e.ret()
	e.mark(fail)
	e.const64(r0, failed)
	e.ret()
}

// trie128 follows a trie with a key of 128 bits.
func (e *emitter) trie128() {
	const fail = "trie128.fail"
	e.mark(fnTrie128)
	e.mov(r6, r1)
	e.mov(r7, r2)
	e.mov(r8, r3)
	e.mov(r9, r4)
	e.storeImm(fp, -24, 16, asm.DWord)
	e.mark("trie128.node")
	e.ifImm(asm.JLT, r7, maxCells, "trie128.return")
	e.load(r1, fp, -24, asm.DWord)
	e.imm(asm.Sub, r1, 1)
	e.store(fp, -24, r1, asm.DWord)
	e.ifImm(asm.JSLT, r1, 0, fail)
	e.add(asm.And.Imm32(r7, isNode-1))
	e.imm(asm.Add, r7, 1)
	e.line(r7, fail)
	e.imm(asm.Sub, r7, 1)
	e.store(fp, -16, r0, asm.DWord) // the second line
	e.line(r7, fail)
	e.load(r5, fp, -16, asm.DWord)
	e.load(r1, r5, 16, asm.DWord)
	e.reg(asm.And, r1, r8)
	e.load(r2, r5, 0, asm.DWord)
	e.ifReg(asm.JLT, r1, r2, "trie128.below")
	e.ifReg(asm.JGT, r1, r2, "trie128.above")
	e.load(r1, r5, 24, asm.DWord)
	e.reg(asm.And, r1, r9)
	e.load(r2, r5, 8, asm.DWord)
	e.ifReg(asm.JLT, r1, r2, "trie128.below")
	e.ifReg(asm.JGT, r1, r2, "trie128.above")
	e.mov(r1, r8)
	e.load(r2, r0, 4*nodeHalf, asm.Word)
	e.ifImm(asm.JEq, r2, 0, "trie128.byte")
	e.mov(r1, r9)
	e.mark("trie128.byte")
	e.load(r2, r0, 4*nodeShift, asm.Word)
	e.reg(asm.RSh, r1, r2)
	e.imm(asm.And, r1, 255)
	e.follow(fail)
	e.jump("trie128.node")
	e.mark("trie128.return")
	e.mov(r0, r7)
	e.ret()
	e.mark("trie128.below")
	e.load(r0, r0, 4*nodeBelow, asm.Word)
	e.ret()
	e.mark("trie128.above")
	e.load(r0, r0, 4*nodeAbove, asm.Word)
	e.ret()
	e.mark(fail)
	e.const64(r0, failed)
	e.ret()
}

// endpoint looks up address, protocol and port together.
func (e *emitter) endpoint() {
	const fail = "endpoint.fail"
	e.mark(fnPoint)
	e.mov(r6, r1)
	e.mov(r7, r2) // line
	e.store(fp, -16, r5, asm.DWord)
	e.field64(r5, fView)
	e.load(r1, r5, vSrc, asm.DWord)
	e.load(r2, r5, vSrc+8, asm.DWord)
	e.load(r9, r5, vSrcPort, asm.Word)
	e.ifImm(asm.JEq, r4, 0, "endpoint.src")
	e.load(r1, r5, vDst, asm.DWord)
	e.load(r2, r5, vDst+8, asm.DWord)
	e.load(r9, r5, vDstPort, asm.Word)
	e.mark("endpoint.src")
	e.load(r4, r5, vL4, asm.Word)
	e.imm(asm.And, r4, 0xff0000)
	e.reg(asm.Or, r9, r4)
	e.store(fp, -24, r1, asm.DWord)
	e.store(fp, -32, r2, asm.DWord)
	// pointHash
	e.mov(r8, r9)
	e.imm(asm.LSh, r8, 32)
	e.reg(asm.Xor, r8, r2)
	e.const64(r4, hashA)
	e.reg(asm.Mul, r8, r4)
	e.mov(r4, r8)
	e.imm(asm.RSh, r4, 29)
	e.reg(asm.Xor, r8, r4)
	e.reg(asm.Xor, r8, r1)
	e.const64(r4, hashB)
	e.reg(asm.Mul, r8, r4)
	e.mov(r4, r8)
	e.imm(asm.RSh, r4, 32)
	e.reg(asm.Xor, r8, r4)
	e.const64(r4, hashC)
	e.reg(asm.Mul, r8, r4)
	e.imm(asm.And, r3, 63)
	e.reg(asm.RSh, r8, r3)
	e.set(r4, -1)
	e.reg(asm.RSh, r4, r3)
	e.store(fp, -40, r4, asm.DWord) // the last slot
	e.storeImm(fp, -48, maxProbes, asm.DWord)
	e.mark("endpoint.slot")
	e.mov(r3, r8)
	e.imm(asm.RSh, r3, 1)
	e.reg(asm.Add, r3, r7)
	e.line(r3, fail)
	e.mov(r1, r8)
	e.imm(asm.And, r1, 1)
	e.imm(asm.LSh, r1, 5)
	e.reg(asm.Add, r0, r1)
	e.load(r1, r0, 16, asm.Word)
	e.ifImm(asm.JEq, r1, 0, "endpoint.none")
	e.ifReg(asm.JNE, r1, r9, "endpoint.next")
	e.load(r1, r0, 0, asm.DWord)
	e.load(r2, fp, -24, asm.DWord)
	e.ifReg(asm.JNE, r1, r2, "endpoint.next")
	e.load(r1, r0, 8, asm.DWord)
	e.load(r2, fp, -32, asm.DWord)
	e.ifReg(asm.JNE, r1, r2, "endpoint.next")
	e.load(r0, r0, 20, asm.Word)
	e.ret()
	e.mark("endpoint.next")
	e.imm(asm.Add, r8, 1)
	e.load(r1, fp, -40, asm.DWord)
	e.reg(asm.And, r8, r1)
	e.load(r1, fp, -48, asm.DWord)
	e.imm(asm.Sub, r1, 1)
	e.store(fp, -48, r1, asm.DWord)
	e.ifImm(asm.JNE, r1, 0, "endpoint.slot")
	e.mark("endpoint.none")
	e.load(r0, fp, -16, asm.DWord)
	e.ret()
	e.mark(fail)
	e.const64(r0, failed)
	e.ret()
}
