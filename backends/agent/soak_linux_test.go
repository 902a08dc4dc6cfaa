// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends/agent"
	"github.com/hostpolicy/hostpolicy/backends/agent/agenttest"
	"github.com/hostpolicy/hostpolicy/backends/netif"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/file"
	"github.com/hostpolicy/hostpolicy/backends/store/memory"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

var (
	soak  = flag.Int("soak", 30, "how many sequences of edits a long life has; every fifth is followed by a restart, every fourth by an outage and a storm")
	storm = flag.Int("storm", 100, "how many interfaces come and go in a storm")
	lives = flag.String("lives", "nftables", "with which backends to live long, separated by commas")
	kills = flag.Int("kills", 8, "how often to kill an agent")
)

// usage is what a leak would show in.
type usage struct {
	goroutines, descriptors int
	heap                    uint64
}

func measure(t testing.TB) usage {
	t.Helper()
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	fds, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return usage{runtime.NumGoroutine(), len(fds), m.HeapAlloc}
}

// A long life with edits, restarts, outages of the datastore and storms of interfaces leaves nothing behind.
//
//	go test -run LongLife -timeout 24h ./backends/agent -soak 400 -storm 1000 -lives nftables,ebpf,iptables-nft
func TestLongLife(t *testing.T) {
	for _, backend := range strings.Split(*lives, ",") {
		t.Run(backend, func(t *testing.T) { longLife(t, backend) })
	}
}

func longLife(t *testing.T, backend string) {
	o, s := newOutage()
	var first, last usage
	var heaps []uint64
	storms, began := 0, time.Now()
	// What is measured is the same resources, and an agent that has run for as long, once all has been warmed up.
	fixed := func(i int) bool { return i%20 == 8 || i == *soak-2 && i%5 == 3 }
	edits := agenttest.Edits{Store: s, Open: openers[backend], Sequences: *soak, Seed: 3, Fixed: fixed, Between: func(m *agenttest.Machine, i int) {
		if i%4 == 3 && !fixed(i) {
			o.away.Store(true)
			m.Storm(*storm)
			storms++
			o.away.Store(false)
		}
	}, Compared: func(i, edits, starts int) {
		if !fixed(i) {
			return
		}
		o.Driver.(*memory.Driver).Compact() // the history of the datastore, of which there is now more and now less
		last = measure(t)
		if first == (usage{}) {
			first = last
		}
		t.Logf("%v: %d sequences, %d edits, %d starts, %d storms of %d: %d goroutines, %d descriptors, heap %d KiB (%+.1f %%)", time.Since(began).Round(time.Second),
			i+1, edits, starts, storms, *storm, last.goroutines, last.descriptors, last.heap>>10, 100*(float64(last.heap)/float64(first.heap)-1))
		// Others in this process have their ups and downs by a few; a leak has as many as there were sequences.
		require.LessOrEqual(t, last.goroutines, first.goroutines+8)
		require.LessOrEqual(t, last.descriptors, first.descriptors+8)
		// What a storm has blown up stays so until the next start, now more and now less. A leak is in all of three in a row.
		heaps = append(heaps, last.heap)
		require.Less(t, float64(slices.Min(heaps[max(0, len(heaps)-3):])), 1.1*float64(first.heap))
	}}
	edits.Run(t)
	require.NotZero(t, last)
}

// soakAgent is the child of TestKilledAgents: it enforces a directory until it is killed.
func soakAgent(dir string) error {
	ctx := context.Background()
	d, err := file.Open(ctx, dir, file.Options{Settle: time.Millisecond})
	if err != nil {
		return err
	}
	b, err := nftables.New(nftables.Options{NetNS: 3})
	if err != nil {
		return err
	}
	m, err := netif.New(netif.Options{Node: "host-a", NetNS: 3})
	if err != nil {
		return err
	}
	a, err := agent.New(agent.Options{Store: store.New(d, store.Options{}), Host: m, Backend: b})
	if err != nil {
		return err
	}
	fmt.Println("runs")
	return a.Run(ctx)
}

// Agents that are killed at any moment leave nothing that the next one cannot take over.
func TestKilledAgents(t *testing.T) {
	m := agenttest.NewMachine(t)
	m.AddLink("eth0", "10.9.0.1/24")
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(5, 5))
	write := func() {
		text, err := manifest.Marshal(slices.Collect(policytest.Generate(rnd.Uint64(), policytest.Size{}).Resources.All())...)
		require.NoError(t, err)
		tmp := filepath.Join(dir, ".new")
		require.NoError(t, os.WriteFile(tmp, text, 0o600))
		require.NoError(t, os.Rename(tmp, filepath.Join(dir, "all.yaml")))
	}
	run := func() *exec.Cmd {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), "HOSTPOLICY_TEST_SOAK="+dir)
		c.ExtraFiles = []*os.File{m.Host}
		require.NoError(t, c.Start())
		return c
	}
	for range *kills {
		c := run()
		for range rnd.IntN(4) {
			write()
			time.Sleep(time.Duration(rnd.IntN(100)) * time.Millisecond)
		}
		require.NoError(t, c.Process.Kill())
		_ = c.Wait()
	}
	write()
	c := run()
	defer func() { _ = c.Process.Signal(unix.SIGKILL); _ = c.Wait() }()

	monitor, err := netif.New(netif.Options{Node: "host-a", NetNS: int(m.Host.Fd())})
	require.NoError(t, err)
	host, err := monitor.Look(t.Context())
	require.NoError(t, err)
	// Read from the files, since rules tell where they are written.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d, err := file.Open(ctx, dir, file.Options{})
	require.NoError(t, err)
	var res hostendpoint.Resources
	for _, kind := range hostendpoint.Kinds() {
		l, err := store.New(d, store.Options{}).List(ctx, kind, store.ListOptions{})
		require.NoError(t, err)
		res.Add(l.Items...)
	}
	snapshot, err := policy.Resolve(res, host, policy.Config{})
	require.NoError(t, err)
	p, members, err := compile.Compile(snapshot)
	require.NoError(t, err)
	b := newNFT(t, int(m.Host.Fd()))
	require.Eventually(t, func() bool {
		st, err := b.Adopt(t.Context(), p, members)
		return err == nil && st.Present && len(st.Drift) == 0
	}, wait, 50*time.Millisecond)
	require.Equal(t, 1, strings.Count(nft(t, m.Host, "list", "tables"), "table "))
}
