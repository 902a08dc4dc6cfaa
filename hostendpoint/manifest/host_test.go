// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
)

func parseHost(data string) (manifest.HostFile, error) {
	return manifest.ParseHost(manifest.Source{Name: "host.yaml", Data: []byte(data)})
}

var compareNets = cmpopts.EquateComparable(netip.Prefix{}, netip.AddrPort{})

func TestHostFile(t *testing.T) {
	got, err := parseHost(`node: host-a
interfaces:
  - {name: eth0, addresses: [10.9.0.1/24, "fd00:9::1/64", 10.9.0.2]}
  - {name: on, addresses: []}
workloadInterfacePrefixes: [cali, tap]
forwarding: true
dnat:
  - {protocol: tcp, to: "10.9.0.1:32010", becomes: "10.65.0.2:8055"}
config:
  allowAction: return
  denyAction: REJECT
  failsafes:
    inbound: "tcp:22, udp:10.0.0.0/8:68, 179,UDP:[fd00::1]:53"
    outbound: []
    neighborDiscovery: false
  disableConntrackInvalidCheck: true
`)
	require.NoError(t, err)
	prefix := netip.MustParsePrefix
	want := manifest.HostFile{
		Host: hostendpoint.Host{Node: "host-a", Interfaces: []hostendpoint.Interface{
			{Name: "eth0", Addresses: []netip.Prefix{prefix("10.9.0.1/24"), prefix("fd00:9::1/64"), prefix("10.9.0.2/32")}},
			{Name: "on", Addresses: []netip.Prefix{}},
		}},
		WorkloadInterfacePrefixes: []string{"cali", "tap"},
		Forwarding:                true,
		DNAT:                      []manifest.DNAT{{Protocol: inet.TCP, To: netip.MustParseAddrPort("10.9.0.1:32010"), Becomes: netip.MustParseAddrPort("10.65.0.2:8055")}},
		Config: manifest.ConfigFile{
			AllowAction: "Return", DenyAction: "Reject", DisableConntrackInvalidCheck: true,
			Failsafes: manifest.FailsafesFile{
				Inbound: []manifest.FailsafePort{{Protocol: inet.TCP, Port: 22}, {Protocol: inet.UDP, Port: 68, Net: prefix("10.0.0.0/8")},
					{Protocol: inet.TCP, Port: 179}, {Protocol: inet.UDP, Port: 53, Net: prefix("fd00::1/128")}},
				Outbound:          []manifest.FailsafePort{},
				NeighborDiscovery: new(bool),
			},
		},
	}
	require.Empty(t, cmp.Diff(want, got, compareNets))
}

func TestHostFileThatSaysLittle(t *testing.T) {
	got, err := parseHost("node: 7\n")
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(manifest.HostFile{Host: hostendpoint.Host{Node: "7"}}, got, compareNets))
}

func TestFailsafes(t *testing.T) {
	for in, want := range map[string][]manifest.FailsafePort{
		`""`:                nil,
		`null`:              nil,
		`none`:              {},
		`" NONE "`:          {},
		`[]`:                {},
		`22`:                {{Protocol: inet.TCP, Port: 22}},
		`"0"`:               {{Protocol: inet.TCP}},
		`"22,"`:             {{Protocol: inet.TCP, Port: 22}},
		`", 22,, udp:53 ,"`: {{Protocol: inet.TCP, Port: 22}, {Protocol: inet.UDP, Port: 53}},
		`[{protocol: UDP, port: 53, net: 10.0.0.1}]`:   {{Protocol: inet.UDP, Port: 53, Net: netip.MustParsePrefix("10.0.0.1/32")}},
		`[{protocol: tcp, port: 22, net: 10.1.1.1/8}]`: {{Protocol: inet.TCP, Port: 22, Net: netip.MustParsePrefix("10.0.0.0/8")}},
	} {
		got, err := parseHost("node: a\nconfig: {failsafes: {inbound: " + in + "}}\n")
		require.NoError(t, err, in)
		require.Empty(t, cmp.Diff(want, got.Config.Failsafes.Inbound, compareNets), in)
	}
	for _, in := range []string{"sctp:22", "tcp:65536", "tcp:x", "\",\"", "\" , ,\"", "\"tcp:,\"", "tcp:fd00::1:22", "\"tcp:[fd00::1:22\"", "\"tcp::22\"", "tcp:10.0.0.0/33:22",
		"[{port: 22}]", "[{protocol: tcp, port: 70000}]", "[{protocol: tcp, port: 1, nets: x}]", "{a: b}"} {
		_, err := parseHost("node: a\nconfig: {failsafes: {outbound: " + in + "}}\n")
		require.Error(t, err, in)
		require.ErrorContains(t, err, "host.yaml:2: config.failsafes.outbound", in)
	}
}

func TestHostFileErrors(t *testing.T) {
	_, err := parseHost(`interfaces:
  - {name: eth0, addresses: [x]}
  - {name: eth0}
  - {}
workloadInterfacePrefixes: [""]
dnat:
  - {protocol: icmp, to: "1.2.3.4", becomes: "[::1]:0"}
  - {protocol: udp, to: "1.2.3.4:1", becomes: "[::1]:1"}
config: {allowAction: Drop, denyAction: x}
`)
	var all *field.Errors
	require.ErrorAs(t, err, &all)
	var got []string
	for _, e := range all.List() {
		got = append(got, e.Pos.String()+" "+e.Path)
	}
	require.Equal(t, []string{"host.yaml:1 node", "host.yaml:2 interfaces[0].addresses[0]", "host.yaml:3 interfaces[1].name", "host.yaml:4 interfaces[2].name",
		"host.yaml:5 workloadInterfacePrefixes[0]", "host.yaml:7 dnat[0].becomes", "host.yaml:7 dnat[0].protocol", "host.yaml:7 dnat[0].to",
		"host.yaml:8 dnat[1].becomes", "host.yaml:9 config.allowAction", "host.yaml:9 config.denyAction"}, got)
	for _, doc := range []string{"", "node: a\n---\nnode: b\n", "node: a\nNode: b\n", "config: {failsafe: x}\nnode: a\n", "- a\n", "node: !x a\n"} {
		_, err := parseHost(doc)
		require.Error(t, err, "%q", doc)
	}
}

func FuzzParseHost(f *testing.F) {
	f.Add("node: a\nconfig: {failsafes: {inbound: \"tcp:22, udp:[fd00::/8]:1\", outbound: none}}\n")
	f.Add("node: a\ninterfaces: [{name: e, addresses: [10.0.0.1/8]}]\ndnat: [{protocol: tcp, to: '[::1]:1', becomes: '[::2]:2'}]\n")
	f.Fuzz(func(t *testing.T, data string) {
		h, err := parseHost(data)
		if err != nil {
			require.Empty(t, cmp.Diff(manifest.HostFile{}, h, compareNets))
			require.True(t, strings.HasPrefix(err.Error(), "host.yaml"))
			return
		}
		require.NotEmpty(t, h.Host.Node)
		for _, d := range h.DNAT {
			require.Equal(t, d.To.Addr().Is4(), d.Becomes.Addr().Is4())
		}
	})
}
