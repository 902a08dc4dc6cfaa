// SPDX-License-Identifier: Apache-2.0

package hostendpoint

// DefaultAllowProfileName is the name of the profile that exists without being stored and allows everything.
const DefaultAllowProfileName = "projectcalico-default-allow"

// TierLabel is the label in which a policy carries the name of its tier.
const TierLabel = "projectcalico.org/tier"

// NamespaceLabel is the label in which namespaced objects carry their namespace. Network sets may not set it.
const NamespaceLabel = "projectcalico.org/namespace"

// DefaultTierOrder is the order that Default gives a tier which has none, and the only order of the tier default.
const DefaultTierOrder = 1_000_000

// AdminTierOrder is the only order of the tier adminnetworkpolicy.
const AdminTierOrder = 1_000

// DefaultAllowProfile returns a new copy of the built-in profile, as Calico shows it.
// Ref: libcalico-go/lib/resources/static.go.
func DefaultAllowProfile() *Profile {
	return &Profile{
		TypeMeta: TypeMeta{Kind: KindProfile, APIVersion: APIVersion},
		Metadata: ObjectMeta{Name: DefaultAllowProfileName, ResourceVersion: "1"},
		Spec:     ProfileSpec{Ingress: []Rule{{Action: Allow}}, Egress: []Rule{{Action: Allow}}},
	}
}

// BuiltinTiers returns new copies of the tiers that Calico creates where they do not exist: default, which denies, and
// adminnetworkpolicy, which passes. Ref: libcalico-go/lib/clientv3/client.go, EnsureInitialized.
func BuiltinTiers() []*Tier {
	tier := func(name string, order float64, action Action) *Tier {
		return &Tier{
			TypeMeta: TypeMeta{Kind: KindTier, APIVersion: APIVersion},
			Metadata: ObjectMeta{Name: name},
			Spec:     TierSpec{Order: &order, DefaultAction: &action},
		}
	}
	return []*Tier{tier(DefaultTierName, DefaultTierOrder, Deny), tier(AdminTierName, AdminTierOrder, Pass)}
}
