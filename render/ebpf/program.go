// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"

	"github.com/cilium/ebpf/asm"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Kernel says where a kernel keeps what programs read: offsets in bytes, and BTF ids. It is comparable.
type Kernel struct {
	// struct bpf_nf_ctx
	CtxState, CtxSkb int16
	// struct nf_hook_state
	StateIn, StateOut int16
	// struct net_device
	DevName int16
	// struct sk_buff
	SkbLen, SkbDev, SkbDst, SkbNfct int16
	// struct dst_entry
	DstDev int16
	// struct nf_conn: the tuple of the first direction is CtTuple bytes from its beginning, the other one CtNext further
	CtStatus, CtTuple, CtNext int32
	// struct nf_conntrack_tuple
	TupleDst, TuplePort int32

	DynptrFromSkb, DynptrSlice int64 // functions
	CastToKernCtx, RdonlyCast  int64
	DstEntry                   int64 // type
}

// SnapLen is how many bytes of a packet an event carries.
const SnapLen = 256

// An event is a record of the ring buffer, little endian.
const (
	EventKey    = 0  // flow.RuleKey, 64 bits
	EventTime   = 8  // nanoseconds since boot, 64 bits
	EventLength = 16 // of the packet
	EventHook   = 20 // flow.Hook, one byte
	EventKind   = 21 // flow.Event, one byte
	EventPacket = 24 // its first SnapLen bytes
	EventSize   = EventPacket + SnapLen
)

// Limits, the value of MapLimits, is four numbers of 64 bits.
const (
	limitUsed  = 0  // until when the budget is used up
	limitLost  = 8  // events for which the ring buffer had no room
	limitOver  = 16 // events beyond the limit
	LimitsSize = 24
)

// Place is where a program stands. The zero value is invalid.
type Place uint8

// The places.
const (
	AtUntrackedIn  Place = iota + 1 // before connection tracking, arriving
	AtPreDNAT                       // before NAT, arriving
	AtInput                         // to a process of this host
	AtForward                       // forwarded; both directions
	AtUntrackedOut                  // before connection tracking, locally generated
	AtOutput                        // locally generated, unless the destination was translated
	AtTranslated                    // locally generated with a translated destination, behind routing
	MatchIn                         // says to a rule before connection tracking which packets to leave alone, arriving
	MatchOut                        // likewise, locally generated
)

// Places are all places.
var Places = [...]Place{AtUntrackedIn, AtPreDNAT, AtInput, AtForward, AtUntrackedOut, AtOutput, AtTranslated, MatchIn, MatchOut}

var placeNames = [...]string{
	AtUntrackedIn: "untracked_in", AtPreDNAT: "prednat", AtInput: "input", AtForward: "forward", AtUntrackedOut: "untracked_out",
	AtOutput: "output", AtTranslated: "translated", MatchIn: "match_in", MatchOut: "match_out",
}

// String returns the name of the program at p, such as "prednat".
func (p Place) String() string {
	if int(p) < len(placeNames) && p != 0 {
		return placeNames[p]
	}
	return fmt.Sprintf("place(%d)", uint8(p))
}

// Hooks returns the hooks that the program at p asks, in order; nil for an unknown place.
func (p Place) Hooks() []flow.Hook {
	switch p {
	case AtUntrackedIn, MatchIn:
		return []flow.Hook{flow.UntrackedIn}
	case AtPreDNAT:
		return []flow.Hook{flow.PreDNAT}
	case AtInput:
		return []flow.Hook{flow.NormalIn}
	case AtForward:
		return []flow.Hook{flow.ForwardIn, flow.ForwardOut}
	case AtUntrackedOut, MatchOut:
		return []flow.Hook{flow.UntrackedOut}
	case AtOutput, AtTranslated:
		return []flow.Hook{flow.NormalOut}
	}
	return nil
}

// Match reports whether the program at p is a socket filter that a rule of the kernel asks, not a netfilter program.
func (p Place) Match() bool { return p == MatchIn || p == MatchOut }

// Program returns the program at a place, which is the same for all policies. Its maps are named by references, and its
// functions but the first are static.
func Program(p Place, k Kernel) (asm.Instructions, error) {
	if p.Hooks() == nil {
		return nil, fmt.Errorf("ebpf: unknown %s", p)
	}
	e := &emitter{k: &k, quiet: p.Match()}
	e.main(p)
	e.functions()
	if err := check(e.ins); err != nil {
		return nil, err
	}
	return e.ins, nil
}

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

// main writes the function that the kernel runs. What cannot be known is denied: "drop" is where everything ends that
// should not happen.
func (e *emitter) main(p Place) {
	hooks := p.Hooks()
	e.mark("main")
	e.mov(r9, r1)
	e.mov(r6, fp)
	e.imm(asm.Add, r6, -(vTotal + 8))
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
	e.load(r1, r0, 4*headHooks, asm.Word)
	e.setField(vHooks, r1)
	e.add(asm.JSet.Imm(r1, int32(flow.HooksOf(hooks...)), "main.asked"))
	e.jump("accept")
	e.mark("main.asked")
	for _, f := range [...]int{vSettled, vQuiet, vPorts, vSrcPort, vDstPort, vOrigin} {
		e.storeImm(r6, f, 0, asm.Word)
	}
	if p.Match() {
		e.matchContext()
	} else {
		e.netfilterContext(p)
	}
	e.parse(p.Match())
	e.earlier(p)
	for _, h := range hooks {
		e.ask1(h)
		if p.Match() {
			e.ifImm(asm.JNE, r0, int32(ir.Allow), "accept")
			e.set(r0, 1)
			e.ret()
			break
		}
		e.ifImm(asm.JEq, r0, int32(ir.Deny), "drop")
	}
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
// a packet, but what they decide depends on nothing that does not last.
func (e *emitter) earlier(p Place) {
	hooks := p.Hooks()
	in := hooks[0] == flow.NormalIn || hooks[0] == flow.ForwardIn
	untracked := flow.Hook(0)
	switch {
	case in || hooks[0] == flow.PreDNAT:
		untracked = flow.UntrackedIn
	case hooks[0] == flow.NormalOut:
		untracked = flow.UntrackedOut
	default:
		return
	}
	e.storeImm(r6, vQuiet, 1, asm.Word)
	e.field(r1, vHooks)
	e.add(asm.JSet.Imm(r1, 1<<untracked, "early.asked"))
	e.jump("early.tracked")
	e.mark("early.asked")
	e.field(r1, vState)
	e.ifImm(asm.JNE, r1, int32(flow.Untracked), "early.tracked")
	e.ask1(untracked)
	e.mark("early.tracked")
	if in {
		e.field(r1, vHooks)
		e.add(asm.JSet.Imm(r1, 1<<flow.PreDNAT, "early.prednat"))
		e.jump("early.done")
		e.mark("early.prednat")
		e.untranslated()
		e.ask1(flow.PreDNAT)
		e.field64(r1, vKeep)
		e.setField64(vDst, r1)
		e.field64(r1, vKeep+8)
		e.setField64(vDst+8, r1)
		e.field(r1, vKeep+16)
		e.setField(vDstPort, r1)
	}
	e.mark("early.done")
	e.storeImm(r6, vQuiet, 0, asm.Word)
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
// dropped: reassembly stands before all our places.
func (e *emitter) parse(match bool) {
	// read leaves the address of n bytes at an offset, a register or a number, in R0.
	read := func(at asm.Register, from, n int32) {
		if match {
			e.mov(r1, r9)
			if at == r0 {
				e.set(r2, from)
			} else {
				e.mov(r2, at)
			}
			e.mov(r3, r6)
			e.imm(asm.Add, r3, vBuf)
			e.set(r4, n)
			e.set(r5, 1) // BPF_HDR_START_NET
			e.add(asm.FnSkbLoadBytesRelative.Call())
			e.ifImm(asm.JNE, r0, 0, "drop")
			e.mov(r0, r6)
			e.imm(asm.Add, r0, vBuf)
			return
		}
		e.mov(r1, r6)
		e.imm(asm.Add, r1, vDyn)
		if at == r0 {
			e.set(r2, from)
		} else {
			e.mov(r2, at)
		}
		e.mov(r3, r6)
		e.imm(asm.Add, r3, vBuf)
		e.set(r4, n)
		e.kfunc(e.k.DynptrSlice)
		e.ifImm(asm.JEq, r0, 0, "drop")
	}
	word := func(at int, off int) { // a number of 32 bits, network order, to a field
		e.load(r1, r0, off, asm.Word)
		e.add(asm.HostTo(asm.BE, r1, asm.Word))
		e.setField(at, r1)
	}
	read(r0, 0, 20)
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
	e.add(asm.JSet.Imm(r1, 0x1fff, "drop"))
	e.storeImm(r6, vWide, 0, asm.Word)
	for i, at := range [...]int{vSrc, vDst} {
		word(at+8, 12+4*i)
		e.storeImm(r6, at+12, mapped, asm.Word)
		e.storeImm(r6, at, 0, asm.DWord)
	}
	e.load(r7, r0, 9, asm.Byte)
	e.set(r1, int32(inet.IPv4)<<24)
	e.ifImm(asm.JEq, r7, int32(inet.ICMP), "parse.icmp")
	e.jump("parse.other")

	e.mark("parse.ipv6")
	read(r0, 0, 40)
	e.storeImm(r6, vWide, 1, asm.Word)
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
		read(r8, 0, 4)
		e.load(r1, r0, 2, asm.Half)
		e.add(asm.HostTo(asm.BE, r1, asm.Half))
		e.add(asm.JSet.Imm(r1, 0xfff8, "drop"))
		e.load(r7, r0, 0, asm.Byte)
		e.imm(asm.Add, r8, 8)
		e.jump(next)
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
	e.set(r1, int32(inet.IPv6)<<24)
	e.ifImm(asm.JNE, r7, int32(inet.ICMPv6), "parse.other")

	e.mark("parse.icmp")
	e.imm(asm.LSh, r7, 16)
	e.reg(asm.Or, r7, r1)
	read(r8, 0, 2)
	e.load(r1, r0, 0, asm.Half)
	e.add(asm.HostTo(asm.BE, r1, asm.Half))
	e.reg(asm.Or, r7, r1)
	e.setField(vL4, r7)
	e.jump("parse.done")

	e.mark("parse.other")
	e.mov(r2, r7)
	e.imm(asm.LSh, r2, 16)
	e.reg(asm.Or, r2, r1)
	e.setField(vL4, r2)
	for _, p := range [...]inet.Protocol{inet.TCP, inet.UDP, inet.SCTP, inet.UDPLite} {
		e.ifImm(asm.JEq, r7, int32(p), "parse.ports")
	}
	e.jump("parse.done")
	e.mark("parse.ports")
	read(r8, 0, 4)
	e.storeImm(r6, vPorts, 1, asm.Word)
	for i, at := range [...]int{vSrcPort, vDstPort} {
		e.load(r1, r0, 2*i, asm.Half)
		e.add(asm.HostTo(asm.BE, r1, asm.Half))
		e.setField(at, r1)
	}
	e.mark("parse.done")
}

// event reports the packet, with the origin in the view.
func (e *emitter) event() {
	e.mark(fnEvent)
	e.mov(r6, r1)
	e.mov(r7, r2)
	e.field64(r8, fHead)
	e.storeImm(fp, -8, 0, asm.Word)
	e.mov(r2, fp)
	e.imm(asm.Add, r2, -8)
	e.add(asm.LoadMapPtr(r1, 0).WithReference(MapLimits))
	e.add(asm.FnMapLookupElem.Call())
	e.ifImm(asm.JEq, r0, 0, "event.end")
	e.mov(r9, r0)
	e.add(asm.FnKtimeGetNs.Call())
	e.store(fp, -16, r0, asm.DWord)
	e.load(r1, r8, 4*headCost, asm.DWord)
	e.ifImm(asm.JEq, r1, 0, "event.allowed")
	// The budget: each event moves a time on, which may be ahead of the clock by the burst.
	e.load(r2, r9, limitUsed, asm.DWord)
	e.ifReg(asm.JGE, r2, r0, "event.used")
	e.mov(r2, r0)
	e.mark("event.used")
	e.load(r3, r8, 4*headBurst, asm.DWord)
	e.reg(asm.Add, r2, r1)
	e.reg(asm.Add, r3, r0)
	e.ifReg(asm.JGT, r2, r3, "event.over")
	e.store(r9, limitUsed, r2, asm.DWord)
	e.mark("event.allowed")
	e.store(fp, -24, r7, asm.DWord)
	// The key of the origin.
	e.view(r7, vOrigin, asm.Word)
	e.ifImm(asm.JEq, r7, 0, "event.end")
	e.imm(asm.Sub, r7, 1)
	e.imm(asm.LSh, r7, 2)
	e.load(r1, r8, 4*headOrigins, asm.Word)
	e.reg(asm.Add, r7, r1)
	e.cell(r7, 4, "event.end")
	e.load(r7, r0, 0, asm.DWord)
	e.field64(r1, fCtx)
	e.load(r1, r1, int(e.k.CtxSkb), asm.DWord)
	e.set(r2, 0)
	e.mov(r3, fp)
	e.imm(asm.Add, r3, -40)
	e.kfunc(e.k.DynptrFromSkb)
	e.ifImm(asm.JNE, r0, 0, "event.lost")
	e.add(asm.LoadMapPtr(r1, 0).WithReference(MapEvents))
	e.set(r2, EventSize)
	e.set(r3, 0)
	e.add(asm.FnRingbufReserve.Call())
	e.ifImm(asm.JEq, r0, 0, "event.lost")
	e.mov(r8, r0)
	e.store(r8, EventKey, r7, asm.DWord)
	e.load(r1, fp, -16, asm.DWord)
	e.store(r8, EventTime, r1, asm.DWord)
	e.storeImm(r8, EventLength+4, 0, asm.Word)
	e.field(r1, fHook)
	e.store(r8, EventHook, r1, asm.Byte)
	e.load(r1, fp, -24, asm.DWord)
	e.store(r8, EventKind, r1, asm.Byte)
	e.view(r2, vLen, asm.Word)
	e.store(r8, EventLength, r2, asm.Word)
	e.ifImm(asm.JLE, r2, SnapLen, "event.short")
	e.set(r2, SnapLen)
	e.mark("event.short")
	e.mov(r1, r8)
	e.imm(asm.Add, r1, EventPacket)
	e.mov(r3, fp)
	e.imm(asm.Add, r3, -40)
	e.set(r4, 0)
	e.set(r5, 0)
	e.add(asm.FnDynptrRead.Call())
	e.mov(r1, r8)
	e.set(r2, 0)
	e.add(asm.FnRingbufSubmit.Call())
	e.mark("event.end")
	e.ret0()
	e.mark("event.lost")
	e.set(r1, 1)
	e.add(asm.AddAtomic.Mem(r9, r1, asm.DWord, limitLost))
	e.ret0()
	e.mark("event.over")
	e.set(r1, 1)
	e.add(asm.AddAtomic.Mem(r9, r1, asm.DWord, limitOver))
	e.ret0()
}

func (e *emitter) ret0() {
	e.set(r0, 0)
	e.ret()
}
