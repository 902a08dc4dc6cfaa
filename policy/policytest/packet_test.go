// SPDX-License-Identifier: Apache-2.0

package policytest_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

var addr = netip.MustParseAddr

var testHost = hostendpoint.Host{Node: "host-a", Interfaces: []hostendpoint.Interface{
	{Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("fd00:9::1/64")}},
	{Name: "eth1", Addresses: []netip.Prefix{netip.MustParsePrefix("10.8.0.1/24"), netip.MustParsePrefix("10.8.0.16/28")}},
	{Name: "cali1"},
}}

var testDNAT = []policytest.DNAT{
	{Protocol: inet.TCP, To: netip.MustParseAddrPort("10.9.0.1:32010"), Becomes: netip.MustParseAddrPort("10.8.0.2:8055")},
	{Protocol: inet.TCP, To: netip.MustParseAddrPort("10.9.0.9:80"), Becomes: netip.MustParseAddrPort("10.8.0.2:8055")},
	{Protocol: inet.UDP, To: netip.MustParseAddrPort("192.0.2.1:53"), Becomes: netip.MustParseAddrPort("10.8.0.2:53")},
}

func TestParsePacket(t *testing.T) {
	for _, x := range []struct {
		line string
		want policytest.Packet
	}{
		{
			"input eth0 tcp 10.9.0.2:40000 > 10.9.0.1:443",
			policytest.Packet{Packet: flow.Packet{Path: flow.Input, In: "eth0", Protocol: inet.TCP, Src: addr("10.9.0.2"), Dst: addr("10.9.0.1"), SrcPort: 40000, DstPort: 443}},
		},
		{
			"  forward eth0>eth1\ticmp 8/0 10.9.0.2 > 10.8.0.2   related  deny   tier:default/ingress@forward # why",
			policytest.Packet{
				Packet: flow.Packet{Path: flow.Forward, In: "eth0", Out: "eth1", Protocol: inet.ICMP, Src: addr("10.9.0.2"), Dst: addr("10.8.0.2"), ICMPType: 8, State: flow.Related},
				Asked:  true, Want: flow.Deny, By: flow.Origin{Kind: flow.OriginTier, Tier: "default", Stage: flow.StageForward},
			},
		},
		{
			"output eth0 udp [fd00:9::1]:53 > [fd00:9::2]:5353 established none",
			policytest.Packet{
				Packet: flow.Packet{Path: flow.Output, Out: "eth0", Protocol: inet.UDP, Src: addr("fd00:9::1"), Dst: addr("fd00:9::2"), SrcPort: 53, DstPort: 5353, State: flow.Established},
				Asked:  true, Want: flow.None,
			},
		},
		{
			"local cali1 proto 253 10.65.0.2 > 10.9.0.1 allow",
			policytest.Packet{Packet: flow.Packet{Path: flow.Local, In: "cali1", Protocol: 253, Src: addr("10.65.0.2"), Dst: addr("10.9.0.1")}, Asked: true, Want: flow.Allow},
		},
		{ // neighbour discovery is untracked
			"input eth0 icmp6 135/0 fd00:9::2 > fd00:9::1",
			policytest.Packet{Packet: flow.Packet{Path: flow.Input, In: "eth0", Protocol: inet.ICMPv6, Src: addr("fd00:9::2"), Dst: addr("fd00:9::1"), ICMPType: 135, State: flow.Untracked}},
		},
		{ // unless it is said not to be
			"input eth0 icmp6 135/0 fd00:9::2 > fd00:9::1 new",
			policytest.Packet{Packet: flow.Packet{Path: flow.Input, In: "eth0", Protocol: inet.ICMPv6, Src: addr("fd00:9::2"), Dst: addr("fd00:9::1"), ICMPType: 135}},
		},
		{ // ICMP's number over IPv6 is a protocol like any other
			"input eth0 proto 1 fd00:9::2 > fd00:9::1",
			policytest.Packet{Packet: flow.Packet{Path: flow.Input, In: "eth0", Protocol: inet.ICMP, Src: addr("fd00:9::2"), Dst: addr("fd00:9::1")}},
		},
		{
			"forward eth0>eth1 tcp 10.9.0.2:1 > 10.9.0.1:32010",
			policytest.Packet{Packet: flow.Packet{
				Path: flow.Forward, In: "eth0", Out: "eth1", Protocol: inet.TCP, Src: addr("10.9.0.2"), Dst: addr("10.9.0.1"), SrcPort: 1, DstPort: 32010,
				NATDst: netip.MustParseAddrPort("10.8.0.2:8055"), DstLocal: true,
			}},
		},
		{ // what belongs to no flow is not translated
			"input eth0 tcp 10.9.0.2:1 > 10.9.0.1:32010 invalid",
			policytest.Packet{Packet: flow.Packet{
				Path: flow.Input, In: "eth0", Protocol: inet.TCP, Src: addr("10.9.0.2"), Dst: addr("10.9.0.1"), SrcPort: 1, DstPort: 32010, State: flow.Invalid,
			}},
		},
		{
			"output eth1 tcp 10.9.0.1:1 > 10.9.0.9:80",
			policytest.Packet{Packet: flow.Packet{
				Path: flow.Output, Out: "eth1", Protocol: inet.TCP, Src: addr("10.9.0.1"), Dst: addr("10.9.0.9"), SrcPort: 1, DstPort: 80,
				NATDst: netip.MustParseAddrPort("10.8.0.2:8055"), RouteOut: "eth0",
			}},
		},
		{
			"output eth1 tcp 10.9.0.1:1 > 10.9.0.1:32010",
			policytest.Packet{Packet: flow.Packet{
				Path: flow.Output, Out: "eth1", Protocol: inet.TCP, Src: addr("10.9.0.1"), Dst: addr("10.9.0.1"), SrcPort: 1, DstPort: 32010,
				NATDst: netip.MustParseAddrPort("10.8.0.2:8055"), RouteOut: "lo", DstLocal: true,
			}},
		},
		{ // no network of the host contains the service address
			"output eth1 udp 10.8.0.1:1 > 192.0.2.1:53",
			policytest.Packet{Packet: flow.Packet{
				Path: flow.Output, Out: "eth1", Protocol: inet.UDP, Src: addr("10.8.0.1"), Dst: addr("192.0.2.1"), SrcPort: 1, DstPort: 53,
				NATDst: netip.MustParseAddrPort("10.8.0.2:53"),
			}},
		},
	} {
		t.Run(x.line, func(t *testing.T) {
			got, err := policytest.ParsePacket(x.line, testHost, testDNAT)
			require.NoError(t, err)
			require.Empty(t, cmp.Diff(x.want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.IgnoreFields(policytest.Packet{}, "Text")))
			again, err := policytest.ParsePacket(got.String(), testHost, testDNAT)
			require.NoError(t, err)
			again.Text = got.Text
			require.Equal(t, got, again)
		})
	}
}

func TestParsePacketRefuses(t *testing.T) {
	for line, reason := range map[string]string{
		"": "needs a path",
		"sideways eth0 tcp 1.1.1.1:1 > 2.2.2.2:2": "unknown path",
		"input": "needs an interface",
		"input eth0>eth1 tcp 1.1.1.1:1 > 2.2.2.2:2": "one name for the others",
		"forward eth0 tcp 1.1.1.1:1 > 2.2.2.2:2":    "want IN>OUT",
		"forward eth0> tcp 1.1.1.1:1 > 2.2.2.2:2":   "want IN>OUT",
		"input eth0":                                            "needs a protocol",
		"input eth0 gre 1.1.1.1 > 2.2.2.2":                      "want tcp, udp",
		"input eth0 tcp 1.1.1.1 > 2.2.2.2":                      "not an ip:port",
		"input eth0 tcp 1.1.1.1:1 2.2.2.2:2":                    "want >",
		"input eth0 tcp 1.1.1.1:1 >":                            "needs a destination",
		"input eth0 tcp 1.1.1.1:1 > [::1]:2":                    "two families",
		"input eth0 tcp 1.1.1.1:65536 > 2.2.2.2:2":              "invalid port",
		"input eth0 tcp [::ffff:1.1.1.1]:1 > [::2]:2":           "IPv4-mapped",
		"input eth0 tcp [fe80::1%eth0]:1 > [fe80::2]:2":         "zone",
		"input eth0 icmp 8 1.1.1.1 > 2.2.2.2":                   "want TYPE/CODE",
		"input eth0 icmp 8/256 1.1.1.1 > 2.2.2.2":               "want TYPE/CODE",
		"input eth0 icmp 8/0 ::1 > ::2":                         "write proto 1",
		"input eth0 icmp6 128/0 1.1.1.1 > 2.2.2.2":              "write proto 58",
		"input eth0 proto 6 1.1.1.1 > 2.2.2.2":                  "write tcp",
		"input eth0 proto 1 1.1.1.1 > 2.2.2.2":                  "write icmp",
		"input eth0 proto 300 1.1.1.1 > 2.2.2.2":                "up to 255",
		"input eth0 tcp 1.1.1.1:1 > 2.2.2.2:2 maybe":            "unknown verdict",
		"input eth0 tcp 1.1.1.1:1 > 2.2.2.2:2 allow rule":       "not an origin",
		"input eth0 tcp 1.1.1.1:1 > 2.2.2.2:2 allow workload x": `unexpected "x"`,
	} {
		t.Run(line, func(t *testing.T) {
			_, err := policytest.ParsePacket(line, testHost, nil)
			require.ErrorIs(t, err, policytest.ErrPacket)
			require.ErrorContains(t, err, reason)
		})
	}
}

func TestFormatPacketIsTheInverseOfParsePacket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawPacket(t)
		got, err := policytest.ParsePacket(policytest.FormatPacket(&want), hostendpoint.Host{}, nil)
		require.NoError(t, err)
		require.Equal(t, want, got.Packet)
	})
}

func drawPacket(t *rapid.T) flow.Packet {
	p := flow.Packet{
		Path:  flow.Path(rapid.IntRange(1, 4).Draw(t, "path")),
		State: flow.ConnState(rapid.IntRange(0, 4).Draw(t, "state")),
	}
	name := rapid.StringMatching(`[a-zA-Z0-9_.@-]{1,15}`)
	if p.Path != flow.Output {
		p.In = name.Draw(t, "in")
	}
	if p.Path == flow.Output || p.Path == flow.Forward {
		p.Out = name.Draw(t, "out")
	}
	v4 := rapid.Bool().Draw(t, "v4")
	p.Src, p.Dst = drawAddr(t, v4), drawAddr(t, v4)
	p.Protocol = inet.Protocol(rapid.OneOf(rapid.Uint8(), rapid.SampledFrom([]uint8{1, 6, 17, 58, 132, 136})).Draw(t, "protocol"))
	switch {
	case p.Protocol.HasPorts() || p.Protocol == inet.UDPLite:
		p.SrcPort, p.DstPort = rapid.Uint16().Draw(t, "sport"), rapid.Uint16().Draw(t, "dport")
	case p.Protocol == inet.ICMP && v4, p.Protocol == inet.ICMPv6 && !v4:
		p.ICMPType, p.ICMPCode = rapid.Uint8().Draw(t, "type"), rapid.Uint8().Draw(t, "code")
	}
	return p
}

func drawAddr(t *rapid.T, v4 bool) netip.Addr {
	if v4 {
		return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "addr")))
	}
	b := [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "addr"))
	b[0] |= 1 // not IPv4-mapped
	return netip.AddrFrom16(b)
}

func FuzzParsePacket(f *testing.F) {
	for _, s := range []string{
		"input eth0 tcp 10.9.0.2:40000 > 10.9.0.1:443 established allow policy:security/web/ingress[0]",
		"forward eth0>cali1 icmp6 135/0 fe80::1 > ff02::1 none no-endpoint",
		"output lo proto 253 127.0.0.1 > 127.0.0.1 invalid deny # comment",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		p, err := policytest.ParsePacket(line, testHost, testDNAT)
		if err != nil {
			require.ErrorIs(t, err, policytest.ErrPacket)
			return
		}
		again, err := policytest.ParsePacket(p.String(), testHost, testDNAT)
		require.NoError(t, err)
		require.Equal(t, p.String(), again.String())
		again.Text = p.Text
		require.Equal(t, p, again)
	})
}

func TestRouteOut(t *testing.T) {
	for a, want := range map[string]string{
		"10.9.0.1": "lo", "127.3.4.5": "lo", "::1": "lo", "10.9.0.2": "eth0", "10.8.0.2": "eth1", "10.8.0.17": "eth1", "fd00:9::7": "eth0", "192.0.2.1": "",
	} {
		require.Equal(t, want, policytest.RouteOut(addr(a), testHost), a)
	}
}

func ExampleParsePacket() {
	host := hostendpoint.Host{Node: "host-a", Interfaces: []hostendpoint.Interface{
		{Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24")}},
	}}
	p, err := policytest.ParsePacket("input eth0 tcp 10.9.0.2:40000 > 10.9.0.1:443 established", host, nil)
	if err != nil {
		panic(err)
	}
	fmt.Println(p.Protocol, p.Dst, p.DstPort, p.State)
	fmt.Println(policytest.FormatPacket(&p.Packet))
	// Output:
	// tcp 10.9.0.1 443 established
	// input eth0 tcp 10.9.0.2:40000 > 10.9.0.1:443 established
}
