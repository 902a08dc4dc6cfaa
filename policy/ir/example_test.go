// SPDX-License-Identifier: Apache-2.0

package ir_test

import (
	"fmt"
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

const example = `
entry normal-in hook/normal-in
set s:admins prefixes "has(admin)"

block endpoint/web/normal-in
  switch state
    case established -> allow by conntrack:established
  rule protocol=tcp dport=443 -> allow by policy:default/web/ingress[0]
  rule protocol=tcp src=@s:admins dport=22 -> allow by policy:default/web/ingress[1]
  rule -> deny by default:web/ingress
block hook/normal-in
  switch iif
    case eth0 -> call endpoint/web/normal-in
members s:admins
  10.9.0.0/24
`

func ExampleInterpreter() {
	program, members, err := ir.Parse(example)
	if err != nil {
		fmt.Println(err)
		return
	}
	in, err := ir.NewInterpreter(program, members)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, src := range []string{"10.9.0.7", "10.8.0.7"} {
		verdict, by := in.Verdict(&flow.Packet{
			Path: flow.Input, In: "eth0", Protocol: inet.TCP,
			Src: netip.MustParseAddr(src), SrcPort: 40000, Dst: netip.MustParseAddr("10.9.0.1"), DstPort: 22,
		})
		fmt.Println(src, verdict, by)
	}
	// Output:
	// 10.9.0.7 allow policy:default/web/ingress[1]
	// 10.8.0.7 deny default:web/ingress
}

func ExampleDiff() {
	before, _, _ := ir.Parse(example)
	after, _, _ := ir.Parse(example)
	after.Blocks[0].Steps[1] = ir.Rule{Then: ir.Deny, Origin: after.Blocks[0].Steps[3].(ir.Rule).Origin}
	fmt.Print(ir.Diff(before, after))
	// Output:
	//  block endpoint/web/normal-in
	//      case established -> allow by conntrack:established
	// -  rule protocol=tcp dport=443 -> allow by policy:default/web/ingress[0]
	// +  rule -> deny by default:web/ingress
	//    rule protocol=tcp src=@s:admins dport=22 -> allow by policy:default/web/ingress[1]
}
