// SPDX-License-Identifier: Apache-2.0

package ebpf

import "math/bits"

// room is the part of a memory that was empty at first: where changes of members go.
type room struct {
	start, next, end uint32          // lines; nothing from next on was ever in use
	free             map[int][]piece // by length
	retired          []piece         // packets may still be judged by what is there
	aside            []piece         // likewise, but less and less
	written          []piece         // since the last publication
	stock            int             // lines in free
	full             bool            // something had no place
}

// piece is a run of lines.
type piece struct{ at, n uint32 }

// minRoom is how many lines there are at least for changes of members.
const minRoom = 1 << 13

func linesFor(cells int) int { return (cells + lineCells - 1) / lineCells }

// rounded returns the length of the piece that n lines get: a power of two, so that other things fit in there later.
func rounded(n int) int { return 1 << bits.Len(uint(n-1)) }

// left returns how many lines can be had at once.
func (r *room) left() int { return int(r.end - r.next) }

// take returns the first of n lines, which are empty. If there are none, they are behind the end of the memory.
func (b *blob) take(n int) uint32 {
	r := b.room
	n = rounded(n)
	var at uint32
	switch stock := r.free[n]; {
	case len(stock) > 0:
		at = stock[len(stock)-1].at
		r.free[n] = stock[:len(stock)-1]
		r.stock -= n
		clear(b.line(at, n))
	case r.left() >= n:
		at = r.next
		r.next += uint32(n)
	default:
		r.full = true
		at = uint32(len(b.cells) / lineCells)
		b.grow(n * lineCells)
		return at
	}
	r.written = append(r.written, piece{at, uint32(n)})
	return at
}

// retire gives lines back that no new version needs. Those that were there from the beginning stay.
func (r *room) retire(at uint32, n int) {
	if at >= r.start && at < r.end {
		r.retired = append(r.retired, piece{at, uint32(rounded(n))})
	}
}

// reclaim makes free what was set aside.
func (r *room) reclaim() {
	if r.free == nil {
		r.free = map[int][]piece{}
	}
	for _, p := range r.aside {
		r.free[int(p.n)] = append(r.free[int(p.n)], p)
		r.stock += int(p.n)
	}
	r.aside = r.aside[:0]
}
