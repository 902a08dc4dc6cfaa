// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/policy/ir"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

const racing = `entry normal-in hook/normal-in
entry normal-out hook/normal-out
set s:x prefixes

block hook/normal-in
  rule src=@s:x -> deny by policy:default/web/ingress[0]
  rule protocol=udp dport=1001 -> allow by policy:default/web/ingress[1]
  rule -> deny by tier:default/ingress

block hook/normal-out
  rule -> deny by tier:default/egress
members s:x
  10.0.0.0/8
`

// TestSomebodyElseComesFirst puts an accepting rule into our table behind the look for such things and before our
// transaction. The next Apply must find it.
func TestSomebodyElseComesFirst(t *testing.T) {
	p, m, err := ir.Parse(racing)
	require.NoError(t, err)
	q, _, err := ir.Parse(strings.Replace(racing, "1001", "1002", 1))
	require.NoError(t, err)
	more := ir.Members{Sets: []ir.SetMembers{{ID: "s:x", Elements: []ir.Element{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}, {Prefix: netip.MustParsePrefix("11.0.0.0/8")}}}}}
	for name, change := range map[string]func(*Backend) error{
		"rules": func(b *Backend) error {
			r, err := render.Render(q, m, b.opts.Render)
			if err == nil {
				_, err = b.commitRules(t.Context(), time.Now(), q, r, m)
			}
			return err
		},
		"members": func(b *Backend) error {
			_, err := b.commitMembers(t.Context(), time.Now(), b.membersChanges(more), &more)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := freshBackend(t)
			_, err := b.Apply(t.Context(), p, m)
			require.NoError(t, err)
			require.NoError(t, b.verify(t.Context()))

			x := newBatch(b.opts.Render.Table, 1<<10, b.sock.seq, 0)
			require.NoError(t, x.newRule("normal-out", 0, &render.Rule{Exprs: []render.Expr{render.Verdict{Op: render.Accept}}}, 0))
			b.finish(x)
			require.NoError(t, b.sock.commit("apply", x))

			require.NoError(t, change(b))
			program, members := b.last.program, m
			if name == "members" {
				members = more
			}
			drift, err := b.drift(t.Context(), "observe", true)
			require.NoError(t, err)
			require.NotEmpty(t, drift, "the rule is still there")
			r, err := b.Apply(t.Context(), program, members)
			require.NoError(t, err)
			require.Positive(t, r.Changes)
			st, err := b.Observe(t.Context())
			require.NoError(t, err)
			require.Empty(t, st.Drift)
		})
	}
}
