// SPDX-License-Identifier: Apache-2.0

// Package stored knows how Calico writes resources into its datastores, as far as they have it in common.
package stored

import (
	"encoding/json"
	"maps"
	"strings"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Plural returns the name of a kind in keys and paths; "" for kinds that are not of package hostendpoint.
func Plural(kind string) string {
	switch kind {
	case hostendpoint.KindHostEndpoint:
		return "hostendpoints"
	case hostendpoint.KindProfile:
		return "profiles"
	case hostendpoint.KindTier:
		return "tiers"
	case hostendpoint.KindGlobalNetworkPolicy:
		return "globalnetworkpolicies"
	case hostendpoint.KindNetworkPolicy:
		return "networkpolicies"
	case hostendpoint.KindGlobalNetworkSet:
		return "globalnetworksets"
	case hostendpoint.KindNetworkSet:
		return "networksets"
	case hostendpoint.KindNode:
		return "nodes"
	}
	return ""
}

// IsPolicy reports whether objects of the kind have two names.
func IsPolicy(kind string) bool {
	return kind == hostendpoint.KindGlobalNetworkPolicy || kind == hostendpoint.KindNetworkPolicy
}

// nameOnly is the metadata annotation of a policy in etcd: Kubernetes metadata with a name and nothing else, which has
// the creation time without omitempty.
type nameOnly struct {
	Name              string  `json:"name,omitempty"`
	CreationTimestamp *string `json:"creationTimestamp"`
}

// HideName puts the stored name of a policy in its metadata, and the one that users see in the annotation. It changes o.
// Ref: libcalico-go/lib/backend/etcdv3.
func HideName(o hostendpoint.Object) error {
	id := o.ID()
	if !IsPolicy(id.Kind) {
		return nil
	}
	note, err := json.Marshal(nameOnly{Name: id.Name})
	if err != nil {
		return err
	}
	m := o.Meta()
	m.Name = id.Stored().Name
	m.Annotations = maps.Clone(m.Annotations)
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations[store.MetadataAnnotation] = string(note)
	return nil
}

// ShowName undoes HideName. A policy without the annotation loses a leading "default.". An annotation that cannot be
// read counts as none. It changes o.
func ShowName(o hostendpoint.Object) {
	if !IsPolicy(o.ID().Kind) {
		return
	}
	m := o.Meta()
	var note nameOnly
	if text, ok := m.Annotations[store.MetadataAnnotation]; ok {
		delete(m.Annotations, store.MetadataAnnotation)
		if len(m.Annotations) == 0 {
			m.Annotations = nil
		}
		if json.Unmarshal([]byte(text), &note) == nil && note.Name != "" && hostendpoint.BackendPolicyName(note.Name) == m.Name {
			m.Name = note.Name
			return
		}
	}
	if short := strings.TrimPrefix(m.Name, hostendpoint.DefaultTierName+"."); short != "" && hostendpoint.BackendPolicyName(short) == m.Name {
		m.Name = short
	}
}

// Identify gives o the identity under which it was found, if it says that it is another.
//
// Deviation: Calico believes the object, and not its key; then two keys can hold one object.
func Identify(o hostendpoint.Object, id hostendpoint.ID) {
	if o.ID().Stored() == id {
		return
	}
	m := o.Meta()
	m.Name, m.Namespace = id.Name, id.Namespace
	ShowName(o)
}
