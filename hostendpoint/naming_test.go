// SPDX-License-Identifier: Apache-2.0

package hostendpoint_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

func TestPolicyNames(t *testing.T) {
	for _, c := range []struct{ name, backend, tier, display string }{
		{"x", "default.x", "default", "x"},
		{"default.x", "default.x", "default", "x"},
		{"zz.block", "zz.block", "zz", "block"},
		{"knp.default.x", "knp.default.x", "default", "knp.default.x"},
		{"kanp.adminnetworkpolicy.y", "kanp.adminnetworkpolicy.y", "adminnetworkpolicy", "kanp.adminnetworkpolicy.y"},
		{"ossg.x", "ossg.x", "default", "ossg.x"},
		{"knp.x", "knp.x", "knp", "x"},
	} {
		require.Equal(t, c.backend, hostendpoint.BackendPolicyName(c.name), c.name)
		require.Equal(t, c.backend, hostendpoint.BackendPolicyName(c.backend), "the backend name is a fixed point")
		require.Equal(t, c.tier, hostendpoint.TierOfPolicy(c.name), c.name)
		require.Equal(t, c.tier, hostendpoint.TierOfPolicy(c.backend), c.name)
		require.Equal(t, c.display, hostendpoint.PolicyDisplayName("", c.name), c.name)
		require.Equal(t, c.display, hostendpoint.PolicyDisplayName("", c.backend), c.name)
		require.Equal(t, "ns."+c.display, hostendpoint.PolicyDisplayName("ns", c.name), c.name)
	}
	require.Equal(t, "default", hostendpoint.TierOfPolicy("default.ns.x"))
	require.Equal(t, "default.ns.x", hostendpoint.PolicyDisplayName("", "default.ns.x"), "not the policy x of the namespace ns")
	require.Equal(t, "ns.x", hostendpoint.PolicyDisplayName("ns", "default.x"))
}

func TestPolicyNameFitsTier(t *testing.T) {
	for _, c := range []struct {
		name, tier string
		want       bool
	}{
		{"x", "", true}, {"x", "default", true}, {"default.x", "", true}, {"x", "zz", false}, {"zz.x", "zz", true},
		{"zz.x", "", false}, {"zz.x", "z", false}, {"default.x", "zz", false}, {"knp.default.x", "zz", true}, {"ossg.x", "zz", true},
	} {
		require.Equal(t, c.want, hostendpoint.PolicyNameFitsTier(c.name, c.tier), "%s in %s", c.name, c.tier)
	}
}
