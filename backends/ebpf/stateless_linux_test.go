// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/lab/rate"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// TestProgramsAgreeWithTheInterpreter runs the programs for packets before connection tracking without any interface, on
// many rules of many shapes, and compares with what the IR means.
func TestProgramsAgreeWithTheInterpreter(t *testing.T) {
	const n = 700 // more than fit in one page
	for seed := range uint64(3) {
		text, tuples := rate.Mixed(n, seed)
		p, m := rate.Compiled(t, "lo", text)
		out := before(p)
		in := *out
		in.Entries = []ir.Entry{{Hook: flow.UntrackedIn, Block: "endpoint/e/normal-in"}}
		device := newBench(t, render.AtDevice, ir.Canonical(&in), m)
		sent := newBench(t, render.AtUntrackedOut, out, m)
		means, err := ir.NewInterpreter(out, m)
		require.NoError(t, err)
		verdicts := map[flow.Verdict]int{}
		for _, x := range tuples {
			b := x.Packet()
			v, by := means.Verdict(&flow.Packet{
				Path: flow.Output, Out: "lo", Src: x.Src, Dst: netip.AddrFrom4([4]byte(b[16:])), Protocol: inet.Protocol(x.Protocol), SrcPort: x.SrcPort, DstPort: x.DstPort,
			})
			verdicts[v]++
			_, got := sent.run(t, b, 1)
			require.Equal(t, v != flow.Deny, got == 1, "%+v: %s by %s", x, v, by)
			_, got = device.run(t, b, 1)
			require.Equal(t, v == flow.Deny, got == 1, "%+v: %s by %s at the device", x, v, by)
		}
		require.NotZero(t, verdicts[flow.Allow])
		require.NotZero(t, verdicts[flow.Deny])
	}
}

// TestSearchGoesOnInPages has the search go on behind rules that log or pass, in lists of several pages: rules of three
// tiers that most packets leave by a rule which passes them, or by its end.
func TestSearchGoesOnInPages(t *testing.T) {
	for seed := range uint64(2) {
		r := rand.New(rand.NewPCG(seed, 9))
		text, tuples := rate.Mixed(1800, seed)
		tiers := []string{"a", "b", "c"}
		var w strings.Builder
		for i, name := range tiers {
			fmt.Fprintf(&w, "---\napiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: %s}\nspec: {order: %d}\n", name, i)
		}
		for i, doc := range strings.SplitAfter(text, "\n---") {
			tier := tiers[i*len(tiers)/1800]
			doc = strings.Replace(doc, "{name: p", "{name: "+tier+".p", 1)
			doc = strings.Replace(doc, "{order: ", "{tier: "+tier+", order: ", 1)
			switch r.IntN(4) {
			case 0:
				doc = strings.Replace(doc, "action: Deny", "action: Pass", 1)
			case 1:
				doc = strings.Replace(doc, "action: Allow", "action: Log", 1)
			}
			if i == 599 || i == 1199 { // the last of a tier
				doc = strings.Replace(doc, "ingress: [", "ingress: [{action: Pass, source: {notNets: [100.0.0.0/8]}}, ", 1)
			}
			w.WriteString(doc)
		}
		p, m := rate.Compiled(t, "lo", w.String())
		out := before(p)
		x := newBench(t, render.AtUntrackedOut, out, m)
		means, err := ir.NewInterpreter(out, m)
		require.NoError(t, err)
		var verdicts [4]int
		var passed, logged int
		for _, tuple := range tuples {
			b := tuple.Packet()
			e := means.Explain(&flow.Packet{
				Path: flow.Output, Out: "lo", Src: tuple.Src, Dst: netip.AddrFrom4([4]byte(b[16:])), Protocol: inet.Protocol(tuple.Protocol), SrcPort: tuple.SrcPort, DstPort: tuple.DstPort,
			})
			verdicts[e.Verdict]++
			logged += len(e.Logged)
			if e.By.Tier != "a" {
				passed++
			}
			_, got := x.run(t, b, 1)
			require.Equal(t, e.Verdict != flow.Deny, got == 1, "seed %d: %+v: %s by %s", seed, tuple, e.Verdict, e.By)
		}
		require.Greater(t, verdicts[flow.Allow], 100)
		require.Greater(t, verdicts[flow.Deny], 100)
		require.Greater(t, passed, 1000)
		require.Greater(t, logged, 100)
	}
}

// TestDeviceLeavesToTheHookWhatItDoesNotSee sends frames of all kinds to the program at the device: one that drops
// everything that it understands.
func TestDeviceLeavesToTheHookWhatItDoesNotSee(t *testing.T) {
	p, m, err := ir.Parse("entry untracked-in a\nblock a\n  rule protocol=udp dport=7 -> deny by policy:t/p/ingress[0]@untracked\n")
	require.NoError(t, err)
	x := newBench(t, render.AtDevice, p, m)
	udp := rate.Tuple{Src: netip.MustParseAddr("10.0.0.1"), SrcPort: 9, DstPort: 7, Protocol: 17}.Packet()
	with := func(b []byte, change func([]byte)) []byte {
		b = append([]byte(nil), b...)
		change(b)
		return b
	}
	six := func(next byte, rest ...byte) []byte {
		b := make([]byte, 40, 128)
		b[0], b[6], b[7], b[23], b[39] = 0x60, next, 64, 1, 2
		b = append(b, rest...)
		binary.BigEndian.PutUint16(b[4:], uint16(len(rest)))
		return b
	}
	ports := []byte{0, 9, 0, 7, 0, 8, 0, 0}
	tagged := func(kind, tci uint16, b []byte) []byte {
		f := rate.Frame(b)
		out := append([]byte(nil), f[:12]...)
		out = binary.BigEndian.AppendUint16(out, kind)
		out = binary.BigEndian.AppendUint16(out, tci)
		return append(out, f[12:]...)
	}
	for _, c := range []struct {
		name  string
		frame []byte
		drop  bool
	}{
		{"UDP", rate.Frame(udp), true},
		{"another port", rate.Frame(with(udp, func(b []byte) { b[23] = 8 })), false},
		{"UDP over IPv6", rate.Frame(six(17, ports...)), true},
		{"behind extension headers", rate.Frame(six(0, append([]byte{60, 0, 1, 4, 0, 0, 0, 0, 17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, ports...)...)), true},
		{"behind an authentication header", rate.Frame(six(51, append([]byte{17, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0}, ports...)...)), true},
		{"the first fragment", rate.Frame(with(udp, func(b []byte) { b[6] = 0x20 })), false},
		{"a later fragment", rate.Frame(with(udp, func(b []byte) { b[7] = 1 })), false},
		{"an IPv6 fragment", rate.Frame(six(44, append([]byte{17, 0, 0, 1, 0, 0, 0, 1}, ports...)...)), false},
		{"too many extension headers", rate.Frame(six(0, append([]byte{
			0, 0, 1, 4, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0,
			0, 0, 1, 4, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0,
		}, ports...)...)), false},
		{"ports in the padding", rate.Frame(with(udp, func(b []byte) { b[3] = 20 })), false},
		{"a header that ends too early", rate.Frame(udp)[:30], false},
		{"a header that is shorter than itself", rate.Frame(with(udp, func(b []byte) { b[0] = 0x41 })), false},
		{"with options", rate.Frame(with(append(append(append([]byte(nil), udp[:20]...), 1, 1, 1, 1), udp[20:]...), func(b []byte) { b[0], b[3] = 0x46, byte(len(b)) })), true},
		{"of a priority but no VLAN", tagged(0x8100, 0xe000, udp), true},
		{"of a VLAN", tagged(0x8100, 5, udp), false},
		{"of a VLAN of a provider", tagged(0x88a8, 5, udp), false},
		{"no IP", append(make([]byte, 12), 8, 6, 0, 1, 8, 0, 6, 4, 0, 1), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, _, err := x.prog.Benchmark(c.frame, 1, nil)
			require.NoError(t, err)
			require.Equal(t, c.drop, v == 1, "%d", v)
		})
	}
}

// TestHookReadsHeaders sends packets of all kinds to the program of a hook: ports stand behind headers of any length, and
// what ends before them is dropped.
func TestHookReadsHeaders(t *testing.T) {
	p, m, err := ir.Parse("entry untracked-out a\nblock a\n  rule protocol=udp dport=7 -> deny by policy:t/p/egress[0]@untracked\n  rule protocol=icmp icmp-type=8 -> deny by policy:t/p/egress[1]@untracked\n")
	require.NoError(t, err)
	x := newBench(t, render.AtUntrackedOut, p, m)
	udp := rate.Tuple{Src: netip.MustParseAddr("10.0.0.1"), SrcPort: 9, DstPort: 7, Protocol: 17}.Packet()
	header := func(protocol byte, options int, rest ...byte) []byte {
		b := make([]byte, 20+options)
		b[0], b[8], b[9] = 0x45+byte(options/4), 64, protocol
		for i := range options {
			b[20+i] = 1
		}
		b = append(b, rest...)
		b[3] = byte(len(b))
		return b
	}
	for _, c := range []struct {
		name   string
		packet []byte
		drop   bool
	}{
		{"UDP", udp, true},
		{"only the ports", header(17, 0, 0, 9, 0, 7), true},
		{"only other ports", header(17, 0, 0, 9, 0, 8), false},
		{"options", header(17, 4, 0, 9, 0, 7, 0, 8, 0, 0), true},
		{"options that look like ports", header(17, 4, 0, 7, 0, 9, 0, 8, 0, 0), false},
		{"all options", header(17, 40, 0, 9, 0, 7), true},
		{"half of the ports", header(17, 0, 0, 9), true},
		{"no ports", header(17, 0), true},
		{"half of the ports behind options", header(17, 8, 0, 9), true},
		{"echo", header(1, 0, 8, 0), true},
		{"echo reply", header(1, 0, 0, 0), false},
		{"half of the type and code", header(1, 0, 0), true},
		{"another protocol, nothing behind the header", header(47, 0), false},
		{"a header that is shorter than itself", append([]byte{0x44}, udp[1:]...), true},
		{"a header that is longer than the packet", append([]byte{0x4f}, udp[1:28]...), true},
		{"a later fragment", append(append(append([]byte(nil), udp[:6]...), 0, 1), udp[8:]...), true},
		{"no version of IP", append([]byte{0x55}, udp[1:]...), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, v := x.run(t, c.packet, 1)
			require.Equal(t, c.drop, v == 0, "%d", v)
		})
	}
}

// TestNoGenerationDenies runs programs that have nothing to ask. At the device that is not the last word.
func TestNoGenerationDenies(t *testing.T) {
	p, m, err := ir.Parse("entry untracked-in a\nentry untracked-out a\nblock a\n  rule protocol=udp -> allow by policy:t/p/ingress[0]@untracked\n")
	require.NoError(t, err)
	packet := rate.Tuple{Src: netip.MustParseAddr("10.0.0.1"), SrcPort: 9, DstPort: 7, Protocol: 17}.Packet()
	for place, want := range map[render.Place]uint32{render.AtUntrackedOut: 0, render.AtDevice: 2} {
		x := newBench(t, place, p, m)
		_, v := x.run(t, packet, 1)
		require.NotZero(t, v)
		clear(x.memory.bytes[:4]) // it is none any more
		_, v = x.run(t, packet, 1)
		require.Equal(t, want, v, place)
		require.NoError(t, x.maps[render.MapGeneration].Delete(uint32(0)))
		_, v = x.run(t, packet, 1)
		require.Equal(t, want, v, place)
	}
}
