// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/engine"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

func here() hostendpoint.Host {
	return hostendpoint.Host{Node: "here", Interfaces: []hostendpoint.Interface{{Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.9.0.1/24")}}}}
}

func endpoint(name, iface string) *hostendpoint.HostEndpoint {
	return &hostendpoint.HostEndpoint{
		Metadata: hostendpoint.ObjectMeta{Name: name, Labels: map[string]string{"role": "web"}},
		Spec:     hostendpoint.HostEndpointSpec{Node: "here", InterfaceName: iface},
	}
}

func policyOf(name, selector string, actions ...hostendpoint.Action) *hostendpoint.GlobalNetworkPolicy {
	p := &hostendpoint.GlobalNetworkPolicy{Metadata: hostendpoint.ObjectMeta{Name: name}}
	p.Spec.Selector = selector
	for _, a := range actions {
		p.Spec.Ingress = append(p.Spec.Ingress, hostendpoint.Rule{Action: a})
	}
	return p
}

func newEngine(t *testing.T, o engine.Options, changes ...engine.Change) *engine.Engine {
	t.Helper()
	e, err := engine.New(here(), o)
	require.NoError(t, err)
	_, err = e.Apply(changes...)
	require.NoError(t, err)
	return e
}

func blockText(t *testing.T, e *engine.Engine, id ir.BlockID) string {
	t.Helper()
	return e.Fragment(id).String()
}

func codes(ps []policy.Problem) (out []string) {
	for _, p := range ps {
		out = append(out, p.Code)
	}
	return out
}

func TestAnUnusableVersionKeepsTheLastGoodOne(t *testing.T) {
	const block = "policy/default/p/normal-in"
	e := newEngine(t, engine.Options{KeepLastGood: true}, engine.Upsert(endpoint("a", "eth0")), engine.Upsert(policyOf("p", "", hostendpoint.Allow)))
	good := blockText(t, e, block)
	require.Contains(t, good, "allow")

	d, err := e.Apply(engine.Upsert(policyOf("default.p", "((", "Perhaps")))
	require.NoError(t, err)
	require.Equal(t, good, blockText(t, e, block))
	require.True(t, d.Delta.Empty())
	require.Equal(t, []string{"kept-last-good", "kept-last-good"}, codes(d.Raised))
	require.Equal(t, "GlobalNetworkPolicy(default.p)", d.Raised[0].Object)
	require.Subset(t, e.Problems(), d.Raised)

	again, err := e.Apply(engine.Upsert(policyOf("default.p", "((", hostendpoint.Deny)))
	require.NoError(t, err)
	require.Equal(t, []string{"kept-last-good"}, codes(again.Solved), "the selector is still wrong, the action is not")
	require.Empty(t, again.Raised)

	d, err = e.Apply(engine.Upsert(policyOf("p", "", hostendpoint.Deny)))
	require.NoError(t, err)
	require.Equal(t, []ir.BlockID{block}, d.Blocks)
	require.Equal(t, []string{"kept-last-good"}, codes(d.Solved))
	require.Contains(t, blockText(t, e, block), "deny")
}

func TestAnObjectThatWasNeverGoodIsUsedAsResolveUsesIt(t *testing.T) {
	for _, keep := range []bool{false, true} {
		e := newEngine(t, engine.Options{KeepLastGood: keep}, engine.Upsert(endpoint("a", "eth0")), engine.Upsert(policyOf("p", "", "Perhaps")))
		require.Contains(t, blockText(t, e, "policy/default/p/normal-in"), "deny", "a rule that cannot be understood denies")
		require.Contains(t, codes(e.Problems()), "bad-rule")
		require.NotContains(t, codes(e.Problems()), "kept-last-good")
	}
}

func TestDeletingAnObjectForgetsItsLastGoodVersion(t *testing.T) {
	e := newEngine(t, engine.Options{KeepLastGood: true}, engine.Upsert(endpoint("a", "eth0")), engine.Upsert(policyOf("p", "", hostendpoint.Allow)))
	_, err := e.Apply(engine.Upsert(policyOf("p", "((")))
	require.NoError(t, err)
	d, err := e.Apply(engine.Delete(hostendpoint.ID{Kind: hostendpoint.KindGlobalNetworkPolicy, Name: "default.p"}))
	require.NoError(t, err)
	require.Contains(t, codes(d.Solved), "kept-last-good")
	require.Contains(t, d.RemovedBlocks, ir.BlockID("policy/default/p/normal-in"))
	_, err = e.Apply(engine.Upsert(policyOf("p", "((")))
	require.NoError(t, err)
	require.Equal(t, []string{"bad-selector", "invalid"}, codes(e.Problems()))
}

// Names that origins cannot tell apart: a global policy named as if it came from Kubernetes, and the policy a of a
// namespace whose name has a dot.
func TestTwoPoliciesOfOneNameEndTheProgramUntilOneGoes(t *testing.T) {
	global := policyOf("knp.default.a", "", hostendpoint.Allow)
	namespaced := &hostendpoint.NetworkPolicy{Metadata: hostendpoint.ObjectMeta{Name: "a", Namespace: "knp.default"}}
	namespaced.Spec.Ingress = []hostendpoint.Rule{{Action: hostendpoint.Deny}}
	member := endpoint("a", "eth0")
	member.Metadata.Labels["projectcalico.org/namespace"] = "knp.default"
	e := newEngine(t, engine.Options{}, engine.Upsert(member), engine.Upsert(global))

	_, err := e.Apply(engine.Upsert(namespaced), engine.Upsert(policyOf("q", "", hostendpoint.Allow)))
	require.ErrorContains(t, err, "two different objects have this name")
	require.NotErrorIs(t, err, engine.ErrChange)
	_, err = e.Program()
	require.ErrorContains(t, err, "two different objects have this name")

	d, err := e.Apply(engine.Delete(global.ID()))
	require.NoError(t, err)
	require.Contains(t, d.Blocks, ir.BlockID("policy/default/knp.default.a/normal-in"), "another policy, with other rules")
	require.Contains(t, d.Blocks, ir.BlockID("policy/default/q/normal-in"), "came with the change that failed")
	p, err := e.Program()
	require.NoError(t, err)
	require.NoError(t, ir.Validate(p, e.Members()))
}

func TestChangesThatMakeNoSenseChangeNothing(t *testing.T) {
	e := newEngine(t, engine.Options{}, engine.Upsert(endpoint("a", "eth0")))
	before, err := e.Program()
	require.NoError(t, err)
	for name, c := range map[string]engine.Change{
		"the zero value":   {},
		"a nil object":     engine.Upsert(nil),
		"a typed nil":      engine.Upsert((*hostendpoint.HostEndpoint)(nil)),
		"no identity":      engine.Delete(hostendpoint.ID{}),
		"a nameless host":  engine.SetHost(hostendpoint.Host{}),
		"interfaces twice": engine.SetHost(hostendpoint.Host{Node: "here", Interfaces: []hostendpoint.Interface{{Name: "x"}, {Name: "x"}}}),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := e.Apply(engine.Upsert(endpoint("b", "eth1")), c)
			require.ErrorIs(t, err, engine.ErrChange)
			d, err := e.Apply()
			require.NoError(t, err)
			require.True(t, d.Empty())
			after, err := e.Program()
			require.NoError(t, err)
			require.Equal(t, before.String(), after.String())
		})
	}
	_, err = engine.New(hostendpoint.Host{}, engine.Options{})
	require.Error(t, err)
}

func TestTheLastChangeOfAnObjectCounts(t *testing.T) {
	e := newEngine(t, engine.Options{})
	d, err := e.Apply(engine.Upsert(endpoint("a", "eth0")), engine.Upsert(policyOf("p", "", hostendpoint.Allow)),
		engine.Delete(hostendpoint.ID{Kind: hostendpoint.KindHostEndpoint, Name: "a"}), engine.Upsert(policyOf("default.p", "none == 'x'")))
	require.NoError(t, err)
	require.True(t, d.Delta.Empty())
	require.Equal(t, []string{"inert-policy"}, codes(e.Problems()))
}

// Positions in files are no part of a program's text, and yet people read them.
func TestMovedRulesAreNotChangedBlocks(t *testing.T) {
	e := newEngine(t, engine.Options{}, engine.Upsert(endpoint("a", "eth0")), engine.Upsert(policyOf("p", "", hostendpoint.Allow)))
	p := policyOf("p", "", hostendpoint.Allow)
	p.Source = sourceAt("web.yaml", 31)
	d, err := e.Apply(engine.Upsert(p))
	require.NoError(t, err)
	require.Empty(t, d.Blocks)
	require.Equal(t, []ir.BlockID{"policy/default/p/normal-in"}, d.Moved)
	require.Equal(t, 31, e.Fragment(d.Moved...).Origins[0].Pos.Line)
}

// What a Delta names grows with the change.
func TestDeltasNameWhatChanged(t *testing.T) {
	peer := endpoint("peer", "eth0")
	peer.Spec.Node, peer.Spec.ExpectedIPs = "there", []string{"10.9.0.2"}
	p := policyOf("p", "role == 'web'", hostendpoint.Allow)
	p.Spec.Ingress[0].Source.Selector = "role == 'web'"
	e := newEngine(t, engine.Options{}, engine.Upsert(endpoint("a", "eth0")), engine.Upsert(peer), engine.Upsert(p))

	moved := *peer
	moved.Spec.ExpectedIPs = []string{"10.9.0.3"}
	d, err := e.Apply(engine.Upsert(&moved))
	require.NoError(t, err)
	require.Len(t, d.Members, 1)
	require.Equal(t, " members "+string(d.Members[0].ID)+"\n-  10.9.0.2\n+  10.9.0.3\n", strings.ReplaceAll(d.Members.String(), "\"", ""))
	d.Members = nil
	require.True(t, d.Empty())

	d, err = e.Apply(engine.SetHost(hostendpoint.Host{Node: "here", Interfaces: append(here().Interfaces, hostendpoint.Interface{Name: "eth1"})}))
	require.NoError(t, err)
	require.True(t, d.Empty(), "nobody governs eth1")

	d, err = e.Apply(engine.Upsert(endpoint("b", "eth1")))
	require.NoError(t, err)
	require.Equal(t, []ir.BlockID{
		"endpoint/b/forward-in", "endpoint/b/forward-out", "endpoint/b/normal-in", "endpoint/b/normal-out",
		"hook/forward-in", "hook/forward-out", "hook/normal-in", "hook/normal-out"}, d.Blocks)
	require.Empty(t, d.RemovedBlocks)
}
