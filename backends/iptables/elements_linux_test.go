// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends/iptables"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

const twoSets = `entry normal-in hook/normal-in
set s:n prefixes
set s:p endpoints

block hook/normal-in
  rule src=@s:n -> deny by policy:default/web/ingress[0]
  rule dst.protocol.dport=@s:p -> allow by policy:default/web/ingress[1]
`

// TestFewElements changes members by netlink and reads back what ipset says of them.
func TestFewElements(t *testing.T) {
	p, _, err := ir.Parse(twoSets)
	require.NoError(t, err)
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			b := newBackend(t, iptables.Options{NetNS: newNetns(t).fd(), Variant: v})
			_, err := b.Apply(t.Context(), p, ir.Members{})
			require.NoError(t, err)
			for seed := range uint64(40) {
				m := ir.Members{Sets: []ir.SetMembers{
					{ID: "s:n", Elements: rendertest.Elements(seed, ir.SetOfPrefixes)},
					{ID: "s:p", Elements: rendertest.Elements(seed, ir.SetOfEndpoints)},
				}}
				_, err := b.Apply(t.Context(), p, m)
				require.NoError(t, err)
				st, err := b.Observe(t.Context())
				require.NoError(t, err)
				require.Empty(t, st.Drift, "seed %d", seed)
			}
		})
	}
}

// TestFewElementsAndMany crosses the number from which on ipset is started.
func TestFewElementsAndMany(t *testing.T) {
	p, _, err := ir.Parse(twoSets)
	require.NoError(t, err)
	b := newBackend(t, iptables.Options{NetNS: newNetns(t).fd()})
	_, err = b.Apply(t.Context(), p, ir.Members{})
	require.NoError(t, err)
	for _, n := range []int{256, 0, 257, 1, 2000, 0} {
		var es []ir.Element
		for i := range n {
			es = append(es, ir.Element{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)})
		}
		_, err := b.Apply(t.Context(), p, ir.Members{Sets: []ir.SetMembers{{ID: "s:n", Elements: es}}})
		require.NoError(t, err)
		st, err := b.Observe(t.Context())
		require.NoError(t, err)
		require.Empty(t, st.Drift, "%d elements", n)
	}
}

// TestErrorsNameTheElement makes somebody else take the set away, or fill it.
func TestErrorsNameTheElement(t *testing.T) {
	p, _, err := ir.Parse(strings.Replace(twoSets, "  rule src=@s:n -> deny by policy:default/web/ingress[0]\n", "", 1))
	require.NoError(t, err)
	p.Sets = slices.DeleteFunc(p.Sets, func(s ir.SetDecl) bool { return s.ID == "s:n" })
	m := ir.Members{Sets: []ir.SetMembers{{ID: "s:p", Elements: []ir.Element{{Prefix: netip.MustParsePrefix("10.0.0.1/32"), Protocol: 6, Port: 80}}}}}
	const line = "add hp-4s:p 10.0.0.1,tcp:80"
	for _, tt := range []struct {
		name, want string
		err        unix.Errno
		spoil      []string
	}{
		{"gone", "the set does not exist", unix.ENOENT, []string{"rename hp-4s:p other"}},
		{"full", "the set is full", 4352, []string{"create small hash:net,port maxelem 1", "add small 10.9.9.9,tcp:1", "swap small hp-4s:p"}},
		{"of the other family", "the set does not take such an element", 4097, []string{"create six hash:net,port family inet6", "rename hp-4s:p other", "rename six hp-4s:p"}},
		{"of another type", "", 0, []string{"create nets hash:net,iface", "rename hp-4s:p other", "rename nets hp-4s:p"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNetns(t)
			b := newBackend(t, iptables.Options{NetNS: n.fd(), Variant: iptables.Legacy})
			_, err := b.Apply(t.Context(), p, ir.Members{})
			require.NoError(t, err)
			n.run(t, "", "iptables-legacy", "-F") // nothing uses the set then
			for _, c := range tt.spoil {
				n.run(t, "", append([]string{"ipset"}, strings.Fields(c)...)...)
			}
			_, err = b.Apply(t.Context(), p, m)
			var e *iptables.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, line, e.Line, fmt.Sprint(err))
			require.ErrorContains(t, err, tt.want)
			if tt.err != 0 {
				require.ErrorIs(t, err, tt.err)
			}
		})
	}
}
