// SPDX-License-Identifier: Apache-2.0

package effective

import (
	"slices"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
	"github.com/hostpolicy/hostpolicy/selector"
)

// Kind says what a set consists of. The zero value is invalid.
type Kind uint8

// The kinds of sets.
const (
	Selector      Kind = iota + 1 // addresses of endpoints and network sets that a selector selects
	NamedPort                     // (address, protocol, port) of the ports of endpoints, by name
	Service                       // (address, protocol, port) of the endpoints of a service
	ServiceNoPort                 // addresses of the endpoints of a service
)

// String returns "selector", "named port", "service" or "service without port".
func (k Kind) String() string {
	switch k {
	case Selector:
		return "selector"
	case NamedPort:
		return "named port"
	case Service:
		return "service"
	case ServiceNoPort:
		return "service without port"
	}
	return "invalid"
}

// HasPorts reports whether members have protocol and port besides the address.
func (k Kind) HasPorts() bool { return k == NamedPort || k == Service }

// SetSpec says what a set that rules refer to consists of. The zero value is invalid. Two specs with the same ID are
// the same set.
type SetSpec struct {
	ID   string // as Calico has it: "s:...", "n:...", "svc:...", "svcnoport:..."
	Kind Kind

	Selector selector.Selector // of Selector and NamedPort: which endpoints

	Protocol inet.Protocol // of NamedPort: TCP, UDP or SCTP
	PortName string        // of NamedPort

	// Of Service and ServiceNoPort. Calico: the namespace is "" if the rule leaves it out, also in a namespaced policy,
	// and the set is then empty.
	Namespace, Name string
}

// SelectorSet returns the set of the addresses that s selects.
func SelectorSet(s selector.Selector) SetSpec {
	return SetSpec{ID: s.ID(), Kind: Selector, Selector: s}
}

// NamedPortSet returns the set of the ports with a name and protocol of the endpoints that s selects.
func NamedPortSet(s selector.Selector, p inet.Protocol, name string) SetSpec {
	return SetSpec{
		ID:   selector.MakeID("n", s.ID()+","+p.String()+","+name),
		Kind: NamedPort, Selector: s, Protocol: p, PortName: name,
	}
}

// ServiceSet returns the set of the endpoints of a service, with their ports or without.
func ServiceSet(namespace, name string, ports bool) SetSpec {
	s := SetSpec{Kind: ServiceNoPort, Namespace: namespace, Name: name}
	prefix := "svcnoport"
	if ports {
		s.Kind, prefix = Service, "svc"
	}
	s.ID = selector.MakeID(prefix, namespace+"/"+name)
	return s
}

// SideSets are the sets of one side of a rule. The zero value has none. Each list is without duplicates and in the order
// of the rule.
type SideSets struct {
	Sets    []SetSpec // the address must be in every one; of kind Selector or ServiceNoPort
	NotSets []SetSpec // and in none of these; of kind Selector

	// The port must be among the rule's numeric ones, or (address, protocol, port) in one of these.
	NamedPorts []SetSpec
	// And in none of these.
	NotNamedPorts []SetSpec

	// (address, protocol, port) must be in every one of these as well; of kind Service, and only of a destination.
	Services []SetSpec
}

// RuleSets returns the sets of both sides of r. Namespace is as for Rule.
//
// A selector and a notSelector of the same side become one set. Named ports, negated ones, too, are those of the
// endpoints that the positive selector selects, or of all; if a side has no other ports than named ones, that is all
// that becomes of its selector. Ref: felix/calc/rule_scanner.go.
func RuleSets(namespace string, r *hostendpoint.Rule) (src, dst SideSets, err error) {
	return Reader{}.RuleSets(namespace, r)
}

// RuleSets is the function of that name.
func (r Reader) RuleSets(namespace string, rule *hostendpoint.Rule) (src, dst SideSets, err error) {
	s, d, err := r.Rule(namespace, rule)
	if err != nil {
		return SideSets{}, SideSets{}, err
	}
	proto := namedPortProtocol(rule.Protocol)
	src, dst = sideSets(s, &rule.Source, proto), sideSets(d, &rule.Destination, proto)
	if m := rule.Source.Services; m != nil {
		src.Sets = append(src.Sets, ServiceSet(m.Namespace, m.Name, false))
	}
	if m := rule.Destination.Services; m != nil {
		dst.Services = append(dst.Services, ServiceSet(m.Namespace, m.Name, true))
	}
	return src, dst, nil
}

func sideSets(s Side, e *hostendpoint.EntityRule, proto inet.Protocol) SideSets {
	var out SideSets
	pos, neg := s.Pos, s.Neg
	if pos != nil && neg != nil {
		both := selector.And(*pos, selector.Not(*neg))
		pos, neg = &both, nil
	}
	var numeric bool
	out.NamedPorts, numeric = namedPorts(pos, proto, e.Ports)
	out.NotNamedPorts, _ = namedPorts(pos, proto, e.NotPorts)
	if pos != nil && (len(out.NamedPorts) == 0 || numeric) {
		out.Sets = append(out.Sets, SelectorSet(*pos))
	}
	if neg != nil {
		out.NotSets = append(out.NotSets, SelectorSet(*neg))
	}
	return out
}

// namedPorts returns the sets of the named ports of the endpoints that a selector selects, or of all if it is nil, and
// whether there are numeric ones, too.
func namedPorts(selected *selector.Selector, proto inet.Protocol, ports []hostendpoint.Port) (sets []SetSpec, numeric bool) {
	for _, p := range ports {
		if p.Name == "" {
			numeric = true
			continue
		}
		owner := selector.All()
		if selected != nil {
			owner = *selected
		}
		s := NamedPortSet(owner, proto, p.Name)
		if !slices.ContainsFunc(sets, func(o SetSpec) bool { return o.ID == s.ID }) {
			sets = append(sets, s)
		}
	}
	return sets, numeric
}

// namedPortProtocol returns the protocol of the named ports of a rule.
//
// Calico: TCP unless the rule says UDP or SCTP, by name or number.
func namedPortProtocol(p *hostendpoint.Protocol) inet.Protocol {
	if p != nil {
		if n, ok := p.IP(); ok && (n == inet.UDP || n == inet.SCTP) {
			return n
		}
	}
	return inet.TCP
}
