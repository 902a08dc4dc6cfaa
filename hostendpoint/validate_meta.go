// SPDX-License-Identifier: Apache-2.0

package hostendpoint

import (
	"maps"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

const nameAlphabet = "letters, digits, '.', '_' and '-', with at least one letter or digit"

// meta checks what all kinds have in common.
func (c *checker) meta() {
	m := c.object.Meta()
	c.name(m.Name)
	switch namespaced := Namespaced(c.object.ID().Kind); {
	case namespaced && m.Namespace == "":
		c.add(tolerated, field.ErrRequired, "metadata.namespace", "", "the kind is namespaced: a namespace is required")
	case !namespaced && m.Namespace != "":
		c.add(advice, field.ErrForbidden, "metadata.namespace", m.Namespace, "ignored: the kind has no namespaces")
	case namespaced && (!isSubdomain(m.Namespace) || len(m.Namespace) > maxLabelNameLen || strings.Contains(m.Namespace, ".")):
		c.add(advice, field.ErrInvalid, "metadata.namespace", m.Namespace, "a Kubernetes API server refuses this namespace")
	}
	c.labels("metadata.labels", m.Labels)
	c.annotations("metadata.annotations", m.Annotations)
}

// name checks the rules for the names of all kinds.
func (c *checker) name(name string) {
	const path = "metadata.name"
	switch {
	case name == "":
		c.add(unusable, field.ErrRequired, path, "", "a name is required")
		return
	case !isNameText(name):
		c.add(tolerated, field.ErrInvalid, path, name, "a name consists of %s", nameAlphabet)
	case !isSubdomain(name):
		c.add(advice, field.ErrInvalid, path, name,
			"a Kubernetes API server refuses this name, which is no lower-case RFC 1123 subdomain; other stores accept it")
	}
	if len(name) > maxNameLen {
		c.add(tolerated, field.ErrInvalid, path, name, "the name has %d bytes, the most is %d", len(name), maxNameLen)
	}
}

// reference checks text that must be the name of another object.
func (c *checker) reference(g grade, path, name string) {
	switch {
	case name == "":
		c.add(g, field.ErrRequired, path, "", "a name is required")
	case !isNameText(name):
		c.add(g, field.ErrInvalid, path, name, "a name consists of %s", nameAlphabet)
	}
}

// subdomain checks text that must be a Kubernetes name; "" is left to the caller.
func (c *checker) subdomain(path, name string) {
	if name != "" && !isSubdomain(name) {
		c.add(tolerated, field.ErrInvalid, path, name, "must be a lower-case RFC 1123 subdomain")
	}
}

func (c *checker) labels(path string, labels map[string]string) {
	good := true
	for k, v := range labels {
		good = good && isLabelKey(k) && isLabelValue(v)
	}
	if good {
		return // nearly always, and then their order does not matter
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if !isLabelKey(k) {
			c.add(tolerated, field.ErrInvalid, path, k,
				"not a label key: [prefix/]name, the name at most 63 letters, digits, '-', '_' and '.', the prefix a DNS subdomain")
		}
		if v := labels[k]; !isLabelValue(v) {
			c.add(tolerated, field.ErrInvalid, path+"."+k, v,
				"not a label value: at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit")
		}
	}
}

// annotations are free text under keys that are label keys but for their case.
func (c *checker) annotations(path string, annotations map[string]string) {
	if len(annotations) == 0 {
		return
	}
	size := 0
	for _, k := range slices.Sorted(maps.Keys(annotations)) {
		if !isLabelKey(strings.ToLower(k)) {
			c.add(tolerated, field.ErrInvalid, path, k, "not an annotation key: [prefix/]name, as for labels")
		}
		size += len(k) + len(annotations[k])
	}
	if size > maxAnnotations {
		c.add(tolerated, field.ErrTooLarge, path, "", "the annotations have %d bytes, the most is %d", size, maxAnnotations)
	}
}
