// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"testing"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// many is an endpoint with n policies of one rule.
func many(n int) *policy.Snapshot {
	ps := make([]*policy.Policy, n)
	for i := range ps {
		ps[i] = both("default", fmt.Sprintf("p%05d", i), allowTCP(uint16(i)))
	}
	return snapshot(&policy.Endpoint{Name: "h", Interfaces: []string{"eth0"}, Normal: []policy.TierPolicies{inOut(denyTier, ps...)}})
}

func BenchmarkCompile(b *testing.B) {
	for _, n := range []int{100, 5000} {
		s := many(n)
		b.Run(fmt.Sprintf("policies=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := compile.Compile(s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkValidate(b *testing.B) {
	for _, n := range []int{100, 5000} {
		p, m := mustCompile(b, many(n))
		b.Run(fmt.Sprintf("policies=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := ir.Validate(p, m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
