// SPDX-License-Identifier: Apache-2.0

package ebpf_test

import (
	"fmt"
	"net/netip"

	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/ebpf"
)

// A member comes, and memory follows in place: it means what a new rendering means.
func ExampleLive() {
	p, m, err := ir.Parse(`entry normal-in a
block a
  rule src=@s:admins -> allow by policy:default/web/ingress[0]
  rule -> deny by policy:default/web/ingress[1]
set s:admins prefixes
members s:admins
  10.0.0.0/24
`)
	if err != nil {
		fmt.Println(err)
		return
	}
	a, err := ebpf.Render(p, m, ebpf.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	live, err := a.Live(a.Memory, m)
	if err != nil {
		fmt.Println(err)
		return
	}
	d, err := live.Change(ir.MembersChanges{{ID: "s:admins", Added: []ir.Element{{Prefix: netip.MustParsePrefix("10.0.9.9/32")}}}}, 2)
	if err != nil {
		fmt.Println(err)
		return
	}
	scratch, err := ebpf.Render(p, live.Members(), ebpf.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(d.Changed, len(d.Cells) > 0, live.Fingerprint() == scratch.Fingerprint())
	// Output: 1 true true
}
