// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"math/bits"

	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// The first lines of the memory. Line 0 is the header, and behind it is one line for each hook, by number. Line 1, for
// which there is no hook, says what programs do not need for each packet.
const (
	headFree    = lineCells     // line from which on nothing was ever in use
	headOrigins = lineCells + 1 // cell
	headCount   = lineCells + 2 // of origins

	// Behind the lines of hooks stands the number of the lowest bit of a word, by what lowest makes of it.
	bitsLine = 2 + numHooks
	numHooks = uint32(flow.NormalOut)

	// Behind it is a line with some names of interfaces of which each is a class by itself: the two words of the name and
	// the class. Most packets of a host with few endpoints need no trie for theirs.
	namesLine = bitsLine + 1
	nameCells = 8
	nameClass = 4
	someNames = lineCells / nameCells

	headMagic   = 0  // cell of the header: magic
	headHooks   = 1  // hooks that have an entry, bit 1<<hook
	headEvents  = 2  // Events
	headNoState = 3  // classify.NoState
	headCost    = 4  // nanoseconds of a processor's time that an event uses up, 64 bits; 0 is no limit
	headBurst   = 6  // how many of them may be used at once, 64 bits
	headLists   = 8  // cell of the lines of lists, by number; with the next, all that changes while packets are judged
	headChange  = 9  // low half of the generation's number, which changes at once with the lists
	headNames   = 10 // trie of the names of interfaces, which finds classes instead of cells
	headMap     = 11 // id of the map that the memory is in
	headLines   = 12 // length of the whole
	headZero    = 13 // 0, which the verifier does not know
	headNumber  = 14 // of the memory, 64 bits: that of the generation before its members changed

	magic = 0x38627068 // "hpb8"

	entryFlags   = 0 // flagEntry and so on
	entryDefault = 1 // outcome
	entrySettles = 2
	entryField   = 4 // of Block: 0, or whose interface the dispatch is over
	entryLists   = 5 // of Block: cell of the dispatch
	entryAlways  = 6 // of Always: field and cell
)

// Flags of an entry.
const (
	flagEntry  = 1
	flagAlways = 2
	flagIn     = 4 // asks for the interface that the packet came by
	flagOut    = 8 // and for that by which it leaves
)

// dispatchWidth is the number of cells that a dispatch has for each class of interfaces: one for each state, and some
// that are never read.
const dispatchWidth = 8

// A list is two lines: what to do with a packet, and where to look it up.
const (
	listKind    = 0
	listRules   = 1
	listActions = 2 // cell; four for each action
	listAxes    = 3 // which dimensions there are, bit 1<<axis
	listSums    = 4 // words of the summary of a row
	listPages   = 5 // pages of a row
	listZero    = 6 // 0, 64 bits

	listL4      = 8 // cells of tries by protocol, for both families
	listIn      = 10
	listOut     = 11 // cell of the rows by class
	listOnes    = 15 // cell of a row in which all bits are set
	listSrcEnd  = 12 // table of endpoints: cell of its blocks, shift of hashes, and the row of all others
	listDstEnd  = 20
	listSrc     = 16 // tries of both families
	listDst     = 18
	listSrcPort = 24 // trie, and the row for a packet without ports
	listSize    = 2  // lines

	kindEmpty   = 0 // Undecided
	kindDecided = 1 // by the first action
	kindSearch  = 2
)

// An action is four cells.
const (
	actionOutcome = 0 // and actionLog
	actionNext    = 1
	actionOrigin  = 2 // index plus one
	actionSlot    = 3 // of the counter

	actionLog = 1 << 8
)

// An origin is four cells: its key, and where it counts.
const (
	originCells = 4
	originSlot  = 2
)

// maxProbes is how many slots of a table of endpoints a program looks at.
const maxProbes = 4

// builder fills the memory.
type builder struct {
	blob
	tables  *classify.Tables
	dims    map[dimID]dimension
	lists   []uint32             // lines
	ones    map[[2]uint32]uint32 // rows in which all bits are set, by their size
	counted []uint32             // cells of the actions that have an origin
	keys    []flow.RuleKey
	origins uint32 // cell
}

type dimID struct{ matcher, dim int }

// dimension is where a dimension is in memory.
type dimension struct {
	rows      []uint32 // cells, by class
	sum, page int
	a, b, c   uint32 // what the list holds
}

// build fills the memory of a generation.
func build(t *classify.Tables, p *ir.Program, o Options) (*builder, error) {
	b := &builder{tables: t, dims: map[dimID]dimension{}, ones: map[[2]uint32]uint32{}}
	b.lines(int(namesLine + 1))
	for i := range 64 {
		at := int(deBruijn << i >> 58)
		b.line(bitsLine, 1)[at/4] |= uint32(i) << (8 * (at % 4))
	}
	var cuts []cut
	known := 0
	for i, c := range t.NameCuts() {
		cuts = append(cuts, cut{span.KeyOf(c.First), c.Class})
		if i > 0 && known < someNames && cuts[i-1].from.Hi != 0 && cuts[i-1].from.Next() == cuts[i].from {
			name := b.line(namesLine, 1)[known*nameCells:][:nameCells]
			put64(name, cuts[i-1].from.Hi)
			put64(name[2:], cuts[i-1].from.Lo)
			name[nameClass] = cuts[i-1].to
			known++
		}
	}
	inside, first := between(cuts, key{}, span.Last())
	names := b.trie(inside, first, true)
	b.align(4)
	b.origins = uint32(len(b.cells))
	for i, or := range p.Origins {
		words := [originCells]uint32{originSlot: uint32(i)}
		b.keys = append(b.keys, or.Key())
		put64(words[:], uint64(b.keys[i]))
		b.array(words[:])
	}
	for i := range t.Lists {
		at, err := b.list(&t.Lists[i])
		if err != nil {
			return nil, err
		}
		b.lists = append(b.lists, at)
		if len(b.cells) > maxCells {
			return nil, errTooLarge
		}
	}
	var hooks flow.HookSet
	for i := range t.Entries {
		e := &t.Entries[i]
		if e.Hook < flow.UntrackedIn || e.Hook > flow.NormalOut {
			return nil, fmt.Errorf("ebpf: unknown %s", e.Hook)
		}
		if e.Default > ir.Pass {
			return nil, fmt.Errorf("ebpf: unknown %s", e.Default)
		}
		hooks |= 1 << e.Hook
		var always uint32
		if e.HasAlways {
			always = b.dispatch(&e.Always)
		}
		block := b.dispatch(&e.Block)
		l := b.line(1+uint32(e.Hook), 1)
		l[entryFlags] = flagEntry | b.interfaces(&e.Always) | b.interfaces(&e.Block)
		if e.HasAlways {
			l[entryFlags] |= flagAlways
			l[entryAlways], l[entryAlways+1] = uint32(e.Always.Field), always
		}
		l[entryDefault], l[entrySettles] = uint32(e.Default), uint32(e.Settles)
		l[entryField], l[entryLists] = uint32(e.Block.Field), block
	}
	lists := b.array(b.lists)
	b.align(lineCells)
	used := len(b.cells) / lineCells
	if t.AsksForMembers() {
		b.grow(lineCells * max(minRoom, used/2))
	}
	h := b.line(0, 1)
	h[headMagic], h[headHooks], h[headEvents] = magic, uint32(hooks), uint32(o.Events)
	put64(h[headCost:], o.eventCost())
	put64(h[headBurst:], o.eventCost()*uint64(o.EventBurst))
	h[headNames], h[headLists] = names, lists
	b.cells[headOrigins], b.cells[headCount] = b.origins, uint32(len(p.Origins))
	h[headNoState] = uint32(classify.NoState)
	h[headLines] = uint32(len(b.cells) / lineCells)
	b.cells[headFree] = uint32(used)
	return b, nil
}

// dispatch writes which list speaks for which packets.
func (b *builder) dispatch(d *classify.Dispatch) uint32 {
	b.align(dispatchWidth)
	at := uint32(len(b.cells))
	for _, states := range d.Lists {
		var row [dispatchWidth]uint32
		for s := range row {
			row[s] = states[min(s, classify.NoState)]
		}
		b.array(row[:])
	}
	return at
}

// interfaces returns which interfaces a dispatch and its lists ask for.
func (b *builder) interfaces(d *classify.Dispatch) uint32 {
	of := func(f ir.Field) uint32 {
		switch f {
		case ir.InIface:
			return flagIn
		case ir.OutIface:
			return flagOut
		}
		return 0
	}
	flags := of(d.Field)
	for _, states := range d.Lists {
		for _, l := range states {
			list := &b.tables.Lists[l]
			if list.Decided || len(list.Actions) == 0 {
				continue
			}
			for i := range b.tables.Matchers[list.Matcher].Dims {
				switch b.tables.Matchers[list.Matcher].Dims[i].Axis {
				case classify.InIface:
					flags |= flagIn
				case classify.OutIface:
					flags |= flagOut
				}
			}
		}
	}
	return flags
}

// list writes a list.
func (b *builder) list(l *classify.List) (uint32, error) {
	at := b.lines(listSize)
	b.align(4)
	actions := uint32(len(b.cells))
	for _, a := range l.Actions {
		if a.Outcome > ir.Pass {
			return 0, fmt.Errorf("ebpf: unknown %s", a.Outcome)
		}
		x := uint32(a.Outcome)
		if a.Log {
			x |= actionLog
		}
		slot := noSlot
		if a.Origin != 0 {
			slot = uint32(a.Origin) - 1
			b.counted = append(b.counted, uint32(len(b.cells)))
		}
		b.array([]uint32{x, a.Next, uint32(a.Origin), slot})
	}
	var rec [listSize * lineCells]uint32
	rec[listRules], rec[listActions] = uint32(len(l.Actions)), actions
	switch {
	case l.Decided:
		rec[listKind] = kindDecided
	case len(l.Actions) > 0:
		rec[listKind] = kindSearch
		if err := b.search(rec[:], int(l.Matcher)); err != nil {
			return 0, err
		}
	}
	copy(b.line(at, listSize), rec[:])
	return at, nil
}

// noSlot is the slot of what is not counted.
const noSlot = ^uint32(0)

// search writes the lookups of a matcher.
func (b *builder) search(rec []uint32, matcher int) error {
	m := &b.tables.Matchers[matcher]
	words := max(1, (m.Rules+63)/64)
	if words == 1 {
		rec[listSums], rec[listPages] = 1, 0
	} else {
		pages := (words + pageWords - 1) / pageWords
		rec[listSums], rec[listPages] = uint32(summaryWords(pages)), uint32(pages)
	}
	rec[listOnes] = b.allOnes([2]uint32{rec[listSums], rec[listPages]})
	for i := range m.Dims {
		d, err := b.dimension(dimID{matcher, i}, &m.Dims[i])
		if err != nil {
			return err
		}
		axis := m.Dims[i].Axis
		rec[listAxes] |= 1 << axis
		if d.sum != int(rec[listSums]) || d.page != int(rec[listPages]) {
			return fmt.Errorf("ebpf: rows of a matcher differ in size")
		}
		switch axis {
		case classify.L4:
			rec[listL4], rec[listL4+1] = d.a, d.b
		case classify.SrcAddr:
			rec[listSrc], rec[listSrc+1] = d.a, d.b
		case classify.DstAddr:
			rec[listDst], rec[listDst+1] = d.a, d.b
		case classify.SrcPort:
			rec[listSrcPort], rec[listSrcPort+1] = d.a, d.b
		case classify.InIface:
			rec[listIn] = d.a
		case classify.OutIface:
			rec[listOut] = d.a
		case classify.SrcEndpoint:
			rec[listSrcEnd], rec[listSrcEnd+1], rec[listSrcEnd+2] = d.a, d.b, d.c
		case classify.DstEndpoint:
			rec[listDstEnd], rec[listDstEnd+1], rec[listDstEnd+2] = d.a, d.b, d.c
		}
	}
	return nil
}

// allOnes writes a row in which all bits are set, once. Programs take it for dimensions that are not there.
func (b *builder) allOnes(size [2]uint32) uint32 {
	at, ok := b.ones[size]
	if ok {
		return at
	}
	sums, pages := int(size[0]), int(size[1])
	var line uint32
	if pages > 0 {
		line = b.lines(1)
		for i := range lineCells {
			b.line(line, 1)[i] = ^uint32(0)
		}
	}
	b.align(lineCells)
	row := make([]uint32, 2*sums+pages)
	for i := range row {
		if row[i] = ^uint32(0); i >= 2*sums {
			row[i] = line
		}
	}
	// Bits for pages that are not there would lead behind the row.
	if rest := pages % 64; pages > 0 && rest > 0 {
		put64(row[2*(sums-1):], 1<<rest-1)
	}
	at = b.array(row)
	b.ones[size] = at
	return at
}

// A page holds the bits of 512 rules: one line.
const (
	pageWords = 8
	halfWords = pageWords / 2
	pageShift = 9
)

// summaryWords is how many words the summary of a row has: one bit for each page; the row itself if there are none.
func summaryWords(pages int) int { return max(1, (pages+63)/64) }

// rows writes the rows of a dimension, and returns the cell of each. A row is its summary and the lines of its pages. The
// summary has a bit for each page and not for each word, as that of the tables has: most of the time for a word goes into
// finding its page.
func (b *builder) rows(r classify.RowLayout) []uint32 {
	if r.SumWords == 0 {
		return nil
	}
	n := summaryWords(r.RowPages)
	pool := make(map[uint32]uint32, len(r.Pool)/pageWords)
	if r.RowPages > 0 {
		at := b.lines(len(r.Pool) / pageWords)
		for i := 0; i < len(r.Pool); i += pageWords {
			pool[uint32(i)] = at + uint32(i/pageWords)
		}
		for i, w := range r.Pool {
			put64(b.cells[int(at)*lineCells+2*i:], w)
		}
	}
	size := 2*n + r.RowPages
	if size <= lineCells {
		size = 1 << bits.Len(uint(size-1))
	} else {
		size = (size + lineCells - 1) / lineCells * lineCells
	}
	b.align(lineCells)
	cells := make([]uint32, len(r.Sums)/r.SumWords)
	for c := range cells {
		cells[c] = uint32(len(b.cells))
		b.grow(size)
		row := b.cells[cells[c]:]
		sums := r.Sums[c*r.SumWords:][:r.SumWords]
		if r.RowPages == 0 {
			put64(row, sums[0])
		}
		for i := range r.RowPages {
			if sums[i/8]>>(8*(i%8))&0xff != 0 {
				row[2*(i/64)+i%64/32] |= 1 << (i % 32)
			}
			row[2*n+i] = pool[r.Pages[c*r.RowPages+i]]
		}
	}
	return cells
}

// dimension writes a dimension, once.
func (b *builder) dimension(id dimID, d *classify.Dimension) (dimension, error) {
	if x, ok := b.dims[id]; ok {
		return x, nil
	}
	l := d.Rows.Layout()
	x := dimension{rows: b.rows(l), sum: summaryWords(l.RowPages), page: l.RowPages}
	switch d.Axis {
	case classify.L4:
		x.a, x.b = b.protocols(cutsOf(d, x.rows))
	case classify.SrcPort:
		x.a, x.b = b.numbers(cutsOf(d, x.rows)), x.rows[d.Absent]
	case classify.SrcAddr, classify.DstAddr:
		x.a, x.b = b.addresses(cutsOf(d, x.rows))
	case classify.InIface, classify.OutIface:
		x.a = uint32(len(b.cells))
		for _, c := range d.ByInterface {
			b.array([]uint32{x.rows[c]})
		}
	case classify.SrcEndpoint, classify.DstEndpoint:
		x.a, x.b = b.points(d, x.rows)
		x.c = x.rows[d.Absent]
	default:
		return x, fmt.Errorf("ebpf: %s", d.Axis)
	}
	b.dims[id] = x
	return x, nil
}

// A table of endpoints is a hash table, open addressing, in blocks of up to pointBlock slots, so that a change need not
// write the whole anew. A slot is eight cells: the address, then protocol and port, then the row. An endpoint is in the
// block of its own slot, and no more than maxProbes slots behind it; the first slot of a block is behind its last.
const (
	pointShift = 6
	pointBlock = 1 << pointShift
	pointCells = 8
	minPoints  = 5  // two to this power are slots for endpoints that come later
	maxPoints  = 28 // and no table has more slots than two to this one
	pointPort  = 4
	pointRow   = 5
)

// points writes a table of endpoints: the cell of the lines of its blocks, and how far a hash must be shifted to be a slot.
func (b *builder) points(d *classify.Dimension, rows []uint32) (cell, shift uint32) {
	width := max(minPoints, bits.Len(uint(2*len(d.Points))))
	for ; ; width++ {
		slots := make([]uint32, pointCells<<width)
		if placePoints(slots, width, d, rows) {
			at := b.lines(len(slots) / lineCells)
			copy(b.line(at, len(slots)/lineCells), slots)
			var blocks []uint32
			for i := 0; i < 1<<width; i += pointBlock {
				blocks = append(blocks, at+uint32(i*pointCells/lineCells))
			}
			return b.array(blocks), uint32(64 - width)
		}
	}
}

func placePoints(slots []uint32, width int, d *classify.Dimension, rows []uint32) bool {
	size := min(1<<width, pointBlock)
	for _, p := range d.Points {
		k, port := keyOfAddr(p.Addr), uint32(p.Protocol)<<16|uint32(p.Port)
		at := int(pointHash(k, port) >> (64 - width))
		block := slots[at/size*size*pointCells:][:size*pointCells]
		s := freeSlot(block, at%size)
		if s == nil {
			return false
		}
		put64(s, k.Hi)
		put64(s[2:], k.Lo)
		s[pointPort], s[pointRow] = port, rows[p.Class]
	}
	return true
}

// freeSlot returns an empty slot that can be that of an endpoint whose own one is at; nil if there is none.
func freeSlot(block []uint32, at int) []uint32 {
	n := len(block) / pointCells
	for i := range maxProbes {
		if s := block[(at+i)%n*pointCells:][:pointCells]; s[pointPort] == 0 {
			return s
		}
	}
	return nil
}

// deBruijn has each number of six bits once in its bits.
const deBruijn = uint64(0x03f79d71b4cb0a89)

const (
	hashA = 0x9e3779b97f4a7c15
	hashB = 0xbf58476d1ce4e5b9
	hashC = 0x94d049bb133111eb
)

func pointHash(k key, port uint32) uint64 {
	h := (k.Lo ^ uint64(port)<<32) * hashA
	h = (h ^ h>>29 ^ k.Hi) * hashB
	return (h ^ h>>32) * hashC
}
