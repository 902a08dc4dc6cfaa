// SPDX-License-Identifier: Apache-2.0

// Package policy is the front door of the engine: Resolve turns resources, a host and a configuration into a Snapshot,
// in which every reference is resolved and every question of order answered. The evaluator (policy/eval) and the
// compiler (policy/compile) read Snapshots, each on its own.
package policy

import (
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

// Snapshot is everything that decides packets on one host at one time. It is immutable and safe for concurrent use.
type Snapshot struct {
	Host   hostendpoint.Host
	Config Config // with defaults filled in

	Endpoints []*Endpoint // the active ones with interfaces of their own, sorted by name
	Wildcard  *Endpoint   // the all-interfaces endpoint; nil if there is none
	Profiles  []*Profile  // all that Endpoints name, sorted by name
	Sets      []*Set      // all that rules name, sorted by ID

	Problems []Problem // sorted by severity (worst first), object, path, message
}

// Endpoint is a host endpoint that governs interfaces of this host.
type Endpoint struct {
	Name       string
	Interfaces []string          // sorted; nil for the wildcard
	Labels     map[string]string // own and inherited; must not be changed
	Profiles   []*Profile        // in order of evaluation

	// The tiers of each stage, in order. A tier is in a list if it holds at least one policy there, in either
	// direction. Normal holds apply-on-forward policies too. Untracked is always empty for the wildcard.
	Untracked, PreDNAT, Normal, Forward []TierPolicies

	Pos field.Pos
}

// TierPolicies is what one tier has to say to one endpoint in one stage.
type TierPolicies struct {
	Tier *Tier
	// Ingress and Egress hold the policies that govern the direction, in order, rules or none. If there are none, the
	// tier is skipped in that direction.
	Ingress, Egress []*Policy
}

// Tier is a tier that is in use.
type Tier struct {
	Name string
	Pass bool // the default action, for the stages Normal and Forward; the other two always pass at the end of a tier
	Pos  field.Pos
}

// Policy is a policy that selects an endpoint of this host.
type Policy struct {
	Tier            string
	Name            string // NAME, or NAMESPACE.NAME of a namespaced policy; without tier prefix, as Origins have it
	Kind            string // hostendpoint.KindGlobalNetworkPolicy or KindNetworkPolicy
	Ingress, Egress []Rule // both present whatever the policy governs; TierPolicies says what applies
	Pos             field.Pos
}

// Profile is a profile that an active endpoint names.
type Profile struct {
	Name            string
	Missing         bool // it does not exist: everything that reaches it is denied
	Ingress, Egress []Rule
	Pos             field.Pos
}

// Rule is a rule of a policy or profile with its references resolved. All criteria that are present must hold.
//
// Source selectors and service accounts have become sets. Interpretation of the rest stays with the reader: a
// non-empty list of nets (positive or negated) without a net of the packet's family, or a negated list that holds all
// of it, keeps the rule from matching packets of that family. Ref: felix/rules/policy.go, FilterRuleToIPVersion.
type Rule struct {
	Action hostendpoint.Action
	Index  int // position in the policy or profile as written, from 0
	Pos    field.Pos

	Never string // if not "", the rule matches no packet, and this says why (HTTP criteria)

	Family        inet.Family    // 0 is any; already inferred from ICMP and ICMPv6 by name
	Protocol      *inet.Protocol // nil is any
	NotProtocol   *inet.Protocol
	ICMP, NotICMP *ICMP
	Source, Dest  Side
}

// ICMP matches an ICMP message (in IPv4) or ICMPv6 message (in IPv6). Only a packet that is one has a type and code.
// A nil field is any.
type ICMP struct {
	Type, Code *uint8
}

// Side is the source or the destination of a Rule.
type Side struct {
	Nets, NotNets []netip.Prefix // masked, as written otherwise; IPv4-mapped ones are IPv4
	Sets          []string       // IDs of Sets; the address must be in every one
	NotSets       []string       // and in none of these

	// The port must be in one of Ports or (address, protocol, port) in one of NamedPorts, if either is non-empty.
	Ports      []inet.PortRange
	NamedPorts []string // IDs of Sets
	// The port must be in none of NotPorts and (address, protocol, port) in none of NotNamedPorts.
	NotPorts      []inet.PortRange
	NotNamedPorts []string
}

// Set is a set of addresses, or of (address, protocol, port).
type Set struct {
	ID       string // as Calico names it: s:..., n:..., svc:..., svcnoport:...
	Selector string // canonical; for people
	PortName string // of the port whose numbers it holds; for people; "" where there is none
	Ports    bool   // members have protocol and port
	Members  []Member
}

// Member is a member of a Set. Prefix is masked; a single address where the set has ports.
type Member struct {
	Prefix   netip.Prefix
	Protocol inet.Protocol
	Port     uint16
}

// Severity grades a Problem. The zero value is Error.
type Severity uint8

// The severities.
const (
	Error   Severity = iota // something is not enforced as its author must expect, or denied because it cannot be
	Warning                 // probably a mistake
	Info                    // worth knowing
)

// Problem is something that Resolve noticed and could live with.
type Problem struct {
	Severity Severity  `json:"severity"`
	Code     string    `json:"code"`   // stable, for programs: "missing-profile"
	Object   string    `json:"object"` // "HostEndpoint(web)"
	Path     string    `json:"path,omitempty"`
	Message  string    `json:"message"`
	Pos      field.Pos `json:"pos,omitzero"`
}
