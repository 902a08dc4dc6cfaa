// SPDX-License-Identifier: Apache-2.0

package flow_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

var texts = []string{
	"policy:security/web/ingress[0]", "policy:default/ns1.web/egress[12]@forward", "policy:t/x/ingress[3]@untracked",
	"policy:t/x/ingress[3]@prednat", "profile:projectcalico-default-allow/egress[0]", "tier:default/ingress",
	"tier:t/egress@forward", "default:hep-eth0/ingress", "failsafe:in/tcp/22", "failsafe:out/udp/53", "failsafe:nd",
	"conntrack:established", "conntrack:invalid", "profile-missing:none", "workload", "forward-default", "no-verdict",
	"no-endpoint", "no-verdict@untracked",
	// Of stored objects with names that validation refuses.
	"profile-missing:%", "profile-missing:a%2fb", "default:%/egress", "policy:t%25/a%40forward/ingress[0]", "profile:a b[0]/egress[1]", "tier:%252f/ingress",
}

func TestOriginTextAndParseAreInverse(t *testing.T) {
	keys := map[flow.RuleKey]string{}
	for _, s := range texts {
		o, err := flow.ParseOrigin(s)
		require.NoError(t, err, s)
		require.Equal(t, s, o.String())
		require.Empty(t, keys[o.Key()], "keys of %s collide", s)
		keys[o.Key()] = s
		k, err := flow.ParseRuleKey(o.Key().String())
		require.NoError(t, err)
		require.Equal(t, o.Key(), k)
	}
}

func TestParseOriginRefuses(t *testing.T) {
	for _, s := range []string{"", "policy", "policy:", "policy:a/b", "policy:a/b/ingress", "policy:a/b/ingress[-1]", "policy:a/b/ingress[01]",
		"policy:a/b/sideways[0]", "tier:/ingress", "failsafe:in/tcp/70000", "failsafe:up/tcp/1", "failsafe:in/TCP/1", "workload@normal", "workload@x", "profile-missing:", "conntrack:new", "profile-missing:a/b", "profile-missing:%41", "default:%2F/ingress", "default:a%/ingress"} {
		_, err := flow.ParseOrigin(s)
		require.ErrorIs(t, err, flow.ErrOrigin, s)
	}
}

func TestLogPrefixCarriesTheKeyWhateverTheLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := flow.Origin{Kind: flow.OriginPolicy, Tier: rapid.StringMatching(`[a-z]{1,40}`).Draw(t, "tier"), Name: rapid.StringMatching(`[a-z.]{1,200}`).Draw(t, "name"), Index: rapid.IntRange(0, 9999).Draw(t, "i")}
		e := flow.Event(rapid.IntRange(1, 4).Draw(t, "event"))
		h := flow.Hooks[rapid.IntRange(0, len(flow.Hooks)-1).Draw(t, "hook")]
		limit := rapid.IntRange(24, 127).Draw(t, "limit")
		s := flow.LogPrefix(e, h, o, limit)
		if len(s) > limit {
			t.Fatalf("%d bytes, limit %d", len(s), limit)
		}
		r, ok := flow.ParseLogPrefix(s)
		if !ok || r.Event != e || r.Hook != h || r.Key != o.Key() || !strings.HasPrefix(o.String(), r.Text) {
			t.Fatalf("%q reads back as %+v, %v", s, r, ok)
		}
	})
}

func FuzzParseOrigin(f *testing.F) {
	for _, s := range texts {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if o, err := flow.ParseOrigin(s); err == nil && o.String() != s {
			t.Fatalf("%q reads as %q", s, o)
		}
		flow.ParseLogPrefix(s)
	})
}

func TestZeroValuesDenyOrNameNothing(t *testing.T) {
	var v flow.Verdict
	require.Equal(t, flow.Deny, v)
	require.Empty(t, flow.Origin{}.String())
	require.Zero(t, flow.Origin{}.Key())
	require.Nil(t, flow.Path(0).Hooks())
	require.Equal(t, "path(0)", flow.Path(0).String())
}

func ExampleParseOrigin() {
	o, err := flow.ParseOrigin("failsafe:in/tcp/22")
	fmt.Println(o.Kind == flow.OriginFailsafe, o.Protocol == inet.TCP, o.Port, err)
	// Output: true true 22 <nil>
}
