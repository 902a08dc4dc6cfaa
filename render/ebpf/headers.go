// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"github.com/cilium/ebpf/asm"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

// The protocols whose numbers the parser knows.
const (
	hopByHop  = 0
	routing   = 43
	fragment  = 44
	authentic = 51
	destOpts  = 60
)

// maxHeaders is how many extension headers of IPv6 are read; a packet with more of them is dropped.
const maxHeaders = 8

// parse reads addresses, protocol and ports. A packet that ends before them, or that is a fragment without them, is
// dropped: reassembly stands before all our places but the device, which leaves all fragments to others.
func (e *emitter) parse(p Place) {
	// readOr leaves the address of n bytes at an offset, a register or a number, in R0, or goes on elsewhere.
	readOr := func(at asm.Register, from, n int32, fail string) {
		e.mov(r1, r6)
		e.imm(asm.Add, r1, vDyn)
		if p.Match() {
			e.mov(r1, r9)
		}
		if at == r0 {
			e.set(r2, from)
		} else {
			e.mov(r2, at)
		}
		if e.device {
			// What is behind the end of the packet may be padding.
			if at != r0 {
				e.mov(r3, r2)
				e.imm(asm.Add, r3, n)
				e.field(r4, vLen)
				e.ifReg(asm.JGT, r3, r4, "drop")
			}
			e.field(r3, vOffset)
			e.reg(asm.Add, r2, r3)
		}
		e.mov(r3, r6)
		e.imm(asm.Add, r3, vBuf)
		e.set(r4, n)
		if p.Match() {
			e.set(r5, 1) // BPF_HDR_START_NET
			e.add(asm.FnSkbLoadBytesRelative.Call())
			e.ifImm(asm.JNE, r0, 0, fail)
			e.mov(r0, r6)
			e.imm(asm.Add, r0, vBuf)
			return
		}
		e.kfunc(e.k.DynptrSlice)
		e.ifImm(asm.JEq, r0, 0, fail)
	}
	read := func(at asm.Register, from, n int32) { readOr(at, from, n, "drop") }
	word := func(at int, off int) { // a number of 32 bits, network order, to a field
		e.load(r1, r0, off, asm.Word)
		e.add(asm.HostTo(asm.BE, r1, asm.Word))
		e.setField(at, r1)
	}
	// Nearly all packets have the ports behind 20 bytes: both are read at once. R5 is where they are, or 0.
	atOnce := !p.Match() && !e.device
	if atOnce {
		readOr(r0, 0, 24, "parse.short")
		e.mov(r5, r0)
		e.jump("parse.read")
		e.mark("parse.short")
	}
	read(r0, 0, 20)
	if atOnce {
		e.set(r5, 0)
		e.mark("parse.read")
	}
	e.load(r1, r0, 0, asm.Byte)
	e.mov(r2, r1)
	e.imm(asm.RSh, r2, 4)
	e.ifImm(asm.JEq, r2, 6, "parse.ipv6")
	e.ifImm(asm.JNE, r2, 4, "drop")
	e.mov(r8, r1)
	e.imm(asm.And, r8, 15)
	e.imm(asm.LSh, r8, 2)
	e.ifImm(asm.JLT, r8, 20, "drop")
	e.load(r1, r0, 6, asm.Half)
	e.add(asm.HostTo(asm.BE, r1, asm.Half))
	if e.device {
		e.add(asm.JSet.Imm(r1, 0x3fff, "drop")) // also the first of several
		e.load(r1, r0, 2, asm.Half)
		e.add(asm.HostTo(asm.BE, r1, asm.Half))
		e.setField(vLen, r1)
		e.ifReg(asm.JLT, r1, r8, "drop")
	} else {
		e.add(asm.JSet.Imm(r1, 0x1fff, "drop"))
	}
	e.storeImm(r6, vWide, 0, asm.Word)
	for i, at := range [...]int{vSrc, vDst} {
		word(at+8, 12+4*i)
		e.storeImm(r6, at+12, mapped, asm.Word)
		e.storeImm(r6, at, 0, asm.DWord)
	}
	e.load(r7, r0, 9, asm.Byte)
	e.ifImm(asm.JEq, r7, int32(inet.ICMP), "parse.icmp")
	e.jump("parse.other")

	e.mark("parse.ipv6")
	read(r0, 0, 40)
	e.storeImm(r6, vWide, 1, asm.Word)
	if e.device {
		e.load(r1, r0, 4, asm.Half)
		e.add(asm.HostTo(asm.BE, r1, asm.Half))
		e.imm(asm.Add, r1, 40)
		e.setField(vLen, r1)
	}
	for i, at := range [...]int{vSrc, vSrc + 8, vDst, vDst + 8} {
		for half := range 2 {
			e.load(r1, r0, 8+8*i+4*half, asm.Word)
			e.add(asm.HostTo(asm.BE, r1, asm.Word))
			e.setField(at+4-4*half, r1)
		}
	}
	e.load(r7, r0, 6, asm.Byte)
	e.set(r8, 40)
	for range maxHeaders {
		options, auth, next := e.label("parse.options"), e.label("parse.auth"), e.label("parse.header")
		for _, h := range [...]int32{hopByHop, routing, destOpts} {
			e.ifImm(asm.JEq, r7, h, options)
		}
		e.ifImm(asm.JEq, r7, authentic, auth)
		e.ifImm(asm.JNE, r7, fragment, "parse.upper")
		if e.device {
			e.jump("drop")
		} else {
			read(r8, 0, 4)
			e.load(r1, r0, 2, asm.Half)
			e.add(asm.HostTo(asm.BE, r1, asm.Half))
			e.add(asm.JSet.Imm(r1, 0xfff8, "drop"))
			e.load(r7, r0, 0, asm.Byte)
			e.imm(asm.Add, r8, 8)
			e.jump(next)
		}
		e.mark(options)
		read(r8, 0, 2)
		e.load(r7, r0, 0, asm.Byte)
		e.load(r1, r0, 1, asm.Byte)
		e.imm(asm.Add, r1, 1)
		e.imm(asm.LSh, r1, 3)
		e.reg(asm.Add, r8, r1)
		e.jump(next)
		e.mark(auth)
		read(r8, 0, 2)
		e.load(r7, r0, 0, asm.Byte)
		e.load(r1, r0, 1, asm.Byte)
		e.imm(asm.Add, r1, 2)
		e.imm(asm.LSh, r1, 2)
		e.reg(asm.Add, r8, r1)
		e.mark(next)
	}
	for _, h := range [...]int32{hopByHop, routing, fragment, authentic, destOpts} {
		e.ifImm(asm.JEq, r7, h, "drop")
	}
	e.mark("parse.upper")
	if atOnce {
		e.set(r5, 0)
	}
	e.ifImm(asm.JNE, r7, int32(inet.ICMPv6), "parse.other")

	e.mark("parse.icmp")
	e.imm(asm.LSh, r7, 16)
	read(r8, 0, 2)
	e.load(r1, r0, 0, asm.Half)
	e.add(asm.HostTo(asm.BE, r1, asm.Half))
	e.reg(asm.Or, r7, r1)
	e.setField(vL4, r7)
	e.jump("parse.done")

	e.mark("parse.other")
	e.mov(r2, r7)
	e.imm(asm.LSh, r2, 16)
	e.setField(vL4, r2)
	for _, p := range [...]inet.Protocol{inet.TCP, inet.UDP, inet.SCTP, inet.UDPLite} {
		e.ifImm(asm.JEq, r7, int32(p), "parse.ports")
	}
	e.jump("parse.done")
	e.mark("parse.ports")
	if atOnce {
		e.ifImm(asm.JEq, r5, 0, "parse.behind")
		e.mov(r0, r5)
		e.imm(asm.Add, r0, 20)
		e.ifImm(asm.JEq, r8, 20, "parse.here")
		e.mark("parse.behind")
	}
	read(r8, 0, 4)
	if atOnce {
		e.mark("parse.here")
	}
	e.storeImm(r6, vPorts, 1, asm.Word)
	for i, at := range [...]int{vSrcPort, vDstPort} {
		e.load(r1, r0, 2*i, asm.Half)
		e.add(asm.HostTo(asm.BE, r1, asm.Half))
		e.setField(at, r1)
	}
	e.mark("parse.done")
}
