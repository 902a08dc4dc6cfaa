// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"encoding/binary"
	"errors"
	"slices"
)

// The memory of a generation is one array of lines of 64 bytes, as large as what a cache fetches at once. Programs
// address it by line, or by cell of four bytes; nothing that is read at once crosses a line. Numbers are little endian.
const (
	lineSize  = 64
	lineCells = lineSize / 4

	// The map of a generation holds chunks of so many lines. Programs read the first one, which nearly always is the
	// whole, without the help of the kernel.
	chunkShift = 16
	chunkLines = 1 << chunkShift
)

// maxCells bounds the memory: an address must leave a bit free for the mark of a node.
const maxCells = 1 << 28

var errTooLarge = errors.New("tables are larger than a gigabyte")

// blob is memory under construction. With a room, nothing is appended, but what is new goes there.
type blob struct {
	cells []uint32
	room  *room
}

// lines appends n empty lines and returns the number of the first.
func (b *blob) lines(n int) uint32 {
	if b.room != nil {
		return b.take(n)
	}
	b.align(lineCells)
	at := len(b.cells)
	b.grow(n * lineCells)
	return uint32(at / lineCells)
}

func (b *blob) grow(n int) {
	if len(b.cells)+n > cap(b.cells) {
		b.cells = slices.Grow(b.cells, max(n, cap(b.cells))) // twice as much, so that little is copied
	}
	b.cells = b.cells[:len(b.cells)+n] // fresh memory is zero, and nothing is ever taken back
}

// align makes the next cell one whose number n divides.
func (b *blob) align(n int) {
	if r := len(b.cells) % n; r != 0 {
		b.grow(n - r)
	}
}

// array appends numbers and returns the cell of the first.
func (b *blob) array(xs []uint32) uint32 {
	if b.room != nil {
		at := b.take(linesFor(len(xs))) * lineCells
		copy(b.cells[at:], xs)
		return at
	}
	at := len(b.cells)
	b.grow(len(xs))
	copy(b.cells[at:], xs)
	return uint32(at)
}

// line returns the cells of n lines from the given one on, to be written.
func (b *blob) line(at uint32, n int) []uint32 {
	return b.cells[int(at)*lineCells:][:n*lineCells]
}

func put64(cells []uint32, v uint64) { cells[0], cells[1] = uint32(v), uint32(v>>32) }

// bytes returns the memory in whole lines.
func (b *blob) bytes() ([]byte, error) {
	b.align(lineCells)
	if len(b.cells) > maxCells {
		return nil, errTooLarge
	}
	out := make([]byte, 4*len(b.cells))
	for i, c := range b.cells {
		binary.LittleEndian.PutUint32(out[4*i:], c)
	}
	return out, nil
}
