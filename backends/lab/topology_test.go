// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

var testHost = hostendpoint.Host{Node: "host-a", Interfaces: []hostendpoint.Interface{
	{Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("fd00:9::1/64")}},
	{Name: "eth1", Addresses: []netip.Prefix{netip.MustParsePrefix("10.8.0.1/31")}},
	{Name: "cali1"},
}}

func caseOf(t *testing.T, dnat []policytest.DNAT, lines ...string) *policytest.Case {
	c := &policytest.Case{Host: testHost, DNAT: dnat, Forwarding: true}
	for _, l := range lines {
		p, err := policytest.ParsePacket(l, testHost, dnat)
		require.NoError(t, err)
		c.Packets = append(c.Packets, p)
	}
	return c
}

func TestTopologyKnowsWhatToReach(t *testing.T) {
	dnat := []policytest.DNAT{
		{Protocol: 6, To: netip.MustParseAddrPort("10.9.0.1:80"), Becomes: netip.MustParseAddrPort("10.65.0.2:8080")},
		{Protocol: 6, To: netip.MustParseAddrPort("192.0.2.1:80"), Becomes: netip.MustParseAddrPort("10.9.0.7:8080")},
	}
	c := caseOf(t, dnat,
		"input eth0 tcp 10.9.0.2:1 > 10.9.0.1:81",
		"input eth0 udp 10.9.0.2:1 > 224.0.0.251:5353",
		"output eth0 tcp 10.9.0.1:1 > 10.9.0.3:81",
		"output eth0 tcp 10.9.0.1:1 > 192.0.2.1:80",
		"output eth0 udp 10.9.0.1:1 > 10.9.0.255:1",
		"output lo tcp 127.0.0.1:1 > 127.0.0.1:81",
		"forward eth0>cali1 tcp 10.9.0.2:1 > 10.9.0.1:80",
		"forward cali1>eth0 tcp [fd00:65::2]:1 > [fd00:9::2]:80",
	)
	top := newTopology(c)
	require.NoError(t, top.add(c))
	require.Equal(t, map[netip.Addr]string{
		netip.MustParseAddr("10.9.0.3"):  "eth0",
		netip.MustParseAddr("10.9.0.7"):  "eth0",
		netip.MustParseAddr("192.0.2.1"): "eth0",
		netip.MustParseAddr("10.65.0.2"): "cali1",
		netip.MustParseAddr("fd00:9::2"): "eth0",
	}, top.via)
	require.Equal(t, map[group]bool{{netip.MustParseAddr("224.0.0.251"), "eth0"}: true}, top.groups)
}

func TestTopologyTakesACaseWholeOrNotAtAll(t *testing.T) {
	a := caseOf(t, nil, "output eth0 tcp 10.9.0.1:1 > 10.9.0.3:81")
	top := newTopology(a)
	require.NoError(t, top.add(a))
	b := caseOf(t, nil, "output eth1 tcp 10.9.0.1:1 > 10.9.0.4:81", "input eth0 udp 10.9.0.2:1 > 224.0.0.251:5353", "output eth1 tcp 10.9.0.1:1 > 10.9.0.3:81")
	require.ErrorContains(t, top.add(b), "10.9.0.3 is routed to eth1")
	require.Len(t, top.via, 1)
	require.Empty(t, top.groups)
}

func TestSameHost(t *testing.T) {
	a, b := caseOf(t, nil), caseOf(t, nil)
	require.Equal(t, sameHost(a), sameHost(b))
	b.Host.Node = "host-b" // the kernel does not care
	b.Host.Interfaces = []hostendpoint.Interface{testHost.Interfaces[2], testHost.Interfaces[0], testHost.Interfaces[1]}
	require.Equal(t, sameHost(a), sameHost(b))
	b.Forwarding = false
	require.NotEqual(t, sameHost(a), sameHost(b))
	b = caseOf(t, []policytest.DNAT{{Protocol: 6}})
	require.NotEqual(t, sameHost(a), sameHost(b))
	b = caseOf(t, nil)
	b.Host.Interfaces = testHost.Interfaces[:2]
	require.NotEqual(t, sameHost(a), sameHost(b))
}

func TestBroadcast(t *testing.T) {
	for a, want := range map[string]bool{"10.9.0.255": true, "10.9.0.0": false, "10.8.0.1": false, "255.255.255.255": true, "10.9.0.1": false, "ff02::1": false} {
		require.Equal(t, want, isBroadcast(netip.MustParseAddr(a), testHost), a)
	}
	require.Equal(t, netip.MustParseAddr("10.15.255.255"), broadcastOf(netip.MustParsePrefix("10.8.1.2/13")))
}

// Ref: RFC 1112 6.4, RFC 2464 7.
func TestDestinationMAC(t *testing.T) {
	own := [6]byte{2, 0, 0, 1, 0, 0}
	for a, want := range map[string][6]byte{
		"10.9.0.1":        own,
		"10.9.0.255":      {255, 255, 255, 255, 255, 255},
		"224.128.2.3":     {1, 0, 0x5e, 0, 2, 3},
		"ff02::1:ff00:1":  {0x33, 0x33, 0xff, 0, 0, 1},
		"255.255.255.255": {255, 255, 255, 255, 255, 255},
	} {
		require.Equal(t, want, destinationMAC(netip.MustParseAddr(a), own, testHost), a)
	}
}
