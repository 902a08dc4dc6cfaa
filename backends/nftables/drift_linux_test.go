// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	rn "github.com/hostpolicy/hostpolicy/render/nftables"
)

const drifting = `entry normal-in hook/normal-in
set n:b endpoints
set s:a prefixes

block block/other
  rule protocol=tcp -> deny by policy:t/p/ingress[3]
block hook/normal-in
  call block/other if dport=5
  rule src=@s:a protocol=udp dport=7,9 -> allow by policy:t/p/ingress[0]
  rule dst.protocol.dport=@n:b family=4 -> deny by policy:t/p/ingress[1]
  switch dport
    case 80 -> allow by policy:t/p/ingress[2]
members n:b
  10.0.0.1 tcp 80
members s:a
  10.0.0.0/8
  fd00::1
`

// TestDrift changes a table behind the back of the backend. Observe must say what changed, and Apply must repair it.
func TestDrift(t *testing.T) {
	t.Parallel()
	const chain, other = "inet hostpolicy normal-in ", "inet hostpolicy block/other "
	for name, c := range map[string]struct {
		nft  string
		want []backends.Drift // Want and Got are parts of the text
	}{
		"nothing": {"list ruleset", nil},
		"a foreign rule at the end": {"add rule " + chain + `tcp dport 22 accept comment "mine"`,
			[]backends.Drift{{Kind: backends.DriftUnknown, Object: "rule normal-in[5]", Got: "mine"}}},
		"a foreign rule in front": {"insert rule " + chain + "accept",
			[]backends.Drift{{Kind: backends.DriftUnknown, Object: "rule normal-in[0]", Got: "accept"}}},
		"a rule that is gone": {"flush chain " + other,
			[]backends.Drift{{Kind: backends.DriftMissing, Object: "rule block/other[0]", Want: "drop", Origin: "policy:t/p/ingress[3]"}}},
		"a rule with another verdict": {"flush chain " + other + "; add rule " + other + `meta l4proto tcp accept comment "b9c27e91a8e96292 policy:t/p/ingress[3]"`,
			[]backends.Drift{{Kind: backends.DriftChanged, Object: "rule block/other[0]", Want: "drop", Got: "accept", Origin: "policy:t/p/ingress[3]"}}},
		"a foreign element": {"add element inet hostpolicy v4.s.a { 192.168.0.0/24 }",
			[]backends.Drift{{Kind: backends.DriftUnknown, Object: "set v4.s.a", Got: "c0a80000"}, {Kind: backends.DriftUnknown, Object: "set v4.s.a", Got: "c0a80100]"}}},
		"a missing element": {"delete element inet hostpolicy v4.n.b { 10.0.0.1 . tcp . 80 }",
			[]backends.Drift{{Kind: backends.DriftMissing, Object: "set v4.n.b", Want: "10.0.0.1 tcp 80"}}},
		"an element that became narrower": {"delete element inet hostpolicy v4.s.a { 10.0.0.0/8 }; add element inet hostpolicy v4.s.a { 10.0.0.0/9 }",
			[]backends.Drift{{Kind: backends.DriftMissing, Object: "set v4.s.a", Want: "10.0.0.0/8"}, {Kind: backends.DriftUnknown, Object: "set v4.s.a", Got: "0a800000]"}}},
		"a foreign chain": {"add chain inet hostpolicy mine",
			[]backends.Drift{{Kind: backends.DriftUnknown, Object: "chain mine"}}},
		"a foreign base chain": {"add chain inet hostpolicy mine { type filter hook input priority -5; policy drop; }",
			[]backends.Drift{{Kind: backends.DriftUnknown, Object: "chain mine", Got: "hook input priority -5 policy 0"}}},
		"another policy of a base chain": {"chain inet hostpolicy normal-in { policy drop; }",
			[]backends.Drift{{Kind: backends.DriftChanged, Object: "chain normal-in", Want: "policy 1", Got: "policy 0"}}},
		"a foreign set": {"add set inet hostpolicy mine { type ipv4_addr; }",
			[]backends.Drift{{Kind: backends.DriftUnknown, Object: "set mine", Got: "key 0x7"}}},
		"a foreign object": {"add counter inet hostpolicy mine",
			[]backends.Drift{{Kind: backends.DriftUnknown, Object: "object mine"}}},
		"a table put to sleep": {"add table inet hostpolicy { flags dormant; }",
			[]backends.Drift{{Kind: backends.DriftChanged, Object: "table hostpolicy", Got: "flags 0x1"}}},
		"no table": {"delete table inet hostpolicy",
			[]backends.Drift{{Kind: backends.DriftMissing, Object: "table hostpolicy"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := newNetns(t)
			b := newBackend(t, nftables.Options{NetNS: ns.fd(), Render: rn.Options{Linear: true}})
			p, m := parse(t, drifting)
			first, err := b.Apply(t.Context(), p, m)
			require.NoError(t, err)
			requireNoDrift(t, b)

			ns.nft(t, strings.ReplaceAll(c.nft, "; ", "\n")+"\n")
			st, err := b.Observe(t.Context())
			require.NoError(t, err)
			require.Len(t, st.Drift, len(c.want), "%+v", st.Drift)
			for i, d := range st.Drift {
				w := c.want[i]
				require.Equal(t, w.Kind, d.Kind)
				require.Equal(t, w.Object, d.Object)
				require.Equal(t, w.Origin, d.Origin)
				require.Contains(t, d.Want, w.Want)
				require.Contains(t, d.Got, w.Got)
			}
			require.Equal(t, first.Fingerprint, st.Fingerprint)
			if len(c.want) > 0 {
				_, err = b.ApplyMembers(t.Context(), nil)
				require.ErrorIs(t, err, nftables.ErrNotApplied)
			}
			r, err := b.Apply(t.Context(), p, m)
			require.NoError(t, err)
			require.Equal(t, len(c.want) > 0, r.Changes > 0)
			requireNoDrift(t, b)
		})
	}
}

// TestApplyNoticesForeignChanges applies without an Observe in between: what makes the difference impossible leads to a
// new table, and so does what would be left behind, as soon as any table has changed.
func TestApplyNoticesForeignChanges(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]string{
		"the table is gone":        "delete table inet hostpolicy",
		"the rules are gone":       "flush table inet hostpolicy",
		"a rule more":              "insert rule inet hostpolicy normal-in accept",
		"everything is gone":       "flush ruleset",
		"a chain that we will use": "add chain inet hostpolicy block/new",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := newNetns(t)
			var log bytes.Buffer
			b := newBackend(t, nftables.Options{NetNS: ns.fd(), Logger: slog.New(slog.NewTextHandler(&log, nil)), Render: rn.Options{Linear: true}})
			p, m := parse(t, drifting)
			_, err := b.Apply(t.Context(), p, m)
			require.NoError(t, err)
			for _, text := range []string{drifting, strings.ReplaceAll(drifting, "block/other", "block/new")} {
				ns.nft(t, c+"\n")
				q, m := parse(t, text)
				if text == drifting {
					q = p
				}
				r, err := b.Apply(t.Context(), q, m)
				require.NoError(t, err)
				require.Positive(t, r.Changes)
				requireNoDrift(t, b)
				require.Contains(t, log.String(), "changed by somebody else")
				log.Reset()
			}
		})
	}
	t.Run("members of a set that is gone", func(t *testing.T) {
		t.Parallel()
		ns := newNetns(t)
		b := newBackend(t, nftables.Options{NetNS: ns.fd()})
		p, m := parse(t, drifting)
		_, err := b.Apply(t.Context(), p, m)
		require.NoError(t, err)
		ns.nft(t, "delete table inet hostpolicy\n")
		cs := ir.MembersChanges{{ID: "s:a", Removed: m.Set("s:a")[1:]}}
		_, err = b.ApplyMembers(t.Context(), cs)
		require.NoError(t, err)
		requireNoDrift(t, b)
	})
	t.Run("another table is no business of ours", func(t *testing.T) {
		t.Parallel()
		ns := newNetns(t)
		b := newBackend(t, nftables.Options{NetNS: ns.fd()})
		p, m := parse(t, drifting)
		_, err := b.Apply(t.Context(), p, m)
		require.NoError(t, err)
		ns.nft(t, "add table inet other\n")
		r, err := b.Apply(t.Context(), p, m)
		require.NoError(t, err)
		require.Zero(t, r.Changes)
	})
}
