// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"github.com/cilium/ebpf/asm"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

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
	e.mov(r1, r0)
	e.mov(r2, fp)
	e.imm(asm.Add, r2, -4)
	e.add(asm.FnMapLookupElem.Call())
	e.ifImm(asm.JEq, r0, 0, "consult.fail")
	e.load(r1, r0, 4*headMagic, asm.Word)
	e.ifImm(asm.JNE, r1, magic, "consult.fail")
	e.load(r1, r0, 4*headNumber, asm.DWord)
	e.view(r2, vGen, asm.DWord)
	e.ifReg(asm.JNE, r1, r2, "consult.stale")
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
		e.field64(r2, fHead)
		found := e.label("consult.name")
		for k := range someNames {
			other := e.label("consult.other")
			at := int(namesLine*lineSize) + 4*k*nameCells
			e.load(r1, r2, at, asm.DWord)
			e.ifReg(asm.JNE, r1, r3, other)
			e.load(r1, r2, at+8, asm.DWord)
			e.ifReg(asm.JNE, r1, r4, other)
			e.load(r0, r2, at+4*nameClass, asm.Word)
			e.jump(found)
			e.mark(other)
		}
		e.load(r2, r2, 4*headNames, asm.Word)
		e.mov(r1, r6)
		e.call(fnTrie128)
		e.mark(found)
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
	e.mark("consult.stale")
	e.set(r0, outcomeStale)
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
	if e.device {
		e.imm(asm.And, r1, mute) // and missed
	}
	e.ifImm(asm.JNE, r1, loud, done)
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
