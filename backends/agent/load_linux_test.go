// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
	for _, backend := range []string{"nftables", "ebpf", "iptables-nft", "iptables-legacy"} {
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
			began, spentBefore := time.Now(), cpu(t)
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
			spent := cpu(t) - spentBefore
			saw := tr.stop()
			require.Empty(t, saw.Broken, "connections that broke")
			require.Zero(t, saw.Arrived[1], "denied packets that arrived")
			require.Positive(t, saw.Sent[1])
			require.Positive(t, saw.Arrived[0])
			require.Zero(t, saw.lost(), "allowed packets that neither arrived nor were lost by a queue: %+v", saw)
			require.Positive(t, saw.Echoes)
			slices.Sort(latencies)
			at := func(q float64) time.Duration {
				return latencies[min(len(latencies)-1, int(q*float64(len(latencies))))].Round(100 * time.Microsecond)
			}
			t.Logf("%d changes of %d policies in %v: change to enforcement p50 %v, p90 %v, p99 %v, max %v; %v of processor time for each; SHA-256 of 1 MiB in %v",
				len(latencies), *policies, took.Round(time.Millisecond), at(0.5), at(0.9), at(0.99), at(1), (spent / time.Duration(len(latencies))).Round(100*time.Microsecond), sha256Time())
			t.Logf("%.0f packets/s; denied: %d sent, %d arrived; allowed: %d sent, %d arrived, %d lost by queues, %d by verdicts; %d echoes on %d connections",
				float64(saw.Sent[0]+saw.Sent[1])/took.Seconds(), saw.Sent[1], saw.Arrived[1], saw.Sent[0], saw.Arrived[0], saw.Queue+saw.Link, saw.lost(), saw.Echoes, connections)
			st, err := b.Observe(t.Context())
			require.NoError(t, err)
			require.Empty(t, st.Drift)
		})
	}
}
