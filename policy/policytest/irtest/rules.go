// SPDX-License-Identifier: Apache-2.0

package irtest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Host returns the program of a host whose one endpoint has one tier with one policy for each rule.
func Host(rules []policy.Rule) (*ir.Program, ir.Members, error) {
	tier := policy.TierPolicies{Tier: &policy.Tier{Name: "default"}}
	for i, r := range rules {
		r.Pos = field.Pos{File: "rules.yaml", Line: i + 1}
		tier.Ingress = append(tier.Ingress, &policy.Policy{
			Tier: "default", Name: fmt.Sprintf("p%05d", i), Kind: hostendpoint.KindGlobalNetworkPolicy, Ingress: []policy.Rule{r},
		})
	}
	return compile.Compile(&policy.Snapshot{
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
}

// Maker makes rules of the shapes that hosts have: who may reach which port, and some that cross.
type Maker struct {
	*rand.Rand
	family inet.Family
}

func (m *Maker) prefix(short, long int) netip.Prefix {
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

func (m *Maker) ports() []inet.PortRange {
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

func (m *Maker) rule() policy.Rule {
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

// Rules makes rules.
func (m *Maker) Rules(n int) []policy.Rule {
	out := make([]policy.Rule, n)
	for i := range out {
		out[i] = m.rule()
	}
	return out
}

// NewMaker returns a maker of rules of a family; equal seeds make equal rules.
func NewMaker(seed uint64, f inet.Family) *Maker {
	return &Maker{rand.New(rand.NewPCG(seed, 3)), f}
}

// Edited returns the rules with n of them changed.
func Edited(rules []policy.Rule, n int, m *Maker) []policy.Rule {
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

// Wide makes rules that cross each other in every field.
func (m *Maker) Wide(n int) []policy.Rule {
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
				p := m.prefix(9, 14)
				ps = append(ps, netip.PrefixFrom(p.Addr(), 9+m.IntN(6)).Masked()) // as wide in IPv6
			}
			return ps
		}
		r.Source.Nets, r.Dest.Nets, r.Source.Ports, r.Dest.Ports = nets(), nets(), span(), span()
		out[i] = r
	}
	return out
}
