// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render/nftables"
)

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]nftables.Options{
		"table with a space":     {Table: "host policy"},
		"table with a quote":     {Table: `a"b`},
		"table with a digit":     {Table: "1st"},
		"two bits of mark":       {Mark: 3},
		"unknown deny action":    {DenyAction: 2},
		"unknown kind of events": {Events: 3},
	} {
		_, err := nftables.Render(&ir.Program{}, ir.Members{}, o)
		require.Error(t, err, name)
	}
	r, err := nftables.Render(&ir.Program{}, ir.Members{}, nftables.Options{})
	require.NoError(t, err)
	require.Equal(t, nftables.DefaultTable, r.Table)
	require.Empty(t, r.Chains)
	_, err = nftables.Render(nil, ir.Members{}, nftables.Options{})
	require.Error(t, err)
}
