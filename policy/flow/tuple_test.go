// SPDX-License-Identifier: Apache-2.0

package flow_test

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

const (
	v4 = "45000028000100004006" + "0000" + "0a090002" + "0a090001"
	v6 = "60000000" + "0014" + "%02x" + "40" + "fd000000000000000000000000000002" + "fd000000000000000000000000000001"
)

func TestReadTuple(t *testing.T) {
	ports := "9c4001bb"
	for _, c := range []struct{ name, packet, want string }{
		{"TCP over IPv4", v4 + ports, "tcp 10.9.0.2:40000 > 10.9.0.1:443"},
		{"options are skipped", "46" + v4[2:] + "01010101" + ports, "tcp 10.9.0.2:40000 > 10.9.0.1:443"},
		{"a later fragment has no ports", "450000280001" + "0003" + v4[16:] + ports, "tcp 10.9.0.2:0 > 10.9.0.1:0"},
		{"ports are cut off", v4 + "9c40", "tcp 10.9.0.2:0 > 10.9.0.1:0"},
		{"a header that is shorter than itself", "41" + v4[2:] + ports, "tcp 10.9.0.2:0 > 10.9.0.1:0"},
		{"ICMP", "4500001c000100004001" + v4[20:] + "0800", "icmp 8/0 10.9.0.2 > 10.9.0.1"},
		{"ICMPv6 over IPv4 has no type", "4500001c00010000403a" + v4[20:] + "0800", "proto 58 10.9.0.2 > 10.9.0.1"},
		{"GRE", "4500001c00010000402f" + v4[20:] + "0800", "proto 47 10.9.0.2 > 10.9.0.1"},
		{"UDP over IPv6", fmt.Sprintf(v6, 17) + ports, "udp [fd00::2]:40000 > [fd00::1]:443"},
		{"ICMPv6", fmt.Sprintf(v6, 58) + "8700", "icmp6 135/0 fd00::2 > fd00::1"},
		{"extension headers", fmt.Sprintf(v6, 0) + "3c00000000000000" + "3301000000000000" + "00000000" + "00000000" + "060100000000000000000000" + ports, "tcp [fd00::2]:40000 > [fd00::1]:443"},
		{"the first IPv6 fragment", fmt.Sprintf(v6, 44) + "1100000100000001" + ports, "udp [fd00::2]:40000 > [fd00::1]:443"},
		{"a later IPv6 fragment", fmt.Sprintf(v6, 44) + "1100001100000001" + ports, "udp [fd00::2]:0 > [fd00::1]:0"},
		{"an extension header that is cut off", fmt.Sprintf(v6, 60) + "11ff", "proto 60 fd00::2 > fd00::1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := hex.DecodeString(c.packet)
			require.NoError(t, err)
			got, ok := flow.ReadTuple(b)
			require.True(t, ok)
			require.Equal(t, c.want, got.String())
		})
	}
	for _, s := range []string{"", "45", v4[:38], "6000", "f5" + v4[2:]} {
		b, err := hex.DecodeString(s)
		require.NoError(t, err)
		_, ok := flow.ReadTuple(b)
		require.False(t, ok, s)
	}
	require.Empty(t, flow.Tuple{}.String())
}

func TestTupleOfAPacketHoldsWhatItsProtocolHas(t *testing.T) {
	p := flow.Packet{Path: flow.Input, In: "eth0", Protocol: inet.ICMP, Src: netip.MustParseAddr("10.9.0.2"), Dst: netip.MustParseAddr("10.9.0.1"), SrcPort: 1, ICMPType: 8}
	require.Equal(t, "icmp 8/0 10.9.0.2 > 10.9.0.1", p.Tuple().String())
	require.Zero(t, p.Tuple().SrcPort)
}

func FuzzReadTuple(f *testing.F) {
	for _, s := range []string{v4 + "9c4001bb", fmt.Sprintf(v6, 0) + "3c00000000000000" + "0601"} {
		b, err := hex.DecodeString(s)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, ok := flow.ReadTuple(b)
		if ok != (p != flow.Tuple{}) && ok != p.Src.IsValid() {
			t.Fatalf("%v %v", p, ok)
		}
		if ok && (!p.Src.IsValid() || !p.Dst.IsValid() || p.Src.Is4() != p.Dst.Is4()) {
			t.Fatalf("half a tuple: %v", p)
		}
	})
}
