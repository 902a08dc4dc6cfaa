// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/iptables"
)

// The module of IPv6 may be loaded while a Backend works. Without rules for it everything would get in.
func TestIPv6ThatComesLater(t *testing.T) {
	for _, v := range variants {
		t.Run(v.String(), func(t *testing.T) {
			n := newNetns(t)
			p, m := compiled(t, ingress("in", "order: 1", "{action: Deny, protocol: TCP, source: {nets: ['fd00::/64']}}"))
			six := func() string { return n.run(t, "", "ip6tables-"+v.String()+"-save") }
			for _, notices := range []struct {
				name string
				do   func(b *iptables.Backend)
			}{
				{"apply", func(b *iptables.Backend) {}},
				{"observe", func(b *iptables.Backend) {
					st, err := b.Observe(t.Context())
					require.NoError(t, err)
					require.NotEmpty(t, st.Drift)
				}},
			} {
				t.Run(notices.name, func(t *testing.T) {
					b := newBackend(t, iptables.Options{NetNS: n.fd(), Variant: v})
					_, err := b.Apply(t.Context(), p, m)
					require.NoError(t, err)
					require.Contains(t, six(), "fd00::/64")
					n.run(t, "", "ip6tables-"+v.String(), "-F")
					n.run(t, "", "ip6tables-"+v.String(), "-X")
					iptables.WithoutIPv6(b)
					notices.do(b)
					_, err = b.Apply(t.Context(), p, m)
					require.NoError(t, err)
					require.Contains(t, six(), "fd00::/64")
					st, err := b.Observe(t.Context())
					require.NoError(t, err)
					require.Empty(t, st.Drift)
					require.NoError(t, b.Teardown(t.Context()))
					require.NotContains(t, six(), "hp-")
				})
			}
		})
	}
}
