// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"encoding/binary"
	"slices"
)

// pageWords is the size of a page: 64 bytes, which is what a cache fetches at once.
const pageWords = 8

// Rows holds one row of bits for each class of a dimension, equal rows once. A row is a summary, with one bit for each
// 64 rules that tells whether any of theirs is set, and a list of pages of 512 bits; rows share pages. So a rule that
// does not ask about the dimension costs next to nothing, and neither does a class that differs from others by few
// rules. With up to 64 rules the summary is the row itself, and there are no pages.
type Rows struct {
	rules    int
	words    int      // of a row
	sumWords int      // of a summary
	rowPages int      // of a row; 0 with up to 64 rules
	sums     []uint64 // sumWords for each row
	pages    []uint32 // rowPages for each row: where in pool the page begins
	pool     []uint64 // pageWords for each page
}

// Len returns the number of rows.
func (r *Rows) Len() int {
	if r.sumWords == 0 {
		return 0
	}
	return len(r.sums) / r.sumWords
}

// Row returns the bits of a class: bit i of word i/64 belongs to rule i.
func (r *Rows) Row(class uint32) []uint64 {
	if r.rowPages == 0 {
		return slices.Clone(r.sums[class : class+1])
	}
	row := make([]uint64, 0, r.rowPages*pageWords)
	for _, at := range r.pages[int(class)*r.rowPages:][:r.rowPages] {
		row = append(row, r.pool[at:at+pageWords]...)
	}
	return row[:r.words]
}

// Summary returns one bit for each word of the row: whether any of its bits is set.
func (r *Rows) Summary(class uint32) []uint64 {
	if r.rowPages == 0 {
		if r.sums[class] == 0 {
			return []uint64{0}
		}
		return []uint64{1}
	}
	return slices.Clone(r.sums[int(class)*r.sumWords:][:r.sumWords])
}

func (r *Rows) bytes() int { return len(r.sums)*8 + len(r.pages)*4 + len(r.pool)*8 }

// rowWriter collects rows. The current row changes word by word; row files it.
type rowWriter struct {
	rows    Rows
	cur     []uint64 // the current row, filled up to whole pages
	sum     []uint64
	pages   []uint32
	dirty   []bool // by page
	touched []int  // the dirty pages
	known   map[string]uint32
	filed   map[[pageWords]uint64]uint32
	key     []byte
}

func newRowWriter(rules int) *rowWriter {
	w := &rowWriter{known: map[string]uint32{}}
	w.rows.rules = rules
	w.rows.words = max(1, (rules+63)/64)
	w.rows.sumWords = (w.rows.words + 63) / 64
	if w.rows.words == 1 {
		w.cur = make([]uint64, 1)
		return w
	}
	w.rows.rowPages = (w.rows.words + pageWords - 1) / pageWords
	w.cur = make([]uint64, w.rows.rowPages*pageWords)
	w.sum = make([]uint64, w.rows.sumWords)
	w.pages = make([]uint32, w.rows.rowPages)
	w.dirty = make([]bool, w.rows.rowPages)
	w.filed = map[[pageWords]uint64]uint32{}
	for p := range w.dirty {
		w.touch(p)
	}
	return w
}

func (w *rowWriter) touch(page int) {
	if !w.dirty[page] {
		w.dirty[page] = true
		w.touched = append(w.touched, page)
	}
}

// set changes a word of the current row.
func (w *rowWriter) set(word int, bits uint64) {
	if w.cur[word] == bits {
		return
	}
	w.cur[word] = bits
	if w.rows.rowPages == 0 {
		return
	}
	w.touch(word / pageWords)
	if m := uint64(1) << (word & 63); bits != 0 {
		w.sum[word>>6] |= m
	} else {
		w.sum[word>>6] &^= m
	}
}

// row files the current row and returns its class.
func (w *rowWriter) row() uint32 {
	if w.rows.rowPages == 0 {
		w.key = binary.LittleEndian.AppendUint64(w.key[:0], w.cur[0])
		id, ok := w.known[string(w.key)]
		if !ok {
			id = uint32(len(w.rows.sums))
			w.known[string(w.key)] = id
			w.rows.sums = append(w.rows.sums, w.cur[0])
		}
		return id
	}
	for _, p := range w.touched {
		w.dirty[p] = false
		page := [pageWords]uint64(w.cur[p*pageWords:])
		at, ok := w.filed[page]
		if !ok {
			at = uint32(len(w.rows.pool))
			w.filed[page] = at
			w.rows.pool = append(w.rows.pool, page[:]...)
		}
		w.pages[p] = at
	}
	w.touched = w.touched[:0]
	w.key = w.key[:0]
	for _, at := range w.pages {
		w.key = binary.LittleEndian.AppendUint32(w.key, at)
	}
	id, ok := w.known[string(w.key)]
	if !ok {
		id = uint32(len(w.rows.pages) / w.rows.rowPages)
		w.known[string(w.key)] = id
		w.rows.pages = append(w.rows.pages, w.pages...)
		w.rows.sums = append(w.rows.sums, w.sum...)
	}
	return id
}

// finish returns what was filed.
func (w *rowWriter) finish() Rows {
	w.rows.sums, w.rows.pages, w.rows.pool = slices.Clip(w.rows.sums), slices.Clip(w.rows.pages), slices.Clip(w.rows.pool)
	return w.rows
}
