// SPDX-License-Identifier: Apache-2.0

package assertion

import (
	"context"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/fleet"
)

// TB is what Check needs of a Go test; *testing.T has it.
type TB[T any] interface {
	Helper()
	Errorf(format string, args ...any)
	Context() context.Context
	Run(name string, f func(T)) bool
}

// Check runs policy tests as subtests of a Go test, each under its name, on the hosts that the resources imply:
//
//	func TestPolicy(t *testing.T) {
//		assertion.Check(t, resources, nil, tests...)
//	}
//
// Known are the hosts whose interfaces and configuration are known; see fleet.Hosts.
func Check[T TB[T]](t T, r hostendpoint.Resources, known []fleet.Host, tests ...manifest.Test) {
	t.Helper()
	s, err := New(r, fleet.Hosts(r, known, policy.Config{}))
	if err != nil {
		t.Errorf("%v", err)
		return
	}
	for i := range tests {
		t.Run(testName(&tests[i]), func(t T) {
			t.Helper()
			rep, err := s.Run(t.Context(), tests[i:i+1])
			if err != nil {
				t.Errorf("%v", err)
				return
			}
			if x := &rep.Results[0]; !x.OK() {
				t.Errorf("%s: %s", tests[i].Pos, x)
			}
		})
	}
}

// Select returns the tests whose names want accepts. A test without a name goes by what it says, as in Result.Name.
func Select(tests []manifest.Test, want func(name string) bool) []manifest.Test {
	var out []manifest.Test
	for i := range tests {
		if want(testName(&tests[i])) {
			out = append(out, tests[i])
		}
	}
	return out
}
