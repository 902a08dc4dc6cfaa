// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/ipv4"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// drawPacket draws a packet that can be made.
func drawPacket(t *rapid.T) flow.Packet {
	ps := policytest.Generate(rapid.Uint64Range(0, 5).Draw(t, "seed"), policytest.Size{}).Packets
	return ps[rapid.IntRange(0, len(ps)-1).Draw(t, "packet")].Packet
}

func TestPacketsSayWhatTheyAre(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, id := drawPacket(t), rapid.Uint32().Draw(t, "id")
		whole, err := packets(&p, id, false)
		require.NoError(t, err)
		require.Len(t, whole, 1)
		who, ok := readSighting(whole[0])
		require.True(t, ok)
		require.Equal(t, sighting{id: id, src: p.Src, protocol: p.Protocol, head: [2]byte(whole[0][headerLen(p):])}, who)

		// Fragments, put together, are the same packet.
		parts, err := packets(&p, id, true)
		require.NoError(t, err)
		require.Len(t, parts, 2)
		body := whole[0][headerLen(p):]
		var together []byte
		for i, part := range parts {
			offset, more, data := fragment(t, p, part)
			require.Equal(t, len(together), offset)
			require.Equal(t, i == 0, more)
			require.NotEmpty(t, data)
			together = append(together, data...)
		}
		require.Equal(t, body, together)
	})
}

func headerLen(p flow.Packet) int {
	if p.Src.Is4() {
		return 20
	}
	return 40
}

func fragment(t *rapid.T, p flow.Packet, b []byte) (offset int, more bool, data []byte) {
	if p.Src.Is4() {
		h, err := ipv4.ParseHeader(b)
		require.NoError(t, err)
		require.Equal(t, uint16(0xffff), sum16(0, b[:20]))
		return h.FragOff * 8, h.Flags&ipv4.MoreFragments != 0, b[20:]
	}
	require.Equal(t, byte(44), b[6])
	require.Equal(t, byte(p.Protocol), b[40])
	require.Equal(t, len(b)-40, int(binary.BigEndian.Uint16(b[4:])))
	f := binary.BigEndian.Uint16(b[42:])
	return int(f &^ 7), f&1 != 0, b[48:]
}

func TestChecksumsAreRightUnlessTheyMustNotBe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPacket(t)
		whole, err := packets(&p, 7, false)
		require.NoError(t, err)
		body := whole[0][headerLen(p):]
		switch {
		case p.Protocol == inet.ICMP:
			require.Equal(t, uint16(0xffff), sum16(0, body))
		case p.Protocol == inet.TCP, p.Protocol == inet.UDP, p.Protocol == inet.ICMPv6:
			require.Equal(t, uint16(0xffff), sum16(pseudo(&p, len(body)), body))
		case p.Protocol == inet.SCTP:
			without := slices.Clone(body)
			clear(without[8:12])
			require.Equal(t, crc32.Checksum(without, crc32.MakeTable(crc32.Castagnoli)), binary.LittleEndian.Uint32(body[8:]))
		}
	})
	// An echo request can only be invalid by its checksum.
	p := flow.Packet{Path: flow.Input, Protocol: inet.ICMP, ICMPType: 8, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), State: flow.Invalid}
	b, err := packets(&p, 7, false)
	require.NoError(t, err)
	require.NotEqual(t, uint16(0xffff), sum16(0, b[0][20:]))
}

// RFC 9260 gives no example; the value is that of RFC 3720 B.4 for 32 bytes of zeros.
func TestCRC32C(t *testing.T) {
	require.Equal(t, uint32(0x8a9136aa), crc32c(make([]byte, 32)))
}

func TestSightingsOfOthersAreNone(t *testing.T) {
	p := flow.Packet{Path: flow.Input, Protocol: inet.UDP, Src: netip.MustParseAddr("fd00::1"), Dst: netip.MustParseAddr("fd00::2")}
	b, err := packets(&p, 7, false)
	require.NoError(t, err)
	good := b[0]
	for n := range len(good) {
		_, ok := readSighting(good[:n])
		require.False(t, ok, "%d bytes", n)
	}
	other := slices.Clone(good)
	other[len(other)-8]++
	_, ok := readSighting(other)
	require.False(t, ok)
	other = slices.Clone(good)
	other[0] = 0x50
	_, ok = readSighting(other)
	require.False(t, ok)
}

func FuzzReadSighting(f *testing.F) {
	p := flow.Packet{Path: flow.Input, Protocol: inet.UDP, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2")}
	b, err := packets(&p, 7, false)
	require.NoError(f, err)
	f.Add(b[0])
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := readSighting(b)
		require.Equal(t, ok, s.src.IsValid())
	})
}
