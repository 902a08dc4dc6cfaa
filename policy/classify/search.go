// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"math/bits"

	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// matcher is a Matcher with lookup structures.
type matcher struct {
	words, sumWords, rowPages int
	dims                      []dim
}

type dim struct {
	axis   Axis
	absent uint32
	l4     *l4Lookup
	addr   *addrLookup
	port   *runs16
	point  *pointLookup
	class  []uint32 // by class of the interface
	sums   []uint64
	pages  []uint32
	pool   []uint64
}

func (m *matcher) init(t *Matcher) {
	m.words = max(1, (t.Rules+63)/64)
	m.dims = make([]dim, len(t.Dims))
	for i := range t.Dims {
		td := &t.Dims[i]
		d := &m.dims[i]
		*d = dim{axis: td.Axis, absent: td.Absent, class: td.ByInterface, sums: td.Rows.sums, pages: td.Rows.pages, pool: td.Rows.pool}
		m.sumWords, m.rowPages = td.Rows.sumWords, td.Rows.rowPages
		cuts := make([]cut, len(td.Cuts))
		for j, c := range td.Cuts {
			cuts[j] = cut{span.KeyOf(c.From), c.Class}
		}
		switch td.Axis {
		case L4:
			d.l4 = newL4Lookup(cuts)
		case SrcAddr, DstAddr:
			d.addr = newAddrLookup(cuts)
		case SrcPort:
			d.port = newNumberRuns(cuts)
		case SrcEndpoint, DstEndpoint:
			d.point = newPointLookup(td)
		}
	}
}

// classify looks the packet up in all dimensions.
func (m *matcher) classify(v *view, names *nameClasses, classes *[numAxes]uint32) {
	for i := range m.dims {
		d := &m.dims[i]
		c := d.absent
		switch d.axis {
		case L4:
			c = d.l4.get(v)
		case SrcAddr:
			c = d.addr.get(v.src)
		case DstAddr:
			c = d.addr.get(v.dst)
		case SrcPort:
			if v.ports {
				c = d.port.get(v.sport)
			}
		case InIface:
			c = d.class[v.inClass(names)]
		case OutIface:
			c = d.class[v.outClass(names)]
		case SrcEndpoint:
			if v.ports {
				c = d.point.get(v.src, uint32(v.protocol)<<16|uint32(v.sport))
			}
		case DstEndpoint:
			if v.ports {
				c = d.point.get(v.dst, uint32(v.protocol)<<16|uint32(v.dport))
			}
		}
		classes[i] = c
	}
}

// first returns the first rule at or behind start that the packet matches.
func (m *matcher) first(classes *[numAxes]uint32, start uint32) (uint32, bool) {
	if m.rowPages == 0 {
		x := ^uint64(0) << start
		for i := range m.dims {
			x &= m.dims[i].sums[classes[i]]
		}
		return uint32(bits.TrailingZeros64(x)), x != 0
	}
	word := int(start >> 6)
	for s := word >> 6; s < m.sumWords; s++ {
		sum := ^uint64(0)
		for i := range m.dims {
			sum &= m.dims[i].sums[int(classes[i])*m.sumWords+s]
		}
		if s == word>>6 {
			sum &= ^uint64(0) << (word & 63)
		}
		for sum != 0 {
			w := s<<6 | bits.TrailingZeros64(sum)
			page := w / pageWords
			shift := page * pageWords & 63
			if of := sum >> shift & 0xff; of&(of-1) == 0 {
				// The usual case where rules are selective.
				x := ^uint64(0)
				for i := range m.dims {
					d := &m.dims[i]
					x &= d.pool[int(d.pages[int(classes[i])*m.rowPages+page])+w%pageWords]
				}
				if w == word {
					x &= ^uint64(0) << (start & 63)
				}
				if x != 0 {
					return uint32(w<<6 | bits.TrailingZeros64(x)), true
				}
			} else if i, ok := m.inPage(classes, page, start); ok {
				return i, true
			}
			sum &^= 0xff << shift
		}
	}
	return 0, false
}

// inPage is first in one page. Words that look promising in the summary of a dimension that does not tell much are many
// and mostly empty; all words of a page cost little more than one or two.
func (m *matcher) inPage(classes *[numAxes]uint32, page int, start uint32) (uint32, bool) {
	var x [pageWords]uint64
	for i := range m.dims {
		d := &m.dims[i]
		y := (*[pageWords]uint64)(d.pool[d.pages[int(classes[i])*m.rowPages+page]:])
		if i == 0 {
			x = *y
			continue
		}
		x[0] &= y[0]
		x[1] &= y[1]
		x[2] &= y[2]
		x[3] &= y[3]
		x[4] &= y[4]
		x[5] &= y[5]
		x[6] &= y[6]
		x[7] &= y[7]
	}
	w := 0
	if word := int(start >> 6); word/pageWords == page {
		w = word % pageWords
		x[w] &= ^uint64(0) << (start & 63)
	}
	for ; w < pageWords; w++ {
		if x[w] != 0 {
			return uint32((page*pageWords+w)<<6 | bits.TrailingZeros64(x[w])), true
		}
	}
	return 0, false
}
