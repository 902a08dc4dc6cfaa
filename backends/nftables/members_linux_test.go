// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// TestStoreFollowsChanges compares a store that followed changes with one made of the result.
func TestStoreFollowsChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]ir.SetKind{ir.SetOfPrefixes, ir.SetOfEndpoints}).Draw(t, "kind")
		f := &familySet{set: &render.Set{Kind: kind, Family: rapid.SampledFrom([]inet.Family{inet.IPv4, inet.IPv6}).Draw(t, "family")}}
		f.store = newStore(f.set, nil)
		kernel := map[ir.Element]bool{}
		var members []ir.Element
		for range rapid.IntRange(1, 8).Draw(t, "changes") {
			next := rendertest.Elements(rapid.Uint64().Draw(t, "members"), kind)
			added, removed := ir.DiffElements(members, next)
			before := slices.Clone(f.store.all)
			d := delta{}
			in, out := f.update(added, removed, d)
			if rapid.Bool().Draw(t, "undo") {
				f.update(out, in, delta{})
				if !slices.Equal(f.store.all, before) {
					t.Fatalf("undone: %v instead of %v", f.store.all, before)
				}
				continue
			}
			members = next
			a, r := d.sorted()
			for _, e := range r {
				if !kernel[e] {
					t.Fatalf("%v was not there", e)
				}
				delete(kernel, e)
			}
			for _, e := range a {
				if kernel[e] {
					t.Fatalf("%v was there", e)
				}
				kernel[e] = true
			}
			want := render.Elements(members, kind, f.set.Family)
			if got := f.store.elements(); !slices.Equal(got, want) || len(kernel) != len(want) {
				t.Fatalf("%v instead of %v", got, want)
			}
			if fresh := newStore(f.set, normal(members, f.set)); !slices.Equal(fresh.all, f.store.all) || fresh.lengths != f.store.lengths {
				t.Fatalf("%v instead of %v", f.store.all, fresh.all)
			}
			if added, removed := f.diff(next); len(added)+len(removed) > 0 {
				t.Fatalf("differs by %v %v", added, removed)
			}
		}
	})
}
