// SPDX-License-Identifier: Apache-2.0

package effective_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/policy/effective"
	"github.com/hostpolicy/hostpolicy/selector"
)

func TestServices(t *testing.T) {
	r := hostendpoint.Rule{
		Source:      hostendpoint.EntityRule{Services: &hostendpoint.ServiceMatch{Name: "s", Namespace: "n"}},
		Destination: hostendpoint.EntityRule{Services: &hostendpoint.ServiceMatch{Name: "s"}},
	}
	src, dst, err := effective.RuleSets("ns1", &r)
	require.NoError(t, err)
	require.Equal(t, effective.SideSets{Sets: []effective.SetSpec{{
		ID: "svcnoport:m5-cA1fZgKpaivV2mE7IgJb9NNdyowlZloB2OQ", Kind: effective.ServiceNoPort, Namespace: "n", Name: "s",
	}}}, src)
	require.Equal(t, effective.SideSets{Services: []effective.SetSpec{{
		ID: selector.MakeID("svc", "/s"), Kind: effective.Service, Name: "s",
	}}}, dst)
}

func TestNamedPortProtocol(t *testing.T) {
	for _, c := range []struct {
		p    *hostendpoint.Protocol
		want inet.Protocol
	}{
		{nil, inet.TCP},
		{&hostendpoint.Protocol{}, inet.TCP},
		{&hostendpoint.Protocol{Name: "TCP"}, inet.TCP},
		{&hostendpoint.Protocol{Name: "UDP"}, inet.UDP},
		{&hostendpoint.Protocol{Name: "SCTP"}, inet.SCTP},
		{&hostendpoint.Protocol{Number: 17}, inet.UDP},
		{&hostendpoint.Protocol{Number: 132}, inet.SCTP},
		{&hostendpoint.Protocol{Number: 136}, inet.TCP},
		{&hostendpoint.Protocol{Name: "no such"}, inet.TCP},
	} {
		r := hostendpoint.Rule{Protocol: c.p}
		r.Destination.Ports = []hostendpoint.Port{{Name: "web"}, {Name: "web"}}
		_, dst, err := effective.RuleSets("", &r)
		require.NoError(t, err)
		require.Len(t, dst.NamedPorts, 1, "the same name twice is one set")
		require.Equal(t, c.want, dst.NamedPorts[0].Protocol)
	}
}

func TestKinds(t *testing.T) {
	for k, want := range map[effective.Kind]struct {
		name  string
		ports bool
	}{
		0:                       {"invalid", false},
		effective.Selector:      {"selector", false},
		effective.NamedPort:     {"named port", true},
		effective.Service:       {"service", true},
		effective.ServiceNoPort: {"service without port", false},
	} {
		require.Equal(t, want.name, k.String())
		require.Equal(t, want.ports, k.HasPorts())
	}
}
