// SPDX-License-Identifier: Apache-2.0

package picture_test

import (
	"context"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/fleet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/picture"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

var update = flag.Bool("update", false, "rewrite the pictures in testdata")

// golden compares a picture with the one in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.True(t, string(want) == got, "%s differs; look at it and run with -update", file)
}

func read(t testing.TB, files ...string) hostendpoint.Resources {
	t.Helper()
	var srcs []manifest.Source
	for _, f := range files {
		data, err := os.ReadFile(f)
		require.NoError(t, err)
		srcs = append(srcs, manifest.Source{Name: filepath.Base(f), Data: data})
	}
	r, err := manifest.Parse(srcs...)
	require.NoError(t, err)
	return r
}

// webPicture is the endpoint of testdata/web.yaml, which has something of everything.
func webPicture(t testing.TB) string {
	t.Helper()
	h := hostendpoint.Host{Node: "web-1", Interfaces: []hostendpoint.Interface{{Name: "eth0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.20.0.11/24")}}}}
	s, err := policy.Resolve(read(t, "testdata/web.yaml"), h, policy.Config{})
	require.NoError(t, err)
	prog, members, err := compile.Compile(s)
	require.NoError(t, err)
	reach, err := analyze.Reach(context.Background(), analyze.Input{Program: prog, Members: members}, analyze.Options{})
	require.NoError(t, err)
	counters := map[flow.Origin]uint64{}
	for text, n := range map[string]uint64{"policy:default/web/ingress[0]": 1234567, "policy:default/web/ingress[2]": 42, "policy:security/blocklist/ingress[1]": 98765, "default:web-1/ingress": 7} {
		o, err := flow.ParseOrigin(text)
		require.NoError(t, err)
		counters[o] = n
	}
	svg, err := picture.Endpoint(s, "web-1", picture.Options{Notes: picture.Notes(s, reach), Counters: counters})
	require.NoError(t, err)
	return svg
}

// shopDelta is what a change of the shop of the examples comes to.
func shopDelta(t testing.TB) *fleet.Delta {
	t.Helper()
	groups := func(dir string) []*fleet.Group {
		files, err := filepath.Glob("../../examples/hep/testdata/shop/" + dir + "/*.yaml")
		require.NoError(t, err)
		r := read(t, files...)
		g, err := fleet.Groups(r, fleet.Hosts(r, nil, policy.Config{}))
		require.NoError(t, err)
		return g
	}
	d, err := fleet.Compare(context.Background(), groups("old"), groups("new"), analyze.Options{})
	require.NoError(t, err)
	require.False(t, d.Partial())
	return d
}

func TestEndpoint(t *testing.T) {
	svg := webPicture(t)
	golden(t, "web.svg", svg)
	requireXML(t, svg)
	for range 10 {
		require.True(t, svg == webPicture(t), "not the same every time")
	}
	for _, want := range []string{">drop-flood<", ">1M<", ">98k<", ">by web[0]<", ">by tier default and 1 more<", ">matches nothing<", ">the profile does not exist", "<title>failsafes: tcp/22, udp/68"} {
		require.True(t, strings.Contains(svg, want), want)
	}
	_, err := picture.Endpoint(&policy.Snapshot{}, "x", picture.Options{})
	require.ErrorContains(t, err, `no endpoint "x"`)
}

func TestDiff(t *testing.T) {
	html := picture.Diff(shopDelta(t), picture.DiffOptions{Before: "old", After: "new"})
	golden(t, "shop.html", html)
	for range 5 {
		require.True(t, html == picture.Diff(shopDelta(t), picture.DiffOptions{Before: "old", After: "new"}), "not the same every time")
	}
	for _, not := range []string{"http:", "https:", "<script", "src=", "url("} {
		require.False(t, strings.Contains(html, not), not)
	}
	calm := picture.Diff(&fleet.Delta{Same: []string{"a", "b"}, Rewritten: []string{"b"}}, picture.DiffOptions{})
	require.Contains(t, calm, "Nothing changes")
	require.Contains(t, calm, "The rules of 1 of them are others")
	part := picture.Diff(&fleet.Delta{Changes: []*fleet.Change{{Nodes: []string{"n"}, Report: &analyze.Report{Extent: analyze.Extent{Partial: true, Reason: "too <large>"}}}}}, picture.DiffOptions{})
	require.Contains(t, part, "stopped before it was complete: what is shown is true, but there may be more. n: too &lt;large&gt;")
}

// Whatever names and files are called, they are text.
func TestNothingEscapes(t *testing.T) {
	evil := "<script>alert(1)</script>\"'&\x01\xff"
	pos := flow.Origin{Kind: flow.OriginDefault, Name: evil}
	pos.Pos.File = evil
	s := &policy.Snapshot{Host: hostendpoint.Host{Node: evil}, Sets: []*policy.Set{{ID: "s:x", Selector: evil}}}
	tier := &policy.Tier{Name: evil, Pos: pos.Pos}
	p := &policy.Policy{Tier: evil, Name: evil, Pos: pos.Pos, Ingress: []policy.Rule{{Action: "Allow", Source: policy.Side{Sets: []string{"s:x"}}}, {Action: hostendpoint.Action(evil), Never: evil}}}
	s.Wildcard = &policy.Endpoint{Name: evil, Normal: []policy.TierPolicies{{Tier: tier, Ingress: []*policy.Policy{p}}}, Profiles: []*policy.Profile{{Name: evil, Missing: true}}}
	svg, err := picture.Endpoint(s, evil, picture.Options{Notes: map[flow.Origin]picture.Note{{Kind: flow.OriginTier, Tier: evil}: {Text: evil}}})
	require.NoError(t, err)
	requireXML(t, svg)
	d := &fleet.Delta{Same: []string{evil}, Changes: []*fleet.Change{{Nodes: []string{evil}, Report: &analyze.Report{Changes: []analyze.Change{{Before: analyze.Decision{By: pos}, After: analyze.Decision{By: pos, Verdict: flow.Allow}, Boxes: make([]analyze.Box, 500)}}}}}}
	html := picture.Diff(d, picture.DiffOptions{Before: evil, After: evil})
	for _, text := range []string{svg, html} {
		require.False(t, strings.Contains(text, "<script"))
		require.Negative(t, strings.IndexByte(text, '\x01'))
		require.True(t, utf8.ValidString(text))
	}
	require.Contains(t, html, "and 297 that are not listed here")
}

func requireXML(t *testing.T, text string) {
	t.Helper()
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else {
			require.NoError(t, err)
		}
	}
}

func TestRandomEndpoints(t *testing.T) {
	drawn := 0
	for seed := range uint64(100) {
		c := policytest.Generate(seed, policytest.Size{Packets: 1})
		s, err := policy.Resolve(c.Resources, c.Host, c.Config)
		require.NoError(t, err)
		eps := s.Endpoints
		if s.Wildcard != nil {
			eps = append(eps[:len(eps):len(eps)], s.Wildcard)
		}
		for _, ep := range eps {
			svg, err := picture.Endpoint(s, ep.Name, picture.Options{})
			require.NoError(t, err)
			requireXML(t, svg)
			drawn++
		}
	}
	require.Greater(t, drawn, 50)
}

func TestRuleText(t *testing.T) {
	tcp, icmp := inet.TCP, inet.ICMP
	eight := uint8(8)
	sets := map[string]string{"s:a": "role == 'web'", "n:b": "https"}
	for want, r := range map[string]policy.Rule{
		"everything":                         {},
		"tcp from role == 'web' to port 443": {Protocol: &tcp, Source: policy.Side{Sets: []string{"s:a"}}, Dest: policy.Side{Ports: []inet.PortRange{{Min: 443, Max: 443}}}},
		"icmp type 8":                        {Protocol: &icmp, Family: inet.IPv4, ICMP: &policy.ICMP{Type: &eight}},
		"IPv6 tcp from not (role == 'web') port https to 10.0.0.1, 10.1.0.0/16 not ports 80:90": {Family: inet.IPv6, Protocol: &tcp,
			Source: policy.Side{NotSets: []string{"s:a"}, NamedPorts: []string{"n:b"}},
			Dest:   policy.Side{Nets: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/32"), netip.MustParsePrefix("10.1.0.0/16")}, NotPorts: []inet.PortRange{{Min: 80, Max: 90}}}},
		"nothing: why": {Never: "why"},
	} {
		require.Equal(t, want, picture.RuleText(&r, sets))
	}
}

func ExampleEndpoint() {
	r, err := manifest.Parse(manifest.Source{Name: "web.yaml", Data: []byte(`
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: web}
spec: {node: host-a, interfaceName: eth0, profiles: [projectcalico-default-allow]}
`)})
	if err != nil {
		fmt.Println(err)
		return
	}
	s, err := policy.Resolve(r, hostendpoint.Host{Node: "host-a", Interfaces: []hostendpoint.Interface{{Name: "eth0"}}}, policy.Config{})
	if err != nil {
		fmt.Println(err)
		return
	}
	svg, err := picture.Endpoint(s, "web", picture.Options{})
	fmt.Println(strings.HasPrefix(svg, "<svg"), strings.Contains(svg, "profile projectcalico-default-allow"), err)
	// Output: true true <nil>
}
