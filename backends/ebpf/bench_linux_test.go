// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends/lab/rate"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// BPF_PROG_TEST_RUN runs programs without interfaces: packets come by the loopback interface of the namespace.

// bench is a program with a generation.
type bench struct {
	prog   *ebpf.Program
	memory *memory
	maps   map[string]*ebpf.Map
}

// newBench loads the program at a place with the generation of p.
func newBench(t testing.TB, place render.Place, p *ir.Program, m ir.Members) *bench {
	k, err := kernel()
	require.NoError(t, err)
	return newBenchOn(t, k, place, p, m)
}

func newBenchOn(t testing.TB, k render.Kernel, place render.Place, p *ir.Program, m ir.Members) *bench {
	all, err := assemble(&k)
	require.NoError(t, err)
	x := &bench{maps: map[string]*ebpf.Map{}}
	for name, spec := range mapSpecs(Options{Counters: 1 << 15, Buffer: 1 << 16}, &render.Kernel{InOrder: true}) {
		x.maps[name], err = ebpf.NewMap(spec)
		require.NoError(t, err)
		t.Cleanup(func() { x.maps[name].Close() })
	}
	x.prog, err = load(place, all[place].ins, x.maps, ebpf.ProgramOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { x.prog.Close() })
	a, err := render.Render(p, m, render.Options{})
	require.NoError(t, err)
	x.memory = newGeneration(t, a, 1)
	require.NoError(t, x.maps[render.MapGeneration].Put(uint32(0), x.memory.m))
	return x
}

// newGeneration returns the memory of generation n, which counts origin i at slot i.
func newGeneration(t testing.TB, a *render.Artifact, n uint64) *memory {
	m, err := newMemory(len(a.Memory))
	require.NoError(t, err)
	t.Cleanup(m.close)
	copy(m.bytes, a.Memory)
	slots := make([]uint32, len(a.Keys))
	for i := range slots {
		slots[i] = uint32(i)
	}
	a.Stamp(m.bytes, m.id, n, slots)
	return m
}

// before moves the normal policy of arriving packets to the hook before connection tracking, where programs need no
// connection, and to the way out: test runs of netfilter programs know no other interface.
func before(p *ir.Program) *ir.Program {
	q := *p
	q.Entries = []ir.Entry{{Hook: flow.UntrackedOut, Block: "hook/test"}}
	lo, _ := ir.Name("lo")
	q.Blocks = append(slices.Clone(p.Blocks), ir.Block{ID: "hook/test", Steps: []ir.Step{
		ir.Switch{Key: []ir.Field{ir.OutIface}, Cases: []ir.Case{{Key: []ir.Interval{ir.Exactly(lo)}, Then: ir.Target{Block: "endpoint/e/normal-in"}}}},
	}})
	return ir.Canonical(&q)
}

// testRun is the argument of BPF_PROG_TEST_RUN, of which the library returns no time if there is a context.
type testRun struct {
	prog, retval          uint32
	sizeIn, sizeOut       uint32
	in, out               uintptr
	repeat, duration      uint32
	ctxSizeIn, ctxSizeOut uint32
	ctxIn, ctxOut         uintptr
	flags, cpu, batch, _  uint32
}

// run returns the time of one run, and what the program said of an IP packet, which a netfilter program sees as sent by
// this host to the loopback interface.
func (x *bench) run(t testing.TB, packet []byte, repeat int) (time.Duration, uint32) {
	if x.prog.Type() == ebpf.XDP {
		packet = rate.Frame(packet)
	}
	a := testRun{prog: uint32(x.prog.FD()), sizeIn: uint32(len(packet)), repeat: uint32(repeat)}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&packet[0])
	a.in = uintptr(unsafe.Pointer(&packet[0]))
	if x.prog.Type() == ebpf.Netfilter {
		ctx := []byte{unix.NF_INET_LOCAL_OUT, unix.NFPROTO_IPV4, 0, 0} // struct nf_hook_state
		pin.Pin(&ctx[0])
		a.ctxIn, a.ctxSizeIn = uintptr(unsafe.Pointer(&ctx[0])), uint32(len(ctx))
	}
	for {
		_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a))
		if errno == unix.EINTR {
			continue
		}
		require.Zero(t, errno)
		return time.Duration(a.duration), a.retval
	}
}

// best returns the shortest mean over packets of several rounds.
func (x *bench) best(t testing.TB, packets [][]byte, rounds, repeat int) time.Duration {
	return slices.Min(x.rounds(t, packets, rounds, repeat))
}

func (x *bench) rounds(t testing.TB, packets [][]byte, rounds, repeat int) []time.Duration {
	var all []time.Duration
	for range rounds {
		var sum time.Duration
		for _, p := range packets {
			d, _ := x.run(t, p, repeat)
			sum += d
		}
		all = append(all, sum/time.Duration(len(packets)))
	}
	return all
}

// machine returns how long SHA-256 of a mebibyte takes, by which figures of machines can be compared.
func machine() time.Duration {
	b := make([]byte, 1<<20)
	best := time.Hour
	for range 20 {
		start := time.Now()
		sha256.Sum256(b)
		best = min(best, time.Since(start))
	}
	return best
}

// empty is a program that accepts, to know what running a program costs.
func empty(b *testing.B, typ ebpf.ProgramType, at ebpf.AttachType) *bench {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: typ, AttachType: at, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}})
	require.NoError(b, err)
	b.Cleanup(func() { p.Close() })
	return &bench{prog: p}
}

// BenchmarkVerdict measures a verdict from the packet on, parsing included: the last rule of n that have one shape, and
// packets for rules of many shapes, half of which are random. It compares with ten rules in the same run.
//
// A test run repeats a packet, which programs remember: seen=before. With seen=never they remember nothing. A packet that is
// looked for in vain and then remembered costs ten nanoseconds more than that.
//
//	go test -run '^$' -bench Verdict -benchtime 1x ./backends/ebpf
func BenchmarkVerdict(b *testing.B) {
	measure := func(b *testing.B, few, many *bench, fewPackets, manyPackets [][]byte, repeat int) {
		none := empty(b, ebpf.Netfilter, ebpf.AttachNetfilter)
		for b.Loop() {
			var ten, n, nothing []time.Duration
			for range 15 { // in turns, so that what else runs meets all
				ten = append(ten, few.best(b, fewPackets, 1, repeat))
				n = append(n, many.best(b, manyPackets, 1, repeat))
				nothing = append(nothing, none.best(b, fewPackets[:1], 1, 10000))
			}
			b.ReportMetric(float64(slices.Min(n)), "ns/verdict")
			b.ReportMetric(float64(slices.Min(n))/float64(slices.Min(ten)), "x-10-rules")
			b.ReportMetric(float64(slices.Min(nothing)), "ns/empty-program")
			b.ReportMetric(float64(machine())/1e6, "ms/sha256-MiB")
		}
		b.ReportMetric(0, "ns/op")
	}
	k, err := kernel()
	require.NoError(b, err)
	for _, seen := range []string{"before", "never"} {
		k.InOrder = seen == "before"
		for _, n := range []int{10, 1000, 10000} {
			b.Run(fmt.Sprintf("set=uniform/rules=%d/seen=%s", n, seen), func(b *testing.B) {
				var bs [2]*bench
				var packets [2][][]byte
				for i, n := range []int{10, n} {
					text, last := rate.Uniform(n, "UDP")
					p, m := rate.Compiled(b, "lo", text)
					bs[i] = newBenchOn(b, k, render.AtUntrackedOut, before(p), m)
					packets[i] = [][]byte{last.Packet()}
					_, v := bs[i].run(b, packets[i][0], 1)
					require.Equal(b, uint32(1), v)
					other := last
					other.SrcPort, other.DstPort = 1, 1
					_, v = bs[i].run(b, other.Packet(), 1)
					require.Zero(b, v)
				}
				measure(b, bs[0], bs[1], packets[0], packets[1], 20000)
			})
		}
		for _, n := range []int{1000, 5000} {
			for seed := range uint64(3) {
				b.Run(fmt.Sprintf("set=mixed/rules=%d/seed=%d/seen=%s", n, seed, seen), func(b *testing.B) {
					var bs [2]*bench
					var packets [2][][]byte
					for i, n := range []int{10, n} {
						text, tuples := rate.Mixed(n, seed)
						p, m := rate.Compiled(b, "lo", text)
						bs[i] = newBenchOn(b, k, render.AtUntrackedOut, before(p), m)
						r := rand.New(rand.NewPCG(seed, 1))
						for range 200 {
							packets[i] = append(packets[i], tuples[r.IntN(len(tuples))].Packet())
						}
					}
					measure(b, bs[0], bs[1], packets[0], packets[1], 50)
				})
			}
		}
	}
}
