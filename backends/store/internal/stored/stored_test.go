// SPDX-License-Identifier: Apache-2.0

package stored_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/internal/stored"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

func policy(name string, annotations map[string]string) *hostendpoint.GlobalNetworkPolicy {
	return &hostendpoint.GlobalNetworkPolicy{Metadata: hostendpoint.ObjectMeta{Name: name, Annotations: annotations}}
}

func TestNamesOfPolicies(t *testing.T) {
	for _, name := range []string{"foo", "default.foo", "web.x", "ossg.default.y", "knp.default.z"} {
		p := policy(name, map[string]string{"a": "b"})
		require.NoError(t, stored.HideName(p))
		require.Equal(t, hostendpoint.BackendPolicyName(name), p.Metadata.Name)
		require.Equal(t, `{"name":"`+name+`","creationTimestamp":null}`, p.Metadata.Annotations[store.MetadataAnnotation])
		stored.ShowName(p)
		require.Equal(t, policy(name, map[string]string{"a": "b"}), p)
	}
	for _, c := range []struct{ stored, note, want string }{
		{"default.foo", "", "foo"}, {"web.x", "", "web.x"}, {"default.foo", "not json", "foo"}, {"default.foo", `{"name":"other"}`, "foo"},
		{"default.foo", `{"name":"default.foo"}`, "default.foo"}, {"default.a.b", "", "default.a.b"}, {"default.", "", "default."},
	} {
		p := policy(c.stored, nil)
		if c.note != "" {
			p.Metadata.Annotations = map[string]string{store.MetadataAnnotation: c.note}
		}
		stored.ShowName(p)
		require.Equal(t, policy(c.want, nil), p)
	}
	h := &hostendpoint.HostEndpoint{Metadata: hostendpoint.ObjectMeta{Name: "default.h"}}
	require.NoError(t, stored.HideName(h))
	stored.ShowName(h)
	require.Equal(t, "default.h", h.Metadata.Name)
}

func TestIdentify(t *testing.T) {
	p := policy("", nil)
	stored.Identify(p, hostendpoint.ID{Kind: hostendpoint.KindGlobalNetworkPolicy, Name: "default.foo"})
	require.Equal(t, "foo", p.Metadata.Name)
	p = policy("default.foo", nil)
	stored.Identify(p, hostendpoint.ID{Kind: hostendpoint.KindGlobalNetworkPolicy, Name: "default.foo"})
	require.Equal(t, "default.foo", p.Metadata.Name)
}

func TestPlurals(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range hostendpoint.Kinds() {
		require.NotEmpty(t, stored.Plural(k))
		seen[stored.Plural(k)] = true
	}
	require.Len(t, seen, len(hostendpoint.Kinds()))
	require.Empty(t, stored.Plural("Pod"))
}
