// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

// Values of attributes. Ref: linux/netfilter/nf_tables.h.
const (
	cmpEQ, cmpNEQ, cmpLTE, cmpGTE = 0, 1, 3, 5
	rangeNEQ                      = 1

	regVerdict, reg1, reg32 = 0, 1, 8

	metaMark, metaIIF, metaIIFName, metaOIFName, metaNFProto, metaL4Proto = 3, 4, 6, 7, 15, 16

	ctState, ctStatus = 0, 2

	statusDNAT = 1 << 5 // IPS_DST_NAT
)

// expr writes the expressions of the kernel for e. Set is the ID of the next anonymous set of the rule.
func (b *batch) expr(e render.Expr, set *uint32) error {
	w := &b.writer
	switch e := e.(type) {
	case render.IsFamily:
		w.meta(metaNFProto)
		w.cmp(cmpEQ, []byte{nfproto(e.Family)})
	case render.InNumbers:
		if err := w.load(e.Key, reg1); err != nil {
			return err
		}
		if render.IsList(e) {
			w.lookup("__set%d", set, e.Not, false)
			break
		}
		rs := render.MaskRanges(e.Mask)
		if len(rs) == 0 {
			return fmt.Errorf("nftables: %s without numbers", e.Key)
		}
		w.inRange(rs[0][:1], rs[0][1:], e.Not)
	case render.InPorts:
		if err := w.load(e.Key, reg1); err != nil {
			return err
		}
		switch {
		case len(e.Ranges) > 1:
			w.lookup("__set%d", set, e.Not, false)
		case len(e.Ranges) == 1:
			r := e.Ranges[0]
			w.inRange([]byte{byte(r.Min >> 8), byte(r.Min)}, []byte{byte(r.Max >> 8), byte(r.Max)}, e.Not)
		default:
			return fmt.Errorf("nftables: %s without ports", e.Key)
		}
	case render.InPrefixes:
		switch {
		case len(e.Prefixes) > 1:
			if err := w.load(e.Key, reg1); err != nil {
				return err
			}
			w.lookup("__set%d", set, e.Not, false)
		case len(e.Prefixes) == 1:
			return w.inPrefix(e.Key, e.Prefixes[0], e.Not)
		default:
			return fmt.Errorf("nftables: %s without prefixes", e.Key)
		}
	case render.InNames:
		if err := w.load(e.Key, reg1); err != nil {
			return err
		}
		switch {
		case len(e.Names) > 1:
			w.lookup("__set%d", set, e.Not, false)
		case len(e.Names) == 1:
			v, ok := ir.Name(e.Names[0])
			if !ok {
				return fmt.Errorf("nftables: %q is not the name of an interface", e.Names[0])
			}
			w.cmp(eq(e.Not), v[:])
		default:
			return fmt.Errorf("nftables: %s without names", e.Key)
		}
	case render.InNamePrefix:
		if err := w.load(e.Key, reg1); err != nil {
			return err
		}
		w.cmp(eq(e.Not), []byte(e.Prefix))
	case render.InStates:
		w.ct(ctState, reg1)
		w.bitwise(e.Bits, 0)
		w.cmp(cmpNEQ, make([]byte, 4))
	case render.IsTranslated:
		w.ct(ctStatus, reg1)
		w.bitwise(statusDNAT, 0)
		w.cmp(cmpNEQ, make([]byte, 4))
	case render.IsGenerated:
		w.meta(metaIIF)
		w.cmp(cmpEQ, make([]byte, 4))
	case render.IsMarked:
		w.meta(metaMark)
		w.bitwise(e.Mask, 0)
		w.cmp(cmpNEQ, make([]byte, 4))
	case render.InSet:
		if err := w.loads(e.Keys, false); err != nil {
			return err
		}
		w.lookup(e.Set, nil, e.Not, false)
	case render.VerdictMap:
		if err := w.loads(e.Keys, e.ConcatRanges()); err != nil {
			return err
		}
		if e.Bits > 0 {
			if len(e.Keys) != 1 || e.Keys[0].Len() != 4 && e.Keys[0].Len() != 16 {
				return fmt.Errorf("nftables: %d bits of %v", e.Bits, e.Keys)
			}
			mask := render.Netmask(e.Bits, e.Keys[0].Len()).AsSlice()
			w.mask(mask, make([]byte, len(mask)))
		}
		w.lookup("__map%d", set, false, true)
	case render.SetMark:
		w.meta(metaMark)
		if e.On {
			w.bitwise(^e.Mask, e.Mask)
		} else {
			w.bitwise(^e.Mask, 0)
		}
		n := w.open("meta")
		w.u32(unix.NFTA_META_KEY, metaMark)
		w.u32(unix.NFTA_META_SREG, reg1)
		w.shut(n)
	case render.Untrack:
		n := w.open("notrack")
		w.shut(n)
	case render.Count:
		n := w.open("counter")
		w.u64(unix.NFTA_COUNTER_BYTES, 0)
		w.u64(unix.NFTA_COUNTER_PACKETS, 0)
		w.shut(n)
	case render.Log:
		n := w.open("log")
		w.str(unix.NFTA_LOG_PREFIX, e.Prefix)
		w.u16(unix.NFTA_LOG_GROUP, e.Group)
		if e.SnapLen != 0 {
			w.u32(unix.NFTA_LOG_SNAPLEN, e.SnapLen)
		}
		w.shut(n)
	case render.Reject:
		n := w.open("reject")
		if e.Reset {
			w.u32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_TCP_RST)
			w.u8(unix.NFTA_REJECT_ICMP_CODE, 0)
		} else {
			w.u32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_ICMPX_UNREACH)
			w.u8(unix.NFTA_REJECT_ICMP_CODE, unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED)
		}
		w.shut(n)
	case render.Verdict:
		n := w.open("immediate")
		w.u32(unix.NFTA_IMMEDIATE_DREG, regVerdict)
		d := w.nest(unix.NFTA_IMMEDIATE_DATA)
		w.verdict(e)
		w.close(d)
		w.shut(n)
	default:
		return fmt.Errorf("nftables: unknown expression %T", e)
	}
	return nil
}

func eq(not bool) uint32 {
	if not {
		return cmpNEQ
	}
	return cmpEQ
}

// exprAt is where an expression and its data begin.
type exprAt struct{ elem, data int }

func (w *writer) open(name string) exprAt {
	e := w.nest(1) // NFTA_LIST_ELEM
	w.str(unix.NFTA_EXPR_NAME, name)
	return exprAt{e, w.nest(unix.NFTA_EXPR_DATA)}
}

func (w *writer) shut(n exprAt) {
	w.close(n.data)
	w.close(n.elem)
}

func (w *writer) meta(key uint32) { w.metaTo(key, reg1) }

func (w *writer) metaTo(key, reg uint32) {
	n := w.open("meta")
	w.u32(unix.NFTA_META_KEY, key)
	w.u32(unix.NFTA_META_DREG, reg)
	w.shut(n)
}

func (w *writer) ct(key, reg uint32) {
	n := w.open("ct")
	w.u32(unix.NFTA_CT_KEY, key)
	w.u32(unix.NFTA_CT_DREG, reg)
	w.shut(n)
}

func (w *writer) payload(reg, base, offset, length uint32) {
	n := w.open("payload")
	w.u32(unix.NFTA_PAYLOAD_DREG, reg)
	w.u32(unix.NFTA_PAYLOAD_BASE, base)
	w.u32(unix.NFTA_PAYLOAD_OFFSET, offset)
	w.u32(unix.NFTA_PAYLOAD_LEN, length)
	w.shut(n)
}

// load loads one key into a register.
func (w *writer) load(k render.Key, reg uint32) error {
	const network, transport = unix.NFT_PAYLOAD_NETWORK_HEADER, unix.NFT_PAYLOAD_TRANSPORT_HEADER
	switch k {
	case render.InIface:
		w.metaTo(metaIIFName, reg)
	case render.OutIface:
		w.metaTo(metaOIFName, reg)
	case render.Family:
		w.metaTo(metaNFProto, reg)
	case render.Protocol:
		w.metaTo(metaL4Proto, reg)
	case render.State:
		w.ct(ctState, reg)
	case render.Src4, render.Dst4, render.Src6, render.Dst6:
		w.payload(reg, network, addrOffset(k), uint32(k.Len()))
	case render.SrcPort:
		w.payload(reg, transport, 0, 2)
	case render.DstPort:
		w.payload(reg, transport, 2, 2)
	case render.ICMPType, render.ICMPv6Type:
		w.payload(reg, transport, 0, 1)
	case render.ICMPCode, render.ICMPv6Code:
		w.payload(reg, transport, 1, 1)
	default:
		return fmt.Errorf("nftables: unknown key %s", k)
	}
	return nil
}

// addrOffset returns where in the header an address is. Ref: RFC 791, RFC 8200.
func addrOffset(k render.Key) uint32 {
	switch k {
	case render.Src4:
		return 12
	case render.Dst4:
		return 16
	case render.Src6:
		return 8
	}
	return 24
}

// loads loads keys side by side, as a lookup in a set of several fields needs them. In sets of ranges numbers of the
// host are big endian, since the kernel compares them byte by byte.
func (w *writer) loads(keys []render.Key, ranges bool) error {
	at := 0
	for _, k := range keys {
		reg := uint32(reg32 + at/4)
		if at%16 == 0 {
			reg = uint32(reg1 + at/16)
		}
		if err := w.load(k, reg); err != nil {
			return err
		}
		if ranges && k == render.State {
			n := w.open("byteorder")
			w.u32(unix.NFTA_BYTEORDER_SREG, reg)
			w.u32(unix.NFTA_BYTEORDER_DREG, reg)
			w.u32(unix.NFTA_BYTEORDER_OP, unix.NFT_BYTEORDER_HTON)
			w.u32(unix.NFTA_BYTEORDER_LEN, 4)
			w.u32(unix.NFTA_BYTEORDER_SIZE, 4)
			w.shut(n)
		}
		at += (k.Len() + 3) &^ 3
	}
	return nil
}

func (w *writer) cmp(op uint32, data []byte) {
	n := w.open("cmp")
	w.u32(unix.NFTA_CMP_SREG, reg1)
	w.u32(unix.NFTA_CMP_OP, op)
	w.data(unix.NFTA_CMP_DATA, data)
	w.shut(n)
}

func (w *writer) data(attr uint16, data []byte) {
	n := w.nest(attr)
	w.bytes(unix.NFTA_DATA_VALUE, data)
	w.close(n)
}

// inRange compares the register with a closed range, as nft does.
func (w *writer) inRange(lo, hi []byte, not bool) {
	switch {
	case string(lo) == string(hi):
		w.cmp(eq(not), lo)
	case !not:
		w.cmp(cmpGTE, lo)
		w.cmp(cmpLTE, hi)
	default:
		n := w.open("range")
		w.u32(unix.NFTA_RANGE_SREG, reg1)
		w.u32(unix.NFTA_RANGE_OP, rangeNEQ)
		w.data(unix.NFTA_RANGE_FROM_DATA, lo)
		w.data(unix.NFTA_RANGE_TO_DATA, hi)
		w.shut(n)
	}
}

// inPrefix compares an address with one prefix.
func (w *writer) inPrefix(k render.Key, p netip.Prefix, not bool) error {
	addr := p.Addr().AsSlice()
	if len(addr) != k.Len() || p.Bits() < 1 {
		return fmt.Errorf("nftables: %s in %s", k, p)
	}
	if p.Bits()%8 == 0 { // only the bytes that matter
		n := p.Bits() / 8
		w.payload(reg1, unix.NFT_PAYLOAD_NETWORK_HEADER, addrOffset(k), uint32(n))
		w.cmp(eq(not), addr[:n])
		return nil
	}
	mask := render.Netmask(uint8(p.Bits()), len(addr)).AsSlice()
	w.payload(reg1, unix.NFT_PAYLOAD_NETWORK_HEADER, addrOffset(k), uint32(len(addr)))
	w.mask(mask, make([]byte, len(addr)))
	w.cmp(eq(not), addr)
	return nil
}

// bitwise makes of the register n what is (n & mask) ^ xor.
func (w *writer) bitwise(mask, xor uint32) {
	w.mask(host.AppendUint32(nil, mask), host.AppendUint32(nil, xor))
}

func (w *writer) mask(mask, xor []byte) {
	n := w.open("bitwise")
	w.u32(unix.NFTA_BITWISE_SREG, reg1)
	w.u32(unix.NFTA_BITWISE_DREG, reg1)
	w.u32(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
	w.data(unix.NFTA_BITWISE_MASK, mask)
	w.data(unix.NFTA_BITWISE_XOR, xor)
	w.shut(n)
}

// lookup looks the register up in a set: an anonymous one if id is not nil.
func (w *writer) lookup(name string, id *uint32, not, verdict bool) {
	n := w.open("lookup")
	w.str(unix.NFTA_LOOKUP_SET, name)
	w.u32(unix.NFTA_LOOKUP_SREG, reg1)
	if verdict {
		w.u32(unix.NFTA_LOOKUP_DREG, regVerdict)
	}
	if not {
		w.u32(unix.NFTA_LOOKUP_FLAGS, unix.NFT_LOOKUP_F_INV)
	}
	if id != nil {
		w.u32(unix.NFTA_LOOKUP_SET_ID, *id)
		*id++
	}
	w.shut(n)
}
