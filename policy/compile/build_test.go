// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"net/netip"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// Builders of snapshots, as Resolve makes them.

func ptr[T any](v T) *T { return &v }

func prefixes(ss ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// rules numbers rules as they stand.
func rules(rs ...policy.Rule) []policy.Rule {
	for i := range rs {
		rs[i].Index = i
		rs[i].Pos = field.Pos{File: "web.yaml", Line: 10 + i}
	}
	return rs
}

func allowTCP(port uint16) policy.Rule {
	return policy.Rule{Action: hostendpoint.Allow, Protocol: ptr(inet.TCP), Dest: policy.Side{Ports: []inet.PortRange{{Min: port, Max: port}}}}
}

var (
	allowAll = policy.Rule{Action: hostendpoint.Allow}
	denyAll  = policy.Rule{Action: hostendpoint.Deny}
	passAll  = policy.Rule{Action: hostendpoint.Pass}
	logAll   = policy.Rule{Action: hostendpoint.Log}
)

// both makes a policy with the same rules in both directions.
func both(tier, name string, rs ...policy.Rule) *policy.Policy {
	return &policy.Policy{Tier: tier, Name: name, Kind: hostendpoint.KindGlobalNetworkPolicy, Ingress: rules(rs...), Egress: rules(rs...)}
}

// in is a tier whose policies govern ingress only; inOut one whose policies govern both directions.
func in(t *policy.Tier, ps ...*policy.Policy) policy.TierPolicies {
	return policy.TierPolicies{Tier: t, Ingress: ps}
}

func inOut(t *policy.Tier, ps ...*policy.Policy) policy.TierPolicies {
	return policy.TierPolicies{Tier: t, Ingress: ps, Egress: ps}
}

var (
	denyTier = &policy.Tier{Name: "default"}
	passTier = &policy.Tier{Name: "early", Pass: true}
)

// config is Calico's, with one failsafe in each direction.
func config() policy.Config {
	return policy.Config{
		Failsafes: policy.Failsafes{
			Inbound:  []policy.FailsafePort{{Protocol: inet.TCP, Port: 22}},
			Outbound: []policy.FailsafePort{{Protocol: inet.UDP, Port: 53}},
		},
		WorkloadInterfacePrefixes: []string{"cali"},
	}
}

func snapshot(eps ...*policy.Endpoint) *policy.Snapshot {
	s := &policy.Snapshot{Config: config()}
	for _, ep := range eps {
		if ep.Interfaces == nil {
			s.Wildcard = ep
		} else {
			s.Endpoints = append(s.Endpoints, ep)
		}
	}
	return s
}

// mustCompile returns a program that is valid and canonical.
func mustCompile(t require.TestingT, s *policy.Snapshot) (*ir.Program, ir.Members) {
	p, m, err := compile.Compile(s)
	require.NoError(t, err)
	require.NoError(t, ir.Validate(p, m), "%s", p)
	return p, m
}

func run(t require.TestingT, s *policy.Snapshot) *ir.Interpreter {
	in, err := ir.NewInterpreter(mustCompile(t, s))
	require.NoError(t, err)
	return in
}
