// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/iptables"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

var kills = flag.Int("kills", 6, "how often to kill an Apply of each variant")

// The child of TestKilledAtAnyInstant finds its work here.
const killedVariant = "HOSTPOLICY_TEST_VARIANT"

func TestMain(m *testing.M) {
	if v := os.Getenv(killedVariant); v != "" {
		changeForever(v)
	}
	os.Exit(m.Run())
}

// The ports of the probes.
const (
	deniedPort      = 9000 // by every policy, each time in another stage
	failsafePort    = 68
	establishedPort = 7000 // no policy allows it; the flow is older than they are
	openPort        = 9100 // allowed by every policy, in one stage or another
)

// states are policies that say the same of the probes and do so in different stages: changing from one to the next
// table by table would let in what all of them deny, or keep out what all of them allow.
func states(t testing.TB) []*ir.Program {
	deny, allow := fmt.Sprintf("{action: Deny, protocol: UDP, destination: {ports: [%d]}}", deniedPort), fmt.Sprintf("{action: Allow, protocol: UDP, destination: {ports: [%d]}}", openPort)
	all := "{action: Allow, destination: {notPorts: [7000]}, protocol: UDP}"
	many := func(n int) []string {
		var rules []string
		for i := range n {
			rules = append(rules, fmt.Sprintf("{action: Allow, protocol: UDP, source: {nets: [10.%d.0.0/16, 10.%d.1.0/24]}, destination: {ports: [%d]}}", i%200, i%100+100, i+1))
		}
		return rules
	}
	early := "preDNAT: true\n  applyOnForward: true"
	untracked := "doNotTrack: true\n  applyOnForward: true"
	var out []*ir.Program
	for _, ps := range [][]string{
		{ingress("in", "order: 1", append(many(60), deny, allow)...)},
		{ingress("pre", early, deny, all)},
		{ingress("un", untracked, deny), ingress("in", "order: 1", all)},
		{ingress("pre", early, deny), ingress("un", untracked, allow), ingress("in", "order: 2", all)},
		{ingress("in", "order: 1", append(many(20), allow)...), ingress("pre", early, "{action: Deny, protocol: UDP, destination: {ports: [1, 2, 3]}}")},
	} {
		p, m := compiled(t, ps...)
		if len(m.Sets) != 0 {
			t.Fatal("the child knows no members")
		}
		out = append(out, p)
	}
	return out
}

// changeForever is the child: it changes the policy of the namespace in descriptor 3 until it is killed.
func changeForever(variant string) {
	fail := func(err error) {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	v, _ := strconv.Atoi(variant)
	b, err := iptables.New(iptables.Options{NetNS: 3, Variant: iptables.Variant(v)})
	if err != nil {
		fail(err)
	}
	var t testing.T
	ps := states(&t)
	fmt.Println("ready")
	for i := rand.IntN(len(ps)); ; i++ {
		if _, err := b.Apply(context.Background(), ps[i%len(ps)], ir.Members{}); err != nil {
			fail(err)
		}
		fmt.Println("applied")
	}
}

// stream is a probe: UDP packets with numbers.
type stream struct {
	name     string
	sent     atomic.Uint64
	received atomic.Uint64
	from, to *net.UDPConn
}

func (s *stream) count() {
	b := make([]byte, 64)
	for {
		n, err := s.to.Read(b)
		if err != nil {
			return
		}
		if n == 8 {
			s.received.Add(1)
		}
	}
}

func (s *stream) send() {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], s.sent.Load())
	if _, err := s.from.Write(b[:]); err == nil {
		s.sent.Add(1)
	}
}

// TestKilledAtAnyInstant kills a process that changes policy, alone or with what it started, at random moments. All the
// while, a flow that every policy denies must never get in, one that a failsafe lets in and one that every policy allows
// must lose no packet, and an established flow must not break.
func TestKilledAtAnyInstant(t *testing.T) {
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			dial := func(from, port int) *net.UDPConn {
				var c *net.UDPConn
				var err error
				w.peer.do(func() {
					c, err = net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(peerAddr), Port: from}, &net.UDPAddr{IP: net.ParseIP(hostAddr), Port: port})
				})
				require.NoError(t, err)
				return c
			}
			probe := func(name string, from, port int) *stream {
				s := &stream{name: name, from: dial(from, port), to: w.host.listen(t, fmt.Sprintf("%s:%d", hostAddr, port))}
				t.Cleanup(func() { s.from.Close() })
				go s.count()
				return s
			}
			established := probe("established", 7001, establishedPort)
			failsafe := probe("failsafe", 0, failsafePort)
			open := probe("open", 0, openPort)
			denied := probe("denied", 0, deniedPort)

			b := newBackend(t, iptables.Options{NetNS: w.host.fd(), Variant: v})
			ps := states(t)
			// Connection tracking begins with the first rule that asks for it, and the answer makes the flow established.
			_, err := b.Apply(t.Context(), &ir.Program{Entries: []ir.Entry{{Hook: 3, Block: "b"}, {Hook: 7, Block: "b"}}, Blocks: []ir.Block{{ID: "b"}}}, ir.Members{})
			require.NoError(t, err)
			established.send()
			_, err = established.to.WriteToUDP([]byte("answer"), established.from.LocalAddr().(*net.UDPAddr))
			require.NoError(t, err)
			began := time.Now()
			_, err = b.Apply(t.Context(), ps[0], ir.Members{})
			require.NoError(t, err)
			within := 2 * time.Since(began)

			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				tick := time.NewTicker(300 * time.Microsecond)
				defer tick.Stop()
				for n := 0; ; n++ {
					select {
					case <-stop:
						return
					case <-tick.C:
					}
					for _, s := range []*stream{established, failsafe, open, denied} {
						s.send()
					}
					if n%8 == 0 { // a flow that was let in once would be established
						c := dial(0, deniedPort)
						denied.from.Close()
						denied.from = c
						c = dial(0, openPort)
						open.from.Close()
						open.from = c
					}
				}
			})
			applied, amid := 0, 0
			for range *kills {
				n, first := killOne(t, w, v, time.Duration(rand.Int64N(int64(within))))
				if n == 0 {
					amid++
					within += within / 8
				} else {
					within = 2 * first
				}
				applied += n
			}
			close(stop)
			wg.Wait()
			for _, s := range []*stream{established, failsafe, open} {
				for deadline := time.Now().Add(10 * time.Second); s.sent.Load() != s.received.Load() && time.Now().Before(deadline); {
					time.Sleep(time.Millisecond) // what has arrived is still to be read
				}
				require.Equal(t, s.sent.Load(), s.received.Load(), "%s: packets sent and received", s.name)
			}
			require.Zero(t, denied.received.Load(), "denied packets got in, of %d", denied.sent.Load())
			t.Logf("%d kills, %d of them amid the first change, among %d whole changes; %d packets of each flow", *kills, amid, applied, denied.sent.Load())

			_, err = newBackend(t, iptables.Options{NetNS: w.host.fd()}).Apply(t.Context(), ps[1], ir.Members{})
			require.NoError(t, err)
			c := newBackend(t, iptables.Options{NetNS: w.host.fd()})
			st, err := c.Adopt(t.Context(), ps[1], ir.Members{})
			require.NoError(t, err)
			require.Empty(t, st.Drift)
		})
	}
}

// killOne starts a child, lets it change the policy for a while, and kills it. It returns how many changes it made, and
// how long the first one took.
func killOne(t *testing.T, w world, v iptables.Variant, after time.Duration) (applied int, first time.Duration) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killedVariant+"="+strconv.Itoa(int(v)))
	cmd.ExtraFiles = []*os.File{w.host.File}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	alone := rand.IntN(2) == 0
	kill := func() {
		if alone {
			_ = cmd.Process.Kill()
		} else {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	}
	defer kill()
	lines := bufio.NewScanner(out)
	var ready time.Time
	for lines.Scan() {
		switch lines.Text() {
		case "ready":
			ready = time.Now()
			defer time.AfterFunc(after, kill).Stop()
		case "applied":
			if applied++; applied == 1 {
				first = time.Since(ready)
			}
		default:
			t.Fatalf("the child %s", lines.Text())
		}
	}
	_ = cmd.Wait()
	return applied, first
}
