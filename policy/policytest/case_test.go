// SPDX-License-Identifier: Apache-2.0

package policytest_test

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

const goodCase = `What is shown.
-- resources.yaml --
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: hep}
spec: {node: host-a, interfaceName: eth0}
-- host.yaml --
node: host-a
interfaces:
  - {name: eth0, addresses: [10.9.0.1/24]}
workloadInterfacePrefixes: [tap]
forwarding: true
dnat:
  - {protocol: tcp, to: "10.9.0.1:81", becomes: "10.9.0.1:80"}
config: {failsafes: {inbound: [], neighborDiscovery: false}, allowAction: Return, denyAction: Reject, exemptLoopback: true}
-- packets --
# path ...

input eth0 tcp 10.9.0.2:1 > 10.9.0.1:81  deny  default:hep/ingress  # translated
-- ir --
program
-- errors --
error HostEndpoint(hep) spec.profiles[0]: whatever
-- unsupported --
ebpf: no REJECT: anywhere
`

func TestParseReadsACase(t *testing.T) {
	c, err := policytest.Parse("dir/good", []byte(goodCase))
	require.NoError(t, err)
	require.Equal(t, "dir/good", c.Name)
	require.Equal(t, "What is shown.\n", c.Comment)
	require.NoError(t, c.Invalid)
	require.Len(t, c.Resources.HostEndpoints, 1)
	require.Equal(t, field.Pos{File: "dir/good", Line: 5}, c.Resources.HostEndpoints[0].At("metadata.name"), "lines are those of the case")
	require.Equal(t, "host-a", c.Host.Node)
	require.True(t, c.Forwarding)
	require.Equal(t, []policytest.DNAT{{Protocol: inet.TCP, To: mustAddrPort("10.9.0.1:81"), Becomes: mustAddrPort("10.9.0.1:80")}}, c.DNAT)
	require.Equal(t, policy.Config{
		Failsafes:                 policy.Failsafes{Inbound: []policy.FailsafePort{}, NeighborDiscovery: policy.Off},
		AllowAction:               policy.Return,
		DenyAction:                policy.Reject,
		ExemptLoopback:            true,
		WorkloadInterfacePrefixes: []string{"tap"},
	}, c.Config)
	require.Len(t, c.Packets, 1)
	require.Equal(t, 19, c.Packets[0].Line)
	require.Equal(t, "input eth0 tcp 10.9.0.2:1 > 10.9.0.1:81  deny  default:hep/ingress", c.Packets[0].Text)
	require.Equal(t, mustAddrPort("10.9.0.1:80"), c.Packets[0].NATDst)
	require.Equal(t, flow.Deny, c.Packets[0].Want)
	require.Equal(t, "program\n", c.IR)
	require.Equal(t, []string{"error HostEndpoint(hep) spec.profiles[0]: whatever"}, c.Errors)
	require.Equal(t, map[string]string{"ebpf": "no REJECT: anywhere"}, c.Unsupported)
}

func TestParseRefuses(t *testing.T) {
	replace := func(old, new string) string {
		require.Contains(t, goodCase, old)
		return strings.Replace(goodCase, old, new, 1)
	}
	for what, x := range map[string]struct {
		text, err string
		is        error
	}{
		"an empty file":            {"", "section resources.yaml is missing", field.ErrRequired},
		"an unknown section":       {replace("-- ir --", "-- irr --"), `bad:20: no section is called "irr"`, field.ErrUnknown},
		"a section twice":          {replace("-- ir --", "-- packets --"), "bad:20: section packets begins a second time", field.ErrDuplicate},
		"a missing section":        {replace("-- packets --", "-- ir --"), "section packets is missing", field.ErrRequired},
		"an unknown field":         {replace("interfaceName", "interfacename"), "bad:6:", field.ErrUnknown},
		"an unknown host field":    {replace("forwarding", "forwards"), "bad:12:", field.ErrUnknown},
		"an unknown word":          {replace("allowAction: Return", "allowAction: Maybe"), "bad:15:", field.ErrInvalid},
		"a packet without verdict": {replace("deny  default:hep/ingress", ""), "bad:19: ", field.ErrRequired},
		"a packet that is none":    {replace("> 10.9.0.1:81", ""), "bad:19: ", policytest.ErrPacket},
		"a reason without runner":  {replace("ebpf: no REJECT: anywhere", "ebpf"), "bad:25: ", field.ErrSyntax},
	} {
		t.Run(what, func(t *testing.T) {
			c, err := policytest.Parse("bad", []byte(x.text))
			require.Nil(t, c)
			require.ErrorContains(t, err, x.err)
			require.ErrorIs(t, err, x.is)
			var list *field.Errors
			require.True(t, errors.As(err, &list))
		})
	}
}

func TestParseReportsEveryPacketThatIsWrong(t *testing.T) {
	text := strings.Replace(goodCase, "# path ...", "sideways\nforwards", 1)
	_, err := policytest.Parse("bad", []byte(text))
	require.ErrorContains(t, err, "bad:17: ")
	require.ErrorContains(t, err, "bad:18: ")
}

func TestStoredObjectsNeedNotBeValid(t *testing.T) {
	text := strings.Replace(goodCase, "interfaceName: eth0", "interfaceName: 'eth*'", 1)
	c, err := policytest.Parse("stored", []byte(text))
	require.NoError(t, err)
	require.ErrorContains(t, c.Invalid, "stored:6: HostEndpoint(hep): spec.interfaceName")
	require.Len(t, c.Resources.HostEndpoints, 1)
}

func TestFormatIsTheInverseOfParse(t *testing.T) {
	check := func(t *testing.T, c *policytest.Case) {
		t.Helper()
		text, err := policytest.Format(c)
		require.NoError(t, err)
		again, err := policytest.Parse(c.Name, text)
		require.NoError(t, err, "%s", text)
		text2, err := policytest.Format(again)
		require.NoError(t, err)
		require.Equal(t, string(text), string(text2))
		require.Equal(t, c.Config, again.Config)
		require.Empty(t, cmp.Diff(c.Host, again.Host, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Prefix{})))
		require.Equal(t, c.DNAT, again.DNAT)
		require.Len(t, again.Packets, len(c.Packets))
		for i := range c.Packets {
			require.Equal(t, c.Packets[i].Packet, again.Packets[i].Packet)
			require.Equal(t, c.Packets[i].Want, again.Packets[i].Want)
			require.Equal(t, c.Packets[i].By, again.Packets[i].By)
		}
	}
	c, err := policytest.Parse("good", []byte(goodCase))
	require.NoError(t, err)
	check(t, c)
	for i := range uint64(30) {
		c := policytest.Generate(i, policytest.Size{Packets: 20})
		for j := range c.Packets {
			c.Packets[j].Asked, c.Packets[j].Want = true, flow.None
		}
		check(t, c)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(goodCase))
	b, err := os.ReadFile("testdata/calico/dnat-output.txtar")
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := policytest.Parse("fuzz", data)
		require.Equal(t, err == nil, c != nil)
		if err != nil {
			var list *field.Errors
			require.True(t, errors.As(err, &list), "%v", err)
		}
	})
}
