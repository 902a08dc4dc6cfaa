// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy"
)

// Rules that only other hosts ask are not translated if the object has no fault. That is sound as long as translating
// finds no problem that Check does not.
func TestRulesWithoutFaultsAreTranslatedWithoutProblems(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	clean, faulty := 0, 0
	for range 60000 {
		namespaced := r.IntN(3) == 0
		rules := []hostendpoint.Rule{randomRule(r)}
		var o hostendpoint.Object
		var rs hostendpoint.Resources
		types := []hostendpoint.PolicyType{hostendpoint.PolicyTypeIngress}
		if namespaced {
			p := &hostendpoint.NetworkPolicy{Metadata: hostendpoint.ObjectMeta{Name: "p", Namespace: "n"}}
			p.Spec.Types, p.Spec.Ingress, p.Spec.Selector = types, rules, "all()"
			o, rs.NetworkPolicies = p, []*hostendpoint.NetworkPolicy{p}
		} else {
			p := gnp("p", func(s *hostendpoint.GlobalNetworkPolicySpec) { s.Types, s.Ingress = types, rules })
			o, rs.GlobalNetworkPolicies = p, []*hostendpoint.GlobalNetworkPolicy{p}
		}
		rs.HostEndpoints = []*hostendpoint.HostEndpoint{hep("e", "eth0", map[string]string{"projectcalico.org/namespace": "n"}, "10.0.0.1")}
		errs, warnings := o.Check()
		if len(errs)+len(warnings) > 0 || rules[0].HTTP != nil {
			faulty++
			continue
		}
		clean++
		s := resolve(t, rs, host("eth0"))
		bad := slices.IndexFunc(s.Problems, func(p policy.Problem) bool {
			return p.Code == "bad-rule" || p.Code == "bad-selector" || p.Code == "http-criteria" || p.Code == "http-ignored"
		})
		require.Negative(t, bad, "%+v: %v", rules[0], s.Problems)
	}
	require.Greater(t, clean, 2000)
	require.Greater(t, faulty, 2000)
}

func one[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

func randomRule(r *rand.Rand) hostendpoint.Rule {
	number := func() *int { return one(r, nil, nil, nil, nil, ptr(0), ptr(8), ptr(255), ptr(256), ptr(-1)) }
	protocol := func() *hostendpoint.Protocol {
		return one(r, nil, nil, nil, &hostendpoint.Protocol{Name: "TCP"}, &hostendpoint.Protocol{Name: "UDP"}, &hostendpoint.Protocol{Name: "ICMP"},
			&hostendpoint.Protocol{Name: "ICMPv6"}, &hostendpoint.Protocol{Number: 132}, &hostendpoint.Protocol{Number: 6}, &hostendpoint.Protocol{Name: "tcp"},
			&hostendpoint.Protocol{}, &hostendpoint.Protocol{Name: "UDPLite"}, &hostendpoint.Protocol{Name: "x"})
	}
	icmp := func() *hostendpoint.ICMPFields {
		if r.IntN(5) > 0 {
			return nil
		}
		return &hostendpoint.ICMPFields{Type: number(), Code: number()}
	}
	ports := func() []hostendpoint.Port {
		return one(r, nil, nil, nil, []hostendpoint.Port{{Min: 80, Max: 80}}, []hostendpoint.Port{{Name: "http"}}, []hostendpoint.Port{{}},
			[]hostendpoint.Port{{Min: 9, Max: 8}}, []hostendpoint.Port{{Min: 0, Max: 8}}, []hostendpoint.Port{{Min: 1, Max: 65535}, {Name: "a b"}})
	}
	nets := func() []string {
		return one(r, nil, nil, nil, []string{"10.0.0.0/8"}, []string{"fd00::/8"}, []string{"10.0.0.1/8", "fd00::1"}, []string{"::ffff:10.0.0.0/104"}, []string{"x"},
			[]string{""}, []string{"10.0.0.0/33"}, []string{"10.0.0.0/0"}, []string{"fe80::1%eth0"})
	}
	selector := func() string {
		return one(r, "", "", "", "a == 'b'", "all()", "has(a) && !has(b)", "a ==", "global()", "x in {'1', '2'}", "a == 'b", "not a", "k8s-app.x/y == 'z'")
	}
	side := func() hostendpoint.EntityRule {
		e := hostendpoint.EntityRule{Nets: nets(), NotNets: nets(), Ports: ports(), NotPorts: ports(), Selector: selector(), NotSelector: selector()}
		if r.IntN(4) == 0 {
			e.NamespaceSelector = selector()
		}
		if r.IntN(6) == 0 {
			e.ServiceAccounts = &hostendpoint.ServiceAccountMatch{Names: one(r, nil, []string{"sa"}, []string{"S A"}), Selector: selector()}
		}
		if r.IntN(6) == 0 {
			e.Services = &hostendpoint.ServiceMatch{Name: one(r, "", "svc", "S V"), Namespace: one(r, "", "n", "N N")}
		}
		return e
	}
	rule := hostendpoint.Rule{
		Action:    one(r, hostendpoint.Allow, hostendpoint.Deny, hostendpoint.Log, hostendpoint.Pass, hostendpoint.Allow, "allow", ""),
		IPVersion: one(r, nil, nil, nil, ptr(4), ptr(6), ptr(5)),
		Protocol:  protocol(), NotProtocol: one(r, nil, nil, protocol()), ICMP: icmp(), NotICMP: icmp(),
	}
	if r.IntN(2) == 0 {
		rule.Source = side()
	}
	if r.IntN(2) == 0 {
		rule.Destination = side()
	}
	if r.IntN(20) == 0 {
		rule.HTTP = &hostendpoint.HTTPMatch{Methods: one(r, nil, []string{"GET"})}
	}
	return rule
}
