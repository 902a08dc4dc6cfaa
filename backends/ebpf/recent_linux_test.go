// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
	render "github.com/hostpolicy/hostpolicy/render/ebpf"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// A program whose two lists ask about all that a packet has, with rules behind which the search goes on, and packets that
// no rule is for.
const manyShapes = `entry untracked-out b always a
block a
  rule src=10.0.0.0/29 dport=7 -> deny by policy:t/p/egress[0]@untracked
  rule src=10.0.0.8/29 protocol=udp log by policy:t/p/egress[1]@untracked
  rule protocol=icmp icmp-type=8 dst=10.0.0.0/28 -> deny by policy:t/p/egress[2]@untracked
  rule protocol=tcp dst=10.0.0.0/27 sport=7 -> allow by policy:t/p/egress[3]@untracked
block b
  rule src=2001::/125 dst!=2001::4 protocol=udp -> allow by policy:t/q/egress[0]@untracked
  rule src.protocol.sport=@n:d -> deny by policy:t/q/egress[1]@untracked
  rule protocol=17 dport=7 dst!=10.0.0.16/28 -> allow by policy:t/q/egress[2]@untracked
  rule protocol=132 -> deny by policy:t/q/egress[3]@untracked
  rule family=6 protocol=icmpv6 icmp-type=128 icmp-code=0 -> allow by policy:t/q/egress[4]@untracked
  rule src=10.0.0.20/30|src=2001::8/126 -> deny by policy:t/q/egress[5]@untracked
set n:d endpoints
members n:d
  10.0.0.3 udp 7
  10.0.0.17 udp 8
  2001::2 tcp 7
`

// manyShapesBench returns that program, its bench and what it means.
func manyShapesBench(t *testing.T) (*ir.Program, *bench, *ir.Interpreter) {
	p, m, err := ir.Parse(manyShapes)
	require.NoError(t, err)
	means, err := ir.NewInterpreter(p, m)
	require.NoError(t, err)
	return p, newBench(t, render.AtUntrackedOut, p, m), means
}

// anyPacket returns a random packet of a small universe, and its bytes.
func anyPacket(r *rand.Rand) (flow.Packet, []byte) {
	f := flow.Packet{Path: flow.Output, Out: "lo", SrcPort: uint16(7 + r.IntN(2)), DstPort: uint16(7 + r.IntN(2))}
	f.Protocol = []inet.Protocol{inet.TCP, inet.UDP, inet.UDP, inet.SCTP, inet.UDPLite, inet.ICMP, 47}[r.IntN(7)]
	if f.Src, f.Dst = netip.AddrFrom4([4]byte{10, 3: byte(r.IntN(32))}), netip.AddrFrom4([4]byte{10, 3: byte(r.IntN(32))}); r.IntN(2) == 0 {
		f.Src, f.Dst = netip.AddrFrom16([16]byte{0x20, 1, 15: byte(r.IntN(16))}), netip.AddrFrom16([16]byte{0x20, 1, 15: byte(r.IntN(16))})
		if f.Protocol == inet.ICMP {
			f.Protocol = inet.ICMPv6
		}
	}
	b := datagram(&f)
	switch f.Protocol {
	case inet.ICMP, inet.ICMPv6:
		f.SrcPort, f.DstPort = 0, 0
		f.ICMPType, f.ICMPCode = []uint8{0, 8, 128}[r.IntN(3)], uint8(r.IntN(2))
		copy(b[len(b)-8:], []byte{f.ICMPType, f.ICMPCode})
	case 47:
		f.SrcPort, f.DstPort = 0, 0
	}
	return f, b
}

// stay keeps the test on one processor, whose lines are its own.
func stay(t *testing.T) {
	runtime.LockOSThread()
	var before, one unix.CPUSet
	require.NoError(t, unix.SchedGetaffinity(0, &before))
	for cpu := 0; one.Count() == 0; cpu++ {
		if before.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	require.NoError(t, unix.SchedSetaffinity(0, &one))
	t.Cleanup(func() {
		if unix.SchedSetaffinity(0, &before) == nil {
			runtime.UnlockOSThread()
		}
	})
}

// counted returns what the counters of all rules hold, in packets.
func (x *bench) counted(t testing.TB, n int) []uint64 {
	out := make([]uint64, n)
	for i := range out {
		var each []counter
		require.NoError(t, x.maps[render.MapCounters].Lookup(uint32(i), &each))
		for _, c := range each {
			out[i] += c.Packets
		}
	}
	return out
}

// recent returns the lines of all processors.
func (x *bench) recent(t testing.TB) (lines [][]byte) {
	for i := range uint32(render.RecentLines) {
		var each [][]byte
		require.NoError(t, x.maps[render.MapRecent].Lookup(i, &each))
		lines = append(lines, each...)
	}
	return lines
}

// TestPacketsAreJudgedAsThoseBefore runs packets again, between others that take their lines, and wants the verdict and
// the counts that the interpreter has each time. Most of them must have been remembered.
func TestPacketsAreJudgedAsThoseBefore(t *testing.T) {
	stay(t)
	p, x, means := manyShapesBench(t)
	r := rand.New(rand.NewPCG(1, 4))
	want := make([]uint64, len(p.Origins))
	verdicts := map[flow.Verdict]int{}
	const packets, again = 8000, 3
	logged := 0
	for range packets {
		f, b := anyPacket(r)
		e := means.Explain(&f)
		verdicts[e.Verdict]++
		for i, o := range p.Origins {
			if o == e.By || slices.Contains(e.Logged, o) {
				want[i] += again
			}
		}
		logged += len(e.Logged)
		for range again {
			_, got := x.run(t, b, 1)
			require.Equal(t, e.Verdict != flow.Deny, got == 1, "%+v: %s", f, e)
		}
	}
	t.Log(verdicts, logged)
	require.Equal(t, want, x.counted(t, len(p.Origins)))
	for _, v := range []flow.Verdict{flow.Allow, flow.Deny, flow.None} {
		require.Greater(t, verdicts[v], 300)
	}
	require.Greater(t, logged, 100)
	var writes uint64
	for _, l := range x.recent(t) {
		require.Zero(t, l[0]&1)
		writes += binary.LittleEndian.Uint64(l) / 2
	}
	// Each packet asks one list or two. Were nothing remembered, each run would write.
	require.Greater(t, writes, uint64(packets/4))
	require.Less(t, writes, uint64(packets*2))
}

// TestIPv6ThatLooksLikeIPv4IsItself runs packets of IPv6 whose addresses are those that stand for IPv4, after the ones of
// IPv4: what is known of these says nothing of those. No flow describes such packets; programs that remember nothing judge.
func TestIPv6ThatLooksLikeIPv4IsItself(t *testing.T) {
	stay(t)
	p, m, err := ir.Parse(manyShapes)
	require.NoError(t, err)
	k, err := kernel()
	require.NoError(t, err)
	x := newBench(t, render.AtUntrackedOut, p, m)
	k.InOrder = false
	plain := newBenchOn(t, k, render.AtUntrackedOut, p, m)
	r := rand.New(rand.NewPCG(3, 4))
	differ := 0
	for range 2000 {
		f, b := anyPacket(r)
		if !f.Src.Is4() || f.Protocol == inet.ICMP {
			continue
		}
		f.Src, f.Dst = netip.AddrFrom16(f.Src.As16()), netip.AddrFrom16(f.Dst.As16())
		_, first := x.run(t, b, 2)
		_, second := x.run(t, datagram(&f), 2)
		_, want := plain.run(t, datagram(&f), 2)
		require.Equal(t, want, second, "%+v", f)
		if first != second {
			differ++
		}
	}
	require.Greater(t, differ, 50)
	require.Equal(t, make([]byte, render.RecentSize), slices.MaxFunc(plain.recent(t), slices.Compare[[]byte]))
}

// TestNothingIsRememberedAcrossGenerations swaps memories that have the same number and are laid out alike, and differ in
// which rule is for a packet.
func TestNothingIsRememberedAcrossGenerations(t *testing.T) {
	stay(t)
	var xs []*bench
	for _, nets := range []string{"10.0.0.0/25 dport=7", "10.0.0.128/25 dport=7"} {
		p, m, err := ir.Parse("entry untracked-out a\nblock a\n  rule dst=" + nets + " protocol=udp -> allow by policy:t/p/egress[0]@untracked\n  rule -> deny by policy:t/p/egress[1]@untracked\n")
		require.NoError(t, err)
		xs = append(xs, newBench(t, render.AtUntrackedOut, p, m))
	}
	f := flow.Packet{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Protocol: inet.UDP, SrcPort: 7, DstPort: 7}
	for i := range 6 {
		require.NoError(t, xs[0].maps[render.MapGeneration].Put(uint32(0), xs[i%2].memory.m))
		_, got := xs[0].run(t, datagram(&f), 3)
		require.Equal(t, i%2 == 0, got == 1)
	}
}

// TestOtherLinesAreLeftAlone has lines which are those of a packet but for one thing, and lead to a wrong rule.
func TestOtherLinesAreLeftAlone(t *testing.T) {
	stay(t)
	_, x, means := manyShapesBench(t)
	r := rand.New(rand.NewPCG(2, 4))
	var fs []flow.Packet
	var bs [][]byte
	for range 500 {
		f, b := anyPacket(r)
		fs, bs = append(fs, f), append(bs, b)
	}
	// run returns how many verdicts were wrong.
	run := func() (wrong int) {
		for i := range fs {
			v, _ := means.Verdict(&fs[i])
			if _, got := x.run(t, bs[i], 1); (v != flow.Deny) != (got == 1) {
				wrong++
			}
		}
		return wrong
	}
	// change does something with each line that was written, and makes its rule another one.
	change := func(what func(l []byte)) {
		const rule = 24
		taken := 0
		for i := range uint32(render.RecentLines) {
			var each [][]byte
			require.NoError(t, x.maps[render.MapRecent].Lookup(i, &each))
			for _, l := range each {
				if binary.LittleEndian.Uint64(l) > 0 {
					taken++
					what(l)
					binary.LittleEndian.PutUint32(l[rule:], binary.LittleEndian.Uint32(l[rule:])+1)
				}
			}
			require.NoError(t, x.maps[render.MapRecent].Update(i, each, ebpf.UpdateAny))
		}
		require.Greater(t, taken, 500)
	}
	require.Zero(t, run())
	for name, at := range map[string]int{
		"number": 8, "map": 12, "port": 16, "protocol": 18, "family": 19, "source port": 20, "list": 28, "source": 40, "destination": 56,
		"source of IPv6": 39, "destination of IPv6": 55,
	} {
		change(func(l []byte) {
			if at%16 < 8 && at > 32 && l[19] == 0 { // not asked of IPv4
				at := at + 8
				l[at] ^= 1
				return
			}
			l[at] ^= 0x80
		})
		require.Zero(t, run(), name)
	}
	// Somebody writes, and never ends.
	change(func(l []byte) { l[0] |= 1 })
	before := x.recent(t)
	require.Zero(t, run())
	for i, l := range x.recent(t) {
		if before[i][0]&1 != 0 {
			require.Equal(t, before[i], l)
		}
	}
	// It is what was changed that matters: lines with another rule alone lead astray.
	change(func(l []byte) { l[0] &^= 1 })
	require.NotZero(t, run())
}

// TestListsThatAskForInterfacesAreNotRemembered has a rule that asks for an interface which its list does not know.
func TestListsThatAskForInterfacesAreNotRemembered(t *testing.T) {
	p, m, err := ir.Parse(`entry untracked-out a
block a
  rule oif=lo protocol=udp iif=eth0 -> deny by policy:t/p/egress[0]@untracked
  rule oif=eth1 -> deny by policy:t/p/egress[1]@untracked
  rule oif=eth2 -> deny by policy:t/p/egress[2]@untracked
  rule protocol=udp dport=7 -> allow by policy:t/p/egress[3]@untracked
`)
	require.NoError(t, err)
	x := newBench(t, render.AtUntrackedOut, p, m)
	f := flow.Packet{Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Protocol: inet.UDP, SrcPort: 7, DstPort: 7}
	_, got := x.run(t, datagram(&f), 3)
	require.EqualValues(t, 1, got)
	for _, l := range x.recent(t) {
		require.Zero(t, binary.LittleEndian.Uint64(l))
	}
}

// TestWritersOfOneLine has programs on all processors share two lines, which is more than they ever do: they have a table
// each. What one reads while others write must not count.
func TestWritersOfOneLine(t *testing.T) {
	k, err := kernel()
	require.NoError(t, err)
	all, err := assemble(&k)
	require.NoError(t, err)
	ins := slices.Clone(all[render.AtUntrackedOut].ins)
	changed := 0
	for i := range ins {
		if ins[i].OpCode.ALUOp() == asm.RSh && ins[i].Constant == int64(64-bits.TrailingZeros(render.RecentLines)) { // the hash becomes a line
			ins[i].Constant = 63
			changed++
		}
	}
	require.Equal(t, 1, changed)
	_, x, means := manyShapesBench(t)
	maps := make(map[string]*ebpf.Map, len(x.maps))
	for name, m := range x.maps {
		maps[name] = m
	}
	shared, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: render.RecentSize, MaxEntries: 2})
	require.NoError(t, err)
	t.Cleanup(func() { shared.Close() })
	maps[render.MapRecent] = shared
	prog, err := load(render.AtUntrackedOut, ins, maps, ebpf.ProgramOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { prog.Close() })
	shares := &bench{prog: prog, maps: maps}

	r := rand.New(rand.NewPCG(1, 9))
	packets, want := make([][]byte, 60), make([]bool, 60)
	for i := range packets {
		var f flow.Packet
		f, packets[i] = anyPacket(r)
		v, _ := means.Verdict(&f)
		want[i] = v != flow.Deny
	}
	var group sync.WaitGroup
	var runs atomic.Int64
	end := time.Now().Add(8 * time.Second)
	for g := range 2 * runtime.NumCPU() {
		group.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 9))
			for time.Now().Before(end) {
				i := r.IntN(len(packets))
				if _, got := shares.run(t, packets[i], 3); want[i] != (got == 1) {
					t.Errorf("packet %x: %d", packets[i], got)
				}
				runs.Add(1)
			}
		})
	}
	group.Wait()
	t.Logf("%d runs", runs.Load())
	for i := range uint32(2) {
		var l []byte
		require.NoError(t, shared.Lookup(i, &l))
		require.NotZero(t, binary.LittleEndian.Uint64(l))
		require.Zero(t, l[0]&1)
	}
}

// TestRememberingChangesNothing runs random programs, one generation after the other, with and without what is remembered:
// verdicts, counts and events are the same, at the device as well, where a packet that is let through counts nowhere.
func TestRememberingChangesNothing(t *testing.T) {
	stay(t)
	k, err := kernel()
	require.NoError(t, err)
	type event struct {
		key        flow.RuleKey
		generation uint64
		kind       flow.Event
	}
	for _, place := range []render.Place{render.AtDevice, render.AtUntrackedIn, render.AtUntrackedOut} {
		var xs [2]*bench
		var events [2]*ringbuf.Reader
		for i := range xs {
			k.InOrder = i == 0
			xs[i] = newBenchOn(t, k, place, &ir.Program{}, ir.Members{})
			events[i], err = ringbuf.NewReader(xs[i].maps[render.MapEvents])
			require.NoError(t, err)
			t.Cleanup(func() { events[i].Close() })
		}
		reported := 0
		for seed := range uint64(60) {
			p, m := rendertest.Program(seed, rendertest.Size{})
			a, err := render.Render(p, m, render.Options{Events: render.AllEvents})
			require.NoError(t, err)
			mem := newGeneration(t, a, seed+2)
			for _, x := range xs {
				require.NoError(t, x.maps[render.MapGeneration].Put(uint32(0), mem.m))
			}
			c := policytest.Generate(seed, policytest.Size{Packets: 40, Policies: 20, Rules: 8})
			for range 3 {
				var got [2][]uint32
				var said [2][]event
				for i, x := range xs {
					for n := range c.Packets {
						_, v := x.run(t, datagram(&c.Packets[n].Packet), 1)
						got[i] = append(got[i], v)
					}
					for {
						events[i].SetDeadline(time.Now().Add(-time.Second))
						r, err := events[i].Read()
						if errors.Is(err, os.ErrDeadlineExceeded) {
							break
						}
						require.NoError(t, err)
						e, ok := decode(r.RawSample)
						require.True(t, ok)
						said[i] = append(said[i], event{e.Key, e.Generation, e.Kind})
					}
				}
				require.Equal(t, got[1], got[0], "seed %d", seed)
				require.Equal(t, said[1], said[0], "seed %d", seed)
				reported += len(said[0])
			}
			require.Equal(t, xs[1].counted(t, len(a.Keys)), xs[0].counted(t, len(a.Keys)), "seed %d", seed)
		}
		t.Logf("%s: %d events", place, reported)
		require.NotZero(t, reported)
		require.True(t, slices.ContainsFunc(xs[0].recent(t), func(l []byte) bool { return l[0] != 0 }))
	}
}
