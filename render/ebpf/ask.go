// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"github.com/cilium/ebpf/asm"

	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

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
	e.view(r1, vLists, asm.Word)
	e.reg(asm.Add, r7, r1)
	e.cell(r7, 1, fail)
	e.load(r7, r0, 0, asm.Word)
	e.line(r7, fail)
	e.mov(r8, r0)
	e.setField64(fList, r8)
	e.load(r1, r8, 4*listKind, asm.Word)
	e.ifImm(asm.JEq, r1, kindSearch, "ask.search")
	e.ifImm(asm.JEq, r1, kindEmpty, "ask.empty")
	e.set(r2, 0)
	e.mark("ask.act")
	e.mov(r1, r6)
	e.call(fnAct)
	e.ifImm(asm.JGE, r0, actGoesOn, fail)
	e.ret()
	e.mark("ask.empty")
	e.set(r0, int32(ir.Undecided))
	e.ret()

	e.mark("ask.search")
	if e.k.InOrder {
		e.recall("ask.act", "ask.empty")
	}
	e.imm(asm.Add, r7, 1)
	e.line(r7, fail)
	e.mov(r9, r0)
	// So that the verifier need not tell which rows are there when it follows the search: it would try all combinations. It
	// remembers which numbers are the same, too, so that each is loaded by itself.
	for axis := classify.L4; int(axis) < numAxes; axis++ {
		if axis != classify.DstPort {
			e.load(r1, r8, 4*listOnes, asm.Word)
			e.setField(fRow(axis), r1)
		}
	}
	e.axes(func(axis classify.Axis, next string) {
		e.lookup(axis, next, fail)
		e.ifImm(asm.JGE, r0, maxCells, fail)
		e.list(r1, listZero) // so that the verifier knows no more of the row than of a missing one
		e.reg(asm.Xor, r0, r1)
		e.setField(fRow(axis), r0)
	})
	for _, f := range [...]int{fState, fInC, fOutC, fHook} { // it forgets what stands in the first half, too
		e.field(r1, f)
		e.setField(f, r1)
	}
	// Zero, but not to the verifier: it would follow a number that it knows through each step of the search.
	e.load(r1, r8, 4*listZero, asm.Word)
	e.setField(fStart, r1)
	e.setField(fWord, r1)
	e.noOrigin()
	e.set(r1, outcomeNone)
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
	e.field(r7, fOutcome)
	e.ifImm(asm.JEq, r7, outcomeNone, fail)
	if e.k.InOrder {
		e.remember()
	}
	e.mov(r0, r7)
	e.ret()
	e.mark(fail)
	e.noOrigin()
	e.set(r0, int32(ir.Deny))
	e.ret()
}

// lookup leaves the cell of the row of the packet on an axis in R0. R8 and R9 are the two lines of the list.
func (e *emitter) lookup(axis classify.Axis, next, fail string) {
	protocol := func() {
		narrow := e.label("ask.ipv4")
		e.load(r7, r8, 4*listL4, asm.Word)
		e.view(r5, vWide, asm.Word)
		e.ifImm(asm.JEq, r5, 0, narrow)
		e.load(r7, r8, 4*listL4+4, asm.Word)
		e.mark(narrow)
		e.view(r3, vL4, asm.Word)
		e.imm(asm.RSh, r3, 16)
		e.imm(asm.And, r3, 255)
		e.reg(asm.Add, r7, r3)
		e.cell(r7, 1, fail)
		e.load(r2, r0, 0, asm.Word)
		e.mov(r1, r6)
		e.view(r3, vL4, asm.Word)
		e.view(r5, vDstPort, asm.Word) // 0 without ports
		e.reg(asm.Or, r3, r5)
		e.imm(asm.And, r3, 0xffff)
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
		protocol()
	case classify.SrcAddr:
		address(listSrc, vSrc)
	case classify.DstAddr:
		address(listDst, vDst)
	case classify.SrcPort:
		port(listSrcPort, vSrcPort)
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
