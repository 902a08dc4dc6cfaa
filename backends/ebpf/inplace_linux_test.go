// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// TestMembersInPlaceAgreeWithTheInterpreter changes members under a program, and runs it on packets of both families from
// and to addresses in a small universe after each change, and on some of those before it once more.
func TestMembersInPlaceAgreeWithTheInterpreter(t *testing.T) {
	p, m, err := ir.Parse(`entry untracked-out a
block a
  rule src=@s:a dst=@s:b -> deny by policy:t/p/ingress[0]
  rule src!=@s:a src=@s:c -> allow by policy:t/p/ingress[1]
  rule dst=@s:a protocol!=udp|src=@s:c|dst=198.51.100.0/24,2001:db8:ff::/48 src!=10.0.0.0/30 -> deny by policy:t/p/ingress[2]
  rule dst.protocol.dport=@n:d -> allow by policy:t/p/ingress[3]
  rule src.protocol.sport!=@n:d dst=@s:c -> deny by policy:t/p/ingress[4]
  rule src=@s:b|src=10.0.0.2/31 -> allow by policy:t/p/ingress[5]
  rule -> deny by policy:t/p/ingress[6]
set n:d endpoints
set s:a prefixes
set s:b prefixes
set s:c prefixes
members n:d
members s:a
members s:b
members s:c
`)
	require.NoError(t, err)
	x := newBench(t, render.AtUntrackedOut, p, m)
	a, err := render.Render(p, m, render.Options{})
	require.NoError(t, err)
	live, err := a.Live(x.memory.bytes, m)
	require.NoError(t, err)
	r := rand.New(rand.NewPCG(4, 2))
	address := func() netip.Addr {
		if r.IntN(2) == 0 {
			return netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(2)), byte(r.IntN(4))})
		}
		return netip.AddrFrom16([16]byte{0x20, 1, 13: byte(r.IntN(2)), 15: byte(r.IntN(4))})
	}
	element := func(id ir.SetID) ir.Element {
		a := address()
		if id == "n:d" {
			return ir.Element{Prefix: netip.PrefixFrom(a, a.BitLen()), Protocol: inet.UDP, Port: uint16(7 + r.IntN(2))}
		}
		bits := a.BitLen() - [...]int{0, 0, 1, 2, 8, 9, 17, 24}[r.IntN(8)]
		return ir.Element{Prefix: netip.PrefixFrom(a, bits).Masked()}
	}
	verdicts := map[flow.Verdict]int{}
	anew := 0
	var seen []flow.Packet
	for step := range 400 {
		n := ir.Members{Sets: slices.Clone(m.Sets)}
		i := r.IntN(len(n.Sets))
		es := slices.Clone(n.Sets[i].Elements)
		if len(es) > 0 && r.IntN(5) < 2 {
			k := r.IntN(len(es))
			es = slices.Delete(es, k, k+1)
		} else {
			es = append(es, element(n.Sets[i].ID))
		}
		n.Sets[i].Elements = es
		n = n.Canonical()
		d, err := live.Change(ir.DiffMembers(m, n), uint64(step+2))
		m = n
		if errors.Is(err, render.ErrNotInPlace) {
			anew++
			a, err = render.Render(p, m, render.Options{})
			require.NoError(t, err)
			x = newBench(t, render.AtUntrackedOut, p, m)
			live, err = a.Live(x.memory.bytes, m)
			require.NoError(t, err)
			continue
		}
		require.NoError(t, err)
		x.memory.change(d)
		if step%3 == 0 {
			live.SetAside()
			live.Reclaim()
		}
		means, err := ir.NewInterpreter(p, m)
		require.NoError(t, err)
		for i := range 60 {
			f := flow.Packet{Path: flow.Output, Out: "lo", Src: address(), Protocol: inet.UDP, SrcPort: uint16(7 + r.IntN(2)), DstPort: uint16(7 + r.IntN(2))}
			for f.Dst = address(); f.Dst.Is4() != f.Src.Is4(); f.Dst = address() {
			}
			// Half of them came before the change, too.
			if seen = append(seen, f); i < 30 && len(seen) > 60 {
				f = seen[len(seen)-60]
			}
			v, by := means.Verdict(&f)
			verdicts[v]++
			_, got := x.run(t, datagram(&f), 1)
			require.Equal(t, v != flow.Deny, got == 1, "step %d: %+v: %s by %s", step, f, v, by)
		}
	}
	t.Logf("%v, %d changes anew", verdicts, anew)
	require.Less(t, anew, 20)
	require.Greater(t, verdicts[flow.Allow], 1000)
	require.Greater(t, verdicts[flow.Deny], 1000)
}

// datagram returns the UDP packet that f describes.
func datagram(f *flow.Packet) []byte {
	udp := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, f.SrcPort), f.DstPort)
	udp = append(udp, 0, 8, 0, 0)
	if f.Src.Is4() {
		b := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, byte(f.Protocol), 0, 0}
		return slices.Concat(b, f.Src.AsSlice(), f.Dst.AsSlice(), udp)
	}
	b := []byte{0x60, 0, 0, 0, 0, 8, byte(f.Protocol), 64}
	return slices.Concat(b, f.Src.AsSlice(), f.Dst.AsSlice(), udp)
}
