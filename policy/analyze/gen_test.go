// SPDX-License-Identifier: Apache-2.0

package analyze_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/policytest/irtest"
)

// world makes inputs of programs.
type world struct{ *irtest.World }

func newWorld(seed uint64) world { return world{irtest.NewWorld(seed)} }

func (w world) program(blocks, steps int) analyze.Input {
	p, m := w.Program(blocks, steps)
	return analyze.Input{Program: p, Members: m}
}

func (w world) edit(in analyze.Input) analyze.Input {
	return analyze.Input{Program: w.Edit(in.Program), Members: in.Members}
}

func hostWith(t testing.TB, rules []policy.Rule) analyze.Input {
	t.Helper()
	p, m, err := irtest.Host(rules)
	require.NoError(t, err)
	return analyze.Input{Program: p, Members: m}
}
