// SPDX-License-Identifier: Apache-2.0

package analyze_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/compile"
)

// hostWith returns the program of a host whose one endpoint has one tier with one policy for each rule.
func hostWith(t testing.TB, rules []policy.Rule) analyze.Input {
	t.Helper()
	tier := policy.TierPolicies{Tier: &policy.Tier{Name: "default"}}
	for i, r := range rules {
		r.Pos = field.Pos{File: "rules.yaml", Line: i + 1}
		tier.Ingress = append(tier.Ingress, &policy.Policy{
			Tier: "default", Name: fmt.Sprintf("p%05d", i), Kind: hostendpoint.KindGlobalNetworkPolicy, Ingress: []policy.Rule{r},
		})
	}
	p, m, err := compile.Compile(&policy.Snapshot{
		Host: hostendpoint.Host{Node: "host"},
		Config: policy.Config{
			Failsafes: policy.Failsafes{
				Inbound:  []policy.FailsafePort{{Protocol: inet.TCP, Port: 22}, {Protocol: inet.UDP, Port: 68}, {Protocol: inet.TCP, Port: 179}},
				Outbound: []policy.FailsafePort{{Protocol: inet.UDP, Port: 53}},
			},
			WorkloadInterfacePrefixes: []string{"cali"},
		},
		Endpoints: []*policy.Endpoint{{Name: "eth0", Interfaces: []string{"eth0"}, Normal: []policy.TierPolicies{tier}}},
	})
	require.NoError(t, err)
	return analyze.Input{Program: p, Members: m}
}

// ruleMaker makes rules of the shapes that hosts have: who may reach which port, and some that cross.
type ruleMaker struct {
	*rand.Rand
	family inet.Family
}

func (m *ruleMaker) prefix(short, long int) netip.Prefix {
	var a netip.Addr
	if m.family == inet.IPv4 {
		a = netip.AddrFrom4([4]byte{10, byte(m.IntN(256)), byte(m.IntN(256)), byte(m.IntN(256))})
	} else {
		short, long = short*2, long*2
		b := [16]byte{0: 0xfd, 15: byte(m.IntN(256))}
		for i := 1; i < 8; i++ {
			b[i] = byte(m.IntN(256))
		}
		a = netip.AddrFrom16(b)
	}
	return netip.PrefixFrom(a, short+m.IntN(long-short+1)).Masked()
}

func (m *ruleMaker) ports() []inet.PortRange {
	known := []uint16{22, 25, 53, 80, 443, 3306, 5432, 6379, 8080, 8443, 9090, 9100}
	switch m.IntN(10) {
	case 0:
		lo := uint16(1024 + m.IntN(50000))
		return []inet.PortRange{{Min: lo, Max: lo + uint16(m.IntN(1000))}}
	case 1:
		return nil
	case 2, 3, 4:
		n := uint16(8000 + m.IntN(1000))
		return []inet.PortRange{{Min: n, Max: n}}
	}
	n := known[m.IntN(len(known))]
	return []inet.PortRange{{Min: n, Max: n}}
}

func (m *ruleMaker) rule() policy.Rule {
	proto := inet.TCP
	if m.IntN(4) == 0 {
		proto = inet.UDP
	}
	r := policy.Rule{Action: hostendpoint.Allow, Protocol: &proto}
	if m.IntN(5) == 0 {
		r.Action = hostendpoint.Deny
	}
	for range 1 + m.IntN(2) {
		r.Source.Nets = append(r.Source.Nets, m.prefix(12, 32))
	}
	if m.IntN(4) == 0 {
		r.Dest.Nets = []netip.Prefix{m.prefix(16, 32)}
	}
	r.Dest.Ports = m.ports()
	return r
}

func (m *ruleMaker) rules(n int) []policy.Rule {
	out := make([]policy.Rule, n)
	for i := range out {
		out[i] = m.rule()
	}
	return out
}

func maker(seed uint64, f inet.Family) *ruleMaker {
	return &ruleMaker{rand.New(rand.NewPCG(seed, 3)), f}
}

// edited returns the rules with n of them changed.
func edited(rules []policy.Rule, n int, m *ruleMaker) []policy.Rule {
	out := slices.Clone(rules)
	for range n {
		at := m.IntN(len(out))
		switch m.IntN(3) {
		case 0:
			out[at] = m.rule()
		case 1:
			out = slices.Delete(out, at, at+1)
		default:
			out = slices.Insert(out, at, m.rule())
		}
	}
	return out
}

// wide are rules that cross each other in every field.
func (m *ruleMaker) wide(n int) []policy.Rule {
	out := make([]policy.Rule, n)
	for i := range out {
		proto := inet.TCP
		r := policy.Rule{Action: hostendpoint.Allow, Protocol: &proto}
		if i%2 == 0 {
			r.Action = hostendpoint.Deny
		}
		span := func() []inet.PortRange {
			a, b := uint16(m.IntN(65536)), uint16(m.IntN(65536))
			return []inet.PortRange{{Min: min(a, b), Max: max(a, b)}}
		}
		nets := func() []netip.Prefix {
			var ps []netip.Prefix
			for range 8 {
				ps = append(ps, m.prefix(9, 14))
			}
			return ps
		}
		r.Source.Nets, r.Dest.Nets, r.Source.Ports, r.Dest.Ports = nets(), nets(), span(), span()
		out[i] = r
	}
	return out
}

func BenchmarkDiff(b *testing.B) {
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		for _, c := range []struct {
			rules int
			kind  string
		}{{1000, "edits=5"}, {1000, "unrelated"}, {3000, "edits=5"}, {3000, "unrelated"}} {
			b.Run(fmt.Sprintf("family=%s/rules=%d/%s", f, c.rules, c.kind), func(b *testing.B) {
				m := maker(1, f)
				rules := m.rules(c.rules)
				other := edited(rules, 5, m)
				if c.kind == "unrelated" {
					other = m.rules(c.rules)
				}
				x, y := hostWith(b, rules), hostWith(b, other)
				b.ReportAllocs()
				var r *analyze.Report
				begin := processorTime()
				for b.Loop() {
					var err error
					r, err = analyze.Diff(context.Background(), x, y, analyze.Options{})
					require.NoError(b, err)
					if r.Partial {
						b.Log(r.Reason)
					}
				}
				b.ReportMetric(float64((processorTime()-begin).Milliseconds())/float64(b.N), "cpu-ms/op")
				boxes := 0
				for _, c := range r.Changes {
					boxes += len(c.Boxes)
				}
				b.ReportMetric(float64(len(r.Changes)), "changes")
				b.ReportMetric(float64(boxes), "boxes")
				b.ReportMetric(float64(r.States), "states")
			})
		}
	}
}

func BenchmarkDiffWide(b *testing.B) {
	for seed := range uint64(10) {
		b.Run(fmt.Sprintf("rules=100/seed=%d", seed), func(b *testing.B) {
			m := maker(seed, inet.IPv4)
			x, y := hostWith(b, m.wide(100)), hostWith(b, m.wide(100))
			var r *analyze.Report
			var before, after runtime.MemStats
			for b.Loop() {
				runtime.ReadMemStats(&before)
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				var err error
				r, err = analyze.Diff(ctx, x, y, analyze.Options{})
				require.NoError(b, err)
				cancel()
				runtime.ReadMemStats(&after)
			}
			b.ReportMetric(float64(r.States), "states")
			b.ReportMetric(float64(len(r.Changes)), "changes")
			b.ReportMetric(float64(after.Sys>>20), "MiB")
			b.Log(r.Reason)
		})
	}
}

func BenchmarkReach(b *testing.B) {
	for _, n := range []int{100, 1000} {
		b.Run(fmt.Sprintf("rules=%d", n), func(b *testing.B) {
			x := hostWith(b, maker(1, inet.IPv4).rules(n))
			var r *analyze.Reachability
			for b.Loop() {
				var err error
				r, err = analyze.Reach(context.Background(), x, analyze.Options{})
				require.NoError(b, err)
			}
			dead, redundant := 0, 0
			for _, x := range r.Rules {
				if x.Status.Dead() {
					dead++
				}
				if x.Redundant {
					redundant++
				}
			}
			b.ReportMetric(float64(dead), "dead")
			b.ReportMetric(float64(redundant), "redundant")
			b.ReportMetric(float64(r.States), "states")
			b.Log(r.Extent)
		})
	}
}

// processorTime returns what this process has used: the measure that other work on the machine does not change.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
