// SPDX-License-Identifier: Apache-2.0

package analyze_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// web allows a prefix to reach a port, and denies the rest.
func web(prefix string, port uint16) analyze.Input {
	return analyze.Input{Program: &ir.Program{
		Entries: []ir.Entry{{Hook: flow.NormalIn, Block: "in"}},
		Blocks: []ir.Block{{ID: "in", Steps: []ir.Step{
			ir.Rule{Match: ir.Match{
				{ir.InMask{Field: ir.Protocol, Mask: ir.MaskOf(inet.TCP)}},
				{ir.InPrefixes{Field: ir.SrcAddr, Prefixes: []netip.Prefix{netip.MustParsePrefix(prefix)}}},
				{ir.InPorts{Field: ir.DstPort, Ranges: []inet.PortRange{{Min: port, Max: port}}}},
			}, Then: ir.Allow, Origin: 1},
			ir.Rule{Then: ir.Deny, Origin: 2},
		}}},
		Origins: []flow.Origin{
			{Kind: flow.OriginPolicy, Tier: "default", Name: "web"},
			{Kind: flow.OriginDefault, Name: "eth0"},
		},
	}}
}

// A prefix became shorter.
func ExampleDiff() {
	r, err := analyze.Diff(context.Background(), web("10.1.0.0/16", 443), web("10.0.0.0/15", 443), analyze.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range r.Changes {
		fmt.Println(c.Before, "becomes", c.After)
		for _, b := range c.Boxes {
			fmt.Println("  from", b.Src, "to port", b.DstPorts)
		}
	}
	// Output:
	// deny by default:eth0/ingress becomes allow by policy:default/web/ingress[0]
	//   from 10.0.0.0/16 to port 443
}

func ExampleReach() {
	in := web("10.1.0.0/16", 443)
	b := &in.Program.Blocks[0]
	b.Steps = append(b.Steps, ir.Rule{Then: ir.Allow, Origin: 3})
	in.Program.Origins = append(in.Program.Origins, flow.Origin{Kind: flow.OriginPolicy, Tier: "default", Name: "late"})
	r, err := analyze.Reach(context.Background(), in, analyze.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, x := range r.Rules {
		fmt.Println(x.Origin, x.Status, x.By)
	}
	// Output:
	// policy:default/web/ingress[0] decides []
	// default:eth0/ingress decides []
	// policy:default/late/ingress[0] shadowed [default:eth0/ingress]
}

func ExampleWho() {
	port, _ := inet.NewPortSet(inet.PortRange{Min: 443, Max: 443})
	a, err := analyze.Who(context.Background(), web("10.1.0.0/16", 443), analyze.Query{Path: flow.Input, DstPorts: port}, analyze.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range a.Flows {
		fmt.Println(f.Boxes[0].Src, "by", f.By)
	}
	// Output:
	// 10.1.0.0/16 by policy:default/web/ingress[0]
}
