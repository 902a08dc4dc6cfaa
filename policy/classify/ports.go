// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// protocolsWithPorts are those whose packets have a destination port on the axis L4, for each family, in the order of
// their numbers there.
var protocolsWithPorts = [...]struct {
	family   inet.Family
	protocol inet.Protocol
}{
	{inet.IPv4, inet.TCP}, {inet.IPv4, inet.UDP}, {inet.IPv4, inet.SCTP}, {inet.IPv4, inet.UDPLite},
	{inet.IPv6, inet.TCP}, {inet.IPv6, inet.UDP}, {inet.IPv6, inet.SCTP}, {inet.IPv6, inet.UDPLite},
}

// portProtocols is a set of them: bit i is for protocolsWithPorts[i]. One more bit stands for all other protocols.
type portProtocols uint16

const otherProtocols = 1 << len(protocolsWithPorts)

// portProtocols returns of which protocols packets may be that meet a demand on L4. It is never empty.
func (a *atoms) portProtocols(d demand) portProtocols {
	of := portProtocols(otherProtocols)
	for i, p := range protocolsWithPorts {
		lo := l4Key(p.family, p.protocol, 0, 0)
		all := true
		for _, id := range a.demands[d] {
			some := false
			for _, s := range a.list[id].spans {
				some = some || !s.Intersect(span.Numbers(lo, lo|0xffff)).Empty()
			}
			all = all && some
		}
		if all {
			of |= 1 << i
		}
	}
	return of
}

// onL4 returns where an atom of destination ports holds on the axis L4. What it says of protocols that are not among the
// given ones means nothing: no rule asks.
func (x *atom) onL4(of portProtocols) []span.Span {
	var out []span.Span
	next := uint32(0) // what stands from here on is not said yet
	for i, p := range protocolsWithPorts {
		if of>>i&1 == 0 {
			continue
		}
		lo := l4Key(p.family, p.protocol, 0, 0)
		if x.absent && next < lo {
			out = append(out, span.Numbers(next, lo-1))
		}
		for _, s := range x.spans {
			if s = s.Intersect(span.Numbers(0, 0xffff)); !s.Empty() {
				out = append(out, span.Numbers(lo|uint32(s.Lo.Lo), lo|uint32(s.Hi.Lo)))
			}
		}
		next = lo + 0x10000
	}
	if x.absent {
		out = append(out, span.Numbers(next, 1<<32-1))
	}
	return span.Union(out)
}
