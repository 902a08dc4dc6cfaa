// SPDX-License-Identifier: Apache-2.0

package hostendpoint

import (
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

// Object is a resource of one of the kinds of this package: always a pointer, never nil.
//
//sumtype:decl
type Object interface {
	// ID names the object. Its kind follows from the Go type; what TypeMeta says does not matter.
	ID() ID
	// Meta returns the object's own metadata, not a copy.
	Meta() *ObjectMeta
	// At returns where the field at path, or its nearest known ancestor, was read from; At("") is the object itself.
	At(path string) field.Pos
	// Validate returns everything for which a new object of this content must be refused, in the order of the fields.
	// Nil means that the object may be written.
	Validate() field.List
	// Check looks at an object that is already stored, by a writer that did not validate or validated less. Errors are
	// reasons why it cannot be used at all. Warnings are the rest of what Validate returns, and advice: things that
	// Validate accepts and that are nevertheless probably wrong, or wrong in other software.
	Check() (errs, warnings field.List)

	check(c *checker)
}

// ID is the identity of an object in a cluster. Comparable.
type ID struct {
	Kind      string
	Namespace string // "" for kinds that have none
	Name      string
}

// String returns "HostEndpoint(web)" or "NetworkPolicy(ns/web)", as Calico writes keys in errors.
func (id ID) String() string {
	if id.Namespace != "" {
		return id.Kind + "(" + id.Namespace + "/" + id.Name + ")"
	}
	return id.Kind + "(" + id.Name + ")"
}

// Stored returns the identity under which a datastore keeps the object: that of the policies "x" and "default.x" is the
// same.
func (id ID) Stored() ID {
	switch id.Kind {
	case KindGlobalNetworkPolicy, KindNetworkPolicy:
		id.Name = BackendPolicyName(id.Name)
	}
	return id
}

// ID implements Object.
func (h *HostEndpoint) ID() ID { return ID{KindHostEndpoint, "", h.Metadata.Name} }

// Meta implements Object.
func (h *HostEndpoint) Meta() *ObjectMeta { return &h.Metadata }

// At implements Object.
func (h *HostEndpoint) At(path string) field.Pos { return h.Source.At(path) }

// ID implements Object.
func (p *Profile) ID() ID { return ID{KindProfile, "", p.Metadata.Name} }

// Meta implements Object.
func (p *Profile) Meta() *ObjectMeta { return &p.Metadata }

// At implements Object.
func (p *Profile) At(path string) field.Pos { return p.Source.At(path) }

// ID implements Object.
func (t *Tier) ID() ID { return ID{KindTier, "", t.Metadata.Name} }

// Meta implements Object.
func (t *Tier) Meta() *ObjectMeta { return &t.Metadata }

// At implements Object.
func (t *Tier) At(path string) field.Pos { return t.Source.At(path) }

// ID implements Object.
func (p *GlobalNetworkPolicy) ID() ID { return ID{KindGlobalNetworkPolicy, "", p.Metadata.Name} }

// Meta implements Object.
func (p *GlobalNetworkPolicy) Meta() *ObjectMeta { return &p.Metadata }

// At implements Object.
func (p *GlobalNetworkPolicy) At(path string) field.Pos { return p.Source.At(path) }

// ID implements Object.
func (p *NetworkPolicy) ID() ID {
	return ID{KindNetworkPolicy, p.Metadata.Namespace, p.Metadata.Name}
}

// Meta implements Object.
func (p *NetworkPolicy) Meta() *ObjectMeta { return &p.Metadata }

// At implements Object.
func (p *NetworkPolicy) At(path string) field.Pos { return p.Source.At(path) }

// ID implements Object.
func (s *GlobalNetworkSet) ID() ID { return ID{KindGlobalNetworkSet, "", s.Metadata.Name} }

// Meta implements Object.
func (s *GlobalNetworkSet) Meta() *ObjectMeta { return &s.Metadata }

// At implements Object.
func (s *GlobalNetworkSet) At(path string) field.Pos { return s.Source.At(path) }

// ID implements Object.
func (s *NetworkSet) ID() ID { return ID{KindNetworkSet, s.Metadata.Namespace, s.Metadata.Name} }

// Meta implements Object.
func (s *NetworkSet) Meta() *ObjectMeta { return &s.Metadata }

// At implements Object.
func (s *NetworkSet) At(path string) field.Pos { return s.Source.At(path) }

// ID implements Object.
func (n *Node) ID() ID { return ID{KindNode, "", n.Metadata.Name} }

// Meta implements Object.
func (n *Node) Meta() *ObjectMeta { return &n.Metadata }

// At implements Object.
func (n *Node) At(path string) field.Pos { return n.Source.At(path) }

// NewObject returns a new, empty object of the kind with its TypeMeta set; false for a kind that is not of this package.
func NewObject(kind string) (Object, bool) {
	t := TypeMeta{Kind: kind, APIVersion: APIVersion}
	switch kind {
	case KindHostEndpoint:
		return &HostEndpoint{TypeMeta: t}, true
	case KindProfile:
		return &Profile{TypeMeta: t}, true
	case KindTier:
		return &Tier{TypeMeta: t}, true
	case KindGlobalNetworkPolicy:
		return &GlobalNetworkPolicy{TypeMeta: t}, true
	case KindNetworkPolicy:
		return &NetworkPolicy{TypeMeta: t}, true
	case KindGlobalNetworkSet:
		return &GlobalNetworkSet{TypeMeta: t}, true
	case KindNetworkSet:
		return &NetworkSet{TypeMeta: t}, true
	case KindNode:
		return &Node{TypeMeta: t}, true
	}
	return nil, false
}

// Kinds returns the kinds of this package, in the order in which Resources lists them.
func Kinds() []string {
	return []string{KindHostEndpoint, KindProfile, KindTier, KindGlobalNetworkPolicy, KindNetworkPolicy, KindGlobalNetworkSet,
		KindNetworkSet, KindNode}
}

// Namespaced reports whether objects of the kind belong to a namespace.
func Namespaced(kind string) bool { return kind == KindNetworkPolicy || kind == KindNetworkSet }
