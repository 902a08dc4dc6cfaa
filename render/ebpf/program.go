// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"github.com/cilium/ebpf/asm"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Verdicts of netfilter programs. Ref: linux/netfilter.h.
const (
	nfDrop   = 0
	nfAccept = 1
)

// States as sk_buff holds them beside the connection. Ref: linux/netfilter/nf_conntrack_common.h, enum ip_conntrack_info.
const (
	infoEstablished      = 0
	infoRelated          = 1
	infoNew              = 2
	infoEstablishedReply = 3
	infoRelatedReply     = 4
	infoUntracked        = 7

	infoMask     = 7
	statusDstNAT = 1 << 5
)

// seesOut reports whether a packet has the interface it leaves by at a hook.
func seesOut(h flow.Hook) bool {
	switch h {
	case flow.ForwardIn, flow.ForwardOut, flow.UntrackedOut, flow.NormalOut:
		return true
	}
	return false
}

// outcomeStale is what consult says if the generation in force is no longer the one that judges the packet.
const outcomeStale = 5

// maxTries is how often a packet is judged before it is dropped because of that. The kernel waits for all programs that
// run before it returns from putting a generation in place, so that a program can see two of them, and never a third.
const maxTries = 3

// main writes the function that the kernel runs. What cannot be known is denied: "drop" is where everything ends that
// should not happen.
func (e *emitter) main(p Place) {
	hooks := p.Hooks()
	e.mark("main")
	e.mov(r9, r1)
	e.mov(r6, fp)
	e.imm(asm.Add, r6, mainView)
	e.generation(p)
	for _, f := range [...]int{vPorts, vSrcPort, vDstPort, vOffset} {
		e.storeImm(r6, f, 0, asm.Word)
	}
	e.storeImm(fp, mainView+vTries, 0, asm.DWord)
	switch {
	case p.Match():
		e.matchContext()
	case p == AtDevice:
		e.deviceContext()
	default:
		e.netfilterContext(p)
	}
	e.parse(p)
	e.mark("main.judge")
	for _, f := range [...]int{vSettled, vQuiet, vOrigin} {
		e.storeImm(r6, f, 0, asm.Word)
	}
	if p == AtDevice {
		e.judgeAtDevice()
		return
	}
	e.earlier(p)
	for _, h := range hooks {
		e.ask1(h)
		e.ifImm(asm.JEq, r0, outcomeStale, "main.again")
		if p.Match() {
			e.ifImm(asm.JNE, r0, int32(ir.Allow), "accept")
			e.set(r0, 1)
			e.ret()
			break
		}
		e.ifImm(asm.JEq, r0, int32(ir.Deny), "drop")
	}
	if !p.Match() {
		e.jump("accept")
	}
	e.again(p)
	if p.Match() {
		e.mark("accept") // nothing to do for the rule
		e.mark("drop")
		e.set(r0, 0)
		e.ret()
		return
	}
	e.mark("accept")
	e.set(r0, nfAccept)
	e.ret()
	e.mark("drop")
	e.set(r0, nfDrop)
	e.ret()
}

// again writes what is done if another generation came into force: the packet is judged by it alone, from the beginning.
// It counts in the frame and not in the view. These are the same bytes, but through other registers than the frame's
// verifiers before Linux 6.8 do not see where a number comes from that ends a loop, and take it for one without end.
// Ref: linux/kernel/bpf/verifier.c, backtrack_insn.
func (e *emitter) again(p Place) {
	e.mark("main.again")
	e.load(r1, fp, mainView+vTries, asm.DWord)
	e.imm(asm.Add, r1, 1)
	e.store(fp, mainView+vTries, r1, asm.DWord)
	e.ifImm(asm.JGE, r1, maxTries, "drop")
	e.generation(p)
	e.jump("main.judge")
}

// generation notes which generation is in force. A packet of which it does not ask is accepted.
func (e *emitter) generation(p Place) {
	asked := e.label("main.asked")
	e.storeImm(fp, -4, 0, asm.Word)
	e.mov(r2, fp)
	e.imm(asm.Add, r2, -4)
	e.add(asm.LoadMapPtr(r1, 0).WithReference(MapGeneration))
	e.add(asm.FnMapLookupElem.Call())
	e.ifImm(asm.JEq, r0, 0, "drop")
	e.mov(r1, r0)
	e.mov(r2, fp)
	e.imm(asm.Add, r2, -4)
	e.add(asm.FnMapLookupElem.Call())
	e.ifImm(asm.JEq, r0, 0, "drop")
	e.load(r1, r0, 4*headMagic, asm.Word)
	e.ifImm(asm.JNE, r1, magic, "drop")
	e.load(r1, r0, 4*headNumber, asm.DWord)
	e.setField64(vGen, r1)
	e.load(r1, r0, 4*headLists, asm.DWord) // and headChange
	e.setField64(vLists, r1)
	e.load(r1, r0, 4*headHooks, asm.Word)
	e.setField(vHooks, r1)
	e.add(asm.JSet.Imm(r1, int32(flow.HooksOf(p.Hooks()...)), asked))
	e.jump("accept")
	e.mark(asked)
}

// ask1 asks a hook; the outcome is in R0.
func (e *emitter) ask1(h flow.Hook) {
	e.mov(r1, r9)
	if e.quiet {
		e.set(r1, 0)
	}
	e.mov(r2, r6)
	e.set(r3, int32(h))
	e.call(fnConsult)
}

// name puts the name of the device in R1, or none if it is 0, into the frame.
func (e *emitter) name(at int) {
	none, second, store, whole := e.label("name.none"), e.label("name.second"), e.label("name.store"), e.label("name.whole")
	e.set(r2, 0)
	e.set(r3, 0)
	e.ifImm(asm.JEq, r1, 0, none)
	e.load(r2, r1, int(e.k.DevName), asm.DWord)
	e.load(r3, r1, int(e.k.DevName)+8, asm.DWord)
	// What stands behind the end of the name may be left over from a longer one.
	cut := func(word asm.Register, whole string) {
		e.const64(r4, 0x0101010101010101)
		e.mov(r5, word)
		e.reg(asm.Sub, r5, r4)
		e.mov(r4, word)
		e.imm(asm.Xor, r4, -1)
		e.reg(asm.And, r5, r4)
		e.const64(r4, 0x8080808080808080)
		e.reg(asm.And, r5, r4)
		e.ifImm(asm.JEq, r5, 0, whole)
		e.mov(r4, r5)
		e.add(asm.Neg.Imm(r4, 0))
		e.reg(asm.And, r5, r4)
		e.imm(asm.RSh, r5, 7)
		e.imm(asm.Sub, r5, 1)
		e.reg(asm.And, word, r5)
	}
	cut(r2, second)
	e.set(r3, 0)
	e.jump(store)
	e.mark(second)
	cut(r3, whole)
	e.mark(whole)
	e.mark(store)
	e.add(asm.HostTo(asm.BE, r2, asm.DWord), asm.HostTo(asm.BE, r3, asm.DWord))
	e.mark(none)
	e.setField64(at, r2)
	e.setField64(at+8, r3)
}

// netfilterContext takes what the hook says beside the packet.
func (e *emitter) netfilterContext(p Place) {
	e.load(r8, r9, int(e.k.CtxState), asm.DWord)
	e.load(r7, r9, int(e.k.CtxSkb), asm.DWord)
	if p == AtTranslated {
		e.load(r1, r8, int(e.k.StateIn), asm.DWord)
		e.ifImm(asm.JNE, r1, 0, "accept") // forwarded
	}
	// A packet that conntrack has not looked at has neither connection nor state, which must not be read as that of an
	// established connection, which is 0.
	e.load(r1, r7, int(e.k.SkbNfct), asm.DWord)
	e.mov(r2, r1)
	e.imm(asm.And, r2, infoMask)
	e.setField(vInfo, r2)
	e.imm(asm.And, r1, ^infoMask)
	e.setField64(vCt, r1)
	e.set(r3, int32(flow.Invalid))
	e.ifImm(asm.JNE, r1, 0, "ct.known")
	e.ifImm(asm.JNE, r2, infoUntracked, "ct.state")
	e.set(r3, int32(flow.Untracked))
	e.jump("ct.state")
	e.mark("ct.known")
	for _, s := range [...]struct {
		info  int32
		state flow.ConnState
	}{
		{infoNew, flow.New}, {infoEstablished, flow.Established}, {infoEstablishedReply, flow.Established},
		{infoRelated, flow.Related}, {infoRelatedReply, flow.Related},
	} {
		next := e.label("ct.next")
		e.ifImm(asm.JNE, r2, s.info, next)
		e.set(r3, int32(s.state))
		e.jump("ct.state")
		e.mark(next)
	}
	e.mark("ct.state")
	e.setField(vState, r3)
	if p == AtOutput || p == AtTranslated {
		// The interface of a translated packet is that of the route before, until it is routed again.
		skip, other := "accept", "main.here"
		if p == AtOutput {
			skip, other = "main.here", "accept"
		}
		e.ifImm(asm.JEq, r1, 0, skip)
		e.mov(r3, r1)
		e.imm(asm.Add, r3, e.k.CtStatus)
		e.mov(r1, r6)
		e.imm(asm.Add, r1, vBuf)
		e.set(r2, 8)
		e.add(asm.FnProbeReadKernel.Call())
		e.ifImm(asm.JNE, r0, 0, "drop")
		e.field64(r1, vBuf)
		e.add(asm.JSet.Imm(r1, statusDstNAT, other))
		e.jump(skip)
		e.mark("main.here")
	}
	e.load(r1, r8, int(e.k.StateIn), asm.DWord)
	e.name(vIn)
	if seesOut(p.Hooks()[0]) {
		e.load(r1, r8, int(e.k.StateOut), asm.DWord)
		e.name(vOut)
	} else {
		e.storeImm(r6, vOut, 0, asm.DWord)
		e.storeImm(r6, vOut+8, 0, asm.DWord)
	}
	e.load(r1, r7, int(e.k.SkbLen), asm.Word)
	e.setField(vLen, r1)
	e.mov(r1, r7)
	e.set(r2, 0)
	e.mov(r3, r6)
	e.imm(asm.Add, r3, vDyn)
	e.kfunc(e.k.DynptrFromSkb)
	e.ifImm(asm.JNE, r0, 0, "drop")
}

// matchContext takes what a socket filter can find out.
func (e *emitter) matchContext() {
	e.mov(r1, r9)
	e.kfunc(e.k.CastToKernCtx)
	e.mov(r7, r0)
	e.load(r1, r7, int(e.k.SkbDev), asm.DWord)
	e.name(vIn)
	e.storeImm(r6, vState, 0, asm.Word)
	e.storeImm(r6, vLen, 0, asm.Word)
	e.set(r1, 0)
	e.load(r2, r7, int(e.k.SkbDst), asm.DWord)
	e.imm(asm.And, r2, ^1) // SKB_DST_NOREF
	e.ifImm(asm.JEq, r2, 0, "match.out")
	e.mov(r1, r2)
	e.const64(r2, uint64(e.k.DstEntry))
	e.kfunc(e.k.RdonlyCast)
	e.load(r1, r0, int(e.k.DstDev), asm.DWord)
	e.mark("match.out")
	e.name(vOut)
}

// earlier asks the hooks before that may have settled ours, as they saw the packet. Programs cannot leave anything with
// a packet, but what they decide depends on nothing that does not last. What would have been denied there was judged by an
// older generation; ours drops it.
func (e *emitter) earlier(p Place) {
	var before []flow.Hook
	switch p {
	case AtPreDNAT:
		before = []flow.Hook{flow.UntrackedIn}
	case AtInput, AtForward:
		before = []flow.Hook{flow.UntrackedIn, flow.PreDNAT}
	case AtOutput: // what is translated there is tracked
		before = []flow.Hook{flow.UntrackedOut}
	default:
		return
	}
	e.storeImm(r6, vQuiet, mute, asm.Word)
	e.field(r1, vHooks)
	e.add(asm.JSet.Imm(r1, int32(flow.HooksOf(before...)), "early.asked"))
	e.jump("early.done")
	e.mark("early.asked")
	if p == AtInput || p == AtForward {
		e.untranslated()
	}
	for _, h := range before {
		ask, next := e.label("early.ask"), e.label("early.next")
		e.field(r1, vHooks)
		e.add(asm.JSet.Imm(r1, 1<<h, ask))
		e.jump(next)
		e.mark(ask)
		e.ask1(h)
		e.ifImm(asm.JEq, r0, int32(ir.Deny), "drop")
		e.ifImm(asm.JEq, r0, outcomeStale, "early.stale")
		e.mark(next)
	}
	if p == AtInput || p == AtForward {
		e.translated()
	}
	e.jump("early.done")
	e.mark("early.stale")
	if p == AtInput || p == AtForward {
		e.translated()
	}
	e.jump("main.again")
	e.mark("early.done")
	e.storeImm(r6, vQuiet, loud, asm.Word)
}

// translated takes the destination back that untranslated has put aside.
func (e *emitter) translated() {
	e.field64(r1, vKeep)
	e.setField64(vDst, r1)
	e.field64(r1, vKeep+8)
	e.setField64(vDst+8, r1)
	e.field(r1, vKeep+16)
	e.setField(vDstPort, r1)
}

// untranslated makes the destination what it was before NAT, and keeps the other one. The packet had the addresses of
// its direction of the connection.
func (e *emitter) untranslated() {
	e.field64(r1, vDst)
	e.setField64(vKeep, r1)
	e.field64(r1, vDst+8)
	e.setField64(vKeep+8, r1)
	e.field(r1, vDstPort)
	e.setField(vKeep+16, r1)
	e.field64(r3, vCt)
	e.ifImm(asm.JEq, r3, 0, "orig.done")
	e.imm(asm.Add, r3, e.k.CtTuple+e.k.TupleDst)
	e.field(r1, vInfo)
	e.ifImm(asm.JLT, r1, infoEstablishedReply, "orig.read")
	e.imm(asm.Add, r3, e.k.CtNext)
	e.mark("orig.read")
	e.mov(r1, r6)
	e.imm(asm.Add, r1, vBuf)
	e.set(r2, e.k.TuplePort+2)
	e.add(asm.FnProbeReadKernel.Call())
	e.ifImm(asm.JNE, r0, 0, "drop")
	e.field(r1, vWide)
	e.ifImm(asm.JNE, r1, 0, "orig.ipv6")
	e.field(r1, vBuf)
	e.add(asm.HostTo(asm.BE, r1, asm.Word))
	e.const64(r2, mapped<<32)
	e.reg(asm.Or, r1, r2)
	e.setField64(vDst+8, r1)
	e.jump("orig.port")
	e.mark("orig.ipv6")
	e.field64(r1, vBuf)
	e.field64(r2, vBuf+8)
	e.add(asm.HostTo(asm.BE, r1, asm.DWord), asm.HostTo(asm.BE, r2, asm.DWord))
	e.setField64(vDst, r1)
	e.setField64(vDst+8, r2)
	e.mark("orig.port")
	e.field(r1, vPorts)
	e.ifImm(asm.JEq, r1, 0, "orig.done")
	e.load(r1, r6, vBuf+int(e.k.TuplePort), asm.Half)
	e.add(asm.HostTo(asm.BE, r1, asm.Half))
	e.setField(vDstPort, r1)
	e.mark("orig.done")
}
