// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
)

// Every criterion, and every quirk of matching, as the clauses that it becomes. "" is a rule that is left out, because
// no packet can match it.
func TestRulesBecomeClauses(t *testing.T) {
	v4, v6, all4, all6 := prefixes("10.0.0.0/8"), prefixes("fd00::/8"), prefixes("0.0.0.0/0"), prefixes("::/0")
	mixed := prefixes("10.0.0.0/8", "fd00::/8")
	port := func(lo, hi uint16) []inet.PortRange { return []inet.PortRange{{Min: lo, Max: hi}} }
	src := func(s policy.Side) policy.Rule { return policy.Rule{Source: s} }
	dst := func(s policy.Side) policy.Rule { return policy.Rule{Dest: s} }
	tests := map[string]struct {
		rule policy.Rule
		want string
	}{
		"nothing":                          {policy.Rule{}, "rule"},
		"a rule that never matches":        {policy.Rule{Never: "HTTP"}, ""},
		"family":                           {policy.Rule{Family: inet.IPv6}, "rule family=6"},
		"protocol":                         {policy.Rule{Protocol: ptr(inet.TCP)}, "rule protocol=tcp"},
		"not protocol":                     {policy.Rule{NotProtocol: ptr(inet.UDP)}, "rule protocol!=udp"},
		"protocol and another not":         {policy.Rule{Protocol: ptr(inet.TCP), NotProtocol: ptr(inet.UDP)}, "rule protocol=tcp protocol!=udp"},
		"protocol and not the same":        {policy.Rule{Protocol: ptr(inet.TCP), NotProtocol: ptr(inet.TCP)}, ""},
		"ICMP type":                        {policy.Rule{Family: 4, Protocol: ptr(inet.ICMP), ICMP: &policy.ICMP{Type: ptr(uint8(8))}}, "rule family=4 protocol=icmp icmp-type=8"},
		"ICMP type and code":               {policy.Rule{ICMP: &policy.ICMP{Type: ptr(uint8(3)), Code: ptr(uint8(1))}}, "rule icmp-type=3 icmp-code=1"},
		"ICMP of any type":                 {policy.Rule{Protocol: ptr(inet.ICMPv6), ICMP: &policy.ICMP{}}, "rule protocol=icmp6"},
		"not an ICMP type":                 {policy.Rule{NotICMP: &policy.ICMP{Type: ptr(uint8(8))}}, "rule icmp-type!=8"},
		"not an ICMP type with its code":   {policy.Rule{NotICMP: &policy.ICMP{Type: ptr(uint8(3)), Code: ptr(uint8(1))}}, "rule icmp-type!=3|icmp-code!=1"},
		"not ICMP without type":            {policy.Rule{NotICMP: &policy.ICMP{}}, "rule"},
		"nets of both families":            {src(policy.Side{Nets: mixed}), "rule src=10.0.0.0/8,fd00::/8"},
		"nets of one family":               {src(policy.Side{Nets: v4}), "rule family=4 src=10.0.0.0/8"},
		"nets of the other family":         {policy.Rule{Family: inet.IPv6, Source: policy.Side{Nets: v4}}, ""},
		"nets that are the whole family":   {dst(policy.Side{Nets: all6}), "rule family=6 dst=::/0"},
		"nets of different families":       {policy.Rule{Source: policy.Side{Nets: v4}, Dest: policy.Side{Nets: v6}}, ""},
		"not nets of one family":           {src(policy.Side{NotNets: v4}), "rule family=4 src!=10.0.0.0/8"},
		"not nets of both families":        {dst(policy.Side{NotNets: mixed}), "rule dst!=10.0.0.0/8,fd00::/8"},
		"not nets, other family elsewhere": {policy.Rule{Source: policy.Side{NotNets: v4}, Dest: policy.Side{NotNets: v6}}, ""},
		"not a whole family":               {src(policy.Side{NotNets: all4}), ""},
		"not a whole family, and others":   {src(policy.Side{NotNets: append(prefixes("fd00::/8"), all4...)}), "rule family=6 src!=0.0.0.0/0,fd00::/8"},
		"not both halves of a family":      {src(policy.Side{NotNets: prefixes("0.0.0.0/1", "128.0.0.0/1", "fd00::/8")}), "rule family=6 src!=0.0.0.0/0,fd00::/8"},
		"nets and not nets":                {src(policy.Side{Nets: v4, NotNets: prefixes("10.9.0.0/16")}), "rule family=4 src=10.0.0.0/8 src!=10.9.0.0/16"},
		"nets are as few as possible":      {src(policy.Side{Nets: prefixes("10.128.0.0/9", "10.0.0.0/9", "10.9.0.0/16", "fd00::/8")}), "rule src=10.0.0.0/8,fd00::/8"},
		"sets are all of them":             {src(policy.Side{Sets: []string{"s:1", "s:2"}}), "rule src=@s:1 src=@s:2"},
		"not sets are none of them":        {dst(policy.Side{NotSets: []string{"s:1", "s:2"}}), "rule dst!=@s:1 dst!=@s:2"},
		"ports":                            {policy.Rule{Protocol: ptr(inet.SCTP), Dest: policy.Side{Ports: append(port(90, 90), port(80, 89)...)}}, "rule protocol=sctp dport=80-90"},
		"source ports":                     {src(policy.Side{Ports: port(53, 53)}), "rule sport=53"},
		"ports or named ports":             {dst(policy.Side{Ports: port(80, 80), NamedPorts: []string{"n:1", "n:2"}}), "rule dport=80|dst.protocol.dport=@n:1|dst.protocol.dport=@n:2"},
		"named ports of the source":        {src(policy.Side{NamedPorts: []string{"n:1"}}), "rule src.protocol.sport=@n:1"},
		"neither ports nor named ports":    {dst(policy.Side{NotPorts: port(80, 81), NotNamedPorts: []string{"n:1", "n:2"}}), "rule dport!=80-81 dst.protocol.dport!=@n:1 dst.protocol.dport!=@n:2"},
		"ports that hold nothing":          {dst(policy.Side{Ports: port(81, 80)}), ""},
		"not ports that hold nothing":      {dst(policy.Side{NotPorts: port(81, 80)}), "rule"},
		"everything at once": {policy.Rule{Family: inet.IPv4, Protocol: ptr(inet.TCP), NotProtocol: ptr(inet.UDP),
			Source: policy.Side{Nets: v4, Sets: []string{"s:1"}, Ports: port(1, 2), NotNets: prefixes("10.1.0.0/16"), NotSets: []string{"s:2"}, NotPorts: port(2, 2)},
			Dest:   policy.Side{Nets: all4, NamedPorts: []string{"n:1"}}},
			"rule family=4 protocol=tcp protocol!=udp src=10.0.0.0/8 src=@s:1 sport=1-2 src!=10.1.0.0/16 src!=@s:2 sport!=2 dst=0.0.0.0/0 dst.protocol.dport=@n:1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.rule.Action = hostendpoint.Allow
			s := snapshot(&policy.Endpoint{Name: "a", Interfaces: []string{"eth0"}, Normal: []policy.TierPolicies{in(denyTier, both("default", "p", tt.rule))}})
			s.Sets = []*policy.Set{{ID: "s:1"}, {ID: "s:2"}, {ID: "n:1", Ports: true}, {ID: "n:2", Ports: true}}
			p, _ := mustCompile(t, s)
			got := ""
			_, rest, _ := strings.Cut(p.String(), "block policy/default/p/normal-in\n  ")
			if rest != "" {
				got, _, _ = strings.Cut(rest, " -> allow by policy:default/p/ingress[0]")
			}
			require.Equal(t, tt.want, got)
		})
	}
}

func TestActionsBecomeOutcomes(t *testing.T) {
	never := policy.Rule{Action: hostendpoint.Deny, Never: "HTTP"}
	p, _ := mustCompile(t, snapshot(&policy.Endpoint{Name: "a", Interfaces: []string{"eth0"},
		Normal: []policy.TierPolicies{in(denyTier, both("default", "p", logAll, never, passAll, denyAll, allowAll))}}))
	_, got, _ := strings.Cut(p.String(), "block policy/default/p/normal-in\n")
	got, _, _ = strings.Cut(got, "\n\n")
	require.Equal(t, `  rule log by policy:default/p/ingress[0]
  rule -> pass by policy:default/p/ingress[2]
  rule -> deny by policy:default/p/ingress[3]
  rule -> allow by policy:default/p/ingress[4]`, got, "a rule that is left out leaves the numbers alone")
	for _, o := range p.Origins {
		if o.Index == 2 {
			require.Equal(t, "web.yaml:12", o.Pos.String())
		}
	}
}
