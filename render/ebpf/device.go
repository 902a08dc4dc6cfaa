// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"github.com/cilium/ebpf/asm"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// The program at the device drops nothing that the one at AtUntrackedIn, which stands behind it, would let through, and
// leaves to it whatever it does not see well: fragments, packets that are cut off, what is no IP. So it makes denials
// cheap, and changes no verdict. What it lets through is judged and counted at the hooks, as if it were not there.

// Verdicts of XDP programs. Ref: linux/bpf.h, enum xdp_action.
const (
	xdpDrop = 1
	xdpPass = 2
)

// Ref: linux/if_ether.h.
const (
	etherIPv4 = 0x0800
	etherIPv6 = 0x86dd
	etherVLAN = 0x8100
	etherQinQ = 0x88a8
	etherSize = 14
	maxTags   = 2
)

// deviceContext takes what the device says beside the packet.
func (e *emitter) deviceContext() {
	e.mov(r1, r9)
	e.kfunc(e.k.CastToKernCtx)
	e.load(r1, r0, int(e.k.XdpRxq), asm.DWord)
	e.load(r8, r1, int(e.k.RxqDev), asm.DWord)
	// If a device stands upon this one, such as a VLAN or a bridge, the packet may be its: hardware takes tags away before
	// we could see them. Then the hook decides, which knows, and so does our program at the VLAN.
	e.load(r2, r8, int(e.k.DevUpper), asm.DWord)
	e.mov(r3, r8)
	e.imm(asm.Add, r3, int32(e.k.DevUpper))
	e.ifReg(asm.JNE, r2, r3, "accept")
	e.mov(r1, r8)
	e.name(vIn)
	e.storeImm(r6, vOut, 0, asm.DWord)
	e.storeImm(r6, vOut+8, 0, asm.DWord)
	e.storeImm(r6, vState, 0, asm.Word)
	e.mov(r1, r9)
	e.set(r2, 0)
	e.mov(r3, r6)
	e.imm(asm.Add, r3, vDyn)
	e.kfunc(e.k.DynptrFromXdp)
	e.ifImm(asm.JNE, r0, 0, "accept")
	read := func(n int32) {
		e.mov(r1, r6)
		e.imm(asm.Add, r1, vDyn)
		e.mov(r2, r8)
		e.mov(r3, r6)
		e.imm(asm.Add, r3, vBuf)
		e.set(r4, n)
		e.kfunc(e.k.DynptrSlice)
		e.ifImm(asm.JEq, r0, 0, "accept")
	}
	e.set(r8, etherSize-2)
	read(2)
	e.load(r7, r0, 0, asm.Half)
	e.add(asm.HostTo(asm.BE, r7, asm.Half))
	e.set(r8, etherSize)
	for range maxTags {
		tag, next := e.label("device.tag"), e.label("device.untagged")
		e.ifImm(asm.JEq, r7, etherVLAN, tag)
		e.ifImm(asm.JNE, r7, etherQinQ, next)
		e.mark(tag)
		read(4)
		e.load(r1, r0, 0, asm.Half)
		e.add(asm.HostTo(asm.BE, r1, asm.Half))
		e.add(asm.JSet.Imm(r1, 0xfff, "accept")) // 0 is no VLAN but a priority
		e.load(r7, r0, 2, asm.Half)
		e.add(asm.HostTo(asm.BE, r7, asm.Half))
		e.imm(asm.Add, r8, 4)
		e.mark(next)
	}
	e.ifImm(asm.JEq, r7, etherIPv4, "device.ip")
	e.ifImm(asm.JNE, r7, etherIPv6, "accept")
	e.mark("device.ip")
	e.setField(vOffset, r8)
}

// judgeAtDevice asks, and drops what is denied. Only then rules count.
func (e *emitter) judgeAtDevice() {
	e.storeImm(r6, vQuiet, denyOnly, asm.Word)
	e.ask1(flow.UntrackedIn)
	e.ifImm(asm.JEq, r0, outcomeStale, "main.again")
	e.ifImm(asm.JNE, r0, int32(ir.Deny), "accept")
	e.field(r1, vQuiet)
	e.ifImm(asm.JNE, r1, missed, "device.deny")
	e.storeImm(r6, vQuiet, loud, asm.Word)
	e.storeImm(r6, vSettled, 0, asm.Word)
	e.ask1(flow.UntrackedIn)
	e.ifImm(asm.JEq, r0, outcomeStale, "main.again")
	e.ifImm(asm.JNE, r0, int32(ir.Deny), "accept")
	e.mark("device.deny")
	e.field(r1, vOrigin)
	e.ifImm(asm.JEq, r1, 0, "accept") // not by any rule: the tables could not be read
	e.set(r0, xdpDrop)
	e.ret()
	e.again(AtDevice)
	e.mark("accept")
	e.mark("drop")
	e.set(r0, xdpPass)
	e.ret()
}
