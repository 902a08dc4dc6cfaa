// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
)

// What no notice says the refresh finds.
func TestRefresh(t *testing.T) {
	ns, nl := testNetns(t)
	m, err := New(Options{Node: "host-a", NetNS: int(ns.Fd()), Refresh: 10 * time.Millisecond})
	require.NoError(t, err)
	m.groups = nil
	told := follow(t, m)
	require.Empty(t, (<-told).Interfaces[0].Addresses)
	lo, err := nl.LinkByName("lo")
	require.NoError(t, err)
	addr, err := netlink.ParseAddr("10.1.1.1/32")
	require.NoError(t, err)
	require.NoError(t, nl.AddrAdd(lo, addr))
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.1.1.1/32")}, (<-told).Interfaces[0].Addresses)
}
