// SPDX-License-Identifier: Apache-2.0

package hostendpoint

import "strings"

// DefaultTierName is the tier of policies that name none.
const DefaultTierName = "default"

// AdminTierName is the tier of converted Kubernetes AdminNetworkPolicies.
const AdminTierName = "adminnetworkpolicy"

// preformatted prefixes mark names that are taken as they are, whatever the tier: policies converted from Kubernetes,
// and OpenStack security groups. Ref: libcalico-go/lib/names/policy.go.
var preformatted = [...]struct{ prefix, tier string }{
	{"knp.default.", DefaultTierName},
	{"kanp.adminnetworkpolicy.", AdminTierName},
	{"ossg.", DefaultTierName},
}

// preformattedTier returns the tier of a preformatted policy name; false for other names.
func preformattedTier(name string) (string, bool) {
	for _, p := range preformatted {
		if strings.HasPrefix(name, p.prefix) {
			return p.tier, true
		}
	}
	return "", false
}

// BackendPolicyName returns the name under which a datastore keeps a policy, and by which policies of equal order are
// sorted: "x" becomes "default.x", names with a tier stay. So "x" and "default.x" are the same object.
func BackendPolicyName(name string) string {
	if _, ok := preformattedTier(name); ok || strings.Contains(name, ".") {
		return name
	}
	return DefaultTierName + "." + name
}

// TierOfPolicy returns the tier that a policy name, of either form, places the policy in.
//
// Calico: this and not spec.tier decides. A preformatted name ("ossg.x") may be given any spec.tier, and still is in
// the tier default. Ref: libcalico-go/lib/backend/syncersv1/updateprocessors/globalnetworkpolicyprocessor.go.
func TierOfPolicy(name string) string {
	if tier, ok := preformattedTier(name); ok {
		return tier
	}
	tier, _, dotted := strings.Cut(name, ".")
	if !dotted {
		return DefaultTierName
	}
	return tier
}

// PolicyDisplayName returns the name by which origins and logs know a policy: without its tier ("zz.block" in tier zz is
// "block", "default.x" is "x"), preceded by the namespace if it has one ("ns.x"). Preformatted names stay whole, and so
// do names of global policies with several dots: no client can create them, and "default.ns.x" must not pass for the
// policy x of the namespace ns.
func PolicyDisplayName(namespace, name string) string {
	if _, ok := preformattedTier(name); !ok {
		if _, rest, dotted := strings.Cut(name, "."); dotted && (namespace != "" || !strings.Contains(rest, ".")) {
			name = rest
		}
	}
	if namespace != "" {
		return namespace + "." + name
	}
	return name
}

// PolicyNameFitsTier reports whether a client may create a policy of this name with this spec.tier, "" being the tier
// default: a name without a dot belongs to the tier default, and one with a dot must begin with its tier.
func PolicyNameFitsTier(name, tier string) bool {
	if _, ok := preformattedTier(name); ok {
		return true
	}
	if tier == "" {
		tier = DefaultTierName
	}
	if !strings.Contains(name, ".") {
		return tier == DefaultTierName
	}
	return strings.HasPrefix(name, tier+".")
}
