// SPDX-License-Identifier: Apache-2.0

package span

import (
	"encoding/binary"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Key is an ir.Value as a number of 128 bits. The zero value is the first key; Last is the last one.
type Key struct{ Hi, Lo uint64 }

// Last returns the last key.
func Last() Key { return Key{^uint64(0), ^uint64(0)} }

// KeyOf returns v as a number. Keys are ordered as values are.
func KeyOf(v ir.Value) Key {
	return Key{binary.BigEndian.Uint64(v[:8]), binary.BigEndian.Uint64(v[8:])}
}

// Value is the inverse of KeyOf.
func (k Key) Value() ir.Value {
	var v ir.Value
	binary.BigEndian.PutUint64(v[:8], k.Hi)
	binary.BigEndian.PutUint64(v[8:], k.Lo)
	return v
}

// Compare orders keys as numbers.
func (k Key) Compare(l Key) int {
	switch {
	case k.Less(l):
		return -1
	case k == l:
		return 0
	}
	return 1
}

// Less reports whether k is before l.
func (k Key) Less(l Key) bool { return k.Hi < l.Hi || k.Hi == l.Hi && k.Lo < l.Lo }

// Next returns the key behind k; the first one behind the last.
func (k Key) Next() Key {
	k.Lo++
	if k.Lo == 0 {
		k.Hi++
	}
	return k
}

// Prev returns the key before k; the last one before the first.
func (k Key) Prev() Key {
	if k.Lo == 0 {
		k.Hi--
	}
	k.Lo--
	return k
}

// And returns the bits that are set in both.
func (k Key) And(m Key) Key { return Key{k.Hi & m.Hi, k.Lo & m.Lo} }

// Or returns the bits that are set in either.
func (k Key) Or(m Key) Key { return Key{k.Hi | m.Hi, k.Lo | m.Lo} }

// Not returns the bits that are not set.
func (k Key) Not() Key { return Key{^k.Hi, ^k.Lo} }

// Byte returns byte i of 16, counted from the most significant one; 0 if there is none.
func (k Key) Byte(i int) byte {
	if i < 8 {
		return byte(k.Hi >> uint(56-8*i))
	}
	return byte(k.Lo >> uint(120-8*i))
}

// WithByte returns k with byte i, which must be zero, set to b.
func (k Key) WithByte(i int, b byte) Key {
	if i < 8 {
		k.Hi |= uint64(b) << uint(56-8*i)
	} else {
		k.Lo |= uint64(b) << uint(120-8*i)
	}
	return k
}

// Mask returns a key whose first n bits are set, as those of a prefix are; n is from 0 to 128.
func Mask(n int) Key {
	const ones = ^uint64(0)
	return Key{^(ones >> uint(n)), ^(ones >> uint(max(n-64, 0)))} // a shift by 64 or more leaves nothing
}

// ByteMask returns a key whose first n bytes are set; n is from 0 to 16.
func ByteMask(n int) Key { return Mask(8 * n) }
