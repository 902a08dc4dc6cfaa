// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// Compare returns how the memory of a generation differs from a in meaning, wherever things are: Old is what a has, and New
// what the memory has. Numbers of generations and counters may differ. The error says that memory is none.
func (a *Artifact) Compare(memory []byte) ([]Change, error) {
	if _, _, err := ReadOrigins(memory); err != nil {
		return nil, err
	}
	c := comparison{contents: map[string]uint32{}, classes: a.tables.InterfaceClasses()}
	want := c.read(readerOf(a.Memory), len(a.tables.Lists))
	got := c.read(readerOf(memory), len(a.tables.Lists))
	var out []Change
	for i := range want {
		if want[i].content != got[i].content {
			out = append(out, Change{want[i].name, fmt.Sprintf("%d bytes", len(want[i].content)), fmt.Sprintf("%d others", len(got[i].content))})
		}
	}
	return out, nil
}

// comparison turns memory into text that says what it means. Memory of the same meaning gives the same text.
type comparison struct {
	contents map[string]uint32 // numbers of texts that others refer to
	classes  int
}

type meaning struct{ name, content string }

// of numbers a text.
func (c *comparison) of(b []byte) uint32 {
	n, ok := c.contents[string(b)]
	if !ok {
		n = uint32(len(c.contents))
		c.contents[string(b)] = n
	}
	return n
}

// image is one memory under comparison.
type image struct {
	*comparison
	*reader
	rows  map[uint32]uint32 // texts of rows, by cell
	pages map[uint32]uint32
	dims  map[[5]uint32]uint32 // texts of dimensions, by what lists hold of them
}

func (c *comparison) read(r *reader, lists int) []meaning {
	m := &image{comparison: c, reader: r, rows: map[uint32]uint32{}, pages: map[uint32]uint32{}, dims: map[[5]uint32]uint32{}}
	var out []meaning
	add := func(name string, f func() []byte) {
		r.bad = false
		b := f()
		if r.bad {
			b = fmt.Appendf(nil, "damaged in memory of %d cells", len(r.cells))
		}
		out = append(out, meaning{name, string(b)})
	}
	num := binary.LittleEndian.AppendUint32
	head := r.at(0, lineCells)
	add("options", func() (b []byte) {
		for _, i := range [...]int{headHooks, headNoState, headEvents, headCost, headCost + 1, headBurst, headBurst + 1, headZero} {
			b = num(b, head[i])
		}
		return b
	})
	add("bits", func() (b []byte) {
		for _, x := range r.at(bitsLine*lineCells, lineCells) {
			b = num(b, x)
		}
		return b
	})
	add("origins", func() (b []byte) {
		at := r.at(headOrigins, 2)
		for i := range at[1] {
			x := r.at(at[0]+originCells*i, originCells)
			b = num(num(b, x[0]), x[1])
			if r.bad {
				break
			}
		}
		return b
	})
	add("interfaces", func() (b []byte) {
		for _, x := range r.at(namesLine*lineCells, lineCells) {
			b = num(b, x)
		}
		return m.trie(b, head[headNames], v6Trie, func(class uint32) uint32 { return class })
	})
	for _, h := range flow.Hooks {
		add("entry "+h.String(), func() []byte { return m.entry(h, lists) })
	}
	for i := range lists {
		add(fmt.Sprintf("list %d", i), func() []byte { return m.list(r.at(head[headLists]+uint32(i), 1)[0]) })
	}
	return out
}

// trie appends the runs of a trie whose neighbours differ in what of says of their results.
func (m *image) trie(b []byte, root uint32, kind trieKind, of func(uint32) uint32) []byte {
	parts := []span.Span{kind.all}
	if kind == v6Trie { // its programs never ask for what IPv4 has
		parts = []span.Span{{Lo: key{}, Hi: key{Lo: firstMapped.Lo - 1}}, {Lo: key{Lo: lastMapped.Lo + 1}, Hi: span.Last()}}
	}
	last, first := uint32(0), true
	for _, s := range parts {
		m.runs(root, kind, s, func(from key, to uint32) {
			x := of(to)
			if !first && x == last {
				return
			}
			first, last = false, x
			b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, from.Hi), from.Lo)
			b = binary.LittleEndian.AppendUint32(b, x)
		})
	}
	return b
}

func (m *image) entry(h flow.Hook, lists int) []byte {
	num := binary.LittleEndian.AppendUint32
	l := m.at(lineCells*(1+uint32(h)), lineCells)
	var b []byte
	for _, i := range [...]int{entryFlags, entryDefault, entrySettles, entryField, entryAlways} {
		b = num(b, l[i])
	}
	dispatch := func(field, at uint32) {
		n := 1
		if field != 0 {
			n = m.classes
		}
		for _, x := range m.at(at, n*dispatchWidth) {
			if x >= uint32(lists) {
				m.bad = true
			}
			b = num(b, x)
		}
	}
	if l[entryFlags]&flagEntry != 0 {
		dispatch(l[entryField], l[entryLists])
	}
	if l[entryFlags]&flagAlways != 0 {
		dispatch(l[entryAlways], l[entryAlways+1])
	}
	return b
}

func (m *image) list(line uint32) []byte {
	num := binary.LittleEndian.AppendUint32
	rec := m.line(line, listSize)
	var b []byte
	for _, i := range [...]int{listKind, listRules, listAxes, listSums, listPages, listZero, listZero + 1} {
		b = num(b, rec[i])
	}
	for i := range rec[listRules] {
		x := m.at(rec[listActions]+4*i, 4)
		if m.bad {
			return b
		}
		b = num(num(num(b, x[actionOutcome]), x[actionNext]), x[actionOrigin])
	}
	if rec[listKind] != kindSearch {
		return b
	}
	b = num(b, m.row(rec[listOnes], rec[listSums], rec[listPages]))
	for axis := classify.L4; int(axis) < numAxes; axis++ {
		if rec[listAxes]>>axis&1 == 0 {
			continue
		}
		at, n := listPlace(axis)
		id := [5]uint32{uint32(axis), rec[listPages]}
		copy(id[2:], rec[at:at+n])
		text, ok := m.dims[id]
		if !ok {
			text = m.of(m.dimension(axis, rec[at:at+n], rec[listSums], rec[listPages]))
			if m.bad {
				return b
			}
			m.dims[id] = text
		}
		b = num(b, text)
	}
	return b
}

// dimension says what a dimension means.
func (m *image) dimension(axis classify.Axis, v []uint32, sums, pages uint32) []byte {
	num := binary.LittleEndian.AppendUint32
	row := func(at uint32) uint32 { return m.row(at, sums, pages) }
	b := num(nil, uint32(axis))
	switch axis {
	case classify.L4:
		for _, at := range v {
			for _, root := range m.at(at, 256) {
				b = num(m.trie(b, root, lowTrie, row), 0)
			}
		}
		return b
	case classify.SrcPort:
		return m.trie(num(b, row(v[1])), v[0], numbersTrie, row)
	case classify.SrcAddr, classify.DstAddr:
		return m.trie(m.trie(b, v[0], v4Trie, row), v[1], v6Trie, row)
	case classify.InIface, classify.OutIface:
		for _, at := range m.at(v[0], m.classes) {
			b = num(b, row(at))
		}
		return b
	}
	// Endpoints: those that are not as all others, where programs find them.
	width := 64 - int(v[1])
	if width < 1 || width > maxPoints {
		m.bad = true
		return b
	}
	size := min(1<<width, pointBlock)
	others := row(v[2])
	b = num(b, others)
	type point struct {
		addr key
		port uint32
		row  uint32
	}
	var points []point
	for i, at := range m.at(v[0], max(1, 1<<width/pointBlock)) {
		block := m.line(at, size*pointCells/lineCells)
		for s := range size {
			x := block[s*pointCells:][:pointCells]
			k := key{Hi: get64(x), Lo: get64(x[2:])}
			own := int(pointHash(k, x[pointPort]) >> v[1])
			if x[pointPort] == 0 || own/size != i {
				continue
			}
			found := findSlot(block, own%size, k, x[pointPort])
			if found == nil || &found[0] != &x[0] {
				continue // nobody finds it
			}
			if r := row(x[pointRow]); r != others {
				points = append(points, point{k, x[pointPort], r})
			}
		}
	}
	slices.SortFunc(points, func(a, b point) int {
		if a.addr != b.addr {
			if a.addr.Less(b.addr) {
				return -1
			}
			return 1
		}
		return int(a.port) - int(b.port)
	})
	for _, p := range points {
		b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, p.addr.Hi), p.addr.Lo)
		b = num(num(b, p.port), p.row)
	}
	return b
}

// row numbers the text of a row: its summary and the content of its pages.
func (m *image) row(at, sums, pages uint32) uint32 {
	if n, ok := m.rows[at]; ok {
		return n
	}
	num := binary.LittleEndian.AppendUint32
	if sums > maxCells || pages > maxCells {
		m.bad = true
		return 0
	}
	var b []byte
	for _, x := range m.at(at, int(2*sums)) {
		b = num(b, x)
	}
	for _, p := range m.at(at+2*sums, int(pages)) {
		n, ok := m.pages[p]
		if !ok {
			var page []byte
			for _, x := range m.line(p, 1) {
				page = num(page, x)
			}
			n = m.of(page)
			m.pages[p] = n
		}
		b = num(b, n)
	}
	n := m.of(b)
	m.rows[at] = n
	return n
}
