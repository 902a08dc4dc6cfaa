// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/engine"
)

// cluster is 10,000 endpoints of 8 labels and 1,000 policies of 10 rules; a policy selects 80 endpoints or so.
type cluster struct {
	host      hostendpoint.Host
	resources hostendpoint.Resources
}

func makeCluster(local int) *cluster {
	const endpoints, policies, rules, values = 10_000, 1_000, 10, 123
	r := rand.New(rand.NewPCG(1, 2))
	c := &cluster{host: hostendpoint.Host{Node: "here"}}
	for i := range endpoints {
		h := &hostendpoint.HostEndpoint{}
		h.Metadata.Name, h.Metadata.Labels = fmt.Sprintf("ep%05d", i), map[string]string{}
		for k := range 8 {
			h.Metadata.Labels[fmt.Sprintf("k%d", k)] = fmt.Sprintf("v%d", r.IntN(values))
		}
		h.Spec.Node = fmt.Sprintf("n%05d", i)
		h.Spec.InterfaceName = fmt.Sprintf("eth%d", i)
		if i < local {
			h.Spec.Node = c.host.Node
			c.host.Interfaces = append(c.host.Interfaces, hostendpoint.Interface{Name: h.Spec.InterfaceName})
		}
		h.Spec.ExpectedIPs = []string{fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)}
		c.resources.Add(h)
	}
	sel := func() string {
		if r.IntN(2) == 0 {
			return fmt.Sprintf("k%d == 'v%d'", r.IntN(8), r.IntN(values))
		}
		return fmt.Sprintf("has(k%d) && k%d == \"v%d\"", r.IntN(8), r.IntN(8), r.IntN(values))
	}
	for i := range policies {
		p := &hostendpoint.GlobalNetworkPolicy{}
		p.Metadata.Name, p.Spec.Selector = fmt.Sprintf("p%04d", i), sel()
		for j := range rules {
			port := uint16(1 + r.IntN(60000))
			x := hostendpoint.Rule{Action: hostendpoint.Allow, Protocol: &hostendpoint.Protocol{Name: "TCP"}}
			x.Destination.Ports = []hostendpoint.Port{{Min: port, Max: port}}
			if j%2 == 0 {
				x.Source.Selector = sel()
			} else {
				x.Source.Nets = []string{fmt.Sprintf("10.%d.0.0/16", r.IntN(200))}
			}
			p.Spec.Ingress = append(p.Spec.Ingress, x)
		}
		c.resources.Add(p)
	}
	return c
}

func (c *cluster) changes() []engine.Change {
	var out []engine.Change
	for o := range c.resources.All() {
		out = append(out, engine.Upsert(o))
	}
	return out
}

func (c *cluster) engine(tb testing.TB) *engine.Engine {
	e, err := engine.New(c.host, engine.Options{})
	if err == nil {
		_, err = e.Apply(c.changes()...)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return e
}

// BenchmarkMachine is the yardstick by which the numbers of the others are compared between machines.
func BenchmarkMachine(b *testing.B) {
	text := make([]byte, 1<<20)
	for b.Loop() {
		sha256.Sum256(text)
	}
}

// heap returns the bytes that are in use.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkEngineScratch(b *testing.B) {
	for _, local := range []int{10, 10_000} {
		c := makeCluster(local)
		b.Run(fmt.Sprintf("local=%d", local), func(b *testing.B) {
			changes := c.changes()
			before := heap()
			e := c.engine(b)
			used := heap() - before
			runtime.KeepAlive(e)
			e = nil
			b.ReportAllocs()
			for b.Loop() {
				e := c.engine(b)
				_ = e
			}
			runtime.KeepAlive(changes)
			b.ReportMetric(float64(used)/(1<<20), "heap-MB")
		})
		b.Run(fmt.Sprintf("local=%d/program", local), func(b *testing.B) {
			e := c.engine(b)
			blocks := 0
			edit := labelEdit(c)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Apply(edit()); err != nil {
					b.Fatal(err)
				}
				p, err := e.Program()
				if err != nil {
					b.Fatal(err)
				}
				blocks = len(p.Blocks) + len(e.Members().Sets)
			}
			b.ReportMetric(float64(blocks), "objects")
		})
	}
}

// BenchmarkScratch is Resolve and Compile, which the Engine is to save.
func BenchmarkScratch(b *testing.B) {
	for _, local := range []int{10, 10_000} {
		c := makeCluster(local)
		b.Run(fmt.Sprintf("local=%d", local), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s, err := policy.Resolve(c.resources, c.host, policy.Config{})
				if err != nil {
					b.Fatal(err)
				}
				if _, _, err := compile.Compile(s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// labelEdit gives endpoints another value of a label, one after the other. Where only few endpoints are of this host, most
// edits change the members of sets and nothing else.
func labelEdit(c *cluster) func() engine.Change {
	n := 0
	return func() engine.Change {
		n++
		h := *c.resources.HostEndpoints[n*7919%10_000]
		h.Metadata.Labels = maps.Clone(h.Metadata.Labels)
		h.Metadata.Labels["k3"] = fmt.Sprintf("v%d", n%123)
		return engine.Upsert(&h)
	}
}

// rulesEdit gives policies another port in each rule, one after the other.
func rulesEdit(c *cluster) func() engine.Change {
	n := 0
	return func() engine.Change {
		n++
		p := *c.resources.GlobalNetworkPolicies[n%1000]
		p.Spec.Ingress = append([]hostendpoint.Rule(nil), p.Spec.Ingress...)
		for i := range p.Spec.Ingress {
			port := uint16(1 + (n+i)%60000)
			p.Spec.Ingress[i].Destination.Ports = []hostendpoint.Port{{Min: port, Max: port}}
		}
		return engine.Upsert(&p)
	}
}

func BenchmarkEngineEdit(b *testing.B) {
	for what, edit := range map[string]func(*cluster) func() engine.Change{"rules": rulesEdit, "label": labelEdit} {
		for _, local := range []int{10, 10_000} {
			b.Run(fmt.Sprintf("what=%s/local=%d", what, local), func(b *testing.B) {
				c := makeCluster(local)
				e, next := c.engine(b), edit(c)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := e.Apply(next()); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
