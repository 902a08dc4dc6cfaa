// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
)

func ExampleMarshal() {
	b, err := manifest.Marshal(
		&hostendpoint.HostEndpoint{
			Metadata: hostendpoint.ObjectMeta{Name: "web", Labels: map[string]string{"role": "web", "on": "yes"}},
			Spec:     hostendpoint.HostEndpointSpec{Node: "host-a", InterfaceName: "*"},
		},
		&hostendpoint.GlobalNetworkPolicy{
			Metadata: hostendpoint.ObjectMeta{Name: "ssh"},
			Spec: hostendpoint.GlobalNetworkPolicySpec{
				Selector: "!has(open)",
				Ingress: []hostendpoint.Rule{{
					Action: hostendpoint.Allow, Protocol: &hostendpoint.Protocol{Name: "TCP"},
					Destination: hostendpoint.EntityRule{Ports: []hostendpoint.Port{{Min: 22, Max: 22}, {Min: 8000, Max: 9000}}},
				}},
			},
		})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(string(b))
	// Output:
	// apiVersion: projectcalico.org/v3
	// kind: HostEndpoint
	// metadata:
	//   name: web
	//   labels:
	//     "on": "yes"
	//     role: web
	// spec:
	//   node: host-a
	//   interfaceName: "*"
	// ---
	// apiVersion: projectcalico.org/v3
	// kind: GlobalNetworkPolicy
	// metadata:
	//   name: ssh
	// spec:
	//   ingress:
	//     - action: Allow
	//       protocol: TCP
	//       destination:
	//         ports:
	//           - 22
	//           - "8000:9000"
	//   selector: "!has(open)"
}

// words are texts that YAML readers like to take for something else.
var words = []string{"", "a", "web", "yes", "n", "null", "~", "1", "0x10", "1e3", "!x", "*", "&a", "a: b", "# c", "a #b", " a ", "\t", "a\nb", "é😀", "\u2028",
	"- a", "[a]", "{a}", "a,b", "'", "\"", "\\", "%", "@", "`", "<<", "=", "?", "2024-01-02", "inf", ".nan", "\u0085", "\x01", "\uFEFF", "\uFFFD", "---", "..."}

func drawText(t *rapid.T, name string) string {
	return rapid.OneOf(rapid.SampledFrom(words), rapid.String()).Draw(t, name)
}

func drawTexts(t *rapid.T, name string) []string {
	var out []string
	for range rapid.IntRange(0, 2).Draw(t, name) {
		out = append(out, drawText(t, name))
	}
	return out
}

func drawMap(t *rapid.T, name string) map[string]string {
	out := map[string]string{}
	for _, k := range drawTexts(t, name) {
		out[k] = drawText(t, name)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func drawPtr[T any](t *rapid.T, name string, draw func() T) *T {
	if !rapid.Bool().Draw(t, name) {
		return nil
	}
	v := draw()
	return &v
}

func drawProtocol(t *rapid.T) hostendpoint.Protocol {
	return hostendpoint.ParseProtocol(rapid.SampledFrom([]string{"TCP", "6", "ICMPv6", "255", "n"}).Draw(t, "protocol"))
}

func drawPorts(t *rapid.T) []hostendpoint.Port {
	var out []hostendpoint.Port
	for range rapid.IntRange(0, 2).Draw(t, "ports") {
		p, err := hostendpoint.ParsePort(rapid.SampledFrom([]string{"80", "1:30", "0", "web", "80-90", "65535", "y"}).Draw(t, "port"))
		require.NoError(t, err)
		out = append(out, p)
	}
	return out
}

func drawEntity(t *rapid.T) hostendpoint.EntityRule {
	return hostendpoint.EntityRule{
		Nets: drawTexts(t, "nets"), Selector: drawText(t, "selector"), NamespaceSelector: drawText(t, "namespaceSelector"),
		Services: drawPtr(t, "services", func() hostendpoint.ServiceMatch { return hostendpoint.ServiceMatch{Name: drawText(t, "service")} }),
		Ports:    drawPorts(t),
		NotPorts: drawPorts(t),
		ServiceAccounts: drawPtr(t, "accounts", func() hostendpoint.ServiceAccountMatch {
			return hostendpoint.ServiceAccountMatch{Names: drawTexts(t, "names")}
		}),
	}
}

func drawRules(t *rapid.T) []hostendpoint.Rule {
	var out []hostendpoint.Rule
	for range rapid.IntRange(0, 2).Draw(t, "rules") {
		r := hostendpoint.Rule{
			Action: hostendpoint.Action(drawText(t, "action")), IPVersion: drawPtr(t, "ipVersion", func() int { return rapid.IntRange(-1, 6).Draw(t, "version") }),
			Protocol: drawPtr(t, "protocol", func() hostendpoint.Protocol { return drawProtocol(t) }),
			ICMP: drawPtr(t, "icmp", func() hostendpoint.ICMPFields {
				return hostendpoint.ICMPFields{Type: drawPtr(t, "type", func() int { return 0 })}
			}),
			HTTP: drawPtr(t, "http", func() hostendpoint.HTTPMatch { return hostendpoint.HTTPMatch{Methods: drawTexts(t, "methods")} }),
			Metadata: drawPtr(t, "metadata", func() hostendpoint.RuleMetadata {
				return hostendpoint.RuleMetadata{Annotations: drawMap(t, "annotations")}
			}),
		}
		if rapid.Bool().Draw(t, "sides") {
			r.Source, r.Destination = drawEntity(t), drawEntity(t)
		}
		out = append(out, r)
	}
	return out
}

func drawObject(t *rapid.T) hostendpoint.Object {
	meta := hostendpoint.ObjectMeta{
		Name: "x" + drawText(t, "name"), Namespace: drawText(t, "namespace"), UID: drawText(t, "uid"), Generation: int64(rapid.Uint16().Draw(t, "generation")),
		Labels: drawMap(t, "labels"), Annotations: drawMap(t, "annotations"),
		CreationTimestamp: drawPtr(t, "time", func() string { return "2024-01-02T03:04:05Z" }),
		OwnerReferences:   []hostendpoint.OwnerReference{{Name: drawText(t, "owner"), Controller: drawPtr(t, "controller", func() bool { return true })}},
		ManagedFields:     []hostendpoint.ManagedFields{{FieldsV1: json.RawMessage(`{"f:spec":{"a":[1,true,null,"x"]}}`)}},
	}
	kind := func(k string) hostendpoint.TypeMeta {
		return hostendpoint.TypeMeta{Kind: k, APIVersion: hostendpoint.APIVersion}
	}
	order := drawPtr(t, "order", func() float64 { return 0 + rapid.Float64Range(-1e300, 1e300).Draw(t, "order value") }) // 0 + -0 is 0
	switch rapid.IntRange(0, 4).Draw(t, "kind") {
	case 0:
		return &hostendpoint.HostEndpoint{TypeMeta: kind(hostendpoint.KindHostEndpoint), Metadata: meta, Spec: hostendpoint.HostEndpointSpec{
			Node: drawText(t, "node"), InterfaceName: drawText(t, "interface"), ExpectedIPs: drawTexts(t, "ips"), Profiles: drawTexts(t, "profiles"),
			Ports: []hostendpoint.EndpointPort{{Name: drawText(t, "port name"), Protocol: drawProtocol(t), Port: rapid.Uint16().Draw(t, "number")}},
		}}
	case 1:
		return &hostendpoint.Profile{TypeMeta: kind(hostendpoint.KindProfile), Metadata: meta, Spec: hostendpoint.ProfileSpec{
			Ingress: drawRules(t), LabelsToApply: drawMap(t, "labelsToApply")}}
	case 2:
		return &hostendpoint.Tier{TypeMeta: kind(hostendpoint.KindTier), Metadata: meta, Spec: hostendpoint.TierSpec{Order: order,
			DefaultAction: drawPtr(t, "default", func() hostendpoint.Action { return hostendpoint.Action(drawText(t, "action")) })}}
	case 3:
		return &hostendpoint.NetworkSet{TypeMeta: kind(hostendpoint.KindNetworkSet), Metadata: meta, Spec: hostendpoint.NetworkSetSpec{Nets: drawTexts(t, "nets")}}
	}
	return &hostendpoint.GlobalNetworkPolicy{TypeMeta: kind(hostendpoint.KindGlobalNetworkPolicy), Metadata: meta, Spec: hostendpoint.GlobalNetworkPolicySpec{
		Tier: drawText(t, "tier"), Order: order, Ingress: drawRules(t), Egress: drawRules(t), Selector: drawText(t, "selector"),
		Types: []hostendpoint.PolicyType{hostendpoint.PolicyType(drawText(t, "type"))}, DoNotTrack: rapid.Bool().Draw(t, "doNotTrack"),
	}}
}

// sameObject ignores where objects were read from, and the order of the keys of fields that nobody reads.
var sameObject = cmp.Options{
	cmpopts.IgnoreTypes(&field.Source{}),
	cmp.Comparer(func(a, b json.RawMessage) bool {
		var x, y any
		return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && cmp.Equal(x, y)
	}),
}

func TestMarshalAndParseAreInverse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := drawObject(t)
		b, err := manifest.Marshal(o, o)
		require.NoError(t, err)
		r, err := manifest.Options{Stored: true}.Parse(manifest.Source{Data: b})
		require.ErrorIs(t, err, field.ErrDuplicate, "%s", b)
		require.Zero(t, r)

		b, err = manifest.Marshal(o)
		require.NoError(t, err)
		r, err = manifest.Options{Stored: true}.Parse(manifest.Source{Data: b})
		require.NoError(t, err, "%s", b)
		got := slices.Collect(r.All())
		require.Len(t, got, 1)
		require.Empty(t, cmp.Diff(o, got[0], sameObject), "%s", b)

		again, err := manifest.Marshal(got[0])
		require.NoError(t, err)
		require.Equal(t, string(b), string(again))
	})
}

func TestJSONIsAManifest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := drawObject(t)
		b, err := json.MarshalIndent(o, "", "\t")
		require.NoError(t, err)
		r, err := manifest.Options{Stored: true}.Parse(manifest.Source{Data: b})
		require.NoError(t, err, "%s", b)
		require.Equal(t, 1, r.Len())
		for got := range r.All() {
			require.Empty(t, cmp.Diff(o, got, sameObject), "%s", b)
		}
	})
}

func TestMarshalRefusesTextThatNoDocumentCanHold(t *testing.T) {
	_, err := manifest.Marshal(&hostendpoint.Tier{Metadata: hostendpoint.ObjectMeta{Name: "a\xff"}})
	require.ErrorIs(t, err, manifest.ErrText)
	_, err = manifest.Marshal(&hostendpoint.Tier{Metadata: hostendpoint.ObjectMeta{Name: `a\ufffd`}})
	require.NoError(t, err, "a backslash is a backslash")
}

func TestMarshalSaysTheKind(t *testing.T) {
	b, err := manifest.Marshal(&hostendpoint.Tier{TypeMeta: hostendpoint.TypeMeta{Kind: "Pod"}, Metadata: hostendpoint.ObjectMeta{Name: "t"}})
	require.NoError(t, err)
	require.Equal(t, "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata:\n  name: t\nspec: {}\n", string(b))
}

// Parse never panics, and what it accepts survives writing and reading.
func FuzzParse(f *testing.F) {
	f.Add(head + "  interfaceName: ! eth0\n---\n" + head + "  ports: [{name: a, protocol: 6, port: 1}]\n")
	f.Add("x: &a {<<: *a}\n")
	f.Add("apiVersion: v1\nkind: List\nitems: [{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: t}, spec: {order: 1}}]\n")
	f.Add(`{"apiVersion":"projectcalico.org/v3","kind":"NetworkSet","metadata":{"name":"s","namespace":"n"},"spec":{"nets":["10.0.0.0/8"]}}`)
	f.Add("apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: g}\nspec:\n  ingress:\n  - {action: Allow, protocol: TCP, source: {ports: [1:2, a], nets: [10.0.0.0/8], selector: \"a == 'b'\"}, http: {paths: [{exact: /}]}}\n")
	f.Fuzz(func(t *testing.T, data string) {
		for _, o := range []manifest.Options{{}, {Stored: true}} {
			r, err := o.Parse(manifest.Source{Name: "f", Data: []byte(data)})
			if err != nil {
				require.Zero(t, r)
				var all *field.Errors
				require.ErrorAs(t, err, &all)
				for _, e := range all.List() {
					require.Error(t, e.Err)
					require.Equal(t, "f", e.Pos.File)
				}
				continue
			}
			objects := slices.Collect(r.All())
			for _, x := range objects {
				x.Check()
				if !o.Stored {
					require.NoError(t, hostendpoint.Validate(x))
					require.NoError(t, hostendpoint.Validate(hostendpoint.Default(x)), "defaults keep what is valid")
				}
			}
			b, err := manifest.Marshal(objects...)
			require.NoError(t, err)
			again, err := o.Parse(manifest.Source{Data: b})
			require.NoError(t, err, "%s", b)
			require.Empty(t, cmp.Diff(objects, slices.Collect(again.All()), sameObject), "%s", b)
		}
	})
}
