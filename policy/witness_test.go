// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy"
)

// Whether a policy selects an endpoint of any host is known at all times, although only endpoints of this host are compared
// with it.
func TestInertPolicyWhileThingsChange(t *testing.T) {
	rs, err := policy.NewResolver(host("eth0"), policy.Config{})
	require.NoError(t, err)
	selects := func(sel string) hostendpoint.Object {
		return gnp("web", func(s *hostendpoint.GlobalNetworkPolicySpec) { s.Selector = sel })
	}
	on := func(node string, h *hostendpoint.HostEndpoint) hostendpoint.Object {
		h.Spec.Node, h.Spec.Profiles = node, []string{"p"}
		return h
	}
	role := map[string]string{"role": "web"}
	web, other := selects("role == 'web'"), selects("role == 'db'")
	set := &hostendpoint.GlobalNetworkSet{Metadata: hostendpoint.ObjectMeta{Name: "s", Labels: role}}
	near, far, plain := hep("near", "eth0", role), on("far", hep("far", "eth0", role)), on("far", hep("far", "eth0", nil))
	profile := &hostendpoint.Profile{Metadata: hostendpoint.ObjectMeta{Name: "p"}}
	handsDown := &hostendpoint.Profile{Metadata: profile.Metadata, Spec: hostendpoint.ProfileSpec{LabelsToApply: role}}

	put := func(o hostendpoint.Object) func() { return func() { rs.Put(o) } }
	del := func(kind, name string) func() { return func() { rs.Delete(hostendpoint.ID{Kind: kind, Name: name}) } }
	move := func(node string) func() {
		return func() {
			h := host("eth0")
			h.Node = node
			require.NoError(t, rs.SetHost(h))
		}
	}
	for i, step := range []struct {
		do      func()
		inert   bool
		governs bool
	}{
		{put(web), true, false},
		{put(set), true, false}, // no endpoint
		{put(far), false, false},
		{put(near), false, true},
		{del(hostendpoint.KindHostEndpoint, "far"), false, true},
		{put(far), false, true},
		{del(hostendpoint.KindHostEndpoint, "near"), false, false},
		{put(plain), true, false},
		{put(handsDown), false, false},
		{put(profile), true, false},
		{put(handsDown), false, false},
		{del(hostendpoint.KindProfile, "p"), true, false},
		{put(near), false, true},
		{put(other), true, false},
		{put(web), false, true},
		{move("far"), false, false},
		{put(far), false, true},
		{move("host-a"), false, true},
		{del(hostendpoint.KindHostEndpoint, "near"), false, false},
		{del(hostendpoint.KindHostEndpoint, "far"), true, false},
	} {
		step.do()
		s := rs.Snapshot()
		require.Equal(t, step.inert, slices.ContainsFunc(s.Problems, func(p policy.Problem) bool { return p.Code == "inert-policy" }), "step %d", i)
		governs := slices.ContainsFunc(s.Endpoints, func(e *policy.Endpoint) bool { return len(e.Normal) > 0 })
		require.Equal(t, step.governs, governs, "step %d", i)
	}
}
