// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"crypto/sha256"
	"encoding/binary"
)

// Structure identifies everything in t that does not depend on the members of sets: tables of the same structure and
// the same members give the same answers.
func (t *Tables) Structure() [32]byte {
	h := sha256.New()
	b := make([]byte, 0, 1<<12)
	num := func(ns ...uint32) {
		for _, n := range ns {
			b = binary.LittleEndian.AppendUint32(b, n)
		}
		if len(b) > 1<<11 {
			h.Write(b)
			b = b[:0]
		}
	}
	keys := func(ks ...key) {
		for _, k := range ks {
			num(uint32(k.Hi), uint32(k.Hi>>32), uint32(k.Lo), uint32(k.Lo>>32))
		}
	}
	flag := func(v bool) {
		n := uint32(0)
		if v {
			n = 1
		}
		num(n)
	}
	num(uint32(len(t.names.cuts)))
	keys(t.names.cuts...)
	dispatch := func(d *Dispatch) {
		num(uint32(d.Field), uint32(len(d.Lists)))
		for i := range d.Lists {
			num(d.Lists[i][:]...)
		}
	}
	num(uint32(len(t.Entries)))
	for i := range t.Entries {
		e := &t.Entries[i]
		num(uint32(e.Hook), uint32(e.Default), uint32(e.Settles))
		flag(e.NoTrack)
		flag(e.HasAlways)
		dispatch(&e.Always)
		dispatch(&e.Block)
	}
	num(uint32(len(t.Lists)))
	for i := range t.Lists {
		l := &t.Lists[i]
		num(l.Matcher, uint32(len(l.Actions)))
		flag(l.Decided)
		for _, a := range l.Actions {
			num(uint32(a.Outcome), a.Next, uint32(a.Origin))
			flag(a.Log)
		}
	}
	num(uint32(len(t.rules)))
	for _, rules := range t.rules {
		num(uint32(len(rules)))
		for _, c := range rules {
			num(uint32(c))
		}
	}
	num(uint32(len(t.conjs.list)))
	for _, c := range t.conjs.list {
		for _, d := range c {
			num(uint32(d))
		}
	}
	atoms := t.conjs.atoms
	num(uint32(len(atoms.demands)))
	for _, ids := range atoms.demands {
		num(uint32(len(ids)))
		num(ids...)
	}
	num(uint32(len(atoms.list)))
	for i := range atoms.list {
		x := &atoms.list[i]
		num(uint32(len(x.spans)), uint32(len(x.fixed)), uint32(len(x.names)))
		for _, s := range x.spans {
			keys(s.Lo, s.Hi)
		}
		for _, s := range x.fixed {
			keys(s.Lo, s.Hi)
		}
		for _, n := range x.names {
			flag(n)
		}
		flag(x.absent)
		for _, sets := range [...][]setTest{x.refs, x.sets} {
			num(uint32(len(sets)))
			for _, s := range sets {
				id := string(atoms.declared[s.set])
				num(uint32(len(id)))
				b = append(b, id...)
				flag(s.not)
			}
		}
	}
	h.Write(b)
	return [32]byte(h.Sum(nil))
}
