// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/ipv4"

	"github.com/hostpolicy/hostpolicy/backends/agent"
	"github.com/hostpolicy/hostpolicy/backends/agent/agenttest"
	"github.com/hostpolicy/hostpolicy/backends/netif"
	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/memory"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

var (
	changes  = flag.Int("changes", 40, "how many changes of policy to make under load, with each backend")
	policies = flag.Int("policies", 200, "how many policies there are under load")
)

// The traffic: UDP that the policies allow, UDP that none does, and TCP connections that go on all the time.
const (
	allowedPort, deniedPort, tcpPort = 7000, 9000, 7001
	connections                      = 16
)

// busy returns one of the policies between which changes happen. None says anything about the traffic.
func busy(rnd *rand.Rand, i int) *hostendpoint.GlobalNetworkPolicy {
	p := &hostendpoint.GlobalNetworkPolicy{}
	p.Metadata.Name = fmt.Sprintf("busy-%d", i)
	order := float64(i)
	p.Spec.Order, p.Spec.Selector = &order, "all()"
	for range 1 + rnd.IntN(3) {
		port := uint16(10000 + rnd.IntN(20000))
		action := hostendpoint.Allow
		if rnd.IntN(2) == 0 {
			action = hostendpoint.Deny
		}
		p.Spec.Ingress = append(p.Spec.Ingress, hostendpoint.Rule{
			Action: action, Protocol: &hostendpoint.Protocol{Name: []string{"TCP", "UDP"}[rnd.IntN(2)]},
			Source:      hostendpoint.EntityRule{Nets: []string{fmt.Sprintf("10.%d.%d.0/24", 16+rnd.IntN(200), rnd.IntN(256))}},
			Destination: hostendpoint.EntityRule{Ports: []hostendpoint.Port{{Min: port, Max: port + uint16(rnd.IntN(20))}}},
		})
	}
	return p
}

// traffic runs until it is stopped.
type traffic struct {
	t       *testing.T
	stop    chan struct{}
	wg      sync.WaitGroup
	sent    [2]atomic.Int64 // allowed, denied
	arrived [2]atomic.Int64
	echoes  atomic.Int64
	mu      sync.Mutex
	broken  []error
}

func startTraffic(t *testing.T, m *agenttest.Machine) *traffic {
	tr := &traffic{t: t, stop: make(chan struct{})}
	listen := func(port int, count *atomic.Int64) {
		var c *net.UDPConn
		agenttest.In(t, m.Host, func() (err error) {
			c, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(10, 9, 0, 1), Port: port})
			return err
		})
		t.Cleanup(func() { c.Close() })
		go func() {
			b := make([]byte, 64)
			for {
				_, from, err := c.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				if count.Add(1) == 1 {
					_, _ = c.WriteToUDPAddrPort(b[:1], from) // the flow is established
				}
			}
		}()
	}
	listen(allowedPort, &tr.arrived[0])
	listen(deniedPort, &tr.arrived[1])
	for i, port := range []int{allowedPort, deniedPort} {
		var c net.PacketConn
		agenttest.In(t, m.Peer, func() (err error) {
			c, err = net.ListenPacket("udp4", "10.9.0.2:0")
			return err
		})
		to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr("10.9.0.1"), uint16(port)))
		tr.wg.Go(func() {
			defer c.Close()
			msgs := make([]ipv4.Message, 32)
			for i := range msgs {
				msgs[i] = ipv4.Message{Buffers: [][]byte{make([]byte, 18)}, Addr: to}
			}
			pc := ipv4.NewPacketConn(c)
			const perSecond = 12_000
			begun := time.Now()
			for {
				select {
				case <-tr.stop:
					return
				default:
				}
				if float64(tr.sent[i].Load()) > time.Since(begun).Seconds()*perSecond {
					time.Sleep(time.Millisecond)
					continue
				}
				if n, err := pc.WriteBatch(msgs, 0); err == nil {
					tr.sent[i].Add(int64(n))
				}
			}
		})
	}
	var l net.Listener
	agenttest.In(t, m.Host, func() (err error) {
		l, err = net.Listen("tcp4", fmt.Sprintf("10.9.0.1:%d", tcpPort))
		return err
	})
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	for range connections {
		var c net.Conn
		agenttest.In(t, m.Peer, func() (err error) {
			c, err = net.Dial("tcp4", fmt.Sprintf("10.9.0.1:%d", tcpPort))
			return err
		})
		tr.wg.Go(func() { defer c.Close(); tr.echo(c) })
	}
	return tr
}

// echo keeps a connection busy. An answer that takes long enough for data to be lost and sent again many times is a
// connection that was broken.
func (tr *traffic) echo(c net.Conn) {
	out, in := make([]byte, 64), make([]byte, 64)
	for i := byte(0); ; i++ {
		select {
		case <-tr.stop:
			return
		case <-time.After(5 * time.Millisecond):
		}
		out[0] = i
		_ = c.SetDeadline(time.Now().Add(wait))
		_, err := c.Write(out)
		if err == nil {
			_, err = io.ReadFull(c, in)
		}
		if err == nil && in[0] != i {
			err = fmt.Errorf("answer %d to %d", in[0], i)
		}
		if err != nil {
			tr.mu.Lock()
			tr.broken = append(tr.broken, err)
			tr.mu.Unlock()
			return
		}
		tr.echoes.Add(1)
	}
}

// sha256Time is what the SHA-256 of 1 MiB takes here and now: 3 ms on the machine that figures refer to.
func sha256Time() time.Duration {
	data := make([]byte, 1<<20)
	best := time.Hour
	for range 5 {
		began := time.Now()
		sha256.Sum256(data)
		best = min(best, time.Since(began))
	}
	return best
}

// Policies change all the time; whatever happens in between, no packet passes that none of them allows, and no
// connection breaks that all of them allow.
func TestChangesUnderLoad(t *testing.T) {
	for _, backend := range []string{"nftables", "ebpf", "iptables-nft"} {
		t.Run(backend, func(t *testing.T) {
			m := agenttest.NewMachine(t)
			m.AddLink("eth0", "10.9.0.1/24")
			b := openers[backend](t, int(m.Host.Fd()))
			if c, ok := b.(io.Closer); ok {
				defer c.Close()
			}
			monitor, err := netif.New(netif.Options{Node: "host-a", NetNS: int(m.Host.Fd())})
			require.NoError(t, err)
			s := memory.New()
			rnd := rand.New(rand.NewPCG(1, 2))
			made := create(t, s, endpoint+fmt.Sprintf(`---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: traffic}
spec:
  selector: role == 'web'
  order: 1e9
  types: [Ingress, Egress]
  ingress:
  - {action: Allow, protocol: UDP, destination: {ports: [%d]}}
  - {action: Allow, protocol: TCP, destination: {ports: [%d]}}
  egress:
  - {action: Allow}
`, allowedPort, tcpPort))
			var have []hostendpoint.Object
			for i := range *policies {
				o, err := s.Create(t.Context(), busy(rnd, i))
				require.NoError(t, err)
				have = append(have, o)
			}
			a := start(t, agent.Options{Store: s, Host: monitor, Backend: b})
			a.until(t, "enforcing", func(s agent.Status) bool { return s.Phase == agent.Enforcing && len(s.Host.Interfaces) > 0 })
			_ = made
			tr := startTraffic(t, m)
			began := time.Now()
			var latencies []time.Duration
			for i := range *changes {
				n := rnd.IntN(len(have))
				written := time.Now()
				var now hostendpoint.Object
				if i%10 == 9 { // one goes, and comes again otherwise
					_, err = s.Delete(t.Context(), have[n].ID(), store.DeleteOptions{})
					require.NoError(t, err)
					now, err = s.Create(t.Context(), busy(rnd, n))
				} else {
					next := busy(rnd, n)
					next.Metadata.ResourceVersion, next.Metadata.UID, next.Metadata.CreationTimestamp = have[n].Meta().ResourceVersion, have[n].Meta().UID, have[n].Meta().CreationTimestamp
					now, err = s.Update(t.Context(), next)
				}
				require.NoError(t, err)
				have[n] = now
				r := a.settled(t, now)
				latencies = append(latencies, r.Enforced.Sub(written))
			}
			took := time.Since(began)
			close(tr.stop)
			tr.wg.Wait()
			require.Empty(t, tr.broken, "connections that broke")
			require.Zero(t, tr.arrived[1].Load(), "denied packets that arrived")
			require.Positive(t, tr.sent[1].Load())
			require.Greater(t, tr.arrived[0].Load(), tr.sent[0].Load()/10, "allowed packets that arrived")
			require.Positive(t, tr.echoes.Load())
			slices.Sort(latencies)
			at := func(q float64) time.Duration {
				return latencies[min(len(latencies)-1, int(q*float64(len(latencies))))].Round(100 * time.Microsecond)
			}
			t.Logf("%d changes of %d policies in %v: change to enforcement p50 %v, p90 %v, p99 %v, max %v; %.0f packets/s sent, %.1f%% of the allowed arrived, %d echoes; SHA-256 of 1 MiB in %v",
				len(latencies), *policies, took.Round(time.Millisecond), at(0.5), at(0.9), at(0.99), at(1), float64(tr.sent[0].Load()+tr.sent[1].Load())/took.Seconds(),
				100*float64(tr.arrived[0].Load())/float64(tr.sent[0].Load()), tr.echoes.Load(), sha256Time())
			st, err := b.Observe(t.Context())
			require.NoError(t, err)
			require.Empty(t, st.Drift)
		})
	}
}
