// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// failsafes adds the block that holds the failsafes of a hook, and returns its ID; "" if there are none, or none count.
func (c *compiler) failsafes(h flow.Hook) ir.BlockID {
	steps := c.failsafeSteps(h)
	if len(steps) == 0 {
		return ""
	}
	return c.block(failsafeID(h), steps)
}

func failsafeID(h flow.Hook) ir.BlockID { return blockID("failsafe", h.String()) }

// failsafeSteps returns the failsafes of a hook.
//
// Calico: before connection tracking the replies to the other direction are let through too, by source port.
// Ref: felix/rules/static.go, failsafeInChain and failsafeOutChain.
func (c *compiler) failsafeSteps(h flow.Hook) []ir.Step {
	if h.Stage() == flow.StageForward {
		return nil // Calico: forwarding has neither failsafes nor profiles
	}
	then, remote := ir.Allow, ir.SrcAddr
	if h.Stage() != flow.StageNormal {
		then = ir.Pass // ends this stage without a verdict; the later stages look again
	}
	own, other := c.config.Failsafes.Inbound, c.config.Failsafes.Outbound
	if h.Direction() == flow.Egress {
		own, other, remote = other, own, ir.DstAddr
	}
	steps := c.failsafePorts(own, h.Direction(), ir.DstPort, remote, then)
	if h.Stage() == flow.StageUntracked {
		steps = append(steps, c.failsafePorts(other, 1-h.Direction(), ir.SrcPort, remote, then)...)
	}
	if c.config.Failsafes.NeighborDiscovery == policy.On {
		// Deviation: Calico in iptables and nftables mode denies these, which cuts IPv6 off and SSH with it.
		// Ref: RFC 4861, RFC 2710, RFC 3810.
		steps = append(steps, ir.Rule{
			Match: ir.Match{
				{ir.InMask{Field: ir.Family, Mask: ir.MaskOf(inet.IPv6)}},
				{ir.InMask{Field: ir.Protocol, Mask: ir.MaskOf(inet.ICMPv6)}},
				{ir.InMask{Field: ir.ICMPType, Mask: ir.MaskOf[uint8](130, 131, 132, 133, 134, 135, 136, 143)}},
			},
			Then:   then,
			Origin: c.origin(flow.Origin{Kind: flow.OriginND}),
		})
	}
	return steps
}

// failsafePorts returns one Switch for the failsafes that are open to everybody, and a rule for each that is not.
func (c *compiler) failsafePorts(ports []policy.FailsafePort, dir flow.Direction, port, remote ir.Field, then ir.Outcome) []ir.Step {
	type key struct {
		proto inet.Protocol
		port  uint16
	}
	nets := map[key][]netip.Prefix{}
	open := map[key]bool{}
	for _, f := range ports {
		k := key{f.Protocol, f.Port}
		switch p, ok := ir.PlainPrefix(f.Net); {
		case f.Net == netip.Prefix{}:
			open[k] = true
		case !ok:
			c.errorf("Config", "Failsafes", field.Pos{}, "%s/%d has an invalid net", f.Protocol, f.Port)
		default:
			nets[k] = append(nets[k], p)
		}
	}
	order := func(a, b key) int { return cmp.Or(cmp.Compare(a.proto, b.proto), cmp.Compare(a.port, b.port)) }
	origin := func(k key) ir.OriginID {
		return c.origin(flow.Origin{Kind: flow.OriginFailsafe, Dir: dir, Protocol: k.proto, Port: k.port})
	}
	var steps []ir.Step
	sw := ir.Switch{Key: []ir.Field{ir.Protocol, port}}
	for _, k := range slices.SortedFunc(maps.Keys(open), order) {
		sw.Cases = append(sw.Cases, ir.Case{
			Key:    []ir.Interval{ir.Exactly(ir.Number(k.proto)), ir.Exactly(ir.Number(k.port))},
			Then:   ir.Target{Outcome: then},
			Origin: origin(k),
		})
	}
	if len(sw.Cases) > 0 {
		steps = append(steps, sw)
	}
	for _, k := range slices.SortedFunc(maps.Keys(nets), order) {
		if open[k] {
			continue
		}
		steps = append(steps, ir.Rule{
			Match: ir.Match{
				{ir.InMask{Field: ir.Protocol, Mask: ir.MaskOf(k.proto)}},
				{ir.InPorts{Field: port, Ranges: []inet.PortRange{{Min: k.port, Max: k.port}}}},
				{ir.InPrefixes{Field: remote, Prefixes: ir.MergePrefixes(nets[k])}},
			},
			Then:   then,
			Origin: origin(k),
		})
	}
	return steps
}
