// SPDX-License-Identifier: Apache-2.0

package manifest

import "github.com/hostpolicy/hostpolicy/hostendpoint"

// kind is what a value in a document may be.
type kind uint8

const (
	text_     kind = iota + 1 // a string; a plain number or word is the text that was written
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
)

// schema describes a value. The tables below are never written; a test compares them with the Go types.
type schema struct {
	kind     kind
	min, max int64     // integer
	elem     *schema   // list
	members  []*member // object
}

// member is one field of an object.
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
	aText      = &schema{kind: text_}
	aBool      = &schema{kind: boolean}
	aNumber    = &schema{kind: number}
	aTime      = &schema{kind: timestamp}
	aProtocol  = &schema{kind: protocol}
	aPort      = &schema{kind: port}
	aTextMap   = &schema{kind: textMap}
	anAny      = &schema{kind: anything}
	aPort16    = &schema{kind: integer, max: 65535}
	anInt      = &schema{kind: integer, min: -1 << 31, max: 1<<31 - 1}
	anInt64    = &schema{kind: integer, min: -1 << 53, max: 1 << 53}
	texts      = &schema{kind: list, elem: aText}
	rules      = &schema{kind: list, elem: ruleSchema}
	failsafeOr = &schema{kind: failsafes, elem: failsafeSchema}
)

func objectOf(members ...*member) *schema   { return &schema{kind: object, members: members} }
func listOf(members ...*member) *schema     { return &schema{kind: list, elem: objectOf(members...)} }
func m(name string, schema *schema) *member { return &member{name, schema} }

var metaSchema = objectOf(
	m("name", aText), m("generateName", aText), m("namespace", aText), m("selfLink", aText), m("uid", aText),
	m("resourceVersion", aText), m("generation", anInt64), m("creationTimestamp", aTime), m("deletionTimestamp", aTime),
	m("deletionGracePeriodSeconds", anInt64), m("labels", aTextMap), m("annotations", aTextMap),
	m("ownerReferences", listOf(
		m("apiVersion", aText), m("kind", aText), m("name", aText), m("uid", aText), m("controller", aBool),
		m("blockOwnerDeletion", aBool))),
	m("finalizers", texts),
	m("managedFields", listOf(
		m("manager", aText), m("operation", aText), m("apiVersion", aText), m("time", aTime), m("fieldsType", aText),
		m("fieldsV1", anAny), m("subresource", aText))),
)

var icmpSchema = objectOf(m("type", anInt), m("code", anInt))

var entitySchema = objectOf(
	m("nets", texts), m("selector", aText), m("namespaceSelector", aText),
	m("services", objectOf(m("name", aText), m("namespace", aText))),
	m("ports", &schema{kind: list, elem: aPort}), m("notNets", texts), m("notSelector", aText),
	m("notPorts", &schema{kind: list, elem: aPort}),
	m("serviceAccounts", objectOf(m("names", texts), m("selector", aText))),
)

var ruleSchema = objectOf(
	m("action", aText), m("ipVersion", anInt), m("protocol", aProtocol), m("icmp", icmpSchema),
	m("notProtocol", aProtocol), m("notICMP", icmpSchema), m("source", entitySchema), m("destination", entitySchema),
	m("http", objectOf(m("methods", texts), m("paths", listOf(m("exact", aText), m("prefix", aText))))),
	m("metadata", objectOf(m("annotations", aTextMap))),
)

func resource(spec ...*member) *schema {
	return objectOf(m("apiVersion", aText), m("kind", aText), m("metadata", metaSchema), m("spec", objectOf(spec...)))
}

var hostEndpointSchema = resource(
	m("node", aText), m("interfaceName", aText), m("expectedIPs", texts), m("profiles", texts),
	m("ports", listOf(m("name", aText), m("protocol", aProtocol), m("port", aPort16))),
)

var profileSchema = resource(m("ingress", rules), m("egress", rules), m("labelsToApply", aTextMap))

var tierSchema = resource(m("order", aNumber), m("defaultAction", aText))

var globalNetworkPolicySchema = resource(
	m("tier", aText), m("order", aNumber), m("ingress", rules), m("egress", rules), m("selector", aText), m("types", texts),
	m("doNotTrack", aBool), m("preDNAT", aBool), m("applyOnForward", aBool), m("serviceAccountSelector", aText),
	m("namespaceSelector", aText), m("performanceHints", texts),
)

var networkPolicySchema = resource(
	m("tier", aText), m("order", aNumber), m("ingress", rules), m("egress", rules), m("selector", aText), m("types", texts),
	m("serviceAccountSelector", aText), m("performanceHints", texts),
)

var networkSetSchema = resource(m("nets", texts))

var nodeSchema = objectOf(
	m("apiVersion", aText), m("kind", aText), m("metadata", metaSchema),
	m("spec", objectOf(
		m("bgp", objectOf(m("asNumber", &schema{kind: asNumber}), m("ipv4Address", aText), m("ipv6Address", aText),
			m("ipv4IPIPTunnelAddr", aText), m("routeReflectorClusterID", aText))),
		m("ipv4VXLANTunnelAddr", aText), m("ipv6VXLANTunnelAddr", aText), m("vxlanTunnelMACAddr", aText),
		m("vxlanTunnelMACAddrV6", aText), m("orchRefs", listOf(m("nodeName", aText), m("orchestrator", aText))),
		m("wireguard", objectOf(m("interfaceIPv4Address", aText), m("interfaceIPv6Address", aText))),
		m("addresses", listOf(m("address", aText), m("type", aText))),
		m("interfaces", listOf(m("name", aText), m("addresses", texts))))),
	m("status", objectOf(m("wireguardPublicKey", aText), m("wireguardPublicKeyV6", aText), m("podCIDRs", texts))),
)

// listSchema is a List of resources, whose items are read one by one.
var listSchema = objectOf(m("apiVersion", aText), m("kind", aText), m("metadata", anAny), m("items", &schema{kind: list, elem: anAny}))

var failsafeSchema = objectOf(m("protocol", aText), m("port", aPort16), m("net", aText))

var hostFileSchema = objectOf(
	m("node", aText),
	m("interfaces", listOf(m("name", aText), m("addresses", texts))),
	m("workloadInterfacePrefixes", texts),
	m("forwarding", aBool),
	m("dnat", listOf(m("protocol", aText), m("to", aText), m("becomes", aText))),
	m("config", objectOf(
		m("failsafes", objectOf(m("inbound", failsafeOr), m("outbound", failsafeOr), m("neighborDiscovery", aBool))),
		m("allowAction", aText), m("denyAction", aText), m("disableConntrackInvalidCheck", aBool), m("ignoreHTTP", aBool),
		m("exemptLoopback", aBool))),
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
