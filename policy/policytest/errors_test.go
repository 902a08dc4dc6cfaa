// SPDX-License-Identifier: Apache-2.0

package policytest_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// A case that lists errors lists all of them, in the order of the Snapshot.
func TestResolveReportsWhatCasesList(t *testing.T) {
	cases, err := policytest.Cases()
	require.NoError(t, err)
	n := 0
	for _, c := range cases {
		if c.Errors == nil {
			continue
		}
		n++
		s, err := policy.Resolve(c.Resources, c.Host, c.Config)
		require.NoError(t, err, c.Name)
		got := []string{}
		for _, p := range s.Problems {
			got = append(got, p.String())
		}
		if d := cmp.Diff(c.Errors, got); d != "" {
			t.Errorf("%s: %s", c.Name, d)
		}
	}
	require.Greater(t, n, 30)
}
