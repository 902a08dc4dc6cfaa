// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
	"github.com/hostpolicy/hostpolicy/render"
)

// Live is the memory of a generation whose members change while packets are judged. A change never touches what a packet
// may be judged by: it writes new versions of what differs into room that the memory has for it, lists included, and
// ends with one number, where programs find the lists. So each packet meets all of a change or nothing of it. Live holds a
// copy of the memory; who has the real one follows with the Delta. It is not safe for concurrent use.
type Live struct {
	blob
	r        reader // of the same cells
	artifact *Artifact
	follower *classify.Follower
	lists    []uint32            // lines, by number
	table    uint32              // cell of them
	matchers [][]int             // lists, by matcher
	dims     map[dimID][3]uint32 // what a list holds of a dimension
	rows     map[string]uint32   // cells of rows that were met, by content
	pages    map[[pageWords]uint64]uint32
	sum      render.ElementSum
}

// Delta is what becomes of the memory with one change. Everything in Cells must be there before Lists is put into its
// cells at once, for packets may follow it from then on.
type Delta struct {
	Cells   []Range // what is new, in cells of four bytes
	Lists   uint64  // what the two cells from ListsCell on get
	Changed int     // members
}

// Range is a run of cells.
type Range struct {
	At   uint32
	Data []uint32 // belongs to the Live, and is valid until its next change
}

// ListsCell is the first of the two cells whose content, 64 bits, a Delta publishes.
const ListsCell = headLists

// ErrNotInPlace is what Live.Change wraps if a change cannot be made in place: a new generation can.
var ErrNotInPlace = errors.New("members cannot change in place")

// Live returns memory that is that of a, stamped, or was made of it by changes in place to the given members. The error
// says that memory is none.
func (a *Artifact) Live(memory []byte, m ir.Members) (*Live, error) {
	if _, _, err := ReadOrigins(memory); err != nil {
		return nil, err
	}
	r := readerOf(memory)
	l := &Live{
		blob: blob{cells: r.cells}, r: *r, artifact: a, follower: a.tables.Follow(m),
		matchers: make([][]int, len(a.tables.Matchers)), dims: map[dimID][3]uint32{},
		rows: map[string]uint32{}, pages: map[[pageWords]uint64]uint32{},
	}
	lines := uint32(len(r.cells) / lineCells)
	l.room = &room{start: r.cells[headFree], next: r.cells[headFree], end: lines}
	if l.room.start > lines {
		return nil, errDamaged
	}
	l.table = r.cells[headLists]
	l.lists = slices.Clone(l.r.at(l.table, len(a.tables.Lists)))
	if l.r.bad {
		return nil, errDamaged
	}
	for i := range a.tables.Lists {
		x := &a.tables.Lists[i]
		if x.Decided || len(x.Actions) == 0 {
			continue
		}
		matcher := int(x.Matcher)
		l.matchers[matcher] = append(l.matchers[matcher], i)
		rec := l.r.line(l.lists[i], listSize)
		for j := range a.tables.Matchers[matcher].Dims {
			at, n := listPlace(a.tables.Matchers[matcher].Dims[j].Axis)
			var v [3]uint32
			copy(v[:], rec[at:at+n])
			l.dims[dimID{matcher, j}] = v
		}
	}
	if l.r.bad {
		return nil, errDamaged
	}
	for _, s := range m.Sets {
		for _, e := range s.Elements {
			l.sum.Add(string(s.ID), e)
		}
	}
	return l, nil
}

// listPlace returns where a list holds what it knows of a dimension, and how many cells that are.
func listPlace(a classify.Axis) (at, n int) {
	switch a {
	case classify.L4:
		return listL4, 2
	case classify.InIface:
		return listIn, 1
	case classify.OutIface:
		return listOut, 1
	case classify.SrcAddr:
		return listSrc, 2
	case classify.DstAddr:
		return listDst, 2
	case classify.SrcPort:
		return listSrcPort, 2
	case classify.SrcEndpoint:
		return listSrcEnd, 3
	}
	return listDstEnd, 3
}

// Members returns the members behind all changes, also behind one that could not be made in place.
func (l *Live) Members() ir.Members { return l.follower.Members() }

// Fingerprint is that of the artifact which the changes amount to.
func (l *Live) Fingerprint() string { return fingerprint(l.artifact.structure, l.sum) }

// Equal reports whether memory is that of l.
func (l *Live) Equal(memory []byte) bool {
	if len(memory) != 4*len(l.cells) {
		return false
	}
	for i, c := range l.cells {
		if binary.LittleEndian.Uint32(memory[4*i:]) != c {
			return false
		}
	}
	return true
}

// InForce reports whether programs that read memory judge by the last version of l, as far as the first line tells.
func (l *Live) InForce(memory []byte) bool {
	if len(memory) != 4*len(l.cells) {
		return false
	}
	for i, c := range l.cells[:lineCells] {
		if binary.LittleEndian.Uint32(memory[4*i:]) != c {
			return false
		}
	}
	return true
}

// Left returns how much of the room there is left, from 0 to 1, without what former versions take.
func (l *Live) Left() float64 {
	return float64(l.room.left()+l.room.stock) / float64(max(1, l.room.end-l.room.start))
}

// SetAside notes what former versions take. When no packet is judged by them any more, Reclaim may be called.
func (l *Live) SetAside() {
	l.room.aside, l.room.retired = append(l.room.aside, l.room.retired...), l.room.retired[:0]
}

// Reclaim makes room of what was set aside.
func (l *Live) Reclaim() { l.room.reclaim() }

// Change changes members, as generation number n; sets that the program does not have are ignored. If the error wraps
// ErrNotInPlace, Members are those behind the change, and l is good for nothing else. Other errors say what is wrong with
// cs, of which nothing is done.
func (l *Live) Change(cs ir.MembersChanges, n uint64) (*Delta, error) {
	if err := l.check(cs); err != nil {
		return nil, err
	}
	l.room.written = l.room.written[:0]
	l.r.cells = l.cells
	d := &Delta{}
	dirty := map[int]bool{}
	var failed error
	for _, c := range cs {
		if !l.follower.Knows(c.ID) {
			continue
		}
		for i, es := range [...][]ir.Element{c.Removed, c.Added} {
			for _, e := range es {
				if i == 0 {
					if !l.follower.Remove(c.ID, e) {
						continue
					}
					l.sum.Remove(string(c.ID), e)
				} else {
					if !l.follower.Add(c.ID, e) {
						continue
					}
					l.sum.Add(string(c.ID), e)
				}
				d.Changed++
				for j := range l.follower.Asks(c.ID) {
					if failed == nil {
						failed = l.member(&l.follower.Asks(c.ID)[j], e, dirty)
					}
				}
			}
		}
	}
	if failed == nil && len(dirty) > 0 {
		l.publish(dirty)
	}
	switch {
	case failed != nil:
	case n>>32 != get64(l.cells[headNumber:])>>32:
		// Programs tell versions of a memory by the lower half of their numbers.
		failed = errors.New("no number left")
	case l.room.full:
		failed = errors.New("no room")
	case l.r.bad:
		failed = errDamaged
	}
	if failed != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotInPlace, failed)
	}
	if len(dirty) > 0 {
		l.cells[headLists], l.cells[headChange] = l.table, uint32(n)
		l.cells[headFree] = l.room.next
		d.Cells = append(d.Cells, Range{headFree, l.cells[headFree:][:1]})
	}
	for _, p := range l.room.written {
		d.Cells = append(d.Cells, Range{p.at * lineCells, l.line(p.at, int(p.n))})
	}
	d.Lists = get64(l.cells[headLists:])
	return d, nil
}

// check returns what a set of the program cannot hold.
func (l *Live) check(cs ir.MembersChanges) error {
	for _, c := range cs {
		i := slices.IndexFunc(l.artifact.sets, func(s ir.SetDecl) bool { return s.ID == c.ID })
		if i < 0 {
			continue
		}
		for _, e := range slices.Concat(c.Removed, c.Added) {
			p, ok := ir.PlainPrefix(e.Prefix)
			endpoints := l.artifact.sets[i].Kind == ir.SetOfEndpoints
			if !ok || p != e.Prefix || endpoints != (e.Protocol != 0) || endpoints && !e.Prefix.IsSingleIP() || !endpoints && e.Port != 0 {
				return fmt.Errorf("ebpf: set %s cannot hold %s", c.ID, e)
			}
		}
	}
	return nil
}

// publish writes the lists whose matchers changed, and where they are.
func (l *Live) publish(dirty map[int]bool) {
	for m, lists := range l.matchers {
		if !dirty[m] {
			continue
		}
		for _, i := range lists {
			at := l.lines(listSize)
			rec := l.line(at, listSize)
			copy(rec, l.line(l.lists[i], listSize))
			for j := range l.artifact.tables.Matchers[m].Dims {
				v := l.dims[dimID{m, j}]
				to, k := listPlace(l.artifact.tables.Matchers[m].Dims[j].Axis)
				copy(rec[to:], v[:k])
			}
			l.room.retire(l.lists[i], listSize)
			l.lists[i] = at
		}
	}
	if l.table%lineCells == 0 {
		l.room.retire(l.table/lineCells, linesFor(len(l.lists)))
	}
	l.table = l.array(l.lists)
}

// member changes a dimension where e, a member that came or went, is asked for.
func (l *Live) member(x *classify.Ask, e ir.Element, dirty map[int]bool) error {
	id := dimID{x.Matcher, x.Dim}
	v, ok := l.dims[id]
	if !ok {
		return nil // no list asks the matcher
	}
	var changed bool
	var err error
	if x.Axis == classify.SrcEndpoint || x.Axis == classify.DstEndpoint {
		changed, err = l.point(x, &v, e)
	} else {
		changed, err = l.prefix(x, &v, e)
	}
	if changed {
		l.dims[id] = v
		dirty[x.Matcher] = true
	}
	return err
}

// prefix changes the tries of a dimension of addresses.
func (l *Live) prefix(x *classify.Ask, v *[3]uint32, e ir.Element) (bool, error) {
	is := ir.AddrPrefix(e.Prefix)
	root, kind := &v[0], v4Trie
	if !e.Prefix.Addr().Is4() {
		root, kind = &v[1], v6Trie
	}
	if len(is) != 1 || len(is) == 1 && !aligned(is[0], e.Prefix.Bits(), kind) {
		return false, errors.New("a prefix around the addresses of IPv4")
	}
	s := span.Of(is[0])
	starts, err := l.follower.Runs(x, is[0].Lo, is[0].Hi)
	if err != nil {
		return false, err
	}
	var old []cut
	l.r.runs(*root, kind, s, func(from key, to uint32) {
		if len(old) <= classify.MaxRuns {
			old = append(old, cut{from, to})
		}
	})
	if l.r.bad {
		return false, errDamaged
	}
	if len(old) > classify.MaxRuns {
		return false, classify.ErrManyRuns
	}
	c := edit{Span: s}
	changed := false
	for i := 0; len(starts) > 0 || i+1 < len(old); {
		var from key
		switch {
		case len(starts) == 0 || i+1 < len(old) && old[i+1].from.Less(span.KeyOf(starts[0])):
			i++
			from = old[i].from
		default:
			from = span.KeyOf(starts[0])
			starts = starts[1:]
			if i+1 < len(old) && old[i+1].from == from {
				i++
			}
		}
		row := l.row(x.Matcher, old[i].to)
		if l.r.bad {
			return false, errDamaged
		}
		l.follower.Address(x, from.Value(), row)
		to := l.rowCell(x.Matcher, old[i].to, row)
		changed = changed || to != old[i].to
		if n := len(c.cuts); n == 0 || c.cuts[n-1].to != to {
			c.cuts = append(c.cuts, cut{from, to})
		}
	}
	if changed {
		*root = l.edit(*root, kind, -1, kind.all, c)
	}
	return changed, nil
}

// aligned reports whether i is all that a prefix says.
func aligned(i ir.Interval, ones int, kind trieKind) bool {
	if !kind.wide {
		ones += 96
	}
	s, m := span.Of(i), span.Mask(ones)
	return s.Lo.And(m) == s.Lo && s.Hi == s.Lo.Or(m.Not())
}

// point changes the table of endpoints of a dimension.
func (l *Live) point(x *classify.Ask, v *[3]uint32, e ir.Element) (bool, error) {
	switch e.Protocol {
	case inet.TCP, inet.UDP, inet.SCTP, inet.UDPLite:
	default:
		return false, nil // a set may say so, but a packet cannot
	}
	width := 64 - int(v[1])
	if width < 1 || width > maxPoints {
		return false, errDamaged
	}
	size := min(1<<width, pointBlock)
	blocks := max(1, 1<<width/pointBlock)
	k, port := keyOfAddr(e.Prefix.Addr()), uint32(e.Protocol)<<16|uint32(e.Port)
	slot := int(pointHash(k, port) >> v[1])
	dir := slices.Clone(l.r.at(v[0], blocks))
	if l.r.bad {
		return false, errDamaged
	}
	old := dir[slot/size]
	lines := size * pointCells / lineCells
	block := slices.Clone(l.r.line(old, lines))
	s := findSlot(block, slot%size, k, port)
	before := v[2]
	if s != nil {
		before = s[pointRow]
	}
	row := l.row(x.Matcher, before)
	if l.r.bad {
		return false, errDamaged
	}
	l.follower.Endpoint(x, e, row)
	after := l.rowCell(x.Matcher, before, row)
	if after == before {
		return false, nil
	}
	if s == nil {
		// What once was a member may be in the way.
		if s = freeSlot(block, slot%size); s == nil {
			if s = staleSlot(block, slot%size, v[2]); s == nil {
				return false, errors.New("a crowded table")
			}
		}
	}
	put64(s, k.Hi)
	put64(s[2:], k.Lo)
	s[pointPort], s[pointRow] = port, after
	at := l.lines(lines)
	copy(l.line(at, lines), block)
	l.room.retire(old, lines)
	if v[0]%lineCells == 0 {
		l.room.retire(v[0]/lineCells, linesFor(blocks))
	}
	dir[slot/size] = at
	v[0] = l.array(dir)
	return true, nil
}

// findSlot returns the slot of an endpoint, as programs look for it.
func findSlot(block []uint32, at int, k key, port uint32) []uint32 {
	n := len(block) / pointCells
	for i := range maxProbes {
		s := block[(at+i)%n*pointCells:][:pointCells]
		if s[pointPort] == 0 {
			return nil
		}
		if s[pointPort] == port && get64(s) == k.Hi && get64(s[2:]) == k.Lo {
			return s
		}
	}
	return nil
}

// staleSlot returns a slot of an endpoint that is what all others are.
func staleSlot(block []uint32, at int, absent uint32) []uint32 {
	n := len(block) / pointCells
	for i := range maxProbes {
		if s := block[(at+i)%n*pointCells:][:pointCells]; s[pointRow] == absent {
			return s
		}
	}
	return nil
}

// shape returns how large the rows of a matcher are.
func (l *Live) shape(matcher int) (sums, pages int) {
	words := max(1, (l.artifact.tables.Matchers[matcher].Rules+63)/64)
	if words == 1 {
		return 1, 0
	}
	pages = (words + pageWords - 1) / pageWords
	return summaryWords(pages), pages
}

// row returns the bits of a row, in whole pages.
func (l *Live) row(matcher int, at uint32) []uint64 {
	sums, pages := l.shape(matcher)
	if pages == 0 {
		return []uint64{get64(l.r.at(at, 2))}
	}
	row := make([]uint64, 0, pages*pageWords)
	for _, p := range l.r.at(at+2*uint32(sums), pages) {
		page := l.r.line(p, 1)
		for w := range pageWords {
			row = append(row, get64(page[2*w:]))
		}
	}
	return row
}

// rowCell returns where a row is that came of the one at old.
func (l *Live) rowCell(matcher int, old uint32, row []uint64) uint32 {
	sums, pages := l.shape(matcher)
	size := 2*sums + pages
	was := l.r.at(old, size)
	l.rows[rowKey(was)] = old
	is := make([]uint32, size)
	if pages == 0 {
		put64(is, row[0])
	}
	for p := range pages {
		content := [pageWords]uint64(row[p*pageWords:])
		line := was[2*sums+p]
		if l.page(line) != content {
			var ok bool
			l.pages[l.page(line)] = line
			if line, ok = l.pages[content]; !ok {
				line = l.lines(1)
				for w, x := range content {
					put64(l.line(line, 1)[2*w:], x)
				}
				l.pages[content] = line
			}
		}
		is[2*sums+p] = line
		if content != ([pageWords]uint64{}) {
			is[2*(p/64)+p%64/32] |= 1 << (p % 32)
		}
	}
	k := rowKey(is)
	at, ok := l.rows[k]
	if !ok {
		at = l.array(is)
		l.rows[k] = at
	}
	return at
}

func (l *Live) page(line uint32) (x [pageWords]uint64) {
	cells := l.r.line(line, 1)
	for w := range x {
		x[w] = get64(cells[2*w:])
	}
	return x
}

func rowKey(cells []uint32) string {
	k := make([]byte, 0, 4*len(cells))
	for _, c := range cells {
		k = binary.LittleEndian.AppendUint32(k, c)
	}
	return string(k)
}
