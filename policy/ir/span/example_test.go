// SPDX-License-Identifier: Apache-2.0

package span_test

import (
	"fmt"
	"net/netip"

	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/ir/span"
)

// What two prefixes hold, but for what a third one does.
func Example() {
	set := func(prefixes ...string) []span.Span {
		var all []span.Span
		for _, p := range prefixes {
			for _, i := range ir.AddrPrefix(netip.MustParsePrefix(p)) {
				all = append(all, span.Of(i))
			}
		}
		return span.Union(all)
	}
	left := span.Minus(set("10.0.1.0/24", "10.0.0.0/24"), set("10.0.0.64/26"))
	for _, s := range left {
		i := s.Interval()
		fmt.Printf("%s - %s: %v\n", i.Lo.Addr(), i.Hi.Addr(), s.Size())
	}
	fmt.Println(span.Contains(left, span.KeyOf(ir.Addr(netip.MustParseAddr("10.0.0.100")))))
	// Output:
	// 10.0.0.0 - 10.0.0.63: 64
	// 10.0.0.128 - 10.0.1.255: 384
	// false
}

// The ports that are in none of some ranges.
func ExampleComplement() {
	ports := span.Union([]span.Span{span.Numbers(443, 443), span.Numbers(0, 1023), span.Numbers(1024, 30000)})
	for _, s := range span.Complement(ports, span.Key{Lo: 65535}) {
		fmt.Println(s.Lo.Lo, s.Hi.Lo)
	}
	// Output: 30001 65535
}
