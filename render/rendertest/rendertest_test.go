// SPDX-License-Identifier: Apache-2.0

package rendertest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

func TestProgramsAreValidAndReproducible(t *testing.T) {
	for seed := range uint64(300) {
		p, m := rendertest.Program(seed, rendertest.Size{})
		require.NoError(t, ir.Validate(p, m), "seed %d\n%s%s", seed, p, m)
		q, n := rendertest.Program(seed, rendertest.Size{})
		require.Equal(t, p.String()+m.String(), q.String()+n.String())
	}
}

func TestLargeIsValid(t *testing.T) {
	p, m := rendertest.Large(100, 50)
	require.NoError(t, ir.Validate(p, m))
	require.Len(t, m.Set("s:all"), 50)
}
