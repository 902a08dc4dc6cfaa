// SPDX-License-Identifier: Apache-2.0

package lint_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/eval"
	"github.com/hostpolicy/hostpolicy/policy/fleet"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/lint"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// object writes one document: "KIND NAME [labels={...}] SPEC".
func object(line string) string {
	kind, rest, _ := strings.Cut(line, " ")
	name, spec, _ := strings.Cut(rest, " ")
	labels := "{}"
	if l, ok := strings.CutPrefix(spec, "labels="); ok {
		i := strings.IndexByte(l, '}') + 1
		labels, spec = l[:i], strings.TrimSpace(l[i:])
	}
	long := map[string]string{"HEP": "HostEndpoint", "GNP": "GlobalNetworkPolicy", "NP": "NetworkPolicy", "GNS": "GlobalNetworkSet", "NS": "NetworkSet"}[kind]
	if long == "" {
		long = kind
	}
	ns := ""
	if strings.HasPrefix(long, "NetworkPolicy") || long == "NetworkSet" {
		ns = ", namespace: prod"
	}
	return fmt.Sprintf("{apiVersion: projectcalico.org/v3, kind: %s, metadata: {name: %s%s, labels: %s}, spec: %s}", long, name, ns, labels, spec)
}

// parse reads lines of objects, one object a line, as a store would keep them.
func parse(t testing.TB, text string) hostendpoint.Resources {
	t.Helper()
	var out hostendpoint.Resources
	line := 0
	for l := range strings.Lines(text) {
		if l = strings.TrimSpace(l); l == "" {
			continue
		}
		data := strings.Repeat("\n", line) + object(l) // one after the other, so that two may have one name
		r, err := manifest.Options{Stored: true}.Parse(manifest.Source{Name: "x.yaml", Data: []byte(data)})
		require.NoError(t, err, text)
		out.Add(slices.Collect(r.All())...)
		line++
	}
	return out
}

func run(t testing.TB, r hostendpoint.Resources, hostFile string, o lint.Options) []lint.Finding {
	t.Helper()
	var known []fleet.Host
	if hostFile != "" {
		f, err := manifest.ParseHost(manifest.Source{Name: "host.yaml", Data: []byte(hostFile)})
		require.NoError(t, err)
		c, err := policytest.ConfigOf(f)
		require.NoError(t, err)
		h := fleet.Host{Host: f.Host, Config: c}
		for _, d := range f.DNAT {
			h.DNAT = append(h.DNAT, fleet.DNAT(d))
		}
		known = append(known, h)
	}
	rep, err := lint.Run(context.Background(), r, fleet.Hosts(r, known, policy.Config{}), o)
	require.NoError(t, err)
	require.Empty(t, rep.Partial)
	return rep.Findings
}

const (
	web  = "HEP web labels={role: web} {node: n, interfaceName: eth0, expectedIPs: [10.0.0.1], profiles: [open]}\n"
	open = "Profile open {ingress: [{action: Allow}], egress: [{action: Allow}]}\n"
	base = web + open
	// Nothing of this profile can be shadowed by ingress policy.
	narrow = web + "Profile open {egress: [{action: Allow}]}\n"
)

// cases holds for each code resources that have it, what the finding must say, and resources that are nearly the same
// and must not have it. The lines of a host file follow "host: ".
var cases = map[string]struct{ bad, says, good string }{
	"bad-rule": {
		base + "GNP p {selector: all(), ingress: [{action: Refuse}]}", `GlobalNetworkPolicy(p) spec.ingress[0]: the rule denies everything`,
		base + "GNP p {selector: all(), ingress: [{action: Deny}]}"},
	"bad-selector": {
		base + "GNP p {selector: role ==}", "the policy selects nothing",
		base + "GNP p {selector: role == 'web'}"},
	"builtin-profile": {
		base + "Profile projectcalico-default-allow {}", "the built-in profile of this name is used instead",
		base + "Profile projectcalico-default-deny {}"},
	"closed-endpoint": {
		"HEP web {node: n, interfaceName: eth0}", "no policy governs its ingress and its egress, and no profile allows anything there",
		"HEP web {node: n, interfaceName: eth0, profiles: [projectcalico-default-allow]}"},
	"dead-policy": {
		base + "GNP a {order: 1, selector: all(), ingress: [{action: Deny}]}\nGNP b {order: 2, selector: all(), ingress: [{action: Allow, protocol: TCP}, {action: Allow, protocol: UDP}]}",
		"GlobalNetworkPolicy(b) spec: none of its 2 rules can match any packet",
		base + "GNP a {order: 1, selector: all(), ingress: [{action: Deny, protocol: TCP}]}\nGNP b {order: 2, selector: all(), ingress: [{action: Allow, protocol: TCP}, {action: Allow, protocol: UDP}]}"},
	"duplicate-object": {
		base + "GNP p {selector: all(), egress: [{action: Allow}]}\nGNP default.p {selector: all(), egress: [{action: Allow}]}", "another object has this name",
		base + "GNP p {selector: all(), egress: [{action: Allow}]}\nGNP q {selector: all(), egress: [{action: Allow}]}"},
	"empty-rule": {
		base + "GNP p {selector: all(), ingress: [{action: Allow, protocol: TCP, notProtocol: TCP}, {action: Allow, protocol: UDP}]}", "spec.ingress[0]: can match no packet at all",
		base + "GNP p {selector: all(), ingress: [{action: Allow, protocol: TCP, notProtocol: UDP}, {action: Allow, protocol: UDP}]}"},
	"empty-set": {
		base + "GNP p {selector: all(), ingress: [{action: Allow, source: {selector: role == 'wbe'}}]}", "no address known here matches role == \"wbe\"",
		base + "GNP p {selector: all(), ingress: [{action: Allow, source: {selector: role == 'web'}}]}"},
	"failsafe-added": {
		base + "host: config: {failsafes: {inbound: 'tcp:22, udp:68, tcp:179, tcp:2379, tcp:2380, tcp:5473, tcp:6443, tcp:6666, tcp:6667, tcp:3306'}}", "Config failsafes.inbound: opens tcp/3306, whatever policy says",
		base + "host: config: {failsafes: {inbound: 'tcp:22'}}"},
	"failsafe-missing": {
		base + "host: config: {failsafes: {inbound: []}}", "Config failsafes.inbound: leaves out tcp/22, udp/68, ",
		base + "host: config: {failsafes: {inbound: 'tcp:10.0.0.0/8:22, udp:68, tcp:179, tcp:2379, tcp:2380, tcp:5473, tcp:6443, tcp:6666, tcp:6667'}}"},
	"failsafe-overrides": {
		base + "GNP p {selector: all(), ingress: [{action: Deny, protocol: TCP, destination: {ports: [22, 80]}}]}", "spec.ingress[0]: denies tcp/22, but a failsafe opens it to everybody before any policy is asked",
		base + "GNP p {selector: all(), ingress: [{action: Deny, protocol: TCP, destination: {ports: [80, '1:65535']}}, {action: Deny, protocol: UDP, destination: {ports: [22]}}]}"},
	"failsafe-wider": {
		base + "GNP p {selector: all(), ingress: [{action: Allow, protocol: TCP, source: {nets: [10.0.0.0/8]}, destination: {ports: [22]}}]}", "allows tcp/22 to some only, but a failsafe opens it to everybody",
		base + "GNP p {selector: all(), ingress: [{action: Allow, protocol: TCP, source: {nets: [10.0.0.0/8]}, destination: {ports: [22]}}]}\nhost: config: {failsafes: {inbound: 'tcp:10.0.0.0/8:22'}}"},
	"foreign-address": {
		base + "host: interfaces: [{name: eth0, addresses: [10.0.0.2/24]}]", "10.0.0.1 is not on interface eth0",
		base + "host: interfaces: [{name: eth0, addresses: [10.0.0.1/24]}]"},
	"forward-one-direction": {
		base + "GNP p {selector: all(), applyOnForward: true, ingress: [{action: Allow}]}", "apply-on-forward in one direction",
		base + "GNP p {selector: all(), applyOnForward: true, types: [Ingress, Egress], ingress: [{action: Allow}], egress: [{action: Allow}]}"},
	"http-criteria": {
		base + "GNP p {selector: all(), ingress: [{action: Allow, protocol: TCP, http: {methods: [GET]}}]}", "nothing there sees HTTP",
		base + "GNP p {selector: all(), ingress: [{action: Allow, protocol: TCP}]}"},
	"http-ignored": {
		base + "GNP p {selector: all(), ingress: [{action: Allow, protocol: TCP, http: {methods: [GET]}}]}\nhost: config: {ignoreHTTP: true}", "the rule matches more than it says",
		base + "GNP p {selector: all(), ingress: [{action: Allow, protocol: TCP}]}\nhost: config: {ignoreHTTP: true}"},
	"inert-policy": {
		base + "GNP p {selector: role == 'wbe'}", "selects no host endpoint of any host",
		base + "GNP p {selector: role == 'web'}"},
	"invalid": {
		base + "HEP two {node: m, interfaceName: 'eth0:1'}", "spec.interfaceName",
		base + "HEP two {node: m, interfaceName: eth1}"},
	"isolates": {
		base + "GNP p {selector: role == 'web', types: [Ingress, Egress], ingress: [{action: Allow, protocol: TCP}]}", "spec.types: moves 1 endpoint to default deny in egress (web) and has no rule in this direction: nothing is allowed any more",
		base + "GNP p {selector: role == 'web', types: [Ingress, Egress], ingress: [{action: Allow, protocol: TCP}, {action: Pass}], egress: [{action: Allow}]}"},
	"log-only": {
		base + "GNP p {selector: role == 'web', ingress: [{action: Log}]}", "spec.ingress: only logs, and so moves 1 endpoint to default deny in ingress (web)",
		base + "GNP p {selector: role == 'web', ingress: [{action: Log}, {action: Pass}]}"},
	"loopback-policed": {
		"HEP all {node: n, interfaceName: '*'}", "the all-interfaces endpoint governs lo, and no ingress rule lets 127.0.0.1 talk to itself",
		"HEP all {node: n, interfaceName: '*', profiles: [projectcalico-default-allow]}"},
	"missing-profile": {
		"HEP web {node: n, interfaceName: eth0, profiles: [oepn]}\n" + open, `profile "oepn" does not exist`,
		"HEP web {node: n, interfaceName: eth0, profiles: [open]}\n" + open},
	"no-types": {
		base + `GNP p,"resourceVersion":"7" {selector: all(), ingress: [{action: Allow}]}`, "GlobalNetworkPolicy(p) spec.types: stored without types, so that it governs both directions",
		base + "GNP p {selector: all(), ingress: [{action: Allow}]}"},
	"pass-only": {
		base + "Tier first {order: 1}\nGNP first.a {tier: first, order: 1, selector: all(), ingress: [{action: Pass, protocol: TCP}]}\nGNP b {order: 2, selector: all(), ingress: [{action: Allow, protocol: TCP, destination: {ports: [443]}}]}",
		"GlobalNetworkPolicy(b) spec.ingress[0]: this rule is reached only because policy:first/a/ingress[0] passes packets on",
		base + "Tier first {order: 1, defaultAction: Pass}\nGNP first.a {tier: first, order: 1, selector: all(), ingress: [{action: Deny, protocol: UDP}]}\nGNP b {order: 2, selector: all(), ingress: [{action: Allow, protocol: TCP, destination: {ports: [443]}}]}"},
	"policy-never-decides": {
		base + "Tier first {order: 1}\nGNP first.a {tier: first, order: 1, selector: all(), ingress: [{action: Pass, protocol: TCP}]}\nGNP b {order: 2, selector: all(), ingress: [{action: Allow}]}",
		"GlobalNetworkPolicy(first.a) spec: has the last word on no packet",
		base + "Tier first {order: 1}\nGNP first.a {tier: first, order: 1, selector: all(), ingress: [{action: Deny, protocol: UDP}, {action: Pass}]}\nGNP b {order: 2, selector: all(), ingress: [{action: Allow}]}"},
	"peer-without-ips": {
		base + "HEP db labels={role: db} {node: m, interfaceName: eth0, profiles: [open]}\nGNP p {selector: role == 'web', ingress: [{action: Allow, source: {selector: role == 'db'}}]}", "HostEndpoint(db) spec.expectedIPs: rules select it",
		base + "HEP db labels={role: db} {node: m, interfaceName: eth0, expectedIPs: [10.0.0.2], profiles: [open]}\nGNP p {selector: role == 'web', ingress: [{action: Allow, source: {selector: role == 'db'}}]}"},
	"prednat-needed": {
		base + "GNP p {selector: all(), ingress: [{action: Deny, protocol: TCP, destination: {ports: [32010]}}]}\nhost: dnat: [{protocol: tcp, to: '10.0.0.1:32010', becomes: '10.65.0.2:80'}]",
		"the host translates tcp 10.0.0.1:32010 to 10.65.0.2:80 before this rule is asked",
		base + "GNP p {selector: all(), preDNAT: true, applyOnForward: true, ingress: [{action: Deny, protocol: TCP, destination: {ports: [32010]}}]}\nGNP q {selector: all(), ingress: [{action: Deny, protocol: TCP, destination: {ports: ['1:65535']}}, {action: Deny, protocol: UDP, destination: {ports: [32010]}}]}\nhost: dnat: [{protocol: tcp, to: '10.0.0.1:32010', becomes: '10.65.0.2:80'}]"},
	"redundant-rule": {
		base + "GNP p {selector: all(), ingress: [{action: Allow, protocol: TCP}, {action: Deny, protocol: UDP}]}", "spec.ingress[1]: without it nothing would change",
		base + "GNP p {selector: all(), ingress: [{action: Deny, protocol: UDP}, {action: Allow}]}"},
	"service-match": {
		base + "GNP p {selector: all(), egress: [{action: Allow, destination: {services: {name: dns, namespace: kube-system}}}]}", "the endpoints of service kube-system/dns are not known here",
		base + "GNP p {selector: all(), egress: [{action: Allow, destination: {nets: [10.0.0.9]}}]}"},
	"shadowed-endpoint": {
		base + "HEP zeb {node: n, interfaceName: eth0, profiles: [open]}", "HostEndpoint(zeb) metadata.name: matches interface eth0, which HostEndpoint(web) governs",
		base + "HEP zeb {node: n, interfaceName: eth1, profiles: [open]}"},
	"shadowed-rule": {
		narrow + "GNP p {selector: all(), ingress: [{action: Deny, protocol: TCP}, {action: Allow, protocol: TCP, destination: {ports: [80]}}, {action: Allow}]}",
		"spec.ingress[1]: never matches: policy:default/p/ingress[0] takes every packet that it would match, before it",
		narrow + "GNP p {selector: all(), ingress: [{action: Allow, protocol: TCP, destination: {ports: [80]}}, {action: Deny, protocol: TCP}, {action: Allow}]}"},
	"tier-never-decides": {
		base + "Tier t {order: 1, defaultAction: Pass}\nGNP t.p {tier: t, selector: all(), ingress: [{action: Log, protocol: TCP}, {action: Pass}]}", "Tier(t) spec: has the last word on no packet of any host",
		base + "Tier t {order: 1, defaultAction: Pass}\nGNP t.p {tier: t, selector: all(), ingress: [{action: Deny, protocol: TCP}, {action: Pass}]}"},
	"unknown-tier": {
		base + "GNP t.p {tier: t, selector: all(), ingress: [{action: Allow}]}", "there is no tier t",
		base + "Tier t {order: 1}\nGNP t.p {tier: t, selector: all(), ingress: [{action: Allow}]}"},
	"unmatched-endpoint": {
		base + "host: interfaces: [{name: eth1}]", "matches no interface of this host: there is no eth0",
		base + "host: interfaces: [{name: eth0}]"},
	"untracked-on-wildcard": {
		"HEP all {node: n, interfaceName: '*', profiles: [projectcalico-default-allow]}\nGNP p {selector: all(), doNotTrack: true, applyOnForward: true, ingress: [{action: Allow}]}", "doNotTrack policy is not supported",
		base + "GNP p {selector: all(), doNotTrack: true, applyOnForward: true, ingress: [{action: Allow}]}"},
	"untracked-one-way": {
		base + "GNP p {selector: all(), doNotTrack: true, applyOnForward: true, types: [Ingress, Egress], ingress: [{action: Allow, protocol: UDP, destination: {ports: [5000]}}], egress: [{action: Allow, protocol: UDP, destination: {ports: [5000]}}]}",
		"spec.ingress[0]: no doNotTrack rule of the egress direction allows the answers to what this rule allows untracked",
		base + "GNP p {selector: all(), doNotTrack: true, applyOnForward: true, types: [Ingress, Egress], ingress: [{action: Allow, protocol: UDP, destination: {ports: [5000]}}], egress: [{action: Allow, protocol: UDP, source: {ports: [5000]}}]}"},
	"unused-rules": {
		base + "GNP p {selector: all(), types: [Ingress], ingress: [{action: Allow}], egress: [{action: Deny}]}", "spec.egress: never used",
		base + "GNP p {selector: all(), types: [Ingress, Egress], ingress: [{action: Allow}], egress: [{action: Deny}]}"},
}

// split cuts the host file off.
func split(text string) (resources, host string) {
	resources, host, ok := strings.Cut(text, "\nhost: ")
	if !ok {
		if resources, host, ok = strings.Cut(text, "host: "); !ok {
			return text, ""
		}
	}
	host = "node: n\n" + host
	if !strings.Contains(host, "interfaces:") {
		host += "\ninterfaces: [{name: eth0, addresses: [10.0.0.1/24]}]"
	}
	return resources, host
}

func TestEachCode(t *testing.T) {
	for code, c := range cases {
		t.Run(code, func(t *testing.T) {
			r, h := split(c.bad)
			found := run(t, parse(t, r), h, lint.Options{})
			i := slices.IndexFunc(found, func(f lint.Finding) bool { return f.Code == code && strings.Contains(f.String(), c.says) })
			require.GreaterOrEqual(t, i, 0, "%s not found in\n%s", code, text(found))
			f := &found[i]
			info, ok := lint.CodeOf(code)
			require.True(t, ok)
			require.GreaterOrEqual(t, f.Severity, info.Severity, "the table says less than the worst")
			require.NotEmpty(t, f.Fix)
			if f.Object != "Config" {
				require.Equal(t, "x.yaml", f.Pos.File, f.String())
				require.Greater(t, f.Pos.Line, 0)
			}
			r, h = split(c.good)
			for _, f := range run(t, parse(t, r), h, lint.Options{}) {
				require.NotEqual(t, code, f.Code, f.String())
			}
		})
	}
}

func text(fs []lint.Finding) string {
	var b strings.Builder
	for i := range fs {
		fmt.Fprintln(&b, fs[i].String())
	}
	return b.String()
}

// Every code has a description and a case, every code of Resolve is among them, and the README lists all.
func TestCodesAreComplete(t *testing.T) {
	var names []string
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	for _, c := range lint.Codes() {
		names = append(names, c.Name)
		require.NotEmpty(t, c.What+c.Why+c.Fix, c.Name)
		require.Contains(t, cases, c.Name)
		row := "| `" + c.Name + "` | " + c.Severity.String() + " | " + c.What + " |\n"
		require.True(t, strings.Contains(string(readme), row), "not in the README: %s", row)
	}
	require.True(t, slices.IsSorted(names))
	require.Equal(t, len(cases), len(names))
	files, err := filepath.Glob("../*.go")
	require.NoError(t, err)
	literal := regexp.MustCompile(`(?:Code: |report\(\w+, |add\(\w+, )"([a-z-]+)"`)
	found := 0
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		src, err := os.ReadFile(f)
		require.NoError(t, err)
		for _, m := range literal.FindAllStringSubmatch(string(src), -1) {
			found++
			require.Contains(t, names, m[1], f)
		}
	}
	require.Greater(t, found, 15)
}

func TestSelectorsThatMeanSomethingElse(t *testing.T) {
	for sel, fix := range map[string]string{
		"role == 'wbe'":           `No endpoint has role == 'wbe'; did you mean role == 'web'?`,
		"Role == 'web'":           `No endpoint has a label Role; did you mean role?`,
		"role == 'frontend'":      `No endpoint has role == 'frontend'; the values are web.`,
		"role in {'wb', 'x'}":     `No endpoint has role == 'wb'; did you mean role == 'web'?`,
		"has(team)":               `No endpoint has a label team; there are role.`,
		"role == 'web' && !all()": `Correct the selector, or the labels of the endpoints.`,
	} {
		found := run(t, parse(t, base+"GNP p {selector: \""+sel+"\"}"), "", lint.Options{})
		i := slices.IndexFunc(found, func(f lint.Finding) bool { return f.Code == "inert-policy" })
		require.GreaterOrEqual(t, i, 0, text(found))
		require.Equal(t, fix, found[i].Fix)
	}
	found := run(t, parse(t, base+"GNS office labels={net: office} {nets: [192.0.2.0/24]}\nGNP p {selector: all(), ingress: [{action: Allow, source: {selector: net == 'offcie'}}]}"), "", lint.Options{})
	i := slices.IndexFunc(found, func(f lint.Finding) bool { return f.Code == "empty-set" })
	require.Equal(t, `No endpoint has net == 'offcie'; did you mean net == 'office'?`, found[i].Fix)
}

// What is so on several hosts is one finding, which names them.
func TestManyHosts(t *testing.T) {
	text := open
	for i := range 40 {
		text += fmt.Sprintf("HEP web-%02d labels={role: web} {node: n%02d, interfaceName: eth0, expectedIPs: [10.0.0.%d], profiles: [open]}\n", i, i, i+1)
	}
	text += "GNP p {selector: role == 'web', egress: [{action: Allow, protocol: TCP, destination: {ports: [443]}}]}"
	found := run(t, parse(t, text), "", lint.Options{})
	i := slices.IndexFunc(found, func(f lint.Finding) bool { return f.Code == "isolates" })
	require.GreaterOrEqual(t, i, 0)
	f := found[i]
	require.Equal(t, policy.Info, f.Severity)
	require.Equal(t, "moves 40 endpoints to default deny in egress (web-00, web-01, web-02, web-03, web-04, web-05, web-06, web-07 and 32 more): what its 1 rule does not allow is denied at the end of tier default", f.Message)
	require.Len(t, f.Nodes, 40)
	require.NotEmpty(t, f.Related)
	require.Contains(t, f.Related[0].Text, "loses access: ")
}

func TestRunIsDeterministic(t *testing.T) {
	r := parse(t, cases["untracked-one-way"].bad+"\nHEP zeb {node: n, interfaceName: eth0}\nHEP db {node: m, interfaceName: '*'}\nGNP q {selector: has(x)}\nGNP r {selector: all(), ingress: [{action: Log}]}")
	first := run(t, r, "", lint.Options{})
	for range 20 {
		require.Equal(t, first, run(t, r, "", lint.Options{}))
	}
}

func TestRunStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := parse(t, base)
	_, err := lint.Run(ctx, r, fleet.Hosts(r, nil, policy.Config{}), lint.Options{})
	require.ErrorIs(t, err, context.Canceled)
	_, err = lint.Run(context.Background(), r, []fleet.Host{{}}, lint.Options{})
	require.Error(t, err)
	rep, err := lint.Run(context.Background(), hostendpoint.Resources{}, nil, lint.Options{})
	require.NoError(t, err)
	require.Empty(t, rep.Findings)
}

// Whatever the resources are, lint must answer, and what it calls dead no packet may ever match.
func TestDeadRulesNeverMatch(t *testing.T) {
	dead, packets := 0, 0
	for seed := range uint64(60) {
		c := policytest.Generate(seed, policytest.Size{Packets: 4000})
		hosts := fleet.Hosts(c.Resources, []fleet.Host{{Host: c.Host, Config: c.Config}}, c.Config)
		rep, err := lint.Run(context.Background(), c.Resources, hosts, lint.Options{})
		require.NoError(t, err, "seed %d", seed)
		require.Empty(t, rep.Partial)
		found := map[string]string{}
		for _, f := range rep.Findings {
			switch f.Code {
			case "shadowed-rule", "empty-rule":
				found[f.Object+" "+f.Path] = f.String()
				dead++
			case "dead-policy":
				found[f.Object] = f.String()
				dead++
			}
		}
		objects := map[string]string{}
		for o := range c.Resources.All() {
			id := o.ID()
			switch id.Kind {
			case hostendpoint.KindProfile:
				objects["profile/"+id.Name] = id.String()
			case hostendpoint.KindGlobalNetworkPolicy, hostendpoint.KindNetworkPolicy:
				tier := hostendpoint.TierOfPolicy(hostendpoint.BackendPolicyName(id.Name))
				objects[tier+"/"+hostendpoint.PolicyDisplayName(id.Namespace, id.Name)] = id.String()
			}
		}
		s, err := policy.Resolve(c.Resources, c.Host, c.Config)
		require.NoError(t, err)
		e := eval.New(s)
		for i := range c.Packets {
			packets++
			for _, step := range e.Explain(&c.Packets[i].Packet).Trace {
				o := step.Origin
				key := o.Tier + "/" + o.Name
				switch {
				case !step.Matched, o.Kind != flow.OriginPolicy && o.Kind != flow.OriginProfile:
					continue
				case o.Kind == flow.OriginProfile:
					key = "profile/" + o.Name
				}
				object := objects[key]
				require.Empty(t, found[object], "seed %d: %s matches %s", seed, &c.Packets[i], o)
				require.Empty(t, found[fmt.Sprintf("%s spec.%s[%d]", object, o.Dir, o.Index)], "seed %d: %s matches %s", seed, &c.Packets[i], o)
			}
		}
	}
	require.Greater(t, dead, 50)
	require.Greater(t, packets, 10_000)
}

func ExampleRun() {
	r, err := manifest.Parse(manifest.Source{Name: "web.yaml", Data: []byte(`
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: web, labels: {role: web}}
spec: {node: web-1, interfaceName: eth0, profiles: [projectcalico-default-allow]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: https}
spec:
  selector: role == 'wbe'
  ingress: [{action: Allow, protocol: TCP, destination: {ports: [443]}}]
`)})
	if err != nil {
		fmt.Println(err)
		return
	}
	rep, err := lint.Run(context.Background(), r, fleet.Hosts(r, nil, policy.Config{}), lint.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, f := range rep.Findings {
		fmt.Println(&f)
		fmt.Println(f.Fix)
	}
	// Output:
	// web.yaml:11: warning: GlobalNetworkPolicy(https) spec.selector: selects no host endpoint of any host: role == "wbe" (inert-policy)
	// No endpoint has role == 'wbe'; did you mean role == 'web'?
}
