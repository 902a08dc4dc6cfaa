// SPDX-License-Identifier: Apache-2.0

package policytest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

func TestThePureRunnersAgreeWithTheCorpus(t *testing.T) {
	cases, err := policytest.Cases()
	require.NoError(t, err)
	require.Greater(t, len(cases), 200)
	for _, r := range policytest.Pure() {
		for _, c := range cases {
			t.Run(r.Name()+"/"+c.Name, func(t *testing.T) {
				t.Parallel()
				require.NoError(t, policytest.Check(t.Context(), r, c))
			})
		}
	}
}
