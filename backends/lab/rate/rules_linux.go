// SPDX-License-Identifier: Apache-2.0

package rate

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Compiled returns the program of a host with one endpoint, an interface, to which policies apply.
func Compiled(b testing.TB, iface, policies string) (*ir.Program, ir.Members) {
	b.Helper()
	endpoint := `apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: e, labels: {a: b}}
spec: {node: n, interfaceName: ` + iface + "}\n"
	rs, err := manifest.Parse(manifest.Source{Name: "bench.yaml", Data: []byte(endpoint + policies)})
	require.NoError(b, err)
	host := hostendpoint.Host{Node: "n", Interfaces: []hostendpoint.Interface{{Name: iface}}}
	snap, err := policy.Resolve(rs, host, policy.Config{})
	require.NoError(b, err)
	p, m, err := compile.Compile(snap)
	require.NoError(b, err)
	return p, m
}

func policyText(w *strings.Builder, i int, rule string) {
	fmt.Fprintf(w, "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p%05d}\nspec: {order: %d, selector: all(), types: [Ingress], ingress: [%s]}\n", i, i, rule)
}

// Uniform returns n one-rule policies of one shape, and the packet that the last one allows.
func Uniform(n int, proto string) (string, Tuple) {
	var w strings.Builder
	var last Tuple
	for i := range n {
		last = Tuple{netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 7}), 40000, uint16(10000 + i), unix.IPPROTO_UDP}
		policyText(&w, i, fmt.Sprintf("{action: Allow, protocol: %s, source: {nets: [10.%d.%d.0/24]}, destination: {ports: [%d]}}", proto, i>>8, i&255, last.DstPort))
	}
	return w.String(), last
}

// Mixed returns policies of many shapes, and packets: half of them made for a rule, half at random.
func Mixed(n int, seed uint64) (string, []Tuple) {
	r := rand.New(rand.NewPCG(seed, 7))
	bases := make([]uint32, 1+n/8)
	for i := range bases {
		bases[i] = r.Uint32()
	}
	prefix := func() netip.Prefix {
		for {
			a := r.Uint32()
			if r.IntN(2) == 0 {
				a = bases[r.IntN(len(bases))]&0xffff0000 | a&0xffff
			}
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)}), 8+r.IntN(25)).Masked()
			if first := p.Addr().As4()[0]; first > 0 && first < 224 && first != 127 {
				return p
			}
		}
	}
	var w strings.Builder
	tuples := make([]Tuple, 0, 2*n)
	for i := range n {
		hit := Tuple{prefix().Addr(), 40000, uint16(r.IntN(65536)), unix.IPPROTO_UDP}
		action, proto := "Allow", "UDP"
		if r.IntN(3) == 0 {
			action = "Deny"
		}
		if r.IntN(3) == 0 {
			hit.Protocol, proto = unix.IPPROTO_TCP, "TCP"
		}
		var source, destination []string
		narrow := r.IntN(20) < 17 // no rule matches nearly everything: those behind it would not count
		if narrow {
			p := prefix()
			hit.Src = p.Addr()
			source = append(source, fmt.Sprintf("nets: [%s]", p))
		}
		if r.IntN(10) == 0 {
			source = append(source, fmt.Sprintf("notNets: [%s]", prefix()))
		}
		lo := 1 + r.IntN(65535)
		hi := lo
		if r.IntN(3) == 0 {
			hi = min(65535, lo+r.IntN(2000))
		}
		ports := fmt.Sprintf("[%q]", fmt.Sprintf("%d:%d", lo, hi))
		switch k := r.IntN(20); {
		case k == 0 && narrow:
			destination = append(destination, "notPorts: "+ports)
		case k < 18 || !narrow:
			hit.DstPort = uint16(lo)
			destination = append(destination, "ports: "+ports)
		}
		policyText(&w, i, fmt.Sprintf("{action: %s, protocol: %s, source: {%s}, destination: {%s}}", action, proto, strings.Join(source, ", "), strings.Join(destination, ", ")))
		tuples = append(tuples, hit, Tuple{netip.AddrFrom4([4]byte{byte(1 + r.IntN(126)), byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))}), 40000, uint16(r.IntN(65536)), unix.IPPROTO_UDP})
	}
	return w.String(), tuples
}
