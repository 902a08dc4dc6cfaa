// SPDX-License-Identifier: Apache-2.0

// Package hostendpoint is the resource model: HostEndpoint, Profile and the policies that select them, as
// projectcalico.org/v3 defines them in Calico 3.29. The types read and write Calico's JSON and YAML unchanged.
//
// Values are plain data. The functions of this package never change their arguments and are safe for concurrent use.
package hostendpoint

import (
	"net/netip"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

// APIVersion is the apiVersion of every resource kind in this package.
const APIVersion = "projectcalico.org/v3"

// The kinds of this package.
const (
	KindHostEndpoint        = "HostEndpoint"
	KindProfile             = "Profile"
	KindTier                = "Tier"
	KindGlobalNetworkPolicy = "GlobalNetworkPolicy"
	KindNetworkPolicy       = "NetworkPolicy"
	KindGlobalNetworkSet    = "GlobalNetworkSet"
	KindNetworkSet          = "NetworkSet"
	KindNode                = "Node"
)

// TypeMeta names the kind of a document.
type TypeMeta struct {
	Kind       string `json:"kind,omitempty"`
	APIVersion string `json:"apiVersion,omitempty"`
}

// HostEndpoint is one protected set of interfaces of one host. Ref: api/pkg/apis/projectcalico/v3/hostendpoint.go.
type HostEndpoint struct {
	TypeMeta `json:",inline"`
	Metadata ObjectMeta       `json:"metadata"`
	Spec     HostEndpointSpec `json:"spec"`

	Source *field.Source `json:"-"` // where it was read from; nil if unknown
}

// HostEndpointSpec is the specification of a HostEndpoint.
type HostEndpointSpec struct {
	Node          string         `json:"node,omitempty"`          // the host that owns the interfaces; required
	InterfaceName string         `json:"interfaceName,omitempty"` // a name, "*" for all, or "" to match by ExpectedIPs
	ExpectedIPs   []string       `json:"expectedIPs,omitempty"`
	Profiles      []string       `json:"profiles,omitempty"` // in order of evaluation
	Ports         []EndpointPort `json:"ports,omitempty"`
}

// EndpointPort gives a port of an endpoint a name that rules can use.
type EndpointPort struct {
	Name     string   `json:"name"`
	Protocol Protocol `json:"protocol"`
	Port     uint16   `json:"port"`
}

// Profile holds rules that apply after all tiers, and labels that its endpoints inherit.
type Profile struct {
	TypeMeta `json:",inline"`
	Metadata ObjectMeta  `json:"metadata"`
	Spec     ProfileSpec `json:"spec"`

	Source *field.Source `json:"-"`
}

// ProfileSpec is the specification of a Profile.
type ProfileSpec struct {
	Ingress       []Rule            `json:"ingress,omitempty"`
	Egress        []Rule            `json:"egress,omitempty"`
	LabelsToApply map[string]string `json:"labelsToApply,omitempty"`
}

// Tier orders policies into groups.
type Tier struct {
	TypeMeta `json:",inline"`
	Metadata ObjectMeta `json:"metadata"`
	Spec     TierSpec   `json:"spec"`

	Source *field.Source `json:"-"`
}

// TierSpec is the specification of a Tier.
type TierSpec struct {
	Order         *float64 `json:"order,omitempty"`         // nil becomes 1,000,000 by Default
	DefaultAction *Action  `json:"defaultAction,omitempty"` // nil becomes Deny by Default
}

// GlobalNetworkPolicy is a policy for the whole cluster.
type GlobalNetworkPolicy struct {
	TypeMeta `json:",inline"`
	Metadata ObjectMeta              `json:"metadata"`
	Spec     GlobalNetworkPolicySpec `json:"spec"`

	Source *field.Source `json:"-"`
}

// GlobalNetworkPolicySpec is the specification of a GlobalNetworkPolicy.
type GlobalNetworkPolicySpec struct {
	Tier                   string       `json:"tier,omitempty"` // "" is the tier "default"
	Order                  *float64     `json:"order,omitempty"`
	Ingress                []Rule       `json:"ingress,omitempty"`
	Egress                 []Rule       `json:"egress,omitempty"`
	Selector               string       `json:"selector,omitempty"` // "" is all()
	Types                  []PolicyType `json:"types,omitempty"`
	DoNotTrack             bool         `json:"doNotTrack,omitempty"`
	PreDNAT                bool         `json:"preDNAT,omitempty"`
	ApplyOnForward         bool         `json:"applyOnForward,omitempty"`
	ServiceAccountSelector string       `json:"serviceAccountSelector,omitempty"`
	NamespaceSelector      string       `json:"namespaceSelector,omitempty"`
	PerformanceHints       []string     `json:"performanceHints,omitempty"`
}

// NetworkPolicy is a policy of one namespace.
type NetworkPolicy struct {
	TypeMeta `json:",inline"`
	Metadata ObjectMeta        `json:"metadata"`
	Spec     NetworkPolicySpec `json:"spec"`

	Source *field.Source `json:"-"`
}

// NetworkPolicySpec is the specification of a NetworkPolicy.
type NetworkPolicySpec struct {
	Tier                   string       `json:"tier,omitempty"`
	Order                  *float64     `json:"order,omitempty"`
	Ingress                []Rule       `json:"ingress,omitempty"`
	Egress                 []Rule       `json:"egress,omitempty"`
	Selector               string       `json:"selector,omitempty"`
	Types                  []PolicyType `json:"types,omitempty"`
	ServiceAccountSelector string       `json:"serviceAccountSelector,omitempty"`
	PerformanceHints       []string     `json:"performanceHints,omitempty"`
}

// GlobalNetworkSet is a set of prefixes with labels, for the whole cluster.
type GlobalNetworkSet struct {
	TypeMeta `json:",inline"`
	Metadata ObjectMeta     `json:"metadata"`
	Spec     NetworkSetSpec `json:"spec"`

	Source *field.Source `json:"-"`
}

// NetworkSet is a set of prefixes with labels, in one namespace.
type NetworkSet struct {
	TypeMeta `json:",inline"`
	Metadata ObjectMeta     `json:"metadata"`
	Spec     NetworkSetSpec `json:"spec"`

	Source *field.Source `json:"-"`
}

// NetworkSetSpec is the specification of a GlobalNetworkSet or a NetworkSet.
type NetworkSetSpec struct {
	Nets []string `json:"nets,omitempty"`
}

// Node is a host as Calico knows it; only the fields that automatic host endpoints need.
// Ref: libcalico-go/lib/apis/v3/node.go.
type Node struct {
	TypeMeta `json:",inline"`
	Metadata ObjectMeta `json:"metadata"`
	Spec     NodeSpec   `json:"spec"`
	Status   NodeStatus `json:"status,omitzero"`

	Source *field.Source `json:"-"`
}

// NodeSpec is the specification of a Node. Addresses are kept as written: Calico does not validate all of them.
type NodeSpec struct {
	BGP                  *NodeBGPSpec       `json:"bgp,omitempty"`
	IPv4VXLANTunnelAddr  string             `json:"ipv4VXLANTunnelAddr,omitempty"`
	IPv6VXLANTunnelAddr  string             `json:"ipv6VXLANTunnelAddr,omitempty"`
	VXLANTunnelMACAddr   string             `json:"vxlanTunnelMACAddr,omitempty"`
	VXLANTunnelMACAddrV6 string             `json:"vxlanTunnelMACAddrV6,omitempty"`
	OrchRefs             []OrchRef          `json:"orchRefs,omitempty"`
	Wireguard            *NodeWireguardSpec `json:"wireguard,omitempty"`
	Addresses            []NodeAddress      `json:"addresses,omitempty"`
	Interfaces           []NodeInterface    `json:"interfaces,omitempty"` // since Calico 3.30
}

// NodeBGPSpec is the BGP part of a NodeSpec.
type NodeBGPSpec struct {
	ASNumber                *int64 `json:"asNumber,omitempty"`
	IPv4Address             string `json:"ipv4Address,omitempty"`
	IPv6Address             string `json:"ipv6Address,omitempty"`
	IPv4IPIPTunnelAddr      string `json:"ipv4IPIPTunnelAddr,omitempty"`
	RouteReflectorClusterID string `json:"routeReflectorClusterID,omitempty"`
}

// NodeWireguardSpec is the WireGuard part of a NodeSpec.
type NodeWireguardSpec struct {
	InterfaceIPv4Address string `json:"interfaceIPv4Address,omitempty"`
	InterfaceIPv6Address string `json:"interfaceIPv6Address,omitempty"`
}

// NodeAddress is one address of a Node.
type NodeAddress struct {
	Address string `json:"address"`
	Type    string `json:"type,omitempty"` // CalicoNodeIP, InternalIP or ExternalIP
}

// NodeInterface is one network interface of a Node.
type NodeInterface struct {
	Name      string   `json:"name,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
}

// NodeStatus is what Calico reports about a Node. Nothing here reads it.
type NodeStatus struct {
	WireguardPublicKey   string   `json:"wireguardPublicKey,omitempty"`
	WireguardPublicKeyV6 string   `json:"wireguardPublicKeyV6,omitempty"`
	PodCIDRs             []string `json:"podCIDRs,omitempty"`
}

// OrchRef names the node in its orchestrator.
type OrchRef struct {
	NodeName     string `json:"nodeName,omitempty"`
	Orchestrator string `json:"orchestrator"`
}

// Rule is one rule of a policy or profile. All criteria that are present must hold.
type Rule struct {
	Action      Action        `json:"action"`
	IPVersion   *int          `json:"ipVersion,omitempty"`
	Protocol    *Protocol     `json:"protocol,omitempty"`
	ICMP        *ICMPFields   `json:"icmp,omitempty"`
	NotProtocol *Protocol     `json:"notProtocol,omitempty"`
	NotICMP     *ICMPFields   `json:"notICMP,omitempty"`
	Source      EntityRule    `json:"source"` // written even if empty, as Calico does; so is Destination
	Destination EntityRule    `json:"destination"`
	HTTP        *HTTPMatch    `json:"http,omitempty"`
	Metadata    *RuleMetadata `json:"metadata,omitempty"`
}

// ICMPFields matches ICMP messages, ICMPv6 ones in IPv6 packets.
type ICMPFields struct {
	Type *int `json:"type,omitempty"` // 0-254
	Code *int `json:"code,omitempty"` // 0-255; needs Type
}

// EntityRule is one side of a Rule.
type EntityRule struct {
	Nets              []string             `json:"nets,omitempty"`
	Selector          string               `json:"selector,omitempty"`
	NamespaceSelector string               `json:"namespaceSelector,omitempty"`
	Services          *ServiceMatch        `json:"services,omitempty"`
	Ports             []Port               `json:"ports,omitempty"`
	NotNets           []string             `json:"notNets,omitempty"`
	NotSelector       string               `json:"notSelector,omitempty"`
	NotPorts          []Port               `json:"notPorts,omitempty"`
	ServiceAccounts   *ServiceAccountMatch `json:"serviceAccounts,omitempty"`
}

// ServiceMatch names a Kubernetes service.
type ServiceMatch struct {
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace,omitempty"`
}

// ServiceAccountMatch selects workloads by service account.
type ServiceAccountMatch struct {
	Names    []string `json:"names,omitempty"`
	Selector string   `json:"selector,omitempty"`
}

// HTTPMatch matches HTTP requests, which no host endpoint sees.
type HTTPMatch struct {
	Methods []string   `json:"methods,omitempty"`
	Paths   []HTTPPath `json:"paths,omitempty"`
}

// HTTPPath is an exact path or a prefix of one; exactly one must be set.
type HTTPPath struct {
	Exact  string `json:"exact,omitempty"`
	Prefix string `json:"prefix,omitempty"`
}

// RuleMetadata carries annotations; it has no effect on matching.
type RuleMetadata struct {
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Action is what a rule does. The zero value is invalid.
type Action string

// The actions. Tiers may have Deny or Pass.
const (
	Allow Action = "Allow"
	Deny  Action = "Deny"
	Log   Action = "Log"
	Pass  Action = "Pass"
)

// PolicyType is a direction that a policy governs.
type PolicyType string

// The policy types.
const (
	PolicyTypeIngress PolicyType = "Ingress"
	PolicyTypeEgress  PolicyType = "Egress"
)

// Resources is everything that policy needs to know of a cluster. The order of the slices has no meaning. Objects are
// shared, not copied: treat them as immutable.
type Resources struct {
	HostEndpoints         []*HostEndpoint
	Profiles              []*Profile
	Tiers                 []*Tier
	GlobalNetworkPolicies []*GlobalNetworkPolicy
	NetworkPolicies       []*NetworkPolicy
	GlobalNetworkSets     []*GlobalNetworkSet
	NetworkSets           []*NetworkSet
	Nodes                 []*Node
}

// Host is one machine as its kernel shows it.
type Host struct {
	Node       string      `json:"node"` // compared byte for byte with spec.node
	Interfaces []Interface `json:"interfaces,omitempty"`
}

// Interface is a network interface and the addresses that are local on it.
type Interface struct {
	Name      string         `json:"name"`
	Addresses []netip.Prefix `json:"addresses,omitempty"` // the address with the length of its network: 10.9.0.1/24
}
