// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"github.com/cilium/ebpf/asm"

	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Most packets are like one shortly before them. Each processor remembers, in a table of one line for each hash, which
// rule of a list was the first for a packet; the next one with the same header in the same list goes straight to the rule,
// which counts and reports as ever. Only searches that the first rule ends, or that find none, are remembered. What the
// lists say of a header depends on the version of the memory alone, so nothing need ever be forgotten: a line that another
// version left is none of this one.
//
// A program may be interrupted by another one on its processor, or be moved to another processor. The number in front of a
// line tells: it is odd while somebody writes, who has made it so in one step, and it is another one behind each writer. Who
// finds it odd reads and writes nothing, and what was read counts if it is the same before and behind. That takes a processor
// that keeps loads in order, and stores; for others, nothing is remembered.
const (
	recentLock    = 0  // 64 bits
	recentVersion = 8  // low half of the generation's number, and the map of its memory
	recentPacket  = 16 // protocol, family, and ports or type and code
	recentRule    = 24 // 32 bits; noRule if none is for the packet
	recentList    = 28 // line
	recentSrc     = 32 // addresses
	recentDst     = 48
	// RecentSize is the size of the values of MapRecent.
	RecentSize = lineSize

	recentShift = 11
	// RecentLines is how many values it has.
	RecentLines = 1 << recentShift

	noRule = 1<<32 - 1

	cmpXchg = 0xf0 | 0x01 // Ref: linux/bpf.h, BPF_CMPXCHG
)

// packetWord leaves what tells packets of the same addresses apart in dst. R5 is the view; it uses R1.
func (e *emitter) packetWord(dst asm.Register) {
	e.load(dst, r5, vSrcPort, asm.Word)
	e.imm(asm.LSh, dst, 32)
	e.load(r1, r5, vWide, asm.Word)
	e.imm(asm.LSh, r1, 31)
	e.reg(asm.Or, dst, r1)
	for _, f := range [...]int{vL4, vDstPort} { // a protocol with ports leaves the place of the type empty
		e.load(r1, r5, f, asm.Word)
		e.reg(asm.Or, dst, r1)
	}
}

// versionWord leaves what tells versions of the memory apart in dst. R5 is the view; it uses R1.
func (e *emitter) versionWord(dst asm.Register) {
	e.field64(r1, fHead)
	e.load(dst, r1, 4*headMap, asm.Word)
	e.imm(asm.LSh, dst, 32)
	e.load(r1, r5, vChange, asm.Word)
	e.reg(asm.Or, dst, r1)
}

// recentLine leaves the address of the line of the packet in R0, or jumps to none.
func (e *emitter) recentLine(none string) {
	e.mov(r2, r6)
	e.imm(asm.Add, r2, fSlot)
	e.add(asm.LoadMapPtr(r1, 0).WithReference(MapRecent))
	e.add(asm.FnMapLookupElem.Call())
	e.ifImm(asm.JEq, r0, 0, none)
}

// forget makes the search at hand one that is not remembered. It uses R1.
func (e *emitter) forget() {
	if !e.k.InOrder {
		return
	}
	e.list(r1, listZero) // unknown to the verifier, so that it need not tell two kinds of searches apart
	e.imm(asm.Sub, r1, 1)
	e.setField(fSlot, r1)
}

// recall looks for the packet among those before it. R7 is the line of the list, and R8 its address. It goes on at found
// with the rule in R2, at empty if none is for the packet, or behind itself.
func (e *emitter) recall(found, empty string) {
	const none, out = "recall.none", "recall.out"
	e.setField(fLine, r7)
	e.load(r1, r8, 4*listAxes, asm.Word)
	e.add(asm.JSet.Imm(r1, 1<<classify.InIface|1<<classify.OutIface, none)) // classes are not in the line
	e.field64(r5, fView)
	e.packetWord(r9)
	e.load(r2, r5, vSrc, asm.DWord)
	e.load(r1, r5, vSrc+8, asm.DWord)
	e.reg(asm.Xor, r2, r1)
	e.const64(r3, hashA)
	e.reg(asm.Mul, r2, r3)
	for _, at := range [...]int{vDst, vDst + 8} {
		e.load(r1, r5, at, asm.DWord)
		e.reg(asm.Xor, r2, r1)
	}
	e.const64(r3, hashB)
	e.reg(asm.Mul, r2, r3)
	e.mov(r1, r7)
	e.imm(asm.LSh, r1, 48)
	e.reg(asm.Xor, r1, r9)
	e.const64(r3, hashC)
	e.reg(asm.Mul, r1, r3)
	e.reg(asm.Add, r2, r1)
	e.imm(asm.RSh, r2, 64-recentShift)
	e.hide(r2)
	e.setField(fSlot, r2)
	e.recentLine(none)
	e.load(r4, r0, recentLock, asm.DWord)
	e.add(asm.JSet.Imm(r4, 1, out))
	e.field64(r5, fView)
	same := func(at, from int) {
		e.load(r1, r0, at, asm.DWord)
		e.load(r2, r5, from, asm.DWord)
		e.ifReg(asm.JNE, r1, r2, out)
	}
	e.load(r1, r0, recentPacket, asm.DWord)
	e.ifReg(asm.JNE, r1, r9, out)
	same(recentSrc+8, vSrc+8)
	same(recentDst+8, vDst+8)
	e.versionWord(r2)
	e.load(r1, r0, recentVersion, asm.DWord)
	e.ifReg(asm.JNE, r1, r2, out)
	e.load(r1, r0, recentList, asm.Word)
	e.ifReg(asm.JNE, r1, r7, out)
	narrow := e.label("recall.ipv4")
	e.load(r1, r5, vWide, asm.Word)
	e.ifImm(asm.JEq, r1, 0, narrow) // the upper halves of IPv4 are all the same
	same(recentSrc, vSrc)
	same(recentDst, vDst)
	e.mark(narrow)
	e.load(r2, r0, recentRule, asm.Word)
	e.load(r1, r0, recentLock, asm.DWord)
	e.ifReg(asm.JNE, r1, r4, out)
	e.const64(r1, noRule)
	e.ifReg(asm.JEq, r2, r1, empty)
	e.jump(found)
	e.mark(none)
	e.forget()
	e.mark(out)
}

// remember notes what the search found, if it is to be remembered. R7 is its outcome.
func (e *emitter) remember() {
	const done, rule = "remember.done", "remember.rule"
	e.recentLine(done)
	e.mov(r9, r0)
	e.load(r4, r9, recentLock, asm.DWord)
	e.add(asm.JSet.Imm(r4, 1, done))
	e.mov(r0, r4)
	e.mov(r1, r4)
	e.imm(asm.Add, r1, 1)
	swap := asm.CmpXchg.Mem(r9, r1, asm.DWord, recentLock)
	swap.Constant = cmpXchg // which the library leaves out: 0 would be an addition
	e.add(swap)
	e.ifReg(asm.JNE, r0, r4, done)
	e.field64(r5, fView)
	e.versionWord(r2)
	e.store(r9, recentVersion, r2, asm.DWord)
	e.packetWord(r2)
	e.store(r9, recentPacket, r2, asm.DWord)
	for i, at := range [...]int{vSrc, vSrc + 8, vDst, vDst + 8} {
		e.load(r1, r5, at, asm.DWord)
		e.store(r9, recentSrc+8*i, r1, asm.DWord)
	}
	e.field(r1, fHide)
	e.ifImm(asm.JNE, r7, int32(ir.Undecided), rule)
	e.const64(r1, noRule)
	e.mark(rule)
	e.store(r9, recentRule, r1, asm.Word)
	e.field(r1, fLine)
	e.store(r9, recentList, r1, asm.Word)
	e.imm(asm.Add, r4, 2)
	e.store(r9, recentLock, r4, asm.DWord)
	e.mark(done)
}
