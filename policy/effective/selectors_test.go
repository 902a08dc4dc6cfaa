// SPDX-License-Identifier: Apache-2.0

package effective_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy/effective"
	"github.com/hostpolicy/hostpolicy/selector"
)

func ExampleRule() {
	r := &hostendpoint.Rule{Source: hostendpoint.EntityRule{
		Selector:          "role == 'web'",
		NamespaceSelector: "env == 'prod'",
		NotSelector:       "quarantined == 'true'",
	}}
	src, _, err := effective.Rule("", r)
	if err != nil {
		panic(err)
	}
	fmt.Println(src.Pos)
	fmt.Println(src.Neg)
	sets, _, err := effective.RuleSets("", r)
	if err != nil {
		panic(err)
	}
	fmt.Println(sets.Sets[0].ID, sets.Sets[0].Selector)
	// Output:
	// (pcns.env == "prod" && role == "web")
	// quarantined == "true"
	// s:BVVJFxaVzchT3RvQxPGGQvi-F4bSTP-qcv3xbg ((pcns.env == "prod" && role == "web") && !quarantined == "true")
}

// Where white space stands beside other text, Calico drops the policy, or crashes if notSelector is part of it.
func TestBlankSelectorsAreAll(t *testing.T) {
	for _, blank := range []string{" ", "\t", "  \t "} {
		gnp := &hostendpoint.GlobalNetworkPolicy{}
		gnp.Spec.Selector, gnp.Spec.NamespaceSelector = blank, "x == 'y'"
		s, err := effective.GlobalNetworkPolicy(gnp)
		require.NoError(t, err)
		require.Equal(t, `(has(projectcalico.org/namespace) && pcns.x == "y")`, s.String(), "as all() would")

		np := &hostendpoint.NetworkPolicy{Metadata: hostendpoint.ObjectMeta{Namespace: "ns1"}}
		np.Spec.Selector = blank
		s, err = effective.NetworkPolicy(np)
		require.NoError(t, err)
		require.Equal(t, `(all() && projectcalico.org/namespace == "ns1")`, s.String())

		for _, c := range []struct {
			namespace string
			e         hostendpoint.EntityRule
			want      string
		}{
			{"", hostendpoint.EntityRule{Selector: blank}, `all()`},
			{"ns1", hostendpoint.EntityRule{Selector: blank}, `(projectcalico.org/namespace == "ns1" && all())`},
			{"", hostendpoint.EntityRule{Selector: blank, NamespaceSelector: "has(x)"}, `(has(pcns.x) && all())`},
			{"", hostendpoint.EntityRule{Selector: blank, NotSelector: "has(x)"}, `(all() && !has(x))`},
			{"", hostendpoint.EntityRule{Selector: "has(x)", NotSelector: blank}, `(has(x) && !all())`},
			{"ns1", hostendpoint.EntityRule{NotSelector: blank}, `(projectcalico.org/namespace == "ns1" && !all())`},
		} {
			src, _, err := effective.RuleSets(c.namespace, &hostendpoint.Rule{Source: c.e})
			require.NoError(t, err)
			require.Len(t, src.Sets, 1)
			require.Equal(t, c.want, src.Sets[0].Selector.String())
		}
		src, _, err := effective.RuleSets("", &hostendpoint.Rule{Source: hostendpoint.EntityRule{NotSelector: blank}})
		require.NoError(t, err)
		require.Len(t, src.NotSets, 1)
		require.Equal(t, "all()", src.NotSets[0].Selector.String())
	}
}

func TestErrorsNameTheField(t *testing.T) {
	long := strings.Repeat("l", 510)
	for path, e := range map[string]hostendpoint.EntityRule{
		"selector":                 {Selector: "a =="},
		"notSelector":              {NotSelector: "a) || (b"},
		"namespaceSelector":        {NamespaceSelector: long + ` in {"x"}`},
		"serviceAccounts.selector": {ServiceAccounts: &hostendpoint.ServiceAccountMatch{Selector: "has(a"}},
		"serviceAccounts.names[1]": {ServiceAccounts: &hostendpoint.ServiceAccountMatch{Names: []string{"a", "it's"}}},
	} {
		_, _, err := effective.Rule("ns1", &hostendpoint.Rule{Source: e})
		requireFieldError(t, "source."+path, err)
		_, _, err = effective.RuleSets("", &hostendpoint.Rule{Destination: e})
		requireFieldError(t, "destination."+path, err)
	}
	for path, p := range map[string]hostendpoint.GlobalNetworkPolicySpec{
		"spec.selector":               {Selector: "a == 'b') || (has(c)"},
		"spec.namespaceSelector":      {NamespaceSelector: "all"},
		"spec.serviceAccountSelector": {Selector: "has(a)", ServiceAccountSelector: "has(" + long + ")"},
	} {
		_, err := effective.GlobalNetworkPolicy(&hostendpoint.GlobalNetworkPolicy{Spec: p})
		requireFieldError(t, path, err)
	}
	np := &hostendpoint.NetworkPolicy{Spec: hostendpoint.NetworkPolicySpec{Selector: "&&"}}
	_, err := effective.NetworkPolicy(np)
	requireFieldError(t, "spec.selector", err)
	var se *selector.Error
	require.ErrorAs(t, err, &se)
	require.Zero(t, se.Offset)
	np = &hostendpoint.NetworkPolicy{Spec: hostendpoint.NetworkPolicySpec{ServiceAccountSelector: "x"}}
	_, err = effective.NetworkPolicy(np)
	requireFieldError(t, "spec.serviceAccountSelector", err)
	np = &hostendpoint.NetworkPolicy{Metadata: hostendpoint.ObjectMeta{Namespace: `a"'b`}}
	_, err = effective.NetworkPolicy(np)
	requireFieldError(t, "metadata.namespace", err)
}

// Names that Calico would read as two names, or as a whole selector, must not select what they do not name.
func TestServiceAccountNamesCannotInject(t *testing.T) {
	for _, n := range []string{"a', 'b", "a'} || has(x) && projectcalico.org/serviceaccount in {'b", "'", `'"`} {
		r := hostendpoint.Rule{Source: hostendpoint.EntityRule{
			ServiceAccounts: &hostendpoint.ServiceAccountMatch{Names: []string{n}},
		}}
		_, _, err := effective.Rule("", &r)
		require.True(t, errors.Is(err, field.ErrInvalid), n)
	}
}

func TestEmptyServiceAccountsAskForNothing(t *testing.T) {
	r := hostendpoint.Rule{Source: hostendpoint.EntityRule{ServiceAccounts: &hostendpoint.ServiceAccountMatch{}}}
	for _, namespace := range []string{"", "ns1"} {
		src, dst, err := effective.Rule(namespace, &r)
		require.NoError(t, err)
		require.Equal(t, effective.Side{}, src)
		require.Equal(t, effective.Side{}, dst)
	}
}

// A global network policy with a namespace selector applies to host endpoints only if the selector is negative.
func TestNamespaceSelectorsAndHostEndpoints(t *testing.T) {
	host := selector.MapLabels{"role": "edge"}
	for text, want := range map[string]bool{
		"all()": false, "x == 'y'": false, "x in {'y'}": false, "has(x)": false, "x contains 'y'": false,
		"x != 'y'": true, "x not in {'y'}": true, "!has(x)": true,
	} {
		p := &hostendpoint.GlobalNetworkPolicy{}
		p.Spec.NamespaceSelector = text
		s, err := effective.GlobalNetworkPolicy(p)
		require.NoError(t, err)
		require.Equal(t, want, s.Matches(host), text)
		p.Spec.NamespaceSelector, p.Spec.ServiceAccountSelector = "", text
		s, err = effective.GlobalNetworkPolicy(p)
		require.NoError(t, err)
		require.Equal(t, want, s.Matches(host), text)

		src, _, err := effective.Rule("", &hostendpoint.Rule{Source: hostendpoint.EntityRule{NamespaceSelector: text}})
		require.NoError(t, err)
		require.Equal(t, want, src.Pos.Matches(host), text)
	}
	src, _, err := effective.Rule("", &hostendpoint.Rule{Source: hostendpoint.EntityRule{NamespaceSelector: "global()"}})
	require.NoError(t, err)
	require.True(t, src.Pos.Matches(host))
}
