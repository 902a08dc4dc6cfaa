// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"

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
	// Deviation: by default such a rule never matches, since nothing on a host checks HTTP.
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
