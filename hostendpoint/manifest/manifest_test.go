// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
)

func parse(data string) (hostendpoint.Resources, error) {
	return manifest.Parse(manifest.Source{Name: "f.yaml", Data: []byte(data)})
}

const head = "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: web}\nspec:\n  node: a\n"

func ExampleParse() {
	_, err := manifest.Parse(manifest.Source{Name: "web.yaml", Data: []byte(`apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata:
  name: web
spec:
  interfacename: eth0
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: block
spec:
  selector: !has(open)
  ingress:
  - action: Deny
    protocol: TCP
    destination:
      ports: [22, "90:80"]
`)})
	fmt.Println(err)
	// Output:
	// web.yaml:6: HostEndpoint(web): spec.interfacename: unknown field; did you mean interfaceName? (field names are case sensitive)
	// web.yaml:13: GlobalNetworkPolicy(block): spec.selector: "!has(open)": YAML tags are not allowed; if the value begins with '!', put it in quotes
	// web.yaml:18: GlobalNetworkPolicy(block): spec.ingress[0].destination.ports[1]: "90:80": must be a number from 0 to 65535, a range such as 80:90, or a name
}

func TestObjectsKnowTheirLines(t *testing.T) {
	r, err := parse("# comment\n---\n" + head + `  interfaceName: eth0
  expectedIPs:
  - 10.0.0.1
  - 10.0.0.2
  ports: [{name: a, protocol: TCP, port: 1},
          {name: b, protocol: TCP, port: 2}]
`)
	require.NoError(t, err)
	require.Len(t, r.HostEndpoints, 1)
	h := r.HostEndpoints[0]
	for path, line := range map[string]int{
		"": 3, "kind": 4, "metadata.name": 5, "spec": 6, "spec.node": 7, "spec.interfaceName": 8, "spec.expectedIPs[1]": 11, "spec.ports[0].port": 12,
		"spec.ports[1].port": 13, "spec.profiles[0]": 6,
	} {
		require.Equal(t, field.Pos{File: "f.yaml", Line: line}, h.At(path), path)
	}
}

func TestValidationErrorsHaveLines(t *testing.T) {
	_, err := parse(head + "  interfaceName: eth0\n  expectedIPs:\n  - 10.0.0.1\n  - x\n")
	require.EqualError(t, err, `f.yaml:9: HostEndpoint(web): spec.expectedIPs[1]: "x": must be an IP address, without prefix length or zone`)
}

// Each case is a YAML trap: what is wrong, and where.
func TestTraps(t *testing.T) {
	for _, c := range []struct {
		name, doc, path string
		line            int
		kind            error
	}{
		{"a tag eats the negation", head + "  interfaceName: !eth0 eth1\n", "spec.interfaceName", 6, field.ErrForbidden},
		{"a tag without a name leaves no trace in the parser", head + "  interfaceName: ! eth0\n", "spec.interfaceName", 6, field.ErrForbidden},
		{"a tag behind an anchor", head + "  interfaceName: &x ! eth0\n", "spec.interfaceName", 6, field.ErrForbidden},
		{"a tag behind multi-byte text", head + "  expectedIPs: [é, ! eth0]\n", "spec.expectedIPs[1]", 6, field.ErrForbidden},
		{"a standard tag", head + "  interfaceName: !!str eth0\n", "spec.interfaceName", 6, field.ErrForbidden},
		{"a tag on a mapping", head + "  ports: !x []\n", "spec.ports", 6, field.ErrForbidden},
		{"a tag on a key", head + "  !x interfaceName: eth0\n", "spec", 6, field.ErrForbidden},
		{"a field twice", head + "  interfaceName: a\n  node: b\n", "spec.node", 7, field.ErrDuplicate},
		{"a label twice", "apiVersion: projectcalico.org/v3\nkind: Profile\nmetadata:\n  name: p\n  labels:\n    a: b\n    a: c\n", "metadata.labels.a", 7, field.ErrDuplicate},
		{"a field in the wrong case", head + "  InterfaceName: a\n", "spec.InterfaceName", 6, field.ErrUnknown},
		{"an unknown field", head + "  interface: a\n", "spec.interface", 6, field.ErrUnknown},
		{"text where a number is wanted", head + "  interfaceName: a\n  ports:\n  - {name: a, protocol: TCP, port: \"80\"}\n", "spec.ports[0].port", 8, field.ErrInvalid},
		{"a number out of range", head + "  interfaceName: a\n  ports:\n  - {name: a, protocol: TCP, port: 65536}\n", "spec.ports[0].port", 8, field.ErrInvalid},
		{"half a port", head + "  interfaceName: a\n  ports:\n  - {name: a, protocol: TCP, port: 80.5}\n", "spec.ports[0].port", 8, field.ErrInvalid},
		{"text where a list is wanted", head + "  expectedIPs: 10.0.0.1\n", "spec.expectedIPs", 6, field.ErrInvalid},
		{"a mapping where text is wanted", head + "  interfaceName: {a: b}\n", "spec.interfaceName", 6, field.ErrInvalid},
		{"a list as a key", head + "  ? [a]\n  : b\n", "spec", 6, field.ErrInvalid},
		{"an unknown kind", "apiVersion: projectcalico.org/v3\nkind: Pod\n", "kind", 2, field.ErrUnknown},
		{"a kind in the wrong case", "apiVersion: projectcalico.org/v3\nkind: hostEndpoint\n", "kind", 2, field.ErrUnknown},
		{"another version", "apiVersion: v1\nkind: HostEndpoint\n", "apiVersion", 1, field.ErrUnknown},
		{"the storage version", "apiVersion: crd.projectcalico.org/v1\nkind: HostEndpoint\n", "apiVersion", 1, field.ErrUnknown},
		{"no kind", "metadata: {name: a}\napiVersion: projectcalico.org/v3\n", "kind", 1, field.ErrRequired},
		{"no version", "kind: Tier\nmetadata: {name: a}\n", "apiVersion", 1, field.ErrRequired},
		{"no document at all", "just text\n", "", 1, field.ErrInvalid},
		{"broken YAML", head + "  interfaceName: *\n", "", 6, field.ErrSyntax},
		{"not UTF-8", head + "  interfaceName: \"\xff\"\n", "", 6, field.ErrSyntax},
		{"a loop", head + "  ports: &a [*a]\n", "spec.ports[0]", 6, field.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := parse(c.doc)
			require.Zero(t, r)
			var all *field.Errors
			require.ErrorAs(t, err, &all)
			i := slices.IndexFunc(all.List(), func(e *field.Error) bool { return e.Path == c.path })
			require.GreaterOrEqual(t, i, 0, "%v", err)
			e := all.List()[i]
			require.ErrorIs(t, e, c.kind, "%v", err)
			require.Equal(t, field.Pos{File: "f.yaml", Line: c.line}, e.Pos, "%v", err)
		})
	}
}

// What can be read of an object is validated although something else in it cannot.
func TestErrorsOfReadingAndOfValidationComeTogether(t *testing.T) {
	_, err := parse("apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: b}\nspec:\n  selctor: all()\n  ingress:\n  - {action: allow}\n  - {action: Deny, protocol: 300}\n")
	require.ErrorContains(t, err, "f.yaml:5: GlobalNetworkPolicy(b): spec.selctor: unknown field")
	require.ErrorContains(t, err, "f.yaml:7: GlobalNetworkPolicy(b): spec.ingress[0].action: \"allow\"")
	require.ErrorContains(t, err, "f.yaml:8: GlobalNetworkPolicy(b): spec.ingress[1].protocol: \"300\"")
	var all *field.Errors
	require.ErrorAs(t, err, &all)
	require.Len(t, all.List(), 3, "nothing is said twice")
}

func TestPlainWordsStayTheTextThatWasWritten(t *testing.T) {
	for _, word := range []string{"n", "yes", "on", "010", "1.50", "0x1f", "true", "1e3", "1_0", "eth0", ".5", "2024-01-02"} {
		r, err := parse(head + "  interfaceName: " + word + "\n")
		require.NoError(t, err, word)
		require.Equal(t, word, r.HostEndpoints[0].Spec.InterfaceName)
	}
	r, err := parse(strings.Replace(head, "name: web", "name: web, labels: {1: n, true: ~, y: 08}", 1) + "  interfaceName: eth0\n")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"1": "n", "true": "", "y": "08"}, r.HostEndpoints[0].Metadata.Labels)
}

func TestNumbersAndSwitches(t *testing.T) {
	r, err := parse(`apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: g}
spec:
  order: -1.5e3
  applyOnForward: yes
  doNotTrack: True
  ingress:
  - {action: Allow, protocol: 6.0, ipVersion: 4.0, destination: {ports: [80.0, 8_0, 0x50, 8e1, 0o120, 1:30, "080", http]}}
  - {action: Allow, protocol: "17", source: null}
`)
	require.NoError(t, err)
	p := r.GlobalNetworkPolicies[0]
	require.Equal(t, -1500.0, *p.Spec.Order)
	require.True(t, p.Spec.ApplyOnForward && p.Spec.DoNotTrack)
	single := hostendpoint.Port{Min: 80, Max: 80}
	require.Equal(t, []hostendpoint.Port{single, single, single, single, single, {Min: 1, Max: 30}, single, {Name: "http"}}, p.Spec.Ingress[0].Destination.Ports)
	require.Equal(t, hostendpoint.Protocol{Number: 6}, *p.Spec.Ingress[0].Protocol)
	require.Equal(t, hostendpoint.Protocol{Number: 17}, *p.Spec.Ingress[1].Protocol)
	for _, bad := range []string{"order: .nan", "order: .inf", "order: 1e309", "order: \"5\"", "applyOnForward: \"true\"", "applyOnForward: 1"} {
		_, err := parse("apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: g}\nspec: {" + bad + "}\n")
		require.ErrorIs(t, err, field.ErrInvalid, bad)
	}
}

func TestAnchorsAndMergeKeys(t *testing.T) {
	r, err := parse(`apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: g}
spec:
  ingress:
  - &base {action: Allow, protocol: TCP}
  - <<: *base
    action: Deny
  - <<: [{action: Log, protocol: UDP}, *base]
  - *base
`)
	require.NoError(t, err)
	var got []string
	for _, rule := range r.GlobalNetworkPolicies[0].Spec.Ingress {
		got = append(got, string(rule.Action)+" "+rule.Protocol.String())
	}
	require.Equal(t, []string{"Allow TCP", "Deny TCP", "Log UDP", "Allow TCP"}, got)
	_, err = parse(head + "  <<: text\n")
	require.ErrorIs(t, err, field.ErrInvalid)
}

func TestDocuments(t *testing.T) {
	tier := func(name string) string {
		return "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata:\n  name: " + name + "\n"
	}
	item := func(name string) string {
		return "- apiVersion: projectcalico.org/v3\n  kind: Tier\n  metadata: {name: " + name + "}\n"
	}
	for _, c := range []struct {
		name, data string
		want       int
	}{
		{"nothing", "", 0},
		{"comments", "# a\n---\n# b\n---\n", 0},
		{"one", tier("a"), 1},
		{"many", "---\n" + tier("a") + "---\n" + tier("b") + "...\n---   # c\n" + tier("c") + "---", 3},
		{"ended and begun", tier("a") + "...\n---\n" + tier("b"), 2},
		{"with a directive", "%YAML 1.1\n---\n" + tier("a") + "---\n" + tier("b"), 2},
		{"carriage returns", strings.ReplaceAll(tier("a")+"---\n"+tier("b"), "\n", "\r\n"), 2},
		{"a byte order mark", "\uFEFF" + tier("a"), 1},
		{"a sequence, as Calico's documentation has it", item("a") + item("b"), 2},
		{"a List", "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: \"\"}\nitems:\n" + item("a") + item("b"), 2},
		{"a List of one kind", "apiVersion: projectcalico.org/v3\nkind: TierList\nitems:\n- metadata: {name: a}\n" + item("b"), 2},
		{"an empty List", "apiVersion: v1\nkind: List\nitems: []\n", 0},
		{"JSON", "{\"apiVersion\": \"projectcalico.org/v3\",\n\t\"kind\": \"Tier\", \"metadata\": {\"name\": \"a\", \"annotations\": {\"b\": \"\\ud83d\\ude00\"}}}", 1},
		{"a stream of JSON", strings.Repeat(" ", 3) + `{"apiVersion":"projectcalico.org/v3","kind":"Tier","metadata":{"name":"a"}} {"apiVersion":"projectcalico.org/v3","kind":"Tier","metadata":{"name":"b"}}`, 2},
		{"a JSON array", `[{"apiVersion":"projectcalico.org/v3","kind":"Tier","metadata":{"name":"a"}}]`, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := parse(c.data)
			require.NoError(t, err)
			require.Equal(t, c.want, r.Len())
			require.Len(t, r.Tiers, c.want)
		})
	}
}

func TestJSONHasLinesToo(t *testing.T) {
	_, err := parse("{\"apiVersion\": \"projectcalico.org/v3\",\n\"kind\": \"Tier\",\n\"metadata\": {\"name\": \"a\"},\n\"spec\": {\n\"order\": true,\n\"order\": 1}}")
	require.EqualError(t, err, "f.yaml:5: Tier(a): spec.order: \"true\": must be a finite number, not a boolean\n"+
		"f.yaml:6: Tier(a): spec.order: given more than once, first in line 5")
}

func TestAllErrorsOfAllDocuments(t *testing.T) {
	bad := head + "  foo: 1\n"
	_, err := manifest.Parse(
		manifest.Source{Name: "b.yaml", Data: []byte(bad + "---\n{\n---\n" + bad)},
		manifest.Source{Name: "a.yaml", Data: []byte(bad)},
		manifest.Source{Name: "c.yaml", Data: []byte("apiVersion: v1\nkind: List\nitems: {}\nfoo: bar\n---\napiVersion: v1\nkind: List\nitems:\n- kind: List\n  apiVersion: v1\n- 5\n")})
	var all *field.Errors
	require.ErrorAs(t, err, &all)
	var got []string
	for _, e := range all.List() {
		got = append(got, e.Pos.String()+" "+e.Path)
	}
	require.Equal(t, []string{"a.yaml:6 spec.foo", "b.yaml:6 spec.foo", "b.yaml:8 ", "b.yaml:15 spec.foo", "c.yaml:3 items", "c.yaml:4 foo",
		"c.yaml:9 items[0].kind", "c.yaml:11 items[1]"}, got, "%v", err)
}

func TestObjectsOfOneName(t *testing.T) {
	p := func(name string) string {
		return "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata:\n  name: " + name + "\n"
	}
	_, err := manifest.Parse(manifest.Source{Name: "a.yaml", Data: []byte(p("x"))}, manifest.Source{Name: "b.yaml", Data: []byte(p("y") + "---\n" + p("default.x"))})
	require.EqualError(t, err, `b.yaml:9: GlobalNetworkPolicy(default.x): metadata.name: "default.x": defined before, at a.yaml:4`)
	require.ErrorIs(t, err, field.ErrDuplicate)
}

func TestStoredObjectsAreNotValidated(t *testing.T) {
	doc := []byte(head + "  interfaceName: eth0\n  ports:\n  - {name: a, protocol: TCP, port: 1}\n  - {name: a, protocol: TCP, port: 2}\n")
	_, err := manifest.Parse(manifest.Source{Data: doc})
	require.ErrorIs(t, err, field.ErrDuplicate)
	r, err := manifest.Options{Stored: true}.Parse(manifest.Source{Data: doc})
	require.NoError(t, err)
	errs, warnings := r.HostEndpoints[0].Check()
	require.Empty(t, errs)
	require.Len(t, warnings, 1)
	_, err = manifest.Options{Stored: true}.Parse(manifest.Source{Data: []byte(head + "  foo: bar\n")})
	require.ErrorIs(t, err, field.ErrUnknown)
}

func TestLimits(t *testing.T) {
	_, err := manifest.Options{MaxBytes: 10}.Parse(manifest.Source{Data: []byte("# 345\n")}, manifest.Source{Data: []byte("# 345\n")})
	require.ErrorIs(t, err, field.ErrTooLarge)
	_, err = manifest.Options{MaxNodes: 10}.Parse(manifest.Source{Data: []byte(head)})
	require.ErrorIs(t, err, field.ErrTooLarge)
	_, err = manifest.Options{MaxDepth: 2}.Parse(manifest.Source{Data: []byte(head)})
	require.ErrorIs(t, err, field.ErrTooLarge)
	_, err = manifest.Options{MaxErrs: 3}.Parse(manifest.Source{Data: []byte(strings.Repeat("a: b\n---\n", 100))})
	var all *field.Errors
	require.ErrorAs(t, err, &all)
	require.Len(t, all.List(), 4)
	require.ErrorIs(t, all.List()[3], field.ErrTooLarge)
}

// Hostile and huge input ends in an error or a result, in bounded time and memory.
func TestHostileInput(t *testing.T) {
	meta := "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: web, managedFields: [{fieldsV1: "
	bomb := strings.Builder{}
	bomb.WriteString("x: &a0 [a,a,a,a,a,a,a,a,a,a]\n")
	for i := range 20 {
		fmt.Fprintf(&bomb, "x%d: &a%d [%s*a%d]\n", i, i+1, strings.Repeat(fmt.Sprintf("*a%d,", i), 9), i)
	}
	bomb.WriteString("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: x, managedFields: [{fieldsV1: *a20}]}\n")
	random := make([]byte, 1<<20)
	x := uint32(1)
	for i := range random {
		x = x*1664525 + 1013904223
		random[i] = byte(x >> 24)
	}
	text := make([]byte, len(random))
	for i, b := range random {
		text[i] = " \n\t-:{}[],&*!|>'\"%@`#?abc0"[int(b)%26]
	}
	for name, data := range map[string]string{
		"random bytes":         string(random),
		"random YAML":          string(text),
		"nested lists":         meta + strings.Repeat("[", 1<<20),
		"nested block lists":   "x:\n" + strings.Repeat("- ", 1<<19),
		"nested mappings":      meta + strings.Repeat("{a: ", 1<<18),
		"nested JSON":          `{"apiVersion":` + strings.Repeat("[", 1<<20),
		"closed JSON":          strings.Repeat(`{"a":`, 1<<17) + "1" + strings.Repeat("}", 1<<17),
		"aliases of aliases":   bomb.String(),
		"a long alias":         "x: &a \"" + strings.Repeat("x", 1<<20) + "\"\n" + meta + "[" + strings.Repeat("*a,", 1<<17) + "]}]}",
		"merge keys in a loop": "x: &a {<<: [*a,*a,*a,*a,*a,*a,*a,*a]}\n" + head,
		"many nodes":           "[" + strings.Repeat("a,", 7<<20) + "]",
		"many empty items":     strings.Repeat("-\n", 7<<20),
		"many documents":       strings.Repeat("---\na\n", 1<<18),
		"many anchors":         strings.Repeat("- &a a\n", 1<<17),
		"many keys":            head + strings.Repeat("  a: b\n", 1<<17),
		"comments":             strings.Repeat("# x\n", 1<<20),
		"17 MiB":               strings.Repeat(" ", 17<<20),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			_, err := parse(data)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if name != "comments" {
				require.Error(t, err)
			}
			require.Less(t, took, 20*time.Second)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(2<<30))
			require.Less(t, len(fmt.Sprint(err)), 1<<20)
		})
	}
}

// A manifest of 10 MB is not hostile.
func TestLargeManifest(t *testing.T) {
	var b strings.Builder
	n := 0
	for b.Len() < 10_000_000 {
		fmt.Fprintf(&b, `---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata:
  name: p%d
spec:
  selector: role == 'web' && has(zone)
  order: %d
  ingress:
`, n, n)
		for i := range 20 {
			fmt.Fprintf(&b, "  - action: Allow\n    protocol: TCP\n    source:\n      nets:\n      - 10.%d.0.0/16\n    destination:\n      ports: [%d]\n", i, i+1)
		}
		n++
	}
	r, err := parse(b.String())
	require.NoError(t, err)
	require.Len(t, r.GlobalNetworkPolicies, n)
}

func TestTimestampsAreWrittenAsCalicoWritesThem(t *testing.T) {
	r, err := parse("apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {name: t, creationTimestamp: 2024-01-02T04:04:05.5+01:00}\n")
	require.NoError(t, err)
	b, err := json.Marshal(r.Tiers[0].Metadata)
	require.NoError(t, err)
	require.JSONEq(t, `{"name": "t", "creationTimestamp": "2024-01-02T03:04:05Z"}`, string(b))
}

func TestNodeASNumbers(t *testing.T) {
	for in, want := range map[string]int64{"64512": 64512, "1.10": 65546, "\"64512\"": 64512, "\"1.10\"": 65546} {
		r, err := parse("apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: n}\nspec: {bgp: {asNumber: " + in + "}}\n")
		require.NoError(t, err, in)
		require.Equal(t, want, *r.Nodes[0].Spec.BGP.ASNumber, in)
	}
	_, err := parse("apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: n}\nspec: {bgp: {asNumber: x}}\n")
	require.ErrorIs(t, err, field.ErrInvalid)
}

// A document may be one long line, as machines write it. A tag is seen wherever it stands.
func TestOneLongLine(t *testing.T) {
	line := func(before int, selector string) string {
		rules := strings.Repeat("{action: Allow, source: {selector: a == 'é'}}, ", before)
		return "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: p}, spec: {selector: all(), ingress: [" +
			rules + "{action: Allow, source: {selector: " + selector + "}}, {action: Deny}]}}"
	}
	for _, n := range []int{0, 5, 6, 50, 3000} {
		r, err := manifest.Parse(manifest.Source{Name: "x.yaml", Data: []byte(line(n, "has(b)"))})
		require.NoError(t, err)
		require.Len(t, r.GlobalNetworkPolicies[0].Spec.Ingress, n+2)
		_, err = manifest.Parse(manifest.Source{Name: "x.yaml", Data: []byte(line(n, "! has(b)"))})
		require.ErrorContains(t, err, fmt.Sprintf("spec.ingress[%d].source.selector: ", n))
		require.ErrorContains(t, err, "YAML tags are not allowed")
	}
}
