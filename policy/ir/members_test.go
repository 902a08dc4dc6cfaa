// SPDX-License-Identifier: Apache-2.0

package ir_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

func TestIndexOfEndpoints(t *testing.T) {
	a := netip.MustParseAddr("10.0.0.1")
	ix := ir.NewIndex(ir.Members{Sets: []ir.SetMembers{{ID: "n:1", Elements: []ir.Element{
		{Prefix: netip.MustParsePrefix("10.0.0.1/32"), Protocol: inet.TCP, Port: 80}}}}})
	require.True(t, ix.Contains("n:1", a, inet.TCP, 80))
	require.False(t, ix.Contains("n:1", a, inet.UDP, 80))
	require.False(t, ix.Contains("n:1", a, inet.TCP, 81))
	require.False(t, ix.Contains("n:1", a, 0, 0))
	require.False(t, ix.Contains("n:2", a, inet.TCP, 80))
	require.False(t, ix.Contains("n:1", netip.Addr{}, inet.TCP, 80))
}

func TestIndexAgreesWithALinearSearch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ps := rapid.SliceOf(prefixGen()).Draw(t, "prefixes")
		s := ir.SetMembers{ID: "s:1"}
		for _, p := range ps {
			s.Elements = append(s.Elements, ir.Element{Prefix: p})
		}
		ix := ir.NewIndex(ir.Members{Sets: []ir.SetMembers{s}})
		for _, p := range append(ps, prefixGen().Draw(t, "other")) {
			want := false
			for _, q := range ps {
				want = want || q.Contains(p.Addr())
			}
			if ix.Contains("s:1", p.Addr(), 0, 0) != want {
				t.Fatalf("%v in %v is %v", p.Addr(), ps, !want)
			}
		}
	})
}
