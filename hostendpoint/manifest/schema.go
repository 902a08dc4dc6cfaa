// SPDX-License-Identifier: Apache-2.0

package manifest

import "github.com/hostpolicy/hostpolicy/hostendpoint"

// kind is what a value in a document may be.
type kind uint8

const (
	textual   kind = iota + 1 // a string; a plain number or word is the text that was written
	boolean                   // true or false, and YAML 1.1's yes, no, on, off
	integer                   // from min to max
	number                    // a finite number
	timestamp                 // RFC 3339, written back in UTC and whole seconds
	protocol                  // hostendpoint.Protocol
	port                      // hostendpoint.Port
	asNumber                  // 64512, or "1.10"
	anything                  // kept as it is
	list                      // of elem
	textMap                   // text to text
	object                    // with members
	failsafes                 // a list of failsafe ports, or Felix's text form of one
	some                      // one elem, or a list of them
	textOr                    // an object, or text that stands for one whose member "text" it is
)

// schema describes a value. The tables below are never written; a test compares them with the Go types.
type schema struct {
	kind     kind
	min, max int64   // integer
	elem     *schema // list, failsafes, some
	members  members // object, textOr
}

// members are the fields of an object.
type members []member

type member struct {
	name   string
	schema *schema
}

func (s *schema) member(name string) *schema {
	for _, m := range s.members {
		if m.name == name {
			return m.schema
		}
	}
	return nil
}

var (
	aText     = &schema{kind: textual}
	aBool     = &schema{kind: boolean}
	aNumber   = &schema{kind: number}
	aTime     = &schema{kind: timestamp}
	aProtocol = &schema{kind: protocol}
	aTextMap  = &schema{kind: textMap}
	anAny     = &schema{kind: anything}
	anAS      = &schema{kind: asNumber}
	aPort16   = &schema{kind: integer, max: 65535}
	anInt     = &schema{kind: integer, min: -1 << 31, max: 1<<31 - 1}
	anInt64   = &schema{kind: integer, min: -1 << 53, max: 1 << 53}
	texts     = &schema{kind: list, elem: aText}
	ports     = &schema{kind: list, elem: &schema{kind: port}}
	rules     = &schema{kind: list, elem: aRule}
	items     = &schema{kind: list, elem: anAny}
)

// What all resources have.
var (
	aMeta = &schema{kind: object, members: members{
		{"name", aText}, {"generateName", aText}, {"namespace", aText}, {"selfLink", aText}, {"uid", aText},
		{"resourceVersion", aText}, {"generation", anInt64}, {"creationTimestamp", aTime}, {"deletionTimestamp", aTime},
		{"deletionGracePeriodSeconds", anInt64}, {"labels", aTextMap}, {"annotations", aTextMap},
		{"ownerReferences", &schema{kind: list, elem: anOwner}}, {"finalizers", texts},
		{"managedFields", &schema{kind: list, elem: aManager}},
	}}
	anOwner = &schema{kind: object, members: members{
		{"apiVersion", aText}, {"kind", aText}, {"name", aText}, {"uid", aText}, {"controller", aBool},
		{"blockOwnerDeletion", aBool},
	}}
	aManager = &schema{kind: object, members: members{
		{"manager", aText}, {"operation", aText}, {"apiVersion", aText}, {"time", aTime}, {"fieldsType", aText},
		{"fieldsV1", anAny}, {"subresource", aText},
	}}
)

// Rules.
var (
	aRule = &schema{kind: object, members: members{
		{"action", aText}, {"ipVersion", anInt}, {"protocol", aProtocol}, {"icmp", anICMP}, {"notProtocol", aProtocol},
		{"notICMP", anICMP}, {"source", anEntity}, {"destination", anEntity}, {"http", anHTTP}, {"metadata", aRuleMeta},
	}}
	anEntity = &schema{kind: object, members: members{
		{"nets", texts}, {"selector", aText}, {"namespaceSelector", aText}, {"services", aService}, {"ports", ports},
		{"notNets", texts}, {"notSelector", aText}, {"notPorts", ports}, {"serviceAccounts", anAccount},
	}}
	anICMP    = &schema{kind: object, members: members{{"type", anInt}, {"code", anInt}}}
	aService  = &schema{kind: object, members: members{{"name", aText}, {"namespace", aText}}}
	anAccount = &schema{kind: object, members: members{{"names", texts}, {"selector", aText}}}
	anHTTP    = &schema{kind: object, members: members{{"methods", texts}, {"paths", &schema{kind: list, elem: aPath}}}}
	aPath     = &schema{kind: object, members: members{{"exact", aText}, {"prefix", aText}}}
	aRuleMeta = &schema{kind: object, members: members{{"annotations", aTextMap}}}
)

// Specifications.
var (
	endpointSpec = &schema{kind: object, members: members{
		{"node", aText}, {"interfaceName", aText}, {"expectedIPs", texts}, {"profiles", texts},
		{"ports", &schema{kind: list, elem: anEndpointPort}},
	}}
	anEndpointPort = &schema{kind: object, members: members{{"name", aText}, {"protocol", aProtocol}, {"port", aPort16}}}
	profileSpec    = &schema{kind: object, members: members{{"ingress", rules}, {"egress", rules}, {"labelsToApply", aTextMap}}}
	tierSpec       = &schema{kind: object, members: members{{"order", aNumber}, {"defaultAction", aText}}}
	globalSpec     = &schema{kind: object, members: members{
		{"tier", aText}, {"order", aNumber}, {"ingress", rules}, {"egress", rules}, {"selector", aText}, {"types", texts},
		{"doNotTrack", aBool}, {"preDNAT", aBool}, {"applyOnForward", aBool}, {"serviceAccountSelector", aText},
		{"namespaceSelector", aText}, {"performanceHints", texts},
	}}
	policySpec = &schema{kind: object, members: members{
		{"tier", aText}, {"order", aNumber}, {"ingress", rules}, {"egress", rules}, {"selector", aText}, {"types", texts},
		{"serviceAccountSelector", aText}, {"performanceHints", texts},
	}}
	setSpec  = &schema{kind: object, members: members{{"nets", texts}}}
	nodeSpec = &schema{kind: object, members: members{
		{"bgp", aBGP}, {"ipv4VXLANTunnelAddr", aText}, {"ipv6VXLANTunnelAddr", aText}, {"vxlanTunnelMACAddr", aText},
		{"vxlanTunnelMACAddrV6", aText}, {"orchRefs", &schema{kind: list, elem: anOrchRef}}, {"wireguard", aWireguard},
		{"addresses", &schema{kind: list, elem: anAddress}}, {"interfaces", &schema{kind: list, elem: anInterface}},
	}}
	aBGP = &schema{kind: object, members: members{
		{"asNumber", anAS}, {"ipv4Address", aText}, {"ipv6Address", aText}, {"ipv4IPIPTunnelAddr", aText},
		{"routeReflectorClusterID", aText},
	}}
	aWireguard  = &schema{kind: object, members: members{{"interfaceIPv4Address", aText}, {"interfaceIPv6Address", aText}}}
	anOrchRef   = &schema{kind: object, members: members{{"nodeName", aText}, {"orchestrator", aText}}}
	anAddress   = &schema{kind: object, members: members{{"address", aText}, {"type", aText}}}
	anInterface = &schema{kind: object, members: members{{"name", aText}, {"addresses", texts}}}
	nodeStatus  = &schema{kind: object, members: members{
		{"wireguardPublicKey", aText}, {"wireguardPublicKeyV6", aText}, {"podCIDRs", texts},
	}}
)

// Documents.
var (
	hostEndpointSchema        = &schema{kind: object, members: members{{"apiVersion", aText}, {"kind", aText}, {"metadata", aMeta}, {"spec", endpointSpec}}}
	profileSchema             = &schema{kind: object, members: members{{"apiVersion", aText}, {"kind", aText}, {"metadata", aMeta}, {"spec", profileSpec}}}
	tierSchema                = &schema{kind: object, members: members{{"apiVersion", aText}, {"kind", aText}, {"metadata", aMeta}, {"spec", tierSpec}}}
	globalNetworkPolicySchema = &schema{kind: object, members: members{{"apiVersion", aText}, {"kind", aText}, {"metadata", aMeta}, {"spec", globalSpec}}}
	networkPolicySchema       = &schema{kind: object, members: members{{"apiVersion", aText}, {"kind", aText}, {"metadata", aMeta}, {"spec", policySpec}}}
	networkSetSchema          = &schema{kind: object, members: members{{"apiVersion", aText}, {"kind", aText}, {"metadata", aMeta}, {"spec", setSpec}}}
	nodeSchema                = &schema{kind: object, members: members{
		{"apiVersion", aText}, {"kind", aText}, {"metadata", aMeta}, {"spec", nodeSpec}, {"status", nodeStatus},
	}}
	// listSchema is a List of resources, whose items are read one by one.
	listSchema = &schema{kind: object, members: members{{"apiVersion", aText}, {"kind", aText}, {"metadata", anAny}, {"items", items}}}
)

// The host file.
var (
	hostFileSchema = &schema{kind: object, members: members{
		{"node", aText}, {"interfaces", &schema{kind: list, elem: anInterface}}, {"workloadInterfacePrefixes", texts},
		{"forwarding", aBool}, {"dnat", &schema{kind: list, elem: aDNAT}}, {"config", aConfig},
	}}
	aDNAT   = &schema{kind: object, members: members{{"protocol", aText}, {"to", aText}, {"becomes", aText}}}
	aConfig = &schema{kind: object, members: members{
		{"failsafes", aFailsafes}, {"allowAction", aText}, {"denyAction", aText}, {"disableConntrackInvalidCheck", aBool},
		{"ignoreHTTP", aBool}, {"exemptLoopback", aBool},
	}}
	aFailsafes    = &schema{kind: object, members: members{{"inbound", someFailsafes}, {"outbound", someFailsafes}, {"neighborDiscovery", aBool}}}
	aFailsafe     = &schema{kind: object, members: members{{"protocol", aText}, {"port", aPort16}, {"net", aText}}}
	someFailsafes = &schema{kind: failsafes, elem: aFailsafe}
)

// Test files.
var (
	testFileSchema = &schema{kind: object, members: members{{"tests", &schema{kind: list, elem: aTest}}}}
	aTest          = &schema{kind: object, members: members{
		{"name", aText}, {"from", &schema{kind: some, elem: aPeer}}, {"to", &schema{kind: some, elem: aPeer}},
		{"protocol", aProtocol}, {"port", &schema{kind: some, elem: &schema{kind: port}}}, {"sourcePort", aPort16},
		{"icmp", anICMP}, {"ipVersion", anInt}, {"state", aText}, {"node", aText}, {"packet", aText},
		{"expect", aText}, {"by", aText},
	}}
	aPeer = &schema{kind: textOr, members: members{
		{"text", aText}, {"hostEndpoint", aText}, {"selector", aText}, {"networkSet", aText}, {"address", aText},
	}}
)

// schemaOf returns the schema of a resource kind; nil for an unknown one.
func schemaOf(kind string) *schema {
	switch kind {
	case hostendpoint.KindHostEndpoint:
		return hostEndpointSchema
	case hostendpoint.KindProfile:
		return profileSchema
	case hostendpoint.KindTier:
		return tierSchema
	case hostendpoint.KindGlobalNetworkPolicy:
		return globalNetworkPolicySchema
	case hostendpoint.KindNetworkPolicy:
		return networkPolicySchema
	case hostendpoint.KindGlobalNetworkSet, hostendpoint.KindNetworkSet:
		return networkSetSchema
	case hostendpoint.KindNode:
		return nodeSchema
	}
	return nil
}
