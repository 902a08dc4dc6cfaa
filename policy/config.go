// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

// Config is what Felix's configuration has to say about verdicts. The zero value is Calico's default.
type Config struct {
	Failsafes Failsafes

	AllowAction AllowAction
	DenyAction  DenyAction

	// DisableConntrackInvalidCheck lets policy decide on packets that connection tracking calls invalid.
	DisableConntrackInvalidCheck bool
	// IgnoreHTTP reads rules with HTTP criteria as if they had none, as Calico does on host endpoints.
	//
	// Deviation: by default such a rule never matches, since nothing on a host checks HTTP. A stored deny is always read
	// without them.
	IgnoreHTTP bool
	// ExemptLoopback keeps the all-interfaces endpoint off the interface lo. Calico polices it.
	ExemptLoopback bool
	// WorkloadInterfacePrefixes says which interfaces belong to workloads, by the beginning of their names. Nil is
	// {"cali"}.
	WorkloadInterfacePrefixes []string
}

// Failsafes are ports that no policy of the stages normal, pre-DNAT and untracked can close. The zero value is Calico's
// default list.
type Failsafes struct {
	Inbound, Outbound []FailsafePort // nil is Calico's default; empty and not nil is none
	// NeighborDiscovery admits ICMPv6 types 130 to 136 and 143, without which IPv6 does not work.
	//
	// Deviation: Calico in iptables and nftables mode denies them like anything else.
	NeighborDiscovery Toggle
}

// FailsafePort is one failsafe.
type FailsafePort struct {
	Protocol inet.Protocol // TCP or UDP
	Port     uint16
	Net      netip.Prefix // of the remote side; the zero value is any
}

// Toggle is a switch whose default is on. The zero value is on.
type Toggle uint8

// The positions.
const (
	On Toggle = iota
	Off
)

// AllowAction says what an allowed packet does in backends that have the distinction.
type AllowAction uint8

// The allow actions.
const (
	Accept AllowAction = iota // skips the host's own later rules
	Return                    // goes on with them
)

// DenyAction says what a denied packet meets.
type DenyAction uint8

// The deny actions.
const (
	Drop   DenyAction = iota
	Reject            // answers with an error where the kernel can, drops elsewhere
)

// defaultFailsafes are Calico's. Ref: felix/config/config_params.go.
var (
	defaultInbound  = [...]FailsafePort{{Protocol: inet.TCP, Port: 22}, {Protocol: inet.UDP, Port: 68}, {Protocol: inet.TCP, Port: 179}, {Protocol: inet.TCP, Port: 2379}, {Protocol: inet.TCP, Port: 2380}, {Protocol: inet.TCP, Port: 5473}, {Protocol: inet.TCP, Port: 6443}, {Protocol: inet.TCP, Port: 6666}, {Protocol: inet.TCP, Port: 6667}}
	defaultOutbound = [...]FailsafePort{{Protocol: inet.UDP, Port: 53}, {Protocol: inet.UDP, Port: 67}, {Protocol: inet.TCP, Port: 179}, {Protocol: inet.TCP, Port: 2379}, {Protocol: inet.TCP, Port: 2380}, {Protocol: inet.TCP, Port: 5473}, {Protocol: inet.TCP, Port: 6443}, {Protocol: inet.TCP, Port: 6666}, {Protocol: inet.TCP, Port: 6667}}
)

// withDefaults returns c with nil lists replaced by Calico's defaults and prefixes masked.
func (c Config) withDefaults() Config {
	if c.Failsafes.Inbound == nil {
		c.Failsafes.Inbound = defaultInbound[:]
	}
	if c.Failsafes.Outbound == nil {
		c.Failsafes.Outbound = defaultOutbound[:]
	}
	c.Failsafes.Inbound = maskedFailsafes(c.Failsafes.Inbound)
	c.Failsafes.Outbound = maskedFailsafes(c.Failsafes.Outbound)
	if c.WorkloadInterfacePrefixes == nil {
		c.WorkloadInterfacePrefixes = []string{"cali"}
	}
	return c
}

func maskedFailsafes(in []FailsafePort) []FailsafePort {
	out := make([]FailsafePort, len(in))
	for i, f := range in {
		f.Net = f.Net.Masked()
		out[i] = f
	}
	return out
}

// validate checks a Config that has its defaults.
func (c Config) validate() field.List {
	var errs field.List
	bad := func(path, value, reason string) {
		errs = append(errs, &field.Error{Object: "Config", Path: path, Value: value, Reason: reason, Err: field.ErrInvalid})
	}
	for _, l := range []struct {
		path string
		list []FailsafePort
	}{{"failsafes.inbound", c.Failsafes.Inbound}, {"failsafes.outbound", c.Failsafes.Outbound}} {
		for i, f := range l.list {
			if f.Protocol != inet.TCP && f.Protocol != inet.UDP {
				bad(fmt.Sprintf("%s[%d].protocol", l.path, i), f.Protocol.String(), "must be tcp or udp")
			}
		}
	}
	if c.Failsafes.NeighborDiscovery > Off {
		bad("failsafes.neighborDiscovery", fmt.Sprint(c.Failsafes.NeighborDiscovery), "must be On or Off")
	}
	if c.AllowAction > Return {
		bad("allowAction", fmt.Sprint(c.AllowAction), "must be Accept or Return")
	}
	if c.DenyAction > Reject {
		bad("denyAction", fmt.Sprint(c.DenyAction), "must be Drop or Reject")
	}
	for i, p := range c.WorkloadInterfacePrefixes {
		if p == "" || len(p) > 15 {
			bad(fmt.Sprintf("workloadInterfacePrefixes[%d]", i), p, "must be the beginning of an interface name, 1 to 15 bytes")
		}
	}
	return errs
}
