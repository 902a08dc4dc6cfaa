// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

// keyType returns what nft calls the type of a key, for its listings. Ref: nftables, include/datatype.h.
func keyType(k render.Key) uint32 {
	switch k {
	case render.InIface, render.OutIface:
		return 41
	case render.Family:
		return 2
	case render.Protocol:
		return 12
	case render.Src4, render.Dst4:
		return 7
	case render.Src6, render.Dst6:
		return 8
	case render.SrcPort, render.DstPort:
		return 13
	case render.ICMPType:
		return 14
	case render.ICMPCode:
		return 32
	case render.ICMPv6Type:
		return 29
	case render.ICMPv6Code:
		return 33
	case render.State:
		return 26
	}
	return 0
}

func keysType(keys []render.Key) (typ uint32) {
	for _, k := range keys {
		typ = typ<<6 | keyType(k)
	}
	return typ
}

func keysLen(keys []render.Key) (n int) {
	if len(keys) == 1 {
		return keys[0].Len()
	}
	for _, k := range keys {
		n += (k.Len() + 3) &^ 3
	}
	return n
}

// anonymousSet writes the set that a test needs, if it needs one.
func (b *batch) anonymousSet(e render.Expr, o object) error {
	o.kind = objAnonymous
	if render.IsList(e) {
		return b.listSet("", e, o)
	}
	m, ok := e.(render.VerdictMap)
	if !ok {
		return nil
	}
	ranges := m.Ranges()
	s := b.newConstant("", m.Keys, true, ranges, len(m.Cases), o)
	var lo, hi [64]byte
	for i := range m.Cases {
		c := &m.Cases[i]
		if len(c.Key) != len(m.Keys) {
			return fmt.Errorf("nftables: %s: case with %d keys", o, len(c.Key))
		}
		l, h := lo[:0], hi[:0]
		for j, k := range m.Keys {
			if k == render.State && ranges && len(m.Keys) > 1 { // see loads
				bit := render.StateBit(flow.ConnState(c.Key[j].Lo[15]))
				l, h = binary.BigEndian.AppendUint32(l, bit), binary.BigEndian.AppendUint32(h, bit)
				continue
			}
			l, h = keyBytes(l, k, c.Key[j].Lo), keyBytes(h, k, c.Key[j].Hi)
			if len(m.Keys) > 1 {
				for len(l)&3 != 0 {
					l, h = append(l, 0), append(h, 0)
				}
			}
		}
		s.interval(l, h, c.Verdict, c.Comment)
	}
	s.done()
	return nil
}

// listSet writes a constant set for the list that a test is about; one without name is anonymous.
func (b *batch) listSet(name string, e render.Expr, o object) error {
	ranges := render.HasRanges(e)
	switch e := e.(type) {
	case render.InNumbers:
		rs := render.MaskRanges(e.Mask)
		s := b.newConstant(name, []render.Key{e.Key}, false, ranges, len(rs), o)
		for _, r := range rs {
			s.number(1, uint64(r[0]), uint64(r[1]))
		}
		s.done()
	case render.InPorts:
		s := b.newConstant(name, []render.Key{e.Key}, false, ranges, len(e.Ranges), o)
		for _, r := range e.Ranges {
			s.number(2, uint64(r.Min), uint64(r.Max))
		}
		s.done()
	case render.InPrefixes:
		s := b.newConstant(name, []render.Key{e.Key}, false, ranges, len(e.Prefixes), o)
		for _, p := range e.Prefixes {
			lo, hi := bounds(p)
			s.interval(lo, hi, render.Verdict{}, "")
		}
		s.done()
	case render.InNames:
		s := b.newConstant(name, []render.Key{e.Key}, false, ranges, len(e.Names), o)
		for _, n := range e.Names {
			v, _ := ir.Name(n)
			s.interval(v[:], v[:], render.Verdict{}, "")
		}
		s.done()
	default:
		return fmt.Errorf("nftables: %s of %T", o, e)
	}
	return nil
}

// keyBytes appends a value as the kernel has it in registers.
func keyBytes(b []byte, k render.Key, v ir.Value) []byte {
	switch k {
	case render.InIface, render.OutIface, render.Src6, render.Dst6:
		return append(b, v[:]...)
	case render.Src4, render.Dst4:
		return append(b, v[12:]...)
	case render.SrcPort, render.DstPort:
		return append(b, v[14:]...)
	case render.Family:
		return append(b, nfproto(inet.Family(v[15])))
	case render.State:
		return host.AppendUint32(b, render.StateBit(flow.ConnState(v[15])))
	}
	return append(b, v[15])
}

func nfproto(f inet.Family) byte {
	if f == inet.IPv4 {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

// bounds returns the first and the last address of a prefix.
func bounds(p netip.Prefix) (lo, hi []byte) {
	lo = p.Addr().AsSlice()
	hi = p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(hi); i++ {
		hi[i/8] |= 0x80 >> (i % 8)
	}
	return lo, hi
}

// constant writes a constant set: elements come in order.
type constant struct {
	elements
	ranges, concat, verdicts bool
	named, first             bool
	end                      []byte // one behind the last element, if it has to be written
}

// newConstant starts a constant set of n cases. One without name is anonymous.
func (b *batch) newConstant(name string, keys []render.Key, verdicts, ranges bool, n int, o object) *constant {
	b.sets++
	flags := uint32(unix.NFT_SET_CONSTANT)
	named := name != ""
	if !named {
		flags |= unix.NFT_SET_ANONYMOUS
		name = "__set%d"
		if verdicts {
			name = "__map%d"
		}
	}
	concat := len(keys) > 1
	if ranges {
		flags |= unix.NFT_SET_INTERVAL
		if concat {
			flags |= nftSetConcat
		} else {
			n = 2*n + 1
		}
	}
	if verdicts {
		flags |= unix.NFT_SET_MAP
	}
	b.start(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, o)
	b.str(unix.NFTA_SET_TABLE, b.table)
	b.str(unix.NFTA_SET_NAME, name)
	b.u32(unix.NFTA_SET_FLAGS, flags)
	b.u32(unix.NFTA_SET_KEY_TYPE, keysType(keys))
	b.u32(unix.NFTA_SET_KEY_LEN, uint32(keysLen(keys)))
	if verdicts {
		b.u32(unix.NFTA_SET_DATA_TYPE, verdictData)
		b.u32(unix.NFTA_SET_DATA_LEN, 0)
	}
	b.u32(unix.NFTA_SET_ID, b.sets)
	desc := b.nest(unix.NFTA_SET_DESC)
	b.u32(unix.NFTA_SET_DESC_SIZE, uint32(n))
	if concat && ranges {
		fields := b.nest(nftaSetDescConcat)
		for _, k := range keys {
			f := b.nest(1) // NFTA_LIST_ELEM
			b.u32(nftaSetFieldLen, uint32(k.Len()))
			b.close(f)
		}
		b.close(fields)
	}
	b.close(desc)
	b.byteorder(keys, "")
	b.end()
	s := &constant{ranges: ranges, concat: concat, verdicts: verdicts, named: named, first: true}
	s.elements = elements{b: b, typ: unix.NFT_MSG_NEWSETELEM, name: name, id: b.sets, object: o}
	return s
}

// byteorder writes the user data of a set by which nft knows how to read keys.
func (b *batch) byteorder(keys []render.Key, comment string) {
	order := byte(0)
	if len(keys) == 1 {
		switch order = 2; keys[0] { // big endian, as in packets
		case render.InIface, render.OutIface, render.State, render.Family:
			order = 1
		}
	}
	n := 6
	if comment != "" {
		n += 2 + len(comment) + 1
	}
	b.head(unix.NFTA_SET_USERDATA, n)
	b.buf = append(b.buf, udataSetKeyByteorder, 4)
	b.buf = host.AppendUint32(b.buf, uint32(order))
	if comment != "" {
		b.buf = append(b.buf, udataSetComment, byte(len(comment)+1))
		b.buf = append(append(b.buf, comment...), 0)
	}
	b.pad()
}

func (s *constant) number(size int, lo, hi uint64) {
	var l, h [8]byte
	for i := range size {
		l[i], h[i] = byte(lo>>(8*(size-1-i))), byte(hi>>(8*(size-1-i)))
	}
	s.interval(l[:size], h[:size], render.Verdict{}, "")
}

// interval writes one case. Intervals of one field are written as the points where they begin and end; points that
// belong to no interval end one.
func (s *constant) interval(lo, hi []byte, v render.Verdict, comment string) {
	switch {
	case !s.ranges:
		s.add(lo, nil, 0, s.verdict(v), comment, false)
	case s.concat:
		s.add(lo, hi, 0, s.verdict(v), comment, false)
	default:
		if s.first && !zero(lo) {
			s.add(make([]byte, len(lo)), nil, nftSetElemIntervEnd, nil, "", false)
		}
		adjacent := s.end != nil && string(s.end) == string(lo)
		if s.end != nil && (!adjacent || s.named) {
			s.add(s.end, nil, nftSetElemIntervEnd, nil, "", false)
		}
		end, ok := next(hi)
		if !ok {
			end = nil
		}
		s.end = end
		if adjacent && !s.named && !s.verdicts {
			break // one interval, for a set without name
		}
		s.add(lo, nil, 0, s.verdict(v), comment, !ok)
	}
	s.first = false
}

func (s *constant) verdict(v render.Verdict) *render.Verdict {
	if !s.verdicts {
		return nil
	}
	return &v
}

func (s *constant) done() {
	if s.end != nil {
		s.add(s.end, nil, nftSetElemIntervEnd, nil, "", false)
	}
	s.elements.done()
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// next returns b plus one; false if there is none.
func next(b []byte) ([]byte, bool) {
	n := append([]byte(nil), b...)
	for i := len(n) - 1; i >= 0; i-- {
		n[i]++
		if n[i] != 0 {
			return n, true
		}
	}
	return n, false
}

// elements writes messages that add elements to a set or take them out of it.
type elements struct {
	b      *batch
	typ    uint16
	name   string
	id     uint32 // of the set, if the batch makes it
	object object
	list   int // where the list at work begins; 0 if there is none
}

// maxList keeps lists of elements well below the length that an attribute can have.
const maxList = 60000

// add writes one element. Open says that the interval has no end.
func (s *elements) add(key, keyEnd []byte, flags uint32, v *render.Verdict, comment string, open bool) {
	b := s.b
	if s.list != 0 && len(b.buf)-s.list > maxList {
		s.done()
	}
	if s.list == 0 {
		f := uint16(unix.NLM_F_CREATE)
		if s.typ != unix.NFT_MSG_NEWSETELEM {
			f = 0
		}
		b.start(s.typ, f, s.object)
		b.str(unix.NFTA_SET_ELEM_LIST_TABLE, b.table)
		b.str(unix.NFTA_SET_ELEM_LIST_SET, s.name)
		if s.id != 0 {
			b.u32(nftaSetElemListID, s.id)
		}
		s.list = b.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
	}
	e := b.nest(1) // NFTA_LIST_ELEM
	if flags != 0 {
		b.u32(unix.NFTA_SET_ELEM_FLAGS, flags)
	}
	k := b.nest(unix.NFTA_SET_ELEM_KEY)
	b.bytes(unix.NFTA_DATA_VALUE, key)
	b.close(k)
	if keyEnd != nil {
		k := b.nest(nftaSetElemKeyEnd)
		b.bytes(unix.NFTA_DATA_VALUE, keyEnd)
		b.close(k)
	}
	if v != nil {
		d := b.nest(unix.NFTA_SET_ELEM_DATA)
		b.verdict(*v)
		b.close(d)
	}
	if comment != "" || open {
		n := 0
		if comment != "" {
			n += 2 + len(comment) + 1
		}
		if open {
			n += 6
		}
		b.head(unix.NFTA_SET_ELEM_USERDATA, n)
		if comment != "" {
			b.buf = append(b.buf, udataElemComment, byte(len(comment)+1))
			b.buf = append(append(b.buf, comment...), 0)
		}
		if open {
			b.buf = append(b.buf, udataElemFlags, 4)
			b.buf = host.AppendUint32(b.buf, 1) // SET_ELEM_F_INTERVAL_OPEN
		}
		b.pad()
	}
	b.close(e)
}

func (s *elements) done() {
	if s.list != 0 {
		s.b.close(s.list)
		s.b.end()
		s.list = 0
	}
}

var (
	keys4         = []render.Key{render.Src4}
	keys6         = []render.Key{render.Src6}
	keysEndpoint4 = []render.Key{render.Src4, render.Protocol, render.SrcPort}
	keysEndpoint6 = []render.Key{render.Src6, render.Protocol, render.SrcPort}
)

func setKeys(s *render.Set) []render.Key {
	switch {
	case s.Kind == ir.SetOfPrefixes && s.Family == inet.IPv4:
		return keys4
	case s.Kind == ir.SetOfPrefixes:
		return keys6
	case s.Family == inet.IPv4:
		return keysEndpoint4
	}
	return keysEndpoint6
}

// newSet adds a set with its elements.
func (b *batch) newSet(s *render.Set) error {
	o := object{kind: objSet, name: s.Name}
	b.changes++
	if s.Values != nil {
		return b.listSet(s.Name, s.Values, o)
	}
	keys := setKeys(s)
	b.sets++
	b.start(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, o)
	b.str(unix.NFTA_SET_TABLE, b.table)
	b.str(unix.NFTA_SET_NAME, s.Name)
	flags := uint32(0)
	if s.Kind == ir.SetOfPrefixes && !s.Exact {
		flags = unix.NFT_SET_INTERVAL
	}
	b.u32(unix.NFTA_SET_FLAGS, flags)
	b.u32(unix.NFTA_SET_KEY_TYPE, keysType(keys))
	b.u32(unix.NFTA_SET_KEY_LEN, uint32(keysLen(keys)))
	b.u32(unix.NFTA_SET_ID, b.sets)
	b.byteorder(keys, s.Comment)
	b.end()
	b.setElements(unix.NFT_MSG_NEWSETELEM, s, s.Elements)
	return nil
}

func (b *batch) delSet(name string) {
	b.start(unix.NFT_MSG_DELSET, 0, object{kind: objSet, name: name})
	b.str(unix.NFTA_SET_TABLE, b.table)
	b.str(unix.NFTA_SET_NAME, name)
	b.end()
	b.changes++
}

// setElements adds elements to a set of members, or takes them out of it.
func (b *batch) setElements(typ uint16, set *render.Set, es []ir.Element) {
	s := elements{b: b, typ: typ, name: set.Name, object: object{kind: objElements, name: set.Name}}
	for _, e := range es {
		key, end := elementKeys(set, e)
		s.add(key, nil, 0, nil, "", !set.Exact && set.Kind == ir.SetOfPrefixes && end == nil)
		if end != nil {
			s.add(end, nil, nftSetElemIntervEnd, nil, "", false)
		}
	}
	s.done()
	b.changes += len(es)
}

// elementKeys returns the key of an element in the kernel, and the one behind its end if the set is one of intervals
// and there is one.
func elementKeys(set *render.Set, e ir.Element) (key, end []byte) {
	if set.Kind == ir.SetOfPrefixes {
		if set.Exact {
			return e.Prefix.Addr().AsSlice(), nil
		}
		lo, hi := bounds(e.Prefix)
		if end, ok := next(hi); ok {
			return lo, end
		}
		return lo, nil
	}
	key = append(e.Prefix.Addr().AsSlice(), byte(e.Protocol), 0, 0, 0, byte(e.Port>>8), byte(e.Port), 0, 0)
	return key, nil
}
