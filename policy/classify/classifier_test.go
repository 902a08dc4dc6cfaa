// SPDX-License-Identifier: Apache-2.0

package classify_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// TestAgreesWithInterpreter is the contract: the interpreter says what a program means.
func TestAgreesWithInterpreter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, m := program(t)
		in, err := ir.NewInterpreter(p, m)
		require.NoError(t, err)
		c, err := classify.New(p, m)
		require.NoError(t, err)
		for range 40 {
			packet := packet(t)
			want := in.Explain(packet)
			got := c.Explain(packet)
			if got.Verdict != want.Verdict || got.By != want.By || len(got.Logged) != len(want.Logged) {
				t.Fatalf("%+v\ngot  %v\nwant %v\n%s%s", *packet, got, want, p, m)
			}
			for i := range got.Logged {
				require.Equal(t, want.Logged[i], got.Logged[i])
			}
			verdict, by := c.Verdict(packet)
			require.Equal(t, want.Verdict, verdict)
			require.Equal(t, want.By, by)
		}
	})
}
