// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"fmt"

	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/nftables"
)

func ExampleRender() {
	p, m, err := ir.Parse(`
entry normal-in hook/normal-in

block endpoint/web/normal-in
  rule protocol=tcp dport=443 -> allow by policy:default/web/ingress[0]
  rule -> deny by default:web/ingress
block hook/normal-in
  switch iif
    case eth0 -> call endpoint/web/normal-in
`)
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := nftables.Render(p, m, nftables.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	c, _ := r.Chain("endpoint/web/normal-in")
	for _, rule := range c.Rules {
		fmt.Println(rule)
	}
	// Output:
	// meta l4proto tcp th dport 443 accept comment "d82fa0d100a2d782 policy:default/web/ingress[0]"
	// drop comment "07d56f864265644e default:web/ingress"
}
