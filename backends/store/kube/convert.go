// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/bits"
	"strings"

	kjson "sigs.k8s.io/json"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/internal/stored"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// storageVersion is the apiVersion of the custom resources in which Calico stores its own.
const storageVersion = "crd.projectcalico.org/v1"

// visible are the parts of keys of labels and annotations that Calico shows on the custom resource too.
var visible = [...]string{"projectcalico.org/", "operator.tigera.io/"}

const urn = "urn:uuid:"

// reverseUID converts between the UID of a custom resource and the one that Calico shows: two objects with two UIDs. The
// bits of each byte are reversed, but for the bytes with the version and the variant. It is its own inverse.
// Ref: libcalico-go/lib/backend/k8s/conversion.
func reverseUID(uid string) (string, error) {
	if uid == "" {
		return "", nil
	}
	// Calico: a UUID may also be written in braces, as a URN, or without hyphens.
	text := uid
	if len(text) > len(urn) && strings.EqualFold(text[:len(urn)], urn) {
		text = text[len(urn):]
	} else if len(text) == 38 && text[0] == '{' && text[37] == '}' {
		text = text[1:37]
	}
	if len(text) == 36 && text[8] == '-' && text[13] == '-' && text[18] == '-' && text[23] == '-' {
		text = text[:8] + text[9:13] + text[14:18] + text[19:23] + text[24:]
	}
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 16 {
		return "", fmt.Errorf("%w: the UID %q is no UUID", store.ErrRefused, uid)
	}
	for i := range b {
		if i != 6 && i != 8 {
			b[i] = bits.Reverse8(b[i])
		}
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

// encode returns the custom resource of an object, which it does not change.
// Ref: libcalico-go/lib/backend/k8s/resources/resources.go.
func encode(o hostendpoint.Object) ([]byte, error) {
	c, err := store.Clone(o)
	if err != nil {
		return nil, err
	}
	note := *c.Meta()
	note.Namespace, note.UID, note.ResourceVersion, note.SelfLink = "", "", "", ""
	if !stored.IsPolicy(o.ID().Kind) {
		note.Name = ""
	}
	for i := range note.OwnerReferences {
		r := &note.OwnerReferences[i]
		if r.APIVersion == hostendpoint.APIVersion {
			r.APIVersion = storageVersion
			if r.UID, err = reverseUID(r.UID); err != nil {
				return nil, err
			}
		}
	}
	text, err := json.Marshal(note)
	if err != nil {
		return nil, err
	}
	m := c.Meta()
	cr := hostendpoint.ObjectMeta{Name: o.ID().Stored().Name, Namespace: m.Namespace, ResourceVersion: m.ResourceVersion,
		Labels: pick(m.Labels), Annotations: pick(m.Annotations)}
	if cr.UID, err = reverseUID(m.UID); err != nil {
		return nil, err
	}
	if cr.Annotations == nil {
		cr.Annotations = map[string]string{}
	}
	cr.Annotations[store.MetadataAnnotation] = string(text)
	*m = cr
	return typed(c, storageVersion)
}

// typed returns the JSON of o, which belongs to us, as of an apiVersion.
func typed(o hostendpoint.Object, version string) ([]byte, error) {
	store.SetType(o, o.ID().Kind)
	data, err := store.Encode(o)
	if err != nil || version == hostendpoint.APIVersion {
		return data, err
	}
	// The apiVersion is the second field of each of our types.
	head := `{"kind":"` + o.ID().Kind + `","apiVersion":"`
	rest, ok := strings.CutPrefix(string(data), head+hostendpoint.APIVersion)
	if !ok {
		return nil, fmt.Errorf("%w: the JSON of %v does not begin as expected", store.ErrRefused, o.ID())
	}
	return []byte(head + version + rest), nil
}

// pick returns the entries whose keys Calico shows on the custom resource; nil if there are none.
func pick(in map[string]string) map[string]string {
	var out map[string]string
	for k, v := range in {
		for _, part := range visible {
			if strings.Contains(k, part) {
				if out == nil {
					out = map[string]string{}
				}
				out[k] = v
				break
			}
		}
	}
	return out
}

// decode reads a custom resource as Calico does: names of fields are case sensitive and unknown ones ignored; the
// metadata in the annotation go before those of the resource.
// Ref: libcalico-go/lib/backend/k8s/resources/resources.go.
func decode(kind string, data []byte) (hostendpoint.Object, error) {
	o, err := decodePlain(kind, data)
	if err != nil {
		return nil, err
	}
	cr := *o.Meta()
	uid, err := reverseUID(cr.UID)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	text, ok := cr.Annotations[store.MetadataAnnotation]
	if !ok {
		o.Meta().UID = uid
		stored.ShowName(o)
		return o, nil
	}
	var m hostendpoint.ObjectMeta
	if err := kjson.UnmarshalCaseSensitivePreserveInts([]byte(text), &m); err != nil {
		return nil, fmt.Errorf("%w: annotation %s: %w", store.ErrCorrupt, store.MetadataAnnotation, err)
	}
	delete(cr.Annotations, store.MetadataAnnotation)
	if m.Name == "" {
		m.Name = cr.Name
		if stored.IsPolicy(kind) {
			m.Name = shortName(cr.Name)
		}
	}
	m.Namespace, m.ResourceVersion, m.UID = cr.Namespace, cr.ResourceVersion, uid
	if m.CreationTimestamp == nil {
		m.CreationTimestamp = cr.CreationTimestamp
	}
	m.Labels, m.Annotations = overlay(cr.Labels, m.Labels), overlay(cr.Annotations, m.Annotations)
	for i := range m.OwnerReferences {
		r := &m.OwnerReferences[i]
		if r.APIVersion == storageVersion {
			r.APIVersion = hostendpoint.APIVersion
			if r.UID, err = reverseUID(r.UID); err != nil {
				return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
			}
		}
	}
	*o.Meta() = m
	return o, nil
}

// decodePlain reads an object whose metadata are where they belong.
func decodePlain(kind string, data []byte) (hostendpoint.Object, error) {
	o, ok := hostendpoint.NewObject(kind)
	if !ok {
		return nil, fmt.Errorf("%w: kind %q", store.ErrUnsupported, kind)
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(data, o); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	store.SetType(o, kind)
	return o, nil
}

func shortName(name string) string {
	if short, ok := strings.CutPrefix(name, hostendpoint.DefaultTierName+"."); ok && hostendpoint.BackendPolicyName(short) == name {
		return short
	}
	return name
}

func overlay(under, over map[string]string) map[string]string {
	out := maps.Clone(under)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, over)
	if len(out) == 0 {
		return nil
	}
	return out
}
