// SPDX-License-Identifier: Apache-2.0

package hostendpoint_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

func TestTypesFollowFromRules(t *testing.T) {
	some := []hostendpoint.Rule{{Action: hostendpoint.Allow}}
	const in, out = hostendpoint.PolicyTypeIngress, hostendpoint.PolicyTypeEgress
	type types = []hostendpoint.PolicyType
	require.Equal(t, types{in}, hostendpoint.InferTypes(nil, nil, nil))
	require.Equal(t, types{in}, hostendpoint.InferTypes(nil, some, nil))
	require.Equal(t, types{out}, hostendpoint.InferTypes(types{}, []hostendpoint.Rule{}, some))
	require.Equal(t, types{in, out}, hostendpoint.InferTypes(nil, some, some))
	require.Equal(t, types{in}, hostendpoint.InferTypes(types{in}, nil, some), "types that are given stay")
}

func TestPolicyDefaults(t *testing.T) {
	for _, c := range []struct {
		name, object, tier string
		labels             map[string]string
		wantTier, wantLabe string
	}{
		{"no tier", "x", "", nil, "default", "default"},
		{"a tier in the name", "zz.x", "", nil, "zz", "zz"},
		{"a tier in the spec", "zz.x", "zz", map[string]string{"a": "b"}, "zz", "zz"},
		{"a wrong label of another tier is overwritten", "zz.x", "zz", map[string]string{hostendpoint.TierLabel: "q"}, "zz", "zz"},
		{"a wrong label of the tier default stays", "x", "", map[string]string{hostendpoint.TierLabel: "q"}, "default", "q"},
		{"a converted policy", "knp.default.x", "", nil, "default", "default"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &hostendpoint.NetworkPolicy{
				Metadata: hostendpoint.ObjectMeta{Name: c.object, Namespace: "ns", Labels: c.labels},
				Spec:     hostendpoint.NetworkPolicySpec{Tier: c.tier},
			}
			before := *p
			d := p.Default()
			require.Equal(t, c.wantTier, d.Spec.Tier)
			require.Equal(t, c.wantLabe, d.Metadata.Labels[hostendpoint.TierLabel])
			require.Len(t, d.Spec.Types, 1)
			require.Equal(t, before, *p, "the argument is not changed")
			require.Equal(t, d, d.Default(), "once is enough")
			require.Equal(t, d, hostendpoint.Default(p))
		})
	}
}

func TestDefaultCopiesEveryKind(t *testing.T) {
	for _, kind := range hostendpoint.Kinds() {
		o, ok := hostendpoint.NewObject(kind)
		require.True(t, ok)
		require.Equal(t, kind, o.ID().Kind)
		c := hostendpoint.Default(o)
		require.NotSame(t, o, c)
		require.IsType(t, o, c)
		var r hostendpoint.Resources
		r.Add(o, c)
		require.Equal(t, 2, r.Len())
		n := 0
		for range r.All() {
			n++
			break
		}
		require.Equal(t, 1, n)
	}
	_, ok := hostendpoint.NewObject("Pod")
	require.False(t, ok)
}

func TestBuiltins(t *testing.T) {
	p := hostendpoint.DefaultAllowProfile()
	require.NotSame(t, p, hostendpoint.DefaultAllowProfile())
	require.Equal(t, []hostendpoint.Rule{{Action: hostendpoint.Allow}}, p.Spec.Egress)
	for _, tier := range hostendpoint.BuiltinTiers() {
		require.NoError(t, hostendpoint.Validate(tier))
		require.Equal(t, tier, tier.Default())
	}
}

func TestResourcesSkipNil(t *testing.T) {
	r := hostendpoint.Resources{Tiers: []*hostendpoint.Tier{nil, {}}, Nodes: []*hostendpoint.Node{nil}}
	n := 0
	for o := range r.All() {
		require.Equal(t, "Tier()", o.ID().String())
		n++
	}
	require.Equal(t, 1, n)
}

func TestStoredIdentity(t *testing.T) {
	a := &hostendpoint.GlobalNetworkPolicy{Metadata: hostendpoint.ObjectMeta{Name: "x"}}
	b := &hostendpoint.GlobalNetworkPolicy{Metadata: hostendpoint.ObjectMeta{Name: "default.x"}}
	require.NotEqual(t, a.ID(), b.ID())
	require.Equal(t, a.ID().Stored(), b.ID().Stored())
	require.Equal(t, "NetworkSet(ns/s)", (&hostendpoint.NetworkSet{Metadata: hostendpoint.ObjectMeta{Name: "s", Namespace: "ns"}}).ID().String())
}
