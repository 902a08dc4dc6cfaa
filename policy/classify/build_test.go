// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// The same list for two interfaces counts twice: it takes time twice.
func TestAllListsTogetherHaveALimit(t *testing.T) {
	p, m, err := ir.Parse("entry normal-in hook\n" +
		"block hook\n  switch iif\n    case a -> allow by workload\n    case b -> deny by workload\n")
	require.NoError(t, err)
	_, err = build(p, m, 2)
	require.NoError(t, err)
	_, err = build(p, m, 1)
	require.ErrorIs(t, err, ErrTooLarge)
}
