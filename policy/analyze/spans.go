// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"encoding/binary"

	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

type key = span.Key

// spanSets numbers lists of spans: equal ones have the same number. 0 is the whole of a field, whichever it is.
type spanSets struct {
	list  [][]span.Span
	known map[string]int32
	buf   []byte
}

func newSpanSets() *spanSets {
	return &spanSets{list: make([][]span.Span, 1), known: map[string]int32{}}
}

// id returns the number of s, which must not change any more.
func (ss *spanSets) id(s []span.Span) int32 {
	ss.buf = ss.buf[:0]
	for _, x := range s {
		for _, n := range [...]uint64{x.Lo.Hi, x.Lo.Lo, x.Hi.Hi, x.Hi.Lo} {
			ss.buf = binary.LittleEndian.AppendUint64(ss.buf, n)
		}
	}
	id, ok := ss.known[string(ss.buf)]
	if !ok {
		id = int32(len(ss.list))
		ss.known[string(ss.buf)] = id
		ss.list = append(ss.list, s)
	}
	return id
}
