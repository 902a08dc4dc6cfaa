// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
)

var update = flag.Bool("update", false, "rewrite testdata")

// goldens are snapshots whose programs stand in testdata, to be read.
func goldens() map[string]*policy.Snapshot {
	web := both("default", "web", allowTCP(443), policy.Rule{Action: hostendpoint.Log, Source: policy.Side{Sets: []string{"s:bad"}}},
		policy.Rule{Action: hostendpoint.Deny, Source: policy.Side{Sets: []string{"s:bad"}}})
	base := both("early", "base", policy.Rule{Action: hostendpoint.Pass, Family: inet.IPv4, Protocol: ptr(inet.ICMP), ICMP: &policy.ICMP{Type: ptr(uint8(8))}})
	pre := both("default", "pre", policy.Rule{Action: hostendpoint.Deny, Source: policy.Side{NotNets: prefixes("10.0.0.0/8", "fd00::/8")}}, allowTCP(32010))
	raw := both("early", "raw", allowTCP(8080))
	profile := &policy.Profile{Name: "open", Ingress: rules(passAll, allowAll), Egress: rules(allowAll)}
	sets := []*policy.Set{
		{ID: "s:bad", Selector: "has(bad)", Members: []policy.Member{
			{Prefix: netip.MustParsePrefix("fd00::1/128")}, {Prefix: netip.MustParsePrefix("10.9.0.3/32")}, {Prefix: netip.MustParsePrefix("10.9.0.3/32")}}},
		{ID: "n:unused", Selector: "all()", Ports: true},
	}

	simple := snapshot(&policy.Endpoint{
		Name: "web", Interfaces: []string{"eth0", "eth1"}, Profiles: []*policy.Profile{profile},
		Normal: []policy.TierPolicies{in(passTier, base), in(denyTier, web)},
	})
	simple.Sets = sets

	stages := snapshot(
		&policy.Endpoint{
			Name: "a", Interfaces: []string{"eth0"},
			Untracked: []policy.TierPolicies{inOut(passTier, raw)},
			PreDNAT:   []policy.TierPolicies{in(denyTier, pre)},
			Normal:    []policy.TierPolicies{inOut(denyTier, web)},
			Forward:   []policy.TierPolicies{in(denyTier, web)},
		},
		&policy.Endpoint{Name: "b", Interfaces: []string{"eth1"}, Normal: []policy.TierPolicies{inOut(denyTier, web)}},
		&policy.Endpoint{
			Name: "all", PreDNAT: []policy.TierPolicies{in(denyTier, pre)},
			Profiles: []*policy.Profile{profile, {Name: "gone", Missing: true}, profile},
		},
	)
	stages.Sets = sets

	quiet := snapshot(&policy.Endpoint{Name: "all", Normal: []policy.TierPolicies{inOut(denyTier, both("default", "log", logAll))}})
	quiet.Config = policy.Config{
		ExemptLoopback: true, DisableConntrackInvalidCheck: true,
		Failsafes: policy.Failsafes{NeighborDiscovery: policy.Off, Inbound: []policy.FailsafePort{
			{Protocol: inet.TCP, Port: 22, Net: netip.MustParsePrefix("10.0.0.0/9")},
			{Protocol: inet.TCP, Port: 22, Net: netip.MustParsePrefix("10.128.0.0/9")},
			{Protocol: inet.TCP, Port: 179},
			{Protocol: inet.TCP, Port: 179, Net: netip.MustParsePrefix("fd00::/8")},
		}},
	}
	return map[string]*policy.Snapshot{"simple": simple, "stages": stages, "quiet": quiet, "empty": snapshot()}
}

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	all := goldens()
	for _, f := range files {
		require.Contains(t, all, strings.TrimSuffix(filepath.Base(f), ".txt"), "an orphan")
	}
	for name, s := range all {
		t.Run(name, func(t *testing.T) {
			p, m := mustCompile(t, s)
			got := p.String() + m.String()
			file := filepath.Join("testdata", name+".txt")
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			require.Empty(t, cmp.Diff(string(want), got))
		})
	}
}
