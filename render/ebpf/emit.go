// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"math"
	"strconv"

	"github.com/cilium/ebpf/asm"

	"github.com/hostpolicy/hostpolicy/policy/classify"
)

// The view is what a hook sees of a packet: memory of the main function, which consult reads.
const (
	vSrc     = 0   // source address as a number, 16 bytes
	vDst     = 16  // destination address
	vIn      = 32  // name of the interface it came by, 16 bytes
	vOut     = 48  // name of the interface it leaves by
	vL4      = 64  // number on the axis L4, without the family and the port
	vPorts   = 68  // 1 if there are ports
	vSrcPort = 72  //
	vDstPort = 76  //
	vWide    = 80  // 1 for IPv6
	vState   = 84  // connection state
	vLen     = 88  // length of the packet
	vQuiet   = 92  // one of the numbers below
	vSettled = 96  // hooks that an Allow settles; consult adds to it
	vOrigin  = 100 // what decided; consult sets it
	vGen     = 104 // number of the memory that judges the packet, 64 bits
	vLists   = 112 // cell of its lists
	vChange  = 116 // low half of the generation's number
	vOffset  = 120 // where the IP header begins
	vSize    = 124

	// What only the main function has is behind it.
	vDyn   = 128 // dynptr of the packet, 16 bytes
	vCt    = 144 // connection, 64 bits
	vTries = 152 // how often another generation came between, 64 bits, for the verifier must follow it
	vHooks = 160 // hooks that have an entry
	vInfo  = 164 // what the kernel says of the packet's state
	vBuf   = 168 // for reading, 48 bytes
	vKeep  = 192 // in its second half: a destination that is put aside, address and port, 24 bytes
	vTotal = 216

	mainView = -(vTotal + 8) // where it is in the frame of the main function
)

// What is counted and reported.
const (
	loud     = 0 // everything
	mute     = 1 // nothing
	denyOnly = 2 // the rule that denies, if no rule before it is to be counted
	missed   = 3 // nothing, but something should have been: what becomes of denyOnly
)

// The frame is memory of consult, to which all functions below it have a pointer.
//
// The verifier remembers what it knows of a number that is stored in the first half of eight bytes, and nothing of one in
// the second half. What a search changes is in second halves, or a number of which it knows nothing: otherwise each step
// would look new to it.
const (
	fBlob    = 0   // the generation's memory
	fView    = 8   //
	fCtx     = 16  // of the program
	fList    = 24  // the list that speaks for the packet
	fHead    = 32  // the header
	fRows    = 40  // see fRow
	fSumLow  = 44  // what is left of a word of the summary, its lower half
	fSumHigh = 52  // and its upper half
	fStart   = 60  // the rule at which the search stands
	fWord    = 68  // the word of the summary at which it stands
	fOutcome = 76  // of the search
	fState   = 84  // connection state
	fInC     = 92  // class of the interface it came by
	fOutC    = 100 // class of the interface it leaves by
	fHook    = 108 //
	fSlot    = 112 // line of the packet in MapRecent; none if there is no such
	fHide    = 116 // for numbers of which the verifier need know nothing
	fPage    = 120 // what the rows of all dimensions have in common in half a page, 32 bytes
	fSize    = 152
)

// fRow is where the cell of the row of an axis is: in a first half, as a number of which nothing is known.
func fRow(axis classify.Axis) int { return fRows + 8*int(axis-classify.L4) }

// fLine is where the line of the list is. Destination ports would have their row there, which is that of protocols.
const fLine = fRows + 8*int(classify.DstPort-classify.L4)

// The names of the maps, as programs refer to them.
const (
	MapGeneration = "memory_8"   // array of one map: the memory of the generation in force, of this layout
	MapCounters   = "counters_8" // by slot: packets and bytes, for each processor
	MapRecent     = "recent_8"   // for each processor: rules of packets like those that come
	MapEvents     = "events"     // ring buffer
	MapLimits     = "limits"     // for each processor: the budget of events, and how many were lost
)

// emitter writes instructions.
type emitter struct {
	k       *Kernel
	quiet   bool // without counters and events
	device  bool // for AtDevice
	ins     asm.Instructions
	pending string
	labels  int
	later   []func() // what function ends write: code that packets hardly ever come to
}

func (e *emitter) add(ins ...asm.Instruction) {
	for _, i := range ins {
		if e.pending != "" {
			i = i.WithSymbol(e.pending)
			e.pending = ""
		}
		e.ins = append(e.ins, i)
	}
}

// mark puts a label before the next instruction.
func (e *emitter) mark(label string) {
	if e.pending != "" {
		e.add(asm.Instruction{OpCode: asm.Ja.Op(asm.ImmSource)}) // two labels cannot stand before one instruction
	}
	e.pending = label
}

// aside writes code that is hardly ever run behind the function under construction, whose own code goes straight on.
func (e *emitter) aside(code func()) { e.later = append(e.later, code) }

// end ends a function.
func (e *emitter) end() {
	for _, code := range e.later {
		code()
	}
	e.later = e.later[:0]
}

func (e *emitter) label(hint string) string {
	e.labels++
	return hint + "." + strconv.Itoa(e.labels)
}

const (
	r0 = asm.R0
	r1 = asm.R1
	r2 = asm.R2
	r3 = asm.R3
	r4 = asm.R4
	r5 = asm.R5
	r6 = asm.R6 // the frame, or the view in the main function
	r7 = asm.R7
	r8 = asm.R8
	r9 = asm.R9
	fp = asm.RFP
)

func (e *emitter) mov(dst, src asm.Register)          { e.add(asm.Mov.Reg(dst, src)) }
func (e *emitter) set(dst asm.Register, v int32)      { e.add(asm.Mov.Imm(dst, v)) }
func (e *emitter) const64(dst asm.Register, v uint64) { e.add(asm.LoadImm(dst, int64(v), asm.DWord)) }
func (e *emitter) load(dst, src asm.Register, off int, s asm.Size) {
	e.add(asm.LoadMem(dst, src, int16(off), s))
}
func (e *emitter) store(dst asm.Register, off int, src asm.Register, s asm.Size) {
	e.add(asm.StoreMem(dst, int16(off), src, s))
}
func (e *emitter) storeImm(dst asm.Register, off int, v int64, s asm.Size) {
	// The constructor refuses 64 bits, though the kernel takes them: the number is extended by its sign.
	e.add(asm.Instruction{OpCode: asm.StoreImmOp(s), Dst: dst, Offset: int16(off), Constant: v})
}
func (e *emitter) imm(op asm.ALUOp, dst asm.Register, v int32) { e.add(op.Imm(dst, v)) }
func (e *emitter) reg(op asm.ALUOp, dst, src asm.Register)     { e.add(op.Reg(dst, src)) }
func (e *emitter) jump(label string)                           { e.add(asm.Ja.Label(label)) }
func (e *emitter) call(function string)                        { e.add(asm.Call.Label(function)) }
func (e *emitter) ret()                                        { e.add(asm.Return()) }
func (e *emitter) field(dst asm.Register, off int)             { e.load(dst, r6, off, asm.Word) }
func (e *emitter) field64(dst asm.Register, off int)           { e.load(dst, r6, off, asm.DWord) }
func (e *emitter) setField(off int, src asm.Register)          { e.store(r6, off, src, asm.Word) }
func (e *emitter) setField64(off int, src asm.Register)        { e.store(r6, off, src, asm.DWord) }
func (e *emitter) ifImm(op asm.JumpOp, r asm.Register, v int32, to string) {
	e.add(op.Imm(r, v, to))
}
func (e *emitter) ifReg(op asm.JumpOp, a, b asm.Register, to string) { e.add(op.Reg(a, b, to)) }

// sum loads what is left of a word of the summary; setSum stores it, and changes it.
func (e *emitter) sum(dst, tmp asm.Register) {
	e.field(dst, fSumHigh)
	e.imm(asm.LSh, dst, 32)
	e.field(tmp, fSumLow)
	e.reg(asm.Or, dst, tmp)
}

func (e *emitter) setSum(src asm.Register) {
	e.setField(fSumLow, src)
	e.imm(asm.RSh, src, 32)
	e.setField(fSumHigh, src)
}

// hide makes a number of 32 bits one of which the verifier knows nothing, and forgets where it came from.
func (e *emitter) hide(r asm.Register) {
	e.setField(fHide, r)
	e.field(r, fHide)
}

// view loads from the view, in functions that have a frame.
func (e *emitter) view(dst asm.Register, at int, s asm.Size) {
	e.field64(dst, fView)
	e.load(dst, dst, at, s)
}

// setOrigin stores what decided; it uses R1. None is noOrigin.
func (e *emitter) setOrigin(src asm.Register) {
	e.field64(r1, fView)
	e.store(r1, vOrigin, src, asm.Word)
}

func (e *emitter) noOrigin() {
	e.field64(r1, fView)
	e.storeImm(r1, vOrigin, 0, asm.Word)
}

// kfunc calls a function of the kernel by its BTF id.
func (e *emitter) kfunc(id int64) {
	e.add(asm.Instruction{OpCode: asm.OpCode(asm.JumpClass).SetJumpOp(asm.Call), Src: asm.PseudoKfuncCall, Constant: id})
}

// line leaves the address of a line in R0, or jumps to fail. It uses R1 to R5.
func (e *emitter) line(number asm.Register, fail string) {
	far, done := e.label("line.far"), e.label("line")
	e.mov(r1, number)
	e.ifImm(asm.JGE, r1, chunkLines, far)
	e.imm(asm.LSh, r1, 6)
	e.field64(r0, fHead)
	e.reg(asm.Add, r0, r1)
	e.mark(done)
	e.aside(func() {
		e.mark(far)
		e.mov(r2, r1)
		e.far(fail)
		e.jump(done)
	})
}

// cell leaves the address of a cell in R0, or jumps to fail. Addr must survive calls; it is changed.
func (e *emitter) cell(addr asm.Register, width int32, fail string) {
	far, done := e.label("cell.far"), e.label("cell")
	e.ifImm(asm.JGE, addr, chunkLines*lineCells, far)
	e.imm(asm.And, addr, chunkLines*lineCells-width)
	e.imm(asm.LSh, addr, 2)
	e.field64(r0, fHead)
	e.mark(done)
	e.reg(asm.Add, r0, addr)
	e.aside(func() {
		e.mark(far)
		e.mov(r2, addr)
		e.imm(asm.RSh, r2, 4)
		e.imm(asm.And, addr, lineCells-width)
		e.imm(asm.LSh, addr, 2)
		e.far(fail)
		e.jump(done)
	})
}

// far leaves the address of line R2, which is behind the first chunk, in R0, or jumps to fail.
func (e *emitter) far(fail string) {
	e.mov(r1, r6)
	e.call(fnFar)
	e.ifImm(asm.JEq, r0, 0, fail)
}

// farLine is the function that far calls.
func (e *emitter) farLine() {
	e.mark(fnFar)
	e.mov(r7, r2)
	e.imm(asm.RSh, r2, chunkShift)
	e.store(fp, -4, r2, asm.Word)
	e.load(r1, r1, fBlob, asm.DWord)
	e.mov(r2, fp)
	e.imm(asm.Add, r2, -4)
	e.add(asm.FnMapLookupElem.Call())
	e.ifImm(asm.JEq, r0, 0, "far.none")
	e.imm(asm.And, r7, chunkLines-1)
	e.imm(asm.LSh, r7, 6)
	e.reg(asm.Add, r0, r7)
	e.mark("far.none")
	e.ret()
}

// ones replaces x by the number of bits set in it. It uses t and u.
func (e *emitter) ones(x, t, u asm.Register) {
	e.mov(t, x)
	e.imm(asm.RSh, t, 1)
	e.const64(u, 0x5555555555555555)
	e.reg(asm.And, t, u)
	e.reg(asm.Sub, x, t)
	e.const64(u, 0x3333333333333333)
	e.mov(t, x)
	e.reg(asm.And, t, u)
	e.imm(asm.RSh, x, 2)
	e.reg(asm.And, x, u)
	e.reg(asm.Add, x, t)
	e.mov(t, x)
	e.imm(asm.RSh, t, 4)
	e.reg(asm.Add, x, t)
	e.const64(u, 0x0f0f0f0f0f0f0f0f)
	e.reg(asm.And, x, u)
	e.const64(u, 0x0101010101010101)
	e.reg(asm.Mul, x, u)
	e.imm(asm.RSh, x, 56)
}

// lowest replaces x, which is not 0, by the number of its lowest bit set. It uses t.
func (e *emitter) lowest(x, t asm.Register) {
	e.mov(t, x)
	e.add(asm.Neg.Imm(t, 0))
	e.reg(asm.And, x, t)
	e.const64(t, deBruijn)
	e.reg(asm.Mul, x, t)
	e.imm(asm.RSh, x, 58)
	e.field64(t, fHead)
	e.reg(asm.Add, t, x)
	e.load(x, t, int(bitsLine*lineSize), asm.Byte)
}

// check finds jumps that are too long for their instruction; the encoder would cut them off.
func check(ins asm.Instructions) error {
	at := map[string]int64{}
	it := ins.Iterate()
	for it.Next() {
		if s := it.Ins.Symbol(); s != "" {
			if _, ok := at[s]; ok {
				return fmt.Errorf("ebpf: label %q stands twice", s)
			}
			at[s] = int64(it.Offset)
		}
	}
	it = ins.Iterate()
	for it.Next() {
		to := it.Ins.Reference()
		if to == "" || it.Ins.IsFunctionReference() || it.Ins.OpCode.Class() != asm.JumpClass {
			continue
		}
		target, ok := at[to]
		if !ok {
			return fmt.Errorf("ebpf: no label %q", to)
		}
		if d := target - int64(it.Offset) - 1; d < math.MinInt16 || d > math.MaxInt16 {
			return fmt.Errorf("ebpf: jump of %d instructions to %q", d, to)
		}
	}
	return nil
}
