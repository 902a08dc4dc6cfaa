// SPDX-License-Identifier: Apache-2.0

package ir

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// MaxNameLen is the length of the longest interface name. Ref: linux/if.h, IFNAMSIZ.
const MaxNameLen = 15

// Number returns the value that stands for n.
func Number[T ~uint8 | ~uint16](n T) Value {
	var v Value
	binary.BigEndian.PutUint16(v[14:], uint16(n))
	return v
}

// Name returns the value that stands for an interface name; false if the name is empty, too long or holds a zero byte.
func Name(s string) (Value, bool) {
	var v Value
	if s == "" || len(s) > MaxNameLen || bytes.IndexByte([]byte(s), 0) >= 0 {
		return v, false
	}
	copy(v[:], s)
	return v, true
}

// Addr returns the value that stands for an address; IPv4 and IPv4-mapped addresses are the same value. The zone is
// dropped; an invalid address is the zero value.
func Addr(a netip.Addr) Value {
	if !a.IsValid() {
		return Value{}
	}
	return a.As16()
}

// Exactly returns the interval that holds v alone.
func Exactly(v Value) Interval { return Interval{v, v} }

// NamePrefix returns the interval of the names that begin with s; all names if s is "". It is false under the
// conditions of Name.
func NamePrefix(s string) (Interval, bool) {
	i := Interval{Hi: allOnes}
	if s == "" {
		return i, true
	}
	v, ok := Name(s)
	if !ok {
		return Interval{}, false
	}
	i.Lo = v
	copy(i.Hi[:], s)
	return i, true
}

// AddrPrefix returns the interval of the addresses in p, which must be valid and masked. An IPv6 prefix shorter than
// 96 bits that holds ::ffff:0:0/96 holds the values of all IPv4 addresses too: such a prefix is two or more intervals,
// and none if it is in the mapped range itself.
func AddrPrefix(p netip.Prefix) []Interval {
	lo := Addr(p.Addr())
	ones := p.Bits()
	if p.Addr().Is4() {
		ones += 96
	}
	hi := lo
	for i := ones; i < 128; i++ {
		hi[i/8] |= 0x80 >> (i % 8)
	}
	all := Interval{lo, hi}
	if p.Addr().Is4() || !all.overlaps(mappedRange) {
		return []Interval{all}
	}
	var is []Interval
	if lo.Compare(mappedRange.Lo) < 0 {
		is = append(is, Interval{lo, mappedRange.Lo.Prev()})
	}
	if mappedRange.Hi.Compare(hi) < 0 {
		is = append(is, Interval{mappedRange.Hi.Next(), hi})
	}
	return is
}

var (
	allOnes     = Value{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}
	mappedRange = Interval{
		Lo: Value{10: 255, 11: 255},
		Hi: Value{10: 255, 11: 255, 12: 255, 13: 255, 14: 255, 15: 255},
	}
)

// Compare orders values as numbers.
func (v Value) Compare(w Value) int { return bytes.Compare(v[:], w[:]) }

// Next returns the number after v; 0 after the last one.
func (v Value) Next() Value {
	for i := len(v) - 1; i >= 0; i-- {
		v[i]++
		if v[i] != 0 {
			break
		}
	}
	return v
}

// Prev returns the number before v; the last one before 0.
func (v Value) Prev() Value {
	for i := len(v) - 1; i >= 0; i-- {
		v[i]--
		if v[i] != 255 {
			break
		}
	}
	return v
}

// Name returns the interface name that v stands for; false if it stands for none.
func (v Value) Name() (string, bool) {
	n := bytes.IndexByte(v[:], 0)
	if n <= 0 || v != ([16]byte)(append(append(make([]byte, 0, 16), v[:n]...), make([]byte, 16-n)...)) {
		return "", false
	}
	return string(v[:n]), true
}

// Number returns the small number that v stands for; false if it is above 65535.
func (v Value) Number() (uint16, bool) {
	for _, b := range v[:14] {
		if b != 0 {
			return 0, false
		}
	}
	return binary.BigEndian.Uint16(v[14:]), true
}

// Addr returns the address that v stands for.
func (v Value) Addr() netip.Addr { return netip.AddrFrom16(v).Unmap() }

// Contains reports whether v lies in i.
func (i Interval) Contains(v Value) bool { return i.Lo.Compare(v) <= 0 && v.Compare(i.Hi) <= 0 }

func (i Interval) overlaps(j Interval) bool {
	return i.Lo.Compare(j.Hi) <= 0 && j.Lo.Compare(i.Hi) <= 0
}

// Compare orders intervals by Lo, then by Hi.
func (i Interval) Compare(j Interval) int {
	if c := i.Lo.Compare(j.Lo); c != 0 {
		return c
	}
	return i.Hi.Compare(j.Hi)
}

// Domain returns the values that field f can have; an empty interval (Lo above Hi) for an unknown field.
func (f Field) Domain() Interval {
	switch f {
	case InIface, OutIface, SrcAddr, DstAddr:
		return Interval{Hi: allOnes}
	case Family:
		return Interval{Number(uint8(4)), Number(uint8(6))}
	case Protocol, ICMPType, ICMPCode:
		return Interval{Hi: Number(uint8(255))}
	case SrcPort, DstPort:
		return Interval{Hi: Number(uint16(65535))}
	case State:
		return Interval{Hi: Number(flow.Untracked)}
	}
	return Interval{Lo: allOnes}
}
