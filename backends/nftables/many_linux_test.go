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

// Many changes at once come to the same as one after the other.
func TestManyChangesAtOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]ir.SetKind{ir.SetOfPrefixes, ir.SetOfEndpoints}).Draw(t, "kind")
		set := &render.Set{Kind: kind, Family: rapid.SampledFrom([]inet.Family{inet.IPv4, inet.IPv6}).Draw(t, "family")}
		draw := func(name string) []ir.Element { return rendertest.Elements(rapid.Uint64().Draw(t, name), kind) }
		members := draw("members")
		one := &familySet{set: set, store: newStore(set, normal(members, set))}
		many := &familySet{set: set, store: newStore(set, normal(members, set))}
		added, removed := draw("added"), draw("removed")
		d := delta{}
		in, out := one.update(added, removed, d)
		more, less := d.sorted()
		in2, out2, more2, less2 := many.changeMany(added, removed)
		if !slices.Equal(one.store.all, many.store.all) || one.store.lengths != many.store.lengths || !slices.Equal(more, more2) || !slices.Equal(less, less2) {
			t.Fatalf("%v %v %v instead of %v %v %v", many.store.all, more2, less2, one.store.all, more, less)
		}
		sorted := func(es []ir.Element) []ir.Element { return slices.SortedFunc(slices.Values(es), ir.CompareElements) }
		if !slices.Equal(sorted(in), in2) || !slices.Equal(sorted(out), out2) {
			t.Fatalf("%v %v instead of %v %v", in2, out2, in, out)
		}
	})
}
