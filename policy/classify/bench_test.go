// SPDX-License-Identifier: Apache-2.0

package classify_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// hostWith returns the program of a host whose one endpoint has one tier with one policy for each rule.
func hostWith(t testing.TB, rules []policy.Rule) (*ir.Program, ir.Members) {
	t.Helper()
	tier := policy.TierPolicies{Tier: &policy.Tier{Name: "default"}}
	for i, r := range rules {
		tier.Ingress = append(tier.Ingress, &policy.Policy{
			Tier: "default", Name: fmt.Sprintf("p%05d", i), Kind: hostendpoint.KindGlobalNetworkPolicy, Ingress: []policy.Rule{r},
		})
	}
	p, m, err := compile.Compile(&policy.Snapshot{
		Host: hostendpoint.Host{Node: "host"},
		Config: policy.Config{
			Failsafes: policy.Failsafes{
				Inbound:  []policy.FailsafePort{{Protocol: inet.TCP, Port: 22}, {Protocol: inet.UDP, Port: 68}, {Protocol: inet.TCP, Port: 179}, {Protocol: inet.TCP, Port: 2379}, {Protocol: inet.TCP, Port: 6443}},
				Outbound: []policy.FailsafePort{{Protocol: inet.UDP, Port: 53}},
			},
			WorkloadInterfacePrefixes: []string{"cali"},
		},
		Endpoints: []*policy.Endpoint{{Name: "eth0", Interfaces: []string{"eth0"}, Normal: []policy.TierPolicies{tier}}},
	})
	require.NoError(t, err)
	return p, m
}

func tcp() *inet.Protocol {
	p := inet.TCP
	return &p
}

// onePort is rule i of the uniform rule sets: a source of 256 addresses and a port.
func onePort(i int) policy.Rule {
	return policy.Rule{
		Action: hostendpoint.Allow, Protocol: tcp(),
		Source: policy.Side{Nets: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)}},
		Dest:   policy.Side{Ports: []inet.PortRange{{Min: uint16(10000 + i), Max: uint16(10000 + i)}}},
	}
}

func uniform(n int) []policy.Rule {
	rules := make([]policy.Rule, n)
	for i := range rules {
		rules[i] = onePort(i)
	}
	return rules
}

// lastOf is a packet that only the last of n uniform rules allows.
func lastOf(n int) *flow.Packet {
	i := n - 1
	return &flow.Packet{
		Path: flow.Input, In: "eth0", Protocol: inet.TCP,
		Src: netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 7}), Dst: netip.MustParseAddr("192.0.2.1"),
		SrcPort: 40000, DstPort: uint16(10000 + i),
	}
}

// mixed returns n rules of many shapes that overlap, and packets of which half are made to match some rule.
func mixed(n int, seed uint64) ([]policy.Rule, []*flow.Packet) {
	r := rand.New(rand.NewPCG(seed, 1))
	addr := func() netip.Addr {
		v := 10<<24 | r.Uint32()&0xffffff
		return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
	}
	prefix := func() netip.Prefix { return netip.PrefixFrom(addr(), 8+r.IntN(25)).Masked() }
	ports := func() inet.PortRange {
		lo := uint16(r.IntN(60000))
		switch r.IntN(3) {
		case 0:
			return inet.PortRange{Min: lo, Max: lo}
		case 1:
			return inet.PortRange{Min: lo, Max: lo + uint16(r.IntN(100))}
		}
		return inet.PortRange{Min: lo, Max: lo + uint16(r.IntN(5000))}
	}
	rules := make([]policy.Rule, n)
	for i := range rules {
		x := policy.Rule{Action: hostendpoint.Allow, Protocol: tcp()}
		if r.IntN(3) == 0 {
			x.Action = hostendpoint.Deny
		}
		if r.IntN(4) == 0 {
			udp := inet.UDP
			x.Protocol = &udp
		}
		x.Source.Nets = []netip.Prefix{prefix()}
		if r.IntN(2) == 0 {
			x.Dest.Nets = []netip.Prefix{prefix()}
		}
		if r.IntN(8) == 0 {
			x.Source.NotNets = []netip.Prefix{prefix()}
		}
		x.Dest.Ports = []inet.PortRange{ports()}
		if r.IntN(10) == 0 {
			x.Dest.Ports, x.Dest.NotPorts = nil, []inet.PortRange{ports()}
		}
		rules[i] = x
	}
	packets := make([]*flow.Packet, 1024)
	for i := range packets {
		p := &flow.Packet{
			Path: flow.Input, In: "eth0", Protocol: inet.TCP, Src: addr(), Dst: addr(),
			SrcPort: uint16(r.Uint32()), DstPort: uint16(r.Uint32()),
		}
		if i%2 == 0 {
			x := rules[r.IntN(n)]
			p.Protocol = *x.Protocol
			in := func(n netip.Prefix) netip.Addr {
				a, b := n.Addr().As4(), addr().As4()
				for j := range a {
					keep := byte(0xff << max(0, min(8, 8*(j+1)-n.Bits())))
					a[j] |= b[j] &^ keep
				}
				return netip.AddrFrom4(a)
			}
			p.Src = in(x.Source.Nets[0])
			if len(x.Dest.Nets) > 0 {
				p.Dst = in(x.Dest.Nets[0])
			}
			if len(x.Dest.Ports) > 0 {
				p.DstPort = x.Dest.Ports[0].Min
			}
		}
		packets[i] = p
	}
	return rules, packets
}

// asker is what is measured: the classifier, and the interpreter beside it.
type asker interface {
	Verdict(*flow.Packet) (flow.Verdict, flow.Origin)
}

func askers(b *testing.B, rules []policy.Rule) map[string]asker {
	p, m := hostWith(b, rules)
	c, err := classify.New(p, m)
	require.NoError(b, err)
	in, err := ir.NewInterpreter(p, m)
	require.NoError(b, err)
	return map[string]asker{"fast": c, "ir": in}
}

func BenchmarkVerdict(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 5000, 10000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			by := askers(b, uniform(n))
			p := lastOf(n)
			for _, impl := range []string{"fast", "ir"} {
				b.Run("impl="+impl, func(b *testing.B) {
					a := by[impl]
					b.ReportAllocs()
					for b.Loop() {
						if v, _ := a.Verdict(p); v != flow.Allow {
							b.Fatal(v)
						}
					}
				})
			}
		})
	}
}

func BenchmarkVerdictMixed(b *testing.B) {
	for _, n := range []int{10, 1000, 5000} {
		for seed := uint64(1); seed <= 3; seed++ {
			b.Run(fmt.Sprintf("rules=%d/seed=%d", n, seed), func(b *testing.B) {
				rules, packets := mixed(n, seed)
				by := askers(b, rules)
				for _, impl := range []string{"fast", "ir"} {
					b.Run("impl="+impl, func(b *testing.B) {
						a := by[impl]
						b.ReportAllocs()
						i := 0
						for b.Loop() {
							a.Verdict(packets[i&1023])
							i++
						}
					})
				}
			})
		}
	}
}

func BenchmarkNew(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		for _, set := range []string{"uniform", "mixed"} {
			rules := uniform(n)
			if set == "mixed" {
				rules, _ = mixed(n, 1)
			}
			b.Run(fmt.Sprintf("rules=%d/set=%s", n, set), func(b *testing.B) {
				p, m := hostWith(b, rules)
				b.ReportAllocs()
				var c *classify.Classifier
				for b.Loop() {
					var err error
					c, err = classify.New(p, m)
					require.NoError(b, err)
				}
				b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "rules/s")
				b.ReportMetric(float64(c.Tables().Stats().Bytes), "table-bytes")
				with := heap()
				runtime.KeepAlive(c)
				c = nil
				b.ReportMetric(float64(with-heap()), "heap-bytes")
			})
		}
	}
}

// heap returns how many bytes are reachable.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}
