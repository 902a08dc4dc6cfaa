// SPDX-License-Identifier: Apache-2.0

package hostendpoint

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

// HintAssumeNeededOnEveryNode is the only performance hint.
const HintAssumeNeededOnEveryNode = "AssumeNeededOnEveryNode"

func (p *GlobalNetworkPolicy) check(c *checker) {
	c.meta()
	s := &p.Spec
	c.policyName(p.Metadata.Name, s.Tier)
	c.order(s.Order)
	for _, f := range [...]struct{ path, text string }{
		{"spec.selector", s.Selector}, {"spec.namespaceSelector", s.NamespaceSelector},
		{"spec.serviceAccountSelector", s.ServiceAccountSelector},
	} {
		c.selector(f.path, f.text)
		c.noGlobal(f.path, f.text)
	}
	c.types(s.Types)
	c.performanceHints(s.PerformanceHints)

	if s.DoNotTrack && s.PreDNAT {
		c.add(tolerated, field.ErrForbidden, "spec.preDNAT", "true", "doNotTrack and preDNAT exclude each other")
	}
	if (s.DoNotTrack || s.PreDNAT) && !s.ApplyOnForward {
		c.add(tolerated, field.ErrRequired, "spec.applyOnForward", "false", "must be true with doNotTrack or preDNAT")
	}
	if s.PreDNAT && len(s.Egress) > 0 {
		c.add(tolerated, field.ErrForbidden, "spec.egress", "", "a preDNAT policy cannot have egress rules")
	}
	if i := slices.Index(s.Types, PolicyTypeEgress); s.PreDNAT && i >= 0 {
		c.add(tolerated, field.ErrForbidden, fmt.Sprintf("spec.types[%d]", i), string(PolicyTypeEgress), "a preDNAT policy cannot govern egress")
	}
	c.policyRules(s.Ingress, s.Egress, true)
}

func (p *NetworkPolicy) check(c *checker) {
	c.meta()
	s := &p.Spec
	c.policyName(p.Metadata.Name, s.Tier)
	c.order(s.Order)
	for _, f := range [...]struct{ path, text string }{
		{"spec.selector", s.Selector}, {"spec.serviceAccountSelector", s.ServiceAccountSelector},
	} {
		c.selector(f.path, f.text)
		c.noGlobal(f.path, f.text)
	}
	c.types(s.Types)
	c.performanceHints(s.PerformanceHints)
	c.policyRules(s.Ingress, s.Egress, false)
}

func (p *Profile) check(c *checker) {
	c.meta()
	if p.Metadata.Name == DefaultAllowProfileName {
		c.add(tolerated, field.ErrForbidden, "metadata.name", p.Metadata.Name, "reserved: this profile is built in and cannot be changed")
	}
	c.labels("spec.labelsToApply", p.Spec.LabelsToApply)
	// Calico: none of the checks of direction that policies have applies to profiles.
	c.rules("spec.ingress", p.Spec.Ingress)
	c.rules("spec.egress", p.Spec.Egress)
}

// policyName checks how a name is made up, and that it fits spec.tier. The alphabet is checked elsewhere.
func (c *checker) policyName(name, tier string) {
	if tier != "" {
		c.reference(tolerated, "spec.tier", tier)
	}
	if name == "" || !isNameText(name) {
		return
	}
	first, second, dotted := strings.Cut(name, ".")
	switch {
	case first == "" || dotted && second == "":
		c.add(tolerated, field.ErrInvalid, "metadata.name", name, "a policy name is NAME or TIER.NAME, neither of them empty")
	case strings.Contains(second, "."):
		// Only namespaced policies can be converted Kubernetes or OpenStack ones.
		kept := c.object.ID().Kind == KindNetworkPolicy && (strings.HasPrefix(name, "knp.default.") || strings.HasPrefix(name, "ossg.default."))
		if !kept {
			c.add(tolerated, field.ErrInvalid, "metadata.name", name, "a policy name is NAME or TIER.NAME, with no further full stops")
		}
	}
	if !PolicyNameFitsTier(name, tier) {
		if tier == "" {
			tier = DefaultTierName
		}
		want := tier + "." + name[strings.LastIndexByte(name, '.')+1:]
		c.add(tolerated, field.ErrInvalid, "metadata.name", name, "the policy is in tier %q, so its name must begin with that: %q", tier, shorten(want))
	}
}

func (c *checker) order(o *float64) {
	if o != nil && (math.IsNaN(*o) || math.IsInf(*o, 0)) {
		c.add(tolerated, field.ErrInvalid, "spec.order", fmt.Sprint(*o), "must be a finite number; leave it out to be last")
	}
}

func (c *checker) types(types []PolicyType) {
	for i, t := range types {
		path := fmt.Sprintf("spec.types[%d]", i)
		switch {
		case t != PolicyTypeIngress && t != PolicyTypeEgress:
			c.add(tolerated, field.ErrInvalid, path, string(t), "must be Ingress or Egress")
		case slices.Index(types, t) < i:
			c.add(tolerated, field.ErrDuplicate, path, string(t), "given more than once")
		}
	}
}

func (c *checker) performanceHints(hints []string) {
	for i, h := range hints {
		path := fmt.Sprintf("spec.performanceHints[%d]", i)
		switch {
		case h != HintAssumeNeededOnEveryNode:
			c.add(tolerated, field.ErrInvalid, path, h, "must be %s", HintAssumeNeededOnEveryNode)
		case slices.Index(hints, h) < i:
			c.add(tolerated, field.ErrDuplicate, path, h, "given more than once")
		}
	}
}

// policyRules checks the rules of a policy: each for itself, and whether its direction allows what it asks for.
func (c *checker) policyRules(ingress, egress []Rule, global bool) {
	c.rules("spec.ingress", ingress)
	c.rules("spec.egress", egress)
	for i := range ingress {
		r := &ingress[i]
		if r.Destination.Services != nil {
			c.add(tolerated, field.ErrForbidden, fmt.Sprintf("spec.ingress[%d].destination.services", i), "", "services are not allowed in the destination of an ingress rule")
		}
		c.serviceNamespace(global, r.Source.Services, "spec.ingress[%d].source.services.namespace", i)
	}
	for i := range egress {
		r := &egress[i]
		if r.Source.Services != nil {
			c.add(tolerated, field.ErrForbidden, fmt.Sprintf("spec.egress[%d].source.services", i), "", "services are not allowed in the source of an egress rule")
		}
		c.serviceNamespace(global, r.Destination.Services, "spec.egress[%d].destination.services.namespace", i)
		if r.HTTP != nil {
			c.add(tolerated, field.ErrForbidden, fmt.Sprintf("spec.egress[%d].http", i), "", "HTTP criteria are not allowed in egress rules")
		}
	}
}

func (c *checker) serviceNamespace(global bool, s *ServiceMatch, path string, i int) {
	if global && s != nil && s.Namespace == "" {
		c.add(tolerated, field.ErrRequired, fmt.Sprintf(path, i), "", "a global policy must name the namespace of the service")
	}
}
