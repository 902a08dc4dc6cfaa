// SPDX-License-Identifier: Apache-2.0

package effective_test

import (
	"bufio"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy/effective"
	"github.com/hostpolicy/hostpolicy/selector"
)

// The vectors are what Calico 3.29.7 itself makes of policies.
type effectiveVector struct {
	ID                 int
	Kind, Doc          string
	EffectiveSelector  *string `json:"effective_policy_selector"`
	EffectiveCanonical *string `json:"effective_canonical"`
	EffectiveUID       *string `json:"effective_uid"`
	Rules              []struct {
		Dir    string
		I      int
		SrcPos string `json:"src_pos"`
		SrcNeg string `json:"src_neg"`
		DstPos string `json:"dst_pos"`
		DstNeg string `json:"dst_neg"`
	}
}

type ipsetVector struct {
	ID        int
	Kind, Doc string
	V1Valid   bool   `json:"v1_valid"`
	Panic     string // Calico's crash
	Rules     []struct {
		Dir              string
		I                int
		Src, Dst         []string
		NotSrc           []string `json:"not_src"`
		NotDst           []string `json:"not_dst"`
		SrcNamedPorts    []string `json:"src_named_ports"`
		DstNamedPorts    []string `json:"dst_named_ports"`
		NotSrcNamedPorts []string `json:"not_src_named_ports"`
		NotDstNamedPorts []string `json:"not_dst_named_ports"`
		DstIPPorts       []string `json:"dst_ip_ports"`
	}
	Sets map[string]struct {
		Selector  string
		NamedPort string `json:"named_port"`
		Protocol  string
		Service   string
		WithPorts bool `json:"with_ports"`
	}
}

func readVectors[V any](t *testing.T, file string) []V {
	t.Helper()
	f, err := os.Open("testdata/" + file)
	require.NoError(t, err)
	defer f.Close()
	var out []V
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var v V
		require.NoError(t, json.Unmarshal(sc.Bytes(), &v))
		out = append(out, v)
	}
	require.NoError(t, sc.Err())
	require.NotEmpty(t, out)
	return out
}

// document is what the policies and profiles have in common, for rules, with the whole in raw.
type document struct {
	Metadata hostendpoint.ObjectMeta
	Spec     struct {
		Ingress, Egress                                     []hostendpoint.Rule
		NamespaceSelector, ServiceAccountSelector, Selector string
	}
	raw []byte
}

func decode(t *testing.T, doc string) document {
	t.Helper()
	var generic any
	require.NoError(t, yaml.Unmarshal([]byte(doc), &generic))
	var d document
	var err error
	d.raw, err = json.Marshal(generic)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(d.raw, &d))
	return d
}

func (d document) rule(dir string, i int) *hostendpoint.Rule {
	if dir == "ingress" {
		return &d.Spec.Ingress[i]
	}
	return &d.Spec.Egress[i]
}

// policySelector calls the function for the kind of the document.
func policySelector(t *testing.T, kind string, d document) (selector.Selector, error) {
	t.Helper()
	if kind == hostendpoint.KindNetworkPolicy {
		var p hostendpoint.NetworkPolicy
		require.NoError(t, json.Unmarshal(d.raw, &p))
		return effective.NetworkPolicy(&p)
	}
	var p hostendpoint.GlobalNetworkPolicy
	require.NoError(t, json.Unmarshal(d.raw, &p))
	return effective.GlobalNetworkPolicy(&p)
}

// refused reports whether we refuse a side that Calico takes, having dropped a part of it.
func refused(e hostendpoint.EntityRule) bool {
	if _, err := selector.Parse(e.NamespaceSelector); err != nil {
		return true
	}
	return e.ServiceAccounts != nil &&
		slices.ContainsFunc(e.ServiceAccounts.Names, func(n string) bool { return strings.Contains(n, "'") })
}

// withoutBlanks turns Calico's text into what we make of white space where Calico makes nothing.
func withoutBlanks(text string) string {
	if rest, ok := strings.CutPrefix(text, "( ) && "); ok {
		text = "(all()) && " + rest
	}
	return strings.ReplaceAll(text, " && ( )", " && (all())")
}

func TestEffectiveVectors(t *testing.T) {
	equal := func(id int, text string, s *selector.Selector) {
		t.Helper()
		if text == "" {
			require.Nil(t, s, id)
			return
		}
		want, err := selector.Parse(withoutBlanks(text))
		require.NoError(t, err, "vector %d: %q", id, text)
		require.NotNil(t, s, "vector %d: %q", id, text)
		require.Equal(t, want.String(), s.String(), "vector %d: %q", id, text)
		require.Equal(t, want.ID(), s.ID(), "vector %d", id)
	}
	compared, refusals := 0, 0
	for _, v := range readVectors[effectiveVector](t, "effective.jsonl") {
		d := decode(t, v.Doc)
		if v.EffectiveSelector != nil {
			s, err := policySelector(t, v.Kind, d)
			if _, bad := selector.Parse(d.Spec.NamespaceSelector); bad != nil {
				requireFieldError(t, "spec.namespaceSelector", err)
				refusals++
			} else {
				require.NoError(t, err, v.ID)
				if *v.EffectiveSelector != "" {
					equal(v.ID, *v.EffectiveSelector, &s)
				}
				if v.EffectiveCanonical != nil {
					require.Equal(t, *v.EffectiveCanonical, s.String(), v.ID)
					require.Equal(t, *v.EffectiveUID, s.ID(), v.ID)
				}
			}
		}
		for _, r := range v.Rules {
			rule := d.rule(r.Dir, r.I)
			src, dst, err := effective.Rule(d.Metadata.Namespace, rule)
			if refused(rule.Source) || refused(rule.Destination) {
				require.Error(t, err, v.ID)
				refusals++
				continue
			}
			require.NoError(t, err, v.ID)
			equal(v.ID, r.SrcPos, src.Pos)
			equal(v.ID, r.SrcNeg, src.Neg)
			equal(v.ID, r.DstPos, dst.Pos)
			equal(v.ID, r.DstNeg, dst.Neg)
			compared++
		}
	}
	require.Greater(t, compared, 100)
	require.NotZero(t, refusals)
}

func TestSetVectors(t *testing.T) {
	compared := 0
	for _, v := range readVectors[ipsetVector](t, "ipsets.jsonl") {
		d := decode(t, v.Doc)
		for i := range d.Spec.Ingress {
			_, _, err := effective.RuleSets(d.Metadata.Namespace, &d.Spec.Ingress[i])
			require.NoError(t, err, v.ID)
		}
		if !v.V1Valid || v.Panic != "" {
			continue // TestBlankSelectors says what we do
		}
		seen := map[string]bool{}
		ids := func(list []effective.SetSpec) []string {
			out := []string{}
			for _, s := range list {
				want, ok := v.Sets[s.ID]
				require.True(t, ok, "vector %d: %s", v.ID, s.ID)
				seen[s.ID] = true
				out = append(out, s.ID)
				switch s.Kind {
				case effective.Selector:
					require.Equal(t, want.Selector, s.Selector.String(), v.ID)
				case effective.NamedPort:
					require.Equal(t, want.Selector, s.Selector.String(), v.ID)
					require.Equal(t, want.NamedPort, s.PortName, v.ID)
					require.Equal(t, want.Protocol, s.Protocol.String(), v.ID)
				default:
					require.Equal(t, want.Service, s.Namespace+"/"+s.Name, v.ID)
					require.Equal(t, want.WithPorts, s.Kind.HasPorts(), v.ID)
				}
			}
			return out
		}
		same := func(want []string, got []effective.SetSpec) {
			t.Helper()
			slices.Sort(want)
			require.ElementsMatch(t, slices.Compact(want), ids(got), "vector %d", v.ID)
		}
		for _, r := range v.Rules {
			src, dst, err := effective.RuleSets(d.Metadata.Namespace, d.rule(r.Dir, r.I))
			require.NoError(t, err, v.ID)
			same(r.Src, src.Sets)
			same(r.NotSrc, src.NotSets)
			same(r.SrcNamedPorts, src.NamedPorts)
			same(r.NotSrcNamedPorts, src.NotNamedPorts)
			same(r.Dst, dst.Sets)
			same(r.NotDst, dst.NotSets)
			same(r.DstNamedPorts, dst.NamedPorts)
			same(r.NotDstNamedPorts, dst.NotNamedPorts)
			require.Empty(t, src.Services, v.ID)
			compared++
		}
		require.Len(t, seen, len(v.Sets), "vector %d", v.ID)
	}
	require.Greater(t, compared, 60)
}

func requireFieldError(t *testing.T, path string, err error) {
	t.Helper()
	var e *field.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, path, e.Path)
	require.Error(t, e.Err)
}
