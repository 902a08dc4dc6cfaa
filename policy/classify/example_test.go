// SPDX-License-Identifier: Apache-2.0

package classify_test

import (
	"fmt"
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

const example = `
entry normal-in hook/normal-in
set s:admins prefixes "has(admin)"

block endpoint/web/normal-in
  switch state
    case established -> allow by conntrack:established
  call tier/security resume pass
  rule protocol=tcp dport=443 -> allow by policy:default/web/ingress[0]
  rule -> deny by default:web/ingress
block hook/normal-in
  switch iif
    case eth0 -> call endpoint/web/normal-in
block tier/security
  rule src=@s:admins -> pass by policy:security/admins/ingress[0]
  rule -> deny by tier:security/ingress
members s:admins
  10.9.0.0/24
`

func ExampleClassifier() {
	program, members, err := ir.Parse(example)
	if err != nil {
		fmt.Println(err)
		return
	}
	c, err := classify.New(program, members)
	if err != nil {
		fmt.Println(err)
		return
	}
	p := &flow.Packet{
		Path: flow.Input, In: "eth0", Protocol: inet.TCP, SrcPort: 40000, DstPort: 443,
		Src: netip.MustParseAddr("10.9.0.2"), Dst: netip.MustParseAddr("10.9.9.9"),
	}
	fmt.Println(c.Verdict(p))
	p.Src = netip.MustParseAddr("10.9.1.2")
	fmt.Println(c.Verdict(p))
	// Output:
	// allow policy:default/web/ingress[0]
	// deny tier:security/ingress
}

// The tables are the classifier as data: what decides new connections to eth0. In the rows, the
// rightmost bit is that of rule 0.
func ExampleTables() {
	program, members, err := ir.Parse(example)
	if err != nil {
		fmt.Println(err)
		return
	}
	t, err := classify.Build(program, members)
	if err != nil {
		fmt.Println(err)
		return
	}
	list := t.Lists[t.Entries[0].Block.Lists[t.InterfaceClass("eth0")][flow.New]]
	for i, a := range list.Actions {
		fmt.Printf("%d: %s, next %d, %s\n", i, a.Outcome, a.Next, program.Origin(a.Origin))
	}
	for _, d := range t.Matchers[list.Matcher].Dims {
		fmt.Printf("%s: %d classes\n", d.Axis, d.Rows.Len())
		for _, c := range d.Cuts {
			fmt.Printf("  from %x: %04b\n", c.From[10:], d.Rows.Row(c.Class)[0])
		}
	}
	// Output:
	// 0: undecided, next 2, policy:security/admins/ingress[0]
	// 1: deny, next 0, tier:security/ingress
	// 2: allow, next 0, policy:default/web/ingress[0]
	// 3: deny, next 0, default:web/ingress
	// l4: 2 classes
	//   from 000000000000: 1011
	//   from 0000040601bb: 1111
	//   from 0000040601bc: 1011
	//   from 0000060601bb: 1111
	//   from 0000060601bc: 1011
	// src: 2 classes
	//   from 000000000000: 1110
	//   from ffff0a090000: 1111
	//   from ffff0a090100: 1110
}
