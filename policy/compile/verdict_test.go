// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// packet reads "PATH IN>OUT PROTO PORT [STATE]"; "-" is no interface. ICMPv6 has a type in place of the port.
func packet(t *testing.T, text string) *flow.Packet {
	t.Helper()
	f := strings.Fields(text)
	path, err := flow.ParsePath(f[0])
	require.NoError(t, err)
	proto, ok := inet.ParseProtocol(f[2])
	require.True(t, ok)
	p := &flow.Packet{Path: path, Protocol: proto, Src: netip.MustParseAddr("10.9.0.2"), Dst: netip.MustParseAddr("10.9.0.1"), SrcPort: 40000}
	from, to, _ := strings.Cut(f[1], ">")
	p.In, p.Out = strings.Trim(from, "-"), strings.Trim(to, "-")
	var n uint64
	for _, c := range f[3] {
		n = n*10 + uint64(c-'0')
	}
	p.DstPort = uint16(n)
	if proto == inet.ICMPv6 {
		p.Src, p.Dst = netip.MustParseAddr("fd00::2"), netip.MustParseAddr("fd00::1")
		p.SrcPort, p.DstPort, p.ICMPType = 0, 0, uint8(n)
	}
	if len(f) > 4 {
		p.State, err = flow.ParseConnState(f[4])
		require.NoError(t, err)
	}
	return p
}

// What each stage does where policy is silent, and the quirks of each. Expectations are those of Calico 3.29, cited
// where they are implemented.
func TestStagesAndQuirks(t *testing.T) {
	eth0 := func(change func(*policy.Endpoint)) *policy.Endpoint {
		ep := &policy.Endpoint{Name: "h", Interfaces: []string{"eth0"}}
		if change != nil {
			change(ep)
		}
		return ep
	}
	all := func(change func(*policy.Endpoint)) *policy.Endpoint {
		ep := &policy.Endpoint{Name: "all"}
		if change != nil {
			change(ep)
		}
		return ep
	}
	normal := func(ts ...policy.TierPolicies) func(*policy.Endpoint) {
		return func(ep *policy.Endpoint) { ep.Normal = ts }
	}
	forward := func(ts ...policy.TierPolicies) func(*policy.Endpoint) {
		return func(ep *policy.Endpoint) { ep.Forward = ts }
	}
	prednat := func(ts ...policy.TierPolicies) func(*policy.Endpoint) {
		return func(ep *policy.Endpoint) { ep.PreDNAT = ts }
	}
	untracked := func(ts ...policy.TierPolicies) func(*policy.Endpoint) {
		return func(ep *policy.Endpoint) { ep.Untracked = ts }
	}
	profiles := func(ps ...*policy.Profile) func(*policy.Endpoint) {
		return func(ep *policy.Endpoint) { ep.Profiles = ps }
	}
	p := both("default", "p", allowTCP(80), denyAll)
	https := both("default", "https", allowTCP(443))
	missing := &policy.Profile{Name: "gone", Missing: true}
	pass := &policy.Profile{Name: "pass", Ingress: rules(passAll, denyAll)}
	web := &policy.Profile{Name: "web", Ingress: rules(passAll, allowTCP(99)), Egress: rules(allowAll)}
	open := &policy.Profile{Name: "open", Ingress: rules(allowAll), Egress: rules(allowAll)}

	tests := map[string]struct {
		s    *policy.Snapshot
		want map[string]string // packet to verdict and origin
	}{
		"an endpoint without anything": {snapshot(eth0(nil)), map[string]string{
			"input eth0>- tcp 80":               "deny default:h/ingress",
			"output ->eth0 tcp 80":              "deny default:h/egress",
			"forward eth0>eth1 tcp 80":          "allow forward-default",
			"forward eth1>eth0 tcp 22":          "allow forward-default",
			"forward eth1>eth2 tcp 80":          "none no-endpoint",
			"forward eth0>eth1 tcp 80 invalid":  "deny conntrack:invalid",
			"input eth1>- tcp 80":               "none no-endpoint",
			"input eth0>- tcp 22":               "allow failsafe:in/tcp/22",
			"input eth0>- udp 22":               "deny default:h/ingress",
			"input eth0>- tcp 22 invalid":       "deny conntrack:invalid",
			"output ->eth0 udp 53":              "allow failsafe:out/udp/53",
			"output ->eth0 tcp 22":              "deny default:h/egress",
			"input eth0>- tcp 80 related":       "allow conntrack:established",
			"output ->eth0 tcp 80 established":  "allow conntrack:established",
			"input eth0>- icmp6 135 untracked":  "allow failsafe:nd",
			"output ->eth0 icmp6 143 untracked": "allow failsafe:nd",
			"input eth0>- icmp6 137 untracked":  "deny default:h/ingress",
			"forward eth0>eth1 icmp6 128":       "allow forward-default",
			"local cali1>- tcp 80":              "none workload",
			"output ->cali1 tcp 80":             "none workload",
		}},
		"a tier without policies in this direction has no end": {snapshot(eth0(normal(in(denyTier, https)))), map[string]string{
			"input eth0>- tcp 80":  "deny tier:default/ingress",
			"output ->eth0 tcp 80": "deny default:h/egress",
		}},
		"a policy without rules governs all the same": {snapshot(eth0(normal(in(denyTier, both("default", "p"))))), map[string]string{
			"input eth0>- tcp 80": "deny tier:default/ingress",
		}},
		"a tier that passes": {snapshot(eth0(normal(in(passTier, https), in(denyTier, p)))), map[string]string{
			"input eth0>- tcp 443": "allow policy:default/https/ingress[0]",
			"input eth0>- tcp 80":  "allow policy:default/p/ingress[0]",
			"input eth0>- tcp 81":  "deny policy:default/p/ingress[1]",
		}},
		"a pass leaves the tier, not the endpoint": {snapshot(eth0(normal(in(denyTier, both("default", "first", passAll), p), in(&policy.Tier{Name: "last"}, both("last", "q", allowTCP(81)))))), map[string]string{
			"input eth0>- tcp 80": "deny tier:last/ingress",
			"input eth0>- tcp 81": "allow policy:last/q/ingress[0]",
		}},
		"profiles come last, in order": {snapshot(eth0(profiles(pass, web, open))), map[string]string{
			"input eth0>- tcp 99": "allow profile:open/ingress[0]",
			"output ->eth0 tcp 1": "allow profile:web/egress[0]",
		}},
		"a pass ends only its own profile": {snapshot(eth0(profiles(pass, &policy.Profile{Name: "q", Ingress: rules(policy.Rule{Action: hostendpoint.Pass, Protocol: ptr(inet.UDP)}, allowTCP(80))}))), map[string]string{
			"input eth0>- tcp 80": "allow profile:q/ingress[1]",
			"input eth0>- udp 80": "deny default:h/ingress",
		}},
		"a missing profile denies at its place": {snapshot(eth0(profiles(&policy.Profile{Name: "some", Ingress: rules(allowTCP(80))}, missing, open))), map[string]string{
			"input eth0>- tcp 80": "allow profile:some/ingress[0]",
			"input eth0>- tcp 81": "deny profile-missing:gone",
			"input eth0>- tcp 22": "allow failsafe:in/tcp/22",
		}},
		"forward policy in one direction": {snapshot(eth0(forward(in(denyTier, p)))), map[string]string{
			"forward eth0>eth1 tcp 80":             "allow policy:default/p/ingress[0]@forward",
			"forward eth0>eth1 tcp 22":             "deny policy:default/p/ingress[1]@forward",
			"forward eth1>eth0 tcp 80":             "none no-verdict",
			"forward eth1>eth0 tcp 80 established": "allow conntrack:established",
			"input eth0>- tcp 80":                  "deny default:h/ingress",
		}},
		"forward-out without verdict takes the allow of forward-in back": {snapshot(
			eth0(forward(in(denyTier, p))),
			&policy.Endpoint{Name: "i", Interfaces: []string{"eth1"}, Forward: []policy.TierPolicies{in(denyTier, p)}}), map[string]string{
			"forward eth0>eth1 tcp 80": "none no-verdict",
			"forward eth0>eth2 tcp 80": "allow policy:default/p/ingress[0]@forward",
		}},
		"a tier that ends in the forward stage": {snapshot(eth0(forward(inOut(denyTier, https)))), map[string]string{
			"forward eth0>eth1 tcp 80": "deny tier:default/ingress@forward",
			"forward eth1>eth0 tcp 80": "deny tier:default/egress@forward",
		}},
		"the wildcard takes every other interface": {snapshot(eth0(nil), all(normal(inOut(denyTier, p)))), map[string]string{
			"input eth0>- tcp 80":        "deny default:h/ingress",
			"input eth1>- tcp 80":        "allow policy:default/p/ingress[0]",
			"input lo>- tcp 81":          "deny policy:default/p/ingress[1]",
			"output ->lo tcp 81":         "deny policy:default/p/egress[1]",
			"local cali1>- tcp 81":       "none workload",
			"output ->cali1 tcp 81":      "none workload",
			"forward cali1>eth1 tcp 81":  "allow forward-default",
			"forward cali1>cali2 tcp 81": "allow forward-default",
		}},
		"forward policy of the wildcard meets workloads": {snapshot(all(forward(inOut(denyTier, p)))), map[string]string{
			"forward cali1>eth1 tcp 81": "deny policy:default/p/ingress[1]@forward",
			"forward eth1>cali1 tcp 80": "allow policy:default/p/egress[0]@forward",
		}},
		"loopback may be exempt": {func() *policy.Snapshot {
			s := snapshot(all(func(ep *policy.Endpoint) {
				prednat(in(denyTier, p))(ep)
				normal(inOut(denyTier, p))(ep)
				forward(inOut(denyTier, p))(ep)
			}))
			s.Config.ExemptLoopback = true
			return s
		}(), map[string]string{
			"input lo>- tcp 81":        "none no-endpoint",
			"output ->lo tcp 81":       "none no-endpoint",
			"forward eth1>lo tcp 80":   "allow policy:default/p/ingress[0]@prednat",
			"input lo0>- tcp 81":       "deny policy:default/p/ingress[1]@prednat",
			"output ->eth1 tcp 81":     "deny policy:default/p/egress[1]",
			"forward lo>eth1 tcp 80":   "allow policy:default/p/egress[0]@forward",
			"forward eth1>eth2 tcp 81": "deny policy:default/p/ingress[1]@prednat",
		}},
		"an endpoint named for lo is not exempt": {func() *policy.Snapshot {
			s := snapshot(&policy.Endpoint{Name: "l", Interfaces: []string{"lo"}}, all(nil))
			s.Config.ExemptLoopback = true
			return s
		}(), map[string]string{"input lo>- tcp 81": "deny default:l/ingress"}},
		"pre-DNAT policy": {snapshot(eth0(prednat(in(denyTier, p)))), map[string]string{
			"input eth0>- tcp 80":             "allow policy:default/p/ingress[0]@prednat",
			"input eth0>- tcp 81":             "deny policy:default/p/ingress[1]@prednat",
			"input eth0>- tcp 22":             "allow failsafe:in/tcp/22",
			"input eth0>- tcp 81 established": "allow conntrack:established",
			"input eth0>- tcp 80 invalid":     "deny conntrack:invalid",
			"forward eth0>eth1 tcp 80":        "allow policy:default/p/ingress[0]@prednat",
			"forward eth0>eth1 tcp 22":        "allow forward-default",
			"input eth0>- icmp6 135":          "allow failsafe:nd",
			"output ->eth0 tcp 81":            "deny default:h/egress",
		}},
		"pre-DNAT policy without verdict": {snapshot(eth0(func(ep *policy.Endpoint) {
			prednat(in(denyTier, https))(ep)
			profiles(open)(ep)
		})), map[string]string{
			"input eth0>- tcp 80":  "allow profile:open/ingress[0]",
			"input eth0>- tcp 443": "allow policy:default/https/ingress[0]@prednat",
		}},
		"an interface whose endpoint has no pre-DNAT policy falls to the wildcard's": {snapshot(eth0(profiles(open)), all(prednat(in(denyTier, p)))), map[string]string{
			"input eth0>- tcp 81":       "deny policy:default/p/ingress[1]@prednat",
			"input eth0>- tcp 80":       "allow policy:default/p/ingress[0]@prednat",
			"forward cali1>eth0 tcp 81": "deny policy:default/p/ingress[1]@prednat",
			"forward cali1>eth0 tcp 80": "allow forward-default",
			"local cali1>- tcp 81":      "deny policy:default/p/ingress[1]@prednat",
			"local cali1>- tcp 80":      "none workload",
			"input lo>- tcp 81":         "deny policy:default/p/ingress[1]@prednat",
		}},
		"an endpoint with pre-DNAT policy of its own does not": {snapshot(eth0(prednat(in(denyTier, https))), all(prednat(in(denyTier, p)))), map[string]string{
			"input eth0>- tcp 81": "deny default:h/ingress",
			"input eth1>- tcp 81": "deny policy:default/p/ingress[1]@prednat",
		}},
		"untracked policy": {snapshot(eth0(untracked(inOut(denyTier, both("default", "p", allowTCP(80), policy.Rule{Action: hostendpoint.Deny, Protocol: ptr(inet.TCP)}))))), map[string]string{
			"input eth0>- tcp 80":             "allow policy:default/p/ingress[0]@untracked",
			"input eth0>- tcp 80 invalid":     "allow policy:default/p/ingress[0]@untracked",
			"input eth0>- tcp 81 established": "deny policy:default/p/ingress[1]@untracked",
			"input eth0>- tcp 22":             "allow failsafe:in/tcp/22",
			"input eth0>- udp 81":             "deny default:h/ingress",
			"output ->eth0 tcp 80":            "allow policy:default/p/egress[0]@untracked",
			"output ->eth0 tcp 81":            "deny policy:default/p/egress[1]@untracked",
			"output ->eth0 udp 53":            "allow failsafe:out/udp/53",
			"forward eth0>eth1 tcp 80":        "allow policy:default/p/ingress[0]@untracked",
			"forward eth1>eth0 tcp 81":        "allow forward-default",
		}},
		"untracked policy of the wildcard does nothing": {snapshot(all(untracked(inOut(denyTier, p)))), map[string]string{
			"input eth0>- tcp 80": "deny default:all/ingress",
		}},
		"untracked allow does not answer for forward-out": {snapshot(eth0(untracked(in(denyTier, p))),
			&policy.Endpoint{Name: "i", Interfaces: []string{"eth1"}, Forward: []policy.TierPolicies{inOut(denyTier, https)}}), map[string]string{
			"forward eth0>eth1 tcp 80": "deny tier:default/egress@forward",
			"forward eth0>eth2 tcp 80": "allow policy:default/p/ingress[0]@untracked",
		}},
		"conntrack may not be asked about invalid packets": {func() *policy.Snapshot {
			s := snapshot(eth0(func(ep *policy.Endpoint) { prednat(in(denyTier, https))(ep); normal(in(denyTier, p))(ep) }))
			s.Config.DisableConntrackInvalidCheck = true
			return s
		}(), map[string]string{
			"input eth0>- tcp 80 invalid":     "allow policy:default/p/ingress[0]",
			"input eth0>- tcp 80 established": "allow conntrack:established",
		}},
		"no endpoint at all": {snapshot(), map[string]string{
			"input eth0>- tcp 80":      "none no-endpoint",
			"forward eth0>eth1 tcp 80": "none no-endpoint",
			"local cali1>- tcp 80":     "none workload",
			"output ->cali1 tcp 80":    "none workload",
		}},
		"no workloads": {func() *policy.Snapshot {
			s := snapshot(all(nil))
			s.Config.WorkloadInterfacePrefixes = []string{}
			return s
		}(), map[string]string{
			"local cali1>- tcp 80":  "deny default:all/ingress",
			"output ->cali1 tcp 80": "deny default:all/egress",
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			in := run(t, tt.s)
			for text, want := range tt.want {
				p := packet(t, text)
				v, by := in.Verdict(p)
				require.Equal(t, want, v.String()+" "+by.String(), "%s\n%s", text, in.Explain(p))
			}
		})
	}
}

// Before connection tracking there are no replies, so failsafes let source ports of the other direction in.
func TestUntrackedFailsafesWorkBothWays(t *testing.T) {
	ep := &policy.Endpoint{Name: "h", Interfaces: []string{"eth0"}, Untracked: []policy.TierPolicies{inOut(denyTier, both("default", "p", denyAll))},
		Profiles: []*policy.Profile{{Name: "open", Ingress: rules(allowAll), Egress: rules(allowAll)}}}
	s := snapshot(ep)
	s.Config.Failsafes.Inbound[0].Net = netip.MustParsePrefix("10.9.0.2/32")
	in := run(t, s)
	tests := map[string]struct {
		path         flow.Path
		proto        inet.Protocol
		src, dst     string
		sport, dport uint16
		want         string
	}{
		"a request to our port":              {flow.Input, inet.TCP, "10.9.0.2", "10.9.0.1", 40000, 22, "allow failsafe:in/tcp/22"},
		"from somewhere else":                {flow.Input, inet.TCP, "10.9.0.3", "10.9.0.1", 40000, 22, "deny policy:default/p/ingress[0]@untracked"},
		"our answer":                         {flow.Output, inet.TCP, "10.9.0.1", "10.9.0.2", 22, 40000, "allow profile:open/egress[0]"},
		"our answer to somewhere else":       {flow.Output, inet.TCP, "10.9.0.1", "10.9.0.3", 22, 40000, "deny policy:default/p/egress[0]@untracked"},
		"our request":                        {flow.Output, inet.UDP, "10.9.0.1", "10.9.0.3", 40000, 53, "allow failsafe:out/udp/53"},
		"the answer to it":                   {flow.Input, inet.UDP, "10.9.0.3", "10.9.0.1", 53, 40000, "allow profile:open/ingress[0]"},
		"a request to the port of the other": {flow.Input, inet.UDP, "10.9.0.3", "10.9.0.1", 40000, 53, "deny policy:default/p/ingress[0]@untracked"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := &flow.Packet{Path: tt.path, In: "eth0", Protocol: tt.proto, Src: netip.MustParseAddr(tt.src), Dst: netip.MustParseAddr(tt.dst), SrcPort: tt.sport, DstPort: tt.dport}
			if tt.path == flow.Output {
				p.In, p.Out = "", "eth0"
			}
			v, by := in.Verdict(p)
			require.Equal(t, tt.want, v.String()+" "+by.String())
		})
	}
}
