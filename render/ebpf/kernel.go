// SPDX-License-Identifier: Apache-2.0

package ebpf

// Kernel says where a kernel keeps what programs read: offsets in bytes, and BTF ids. It is comparable.
type Kernel struct {
	// struct bpf_nf_ctx
	CtxState, CtxSkb int16
	// struct nf_hook_state
	StateIn, StateOut int16
	// struct net_device; DevUpper is the list of the devices that stand upon it
	DevName, DevUpper int16
	// struct xdp_buff and struct xdp_rxq_info
	XdpRxq, RxqDev int16
	// struct sk_buff
	SkbLen, SkbDev, SkbDst, SkbNfct int16
	// struct dst_entry
	DstDev int16
	// struct nf_conn: the tuple of the first direction is CtTuple bytes from its beginning, the other one CtNext further
	CtStatus, CtTuple, CtNext int32
	// struct nf_conntrack_tuple
	TupleDst, TuplePort int32

	DynptrFromSkb, DynptrFromXdp int64 // functions
	DynptrSlice                  int64
	CastToKernCtx, RdonlyCast    int64
	DstEntry                     int64 // type

	// InOrder says that the processor does loads in the order of the program, and stores: no other ones make use of what
	// they know of packets before.
	InOrder bool
}

// SnapLen is how many bytes of a packet an event carries.
const SnapLen = 256

// An event is a record of the ring buffer, little endian but for the names.
const (
	EventKey        = 0  // flow.RuleKey, 64 bits
	EventTime       = 8  // nanoseconds since boot, 64 bits
	EventGeneration = 16 // that judged the packet, 64 bits
	EventLength     = 24 // of the packet
	EventHook       = 28 // flow.Hook, one byte
	EventKind       = 29 // flow.Event, one byte
	EventState      = 30 // flow.ConnState, one byte
	EventIn         = 32 // name of the interface that the packet came by, 16 bytes, filled with zeros
	EventOut        = 48 // and of that by which it leaves
	EventPacket     = 64 // its first SnapLen bytes
	EventSize       = EventPacket + SnapLen
)

// Limits, the value of MapLimits, is three numbers of 64 bits.
const (
	limitUsed  = 0  // until when the budget is used up
	limitLost  = 8  // events for which the ring buffer had no room
	limitOver  = 16 // events beyond the limit
	LimitsSize = 24
)
