// SPDX-License-Identifier: Apache-2.0

package analyze

import (
	"encoding/binary"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// paths are those that differ: Local meets the hooks of Input.
var paths = [...]flow.Path{flow.Input, flow.Output, flow.Forward}

var families = [...]inet.Family{inet.IPv4, inet.IPv6}

// spot is a place, and which names it stands for.
type spot struct {
	in, out, route int // indices of kinds
	states         States
	local, other   bool // Translated: where the destination before NAT may be
}

// group are the places at which packets meet the same lists.
type group struct {
	place
	spots []spot
}

// places divides the packets of all programs.
type places struct {
	sides   []*side
	in, out []kind // of names, by role
	groups  []group
	index   map[string]int
	sig     []byte
}

// newPlaces returns all places, those at which the programs' lists are the same together. Filter leaves some out.
func newPlaces(sides []*side, filter func(*place, *places, spot) bool) *places {
	ps := &places{sides: sides, index: map[string]int{}}
	rs := regions(sides)
	ps.in = kinds(rs, ps.signature(ir.InIface, classify.InIface))
	ps.out = kinds(rs, ps.signature(ir.OutIface, classify.OutIface))
	none := []kind{{}}
	for _, path := range paths {
		ins, outs := ps.in, ps.out
		switch path {
		case flow.Input:
			outs = none
		case flow.Output:
			ins = none
		}
		for i, in := range ins {
			for o, out := range outs {
				for st := flow.New; st <= flow.Untracked; st++ {
					pl := place{path: path, in: in.class, out: out.class, state: st}
					sp := spot{in: i, out: o, states: 1 << st}
					if filter == nil || filter(&pl, ps, sp) {
						ps.add(pl, sp)
					}
				}
			}
		}
	}
	return ps
}

// signature returns what tells names apart in one role.
func (ps *places) signature(f ir.Field, axis classify.Axis) func(kindClass) string {
	atoms := make([]map[uint32]bool, len(ps.sides))
	for n, s := range ps.sides {
		atoms[n] = map[uint32]bool{}
		for _, c := range s.plain.Conds {
			for _, id := range c[axis] {
				atoms[n][id] = true
			}
		}
	}
	return func(c kindClass) string {
		var sig []byte
		for n, s := range ps.sides {
			for _, h := range flow.Hooks {
				e := s.entries[h]
				if e == nil {
					continue
				}
				for _, d := range [...]*classify.Dispatch{&e.Always, &e.Block} {
					if d.Field != f {
						continue
					}
					for _, l := range d.Lists[c[n]] {
						sig = binary.LittleEndian.AppendUint32(sig, l)
					}
				}
			}
			for id := range s.plain.Atoms {
				if !atoms[n][uint32(id)] {
					continue
				}
				if s.plain.Atoms[id].Names[c[n]] {
					sig = append(sig, 1)
				} else {
					sig = append(sig, 0)
				}
			}
		}
		return string(sig)
	}
}

// add divides a place by what NAT does and files the parts.
func (ps *places) add(pl place, sp spot) {
	if !ps.feelsNAT(&pl) {
		ps.file(pl, sp)
		return
	}
	pl.nat = Untranslated
	ps.file(pl, sp)
	pl.nat = Translated
	switch pl.path {
	case flow.Forward:
		for _, local := range [...]bool{false, true} {
			pl.local, sp.local, sp.other = local, local, !local
			ps.file(pl, sp)
		}
	case flow.Output:
		sp.local, sp.other = true, true
		for r, k := range ps.out {
			pl.route, sp.route = k.class, r
			ps.file(pl, sp)
		}
	default:
		sp.local, sp.other = true, true
		ps.file(pl, sp)
	}
}

// feelsNAT reports whether a hook before NAT may ask for the destination, or takes packets out of NAT. Where none does, a
// translated packet fares like one that was sent to where it goes.
func (ps *places) feelsNAT(pl *place) bool {
	for n, s := range ps.sides {
		b := &builder{s: s, n: n, pl: pl}
		for _, h := range pl.path.Hooks() {
			e := s.entries[h]
			if e == nil || !beforeNAT(h) {
				continue
			}
			if pl.path == flow.Output {
				return true // it may see another interface
			}
			for _, d := range [...]*classify.Dispatch{&e.Always, &e.Block} {
				if d == &e.Always && !e.HasAlways {
					continue
				}
				t := s.traits[b.listIndex(d, h, machine{})]
				if t.dst || t.allows && e.NoTrack {
					return true
				}
			}
			if e.Default == ir.Allow && e.NoTrack {
				return true
			}
		}
	}
	return false
}

// file puts a place to those that meet the same lists.
func (ps *places) file(pl place, sp spot) {
	ps.sig = append(ps.sig[:0], byte(pl.path), byte(pl.nat))
	if pl.local {
		ps.sig = append(ps.sig, 1)
	}
	for n, s := range ps.sides {
		b := &builder{s: s, n: n, pl: &pl}
		hooks := pl.path.Hooks()
		if pl.path == flow.Forward && pl.nat == Translated && pl.local {
			hooks = append(slices.Clone(hooks), flow.NormalIn)
		}
		for _, h := range hooks {
			e := s.entries[h]
			if e == nil {
				continue
			}
			for _, untracked := range [...]bool{false, true} {
				m := machine{untracked: untracked}
				if h == flow.NormalIn && pl.path == flow.Forward {
					m.local = true
				}
				for _, d := range [...]*classify.Dispatch{&e.Always, &e.Block} {
					if d == &e.Always && !e.HasAlways {
						continue
					}
					l := b.listIndex(d, h, m)
					ps.sig = binary.LittleEndian.AppendUint32(ps.sig, l)
					in, out := b.ifaces(h, m)
					if s.traits[l].in {
						ps.sig = binary.LittleEndian.AppendUint32(ps.sig, uint32(in))
					}
					if s.traits[l].out {
						ps.sig = binary.LittleEndian.AppendUint32(ps.sig, uint32(out))
					}
				}
			}
		}
	}
	g, ok := ps.index[string(ps.sig)]
	if !ok {
		g = len(ps.groups)
		ps.index[string(ps.sig)] = g
		ps.groups = append(ps.groups, group{place: pl})
	}
	ps.groups[g].spots = append(ps.groups[g].spots, sp)
}
