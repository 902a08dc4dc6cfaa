// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy/engine"
)

// cpu is the processor time of this process, in the kernel too.
func cpu(t testing.TB) time.Duration {
	var u unix.Rusage
	require.NoError(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkChange changes one policy of many, and says which part of the way to the kernel takes how much processor time.
//
//	go test -run '^$' -bench Change/backend=nftables -benchtime 200x ./backends/agent
func BenchmarkChange(b *testing.B) {
	for _, backend := range []string{"nftables", "ebpf", "iptables-nft", "iptables-legacy"} {
		for _, n := range []int{100, 1000} {
			b.Run(fmt.Sprintf("backend=%s/policies=%d", backend, n), func(b *testing.B) {
				be := openers[backend](b, int(newNetns(b).Fd()))
				if c, ok := be.(io.Closer); ok {
					defer c.Close()
				}
				e, err := engine.New(hostA, engine.Options{KeepLastGood: true})
				require.NoError(b, err)
				rnd := rand.New(rand.NewPCG(1, 2))
				set := func(o ...hostendpoint.Object) {
					changes := make([]engine.Change, len(o))
					for i := range o {
						changes[i] = engine.Upsert(o[i])
					}
					_, err := e.Apply(changes...)
					require.NoError(b, err)
				}
				apply := func() backends.Receipt {
					p, err := e.Program()
					require.NoError(b, err)
					r, err := be.Apply(b.Context(), p, e.Members())
					require.NoError(b, err)
					return r
				}
				set(objects(b, endpoint)...)
				for i := range n {
					set(busy(rnd, i))
				}
				apply()
				var engine, rest, rendered, committed time.Duration
				changes := 0
				for b.Loop() {
					at := cpu(b)
					set(busy(rnd, rnd.IntN(n)))
					p, err := e.Program()
					require.NoError(b, err)
					_ = p
					engine += cpu(b) - at
					at = cpu(b)
					r := apply()
					rest += cpu(b) - at
					rendered, committed, changes = rendered+r.Rendered, committed+r.Committed, changes+r.Changes
				}
				per := func(d time.Duration, name string) { b.ReportMetric(d.Seconds()*1e3/float64(b.N), name) }
				per(engine, "engine-cpu-ms")
				per(rest, "apply-cpu-ms")
				per(rendered, "rendered-ms")
				per(committed, "committed-ms")
				b.ReportMetric(float64(changes)/float64(b.N), "changes")
			})
		}
	}
}
