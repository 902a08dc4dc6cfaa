// SPDX-License-Identifier: Apache-2.0

package classify

// RowLayout is how Rows keep their bits, for those who copy them elsewhere. The slices belong to the Rows and must not be
// changed. A row of class c is, with up to 64 rules, the word Sums[c]; otherwise its summary is
// Sums[c*SumWords:][:SumWords], and its pages begin at Pool[i], eight words each, for i in
// Pages[c*RowPages:][:RowPages].
type RowLayout struct {
	SumWords int // of a row
	RowPages int // of a row; 0 with up to 64 rules
	Sums     []uint64
	Pages    []uint32
	Pool     []uint64
}

// Layout returns how r keeps its bits.
func (r *Rows) Layout() RowLayout {
	return RowLayout{r.sumWords, r.rowPages, r.sums, r.pages, r.pool}
}

// NameCut begins a run of interface names of one class, in the order of their bytes. Class is that of names that an
// interface can have.
type NameCut struct {
	First [16]byte
	Class uint32
}

// NameCuts returns the classes of InterfaceClass as cuts: the class of a name that an interface can have is that of the
// last cut at or below it, filled with zeros. The first cut is at zero. A packet without the interface has class 0.
func (t *Tables) NameCuts() []NameCut {
	cuts := make([]NameCut, len(t.names.cuts))
	for i, k := range t.names.cuts {
		cuts[i] = NameCut{k.Value(), uint32(1 + 2*i)}
	}
	return cuts
}
