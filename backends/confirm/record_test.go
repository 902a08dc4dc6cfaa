// SPDX-License-Identifier: Apache-2.0

package confirm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

func TestRecord(t *testing.T) {
	const text = `block a
  rule protocol=tcp -> allow by policy:default/web/ingress[0]
  rule -> deny by policy:default/web/ingress[1]
`
	p, m, err := ir.Parse(text)
	require.NoError(t, err)
	p.Origins[0].Pos = field.Pos{File: "with \"quotes\" and\nlines.yaml", Line: 7}
	data := record(p, m)
	q, n, err := parseRecord(data)
	require.NoError(t, err)
	require.Equal(t, p, q)
	require.Equal(t, m.Canonical(), n)
	require.Equal(t, Key(p, m), recordKey(data))
}
