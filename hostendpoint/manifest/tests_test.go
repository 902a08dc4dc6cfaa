// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
)

func TestTestFiles(t *testing.T) {
	got, err := manifest.ParseTests(manifest.Source{Name: "t.yaml", Data: []byte(`# what must hold
tests:
- name: one of each
  from: web-1
  to:
  - {selector: role == 'db'}
  - 10.0.0.1
  protocol: 6
  port: [80, "90:91", http]
  sourcePort: 1024
  ipVersion: 4
  state: established
  expect: allow
  by: policy:default/db
- {from: {networkSet: office}, to: {hostEndpoint: x}, protocol: ICMP, icmp: {type: 3, code: 1}, expect: deny}
---
tests: [{node: n, packet: "input eth0 tcp 1.2.3.4:5 > 6.7.8.9:10", expect: none}]
`)})
	require.NoError(t, err)
	require.Len(t, got, 3)
	a := got[0]
	require.Equal(t, []manifest.Peer{{Text: "web-1"}}, a.From)
	require.Equal(t, []manifest.Peer{{Selector: "role == 'db'"}, {Text: "10.0.0.1"}}, a.To)
	require.Equal(t, []hostendpoint.Port{{Min: 80, Max: 80}, {Min: 90, Max: 91}, {Name: "http"}}, a.Ports)
	require.Equal(t, hostendpoint.Protocol{Number: 6}, *a.Protocol)
	require.Equal(t, []any{"one of each", uint16(1024), 4, "established", "allow", "policy:default/db"}, []any{a.Name, a.SourcePort, a.IPVersion, a.State, a.Expect, a.By})
	require.Equal(t, []string{"t.yaml:3", "t.yaml:4", "t.yaml:7", "t.yaml:9"}, []string{a.Pos.String(), a.At("from").String(), a.At("to[1]").String(), a.At("port").String()})
	require.Equal(t, []manifest.Peer{{NetworkSet: "office"}}, got[1].From)
	require.Equal(t, 3, *got[1].ICMP.Type)
	require.Equal(t, 15, got[1].At("icmp").Line)
	require.Equal(t, "n", got[2].Node)
	require.Equal(t, 17, got[2].At("packet").Line)
	var zero manifest.Test
	require.Equal(t, field.Pos{}, zero.At("from"))
}

func TestTestFilesAreStrict(t *testing.T) {
	for text, want := range map[string]string{
		"":            "",
		"tests: []":   "t.yaml:1: tests: a test file has a list of tests",
		"test: []":    "unknown field; there are tests",
		"tests: {}":   "must be a list, not a mapping",
		"tests: [{}]": "tests[0].expect: what must become of the traffic is required: allow, deny, none\nt.yaml:1: tests[0].from: give from and to",
		"tests: [{from: a, to: b, expect: Allow}]":                                "must be one of allow, deny, none",
		"tests: [{from: a, to: b, expect: allow, ipVersion: 5}]":                  "must be 4 or 6",
		"tests: [{from: a, to: b, expect: allow, node: x}]":                       "only beside packet",
		"tests: [{packet: x, expect: allow}]":                                     "a packet needs the node",
		"tests: [{packet: x, node: y, port: 1, from: a, expect: allow}]":          "tests[0].from: not beside packet",
		"tests: [{from: {selector: a, address: b}, to: b, expect: allow}]":        "give exactly one of hostEndpoint, selector, networkSet and address, not 2",
		"tests: [{from: {}, to: b, expect: allow}]":                               "not 0",
		"tests: [{from: {Selector: a}, to: b, expect: allow}]":                    "did you mean selector?",
		"tests: [{from: {selector: !x y}, to: b, expect: allow}]":                 "YAML tags are not allowed",
		"tests: [{from: a, to: b, to: c, expect: allow}]":                         "given more than once",
		"tests: [{from: a, to: b, port: 70000, expect: allow}]":                   "tests[0].port: \"70000\": must be a whole number from 0 to 65535",
		"tests: [{from: a, to: b, port: [1, \"9:8\"], expect: allow}]":            "tests[0].port[1]",
		"tests: [{from: [[a]], to: b, expect: allow}]":                            "must be a mapping of fields, not a list",
		"tests: [{from: " + strings.Repeat("[", 200) + ", to: b, expect: allow}]": "t.yaml",
		"\xff": "not UTF-8",
	} {
		got, err := manifest.ParseTests(manifest.Source{Name: "t.yaml", Data: []byte(text)})
		if want == "" {
			require.NoError(t, err)
			require.Empty(t, got)
			continue
		}
		require.ErrorContains(t, err, want, text)
		require.Nil(t, got)
	}
}

func FuzzParseTests(f *testing.F) {
	f.Add([]byte("tests: [{from: a, to: [{selector: b}], port: [1, \"2:3\"], protocol: TCP, icmp: {type: 1}, expect: allow}]"))
	f.Add([]byte("tests: [{packet: a, node: b, expect: deny}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := manifest.ParseTests(manifest.Source{Name: "t.yaml", Data: data})
		if err != nil && got != nil {
			t.Fatal("tests beside an error")
		}
		for i := range got {
			got[i].At("from[0].selector")
		}
	})
}
