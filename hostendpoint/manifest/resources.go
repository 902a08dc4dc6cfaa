// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
)

// document reads one document: a resource, a List, or a bare sequence of resources, as Calico's documentation writes them.
func (p *parser) document(doc *document) {
	if doc.root.Kind != yaml.SequenceNode {
		p.resource(doc, doc.root, "", "")
		return
	}
	d := &decoder{p: p, doc: doc}
	if d.enter(doc.root, "") == nil {
		return
	}
	for i, item := range doc.root.Content {
		p.resource(doc, item, "["+strconv.Itoa(i)+"]", "")
	}
}

// resource reads the resource n. Prefix is its path in the document, for errors before it is known what it is. Kind is
// the one that it has if it does not say, as in an item of a HostEndpointList; "" if it must say.
func (p *parser) resource(doc *document, n *yaml.Node, prefix, kind string) {
	d := &decoder{p: p, doc: doc, lines: map[string]int{}}
	root := d.enter(n, prefix)
	if root == nil {
		return
	}
	if root.Kind != yaml.MappingNode {
		d.fail(root, prefix, root.Value, field.ErrInvalid, "a document must be a resource, which is a mapping with apiVersion and kind%s", not(root))
		return
	}
	version := hostendpoint.APIVersion
	if kind == "" {
		version = d.head(root, "apiVersion")
		kind = d.head(root, "kind")
	} else {
		if k := d.head(root, "kind"); k != "" {
			kind = k
		}
		if v := d.head(root, "apiVersion"); v != "" {
			version = v
		}
	}
	if d.failed {
		return
	}
	if prefix == "" && isList(version, kind) {
		p.list(d, root, strings.TrimSuffix(kind, "List"))
		return
	}
	s := d.known(root, prefix, version, kind)
	if s == nil {
		return
	}
	id := hostendpoint.ID{Kind: kind}
	if meta := child(root, "metadata"); meta != nil {
		id.Name = scalarText(child(meta, "name"))
		if hostendpoint.Namespaced(kind) {
			id.Namespace = scalarText(child(meta, "namespace"))
		}
	}
	d.object = id.String()

	start := doc.pos(root)
	d.depth = 0
	d.value(n, s, "", start.Line)
	if p.full || d.failed && p.opts.Stored {
		return
	}
	o, _ := hostendpoint.NewObject(kind)
	if err := json.Unmarshal(d.out, o); err != nil {
		if d.failed {
			return // on account of what was reported already
		}
		// The decoder has checked what could be wrong, so this says that the schema and the type differ.
		d.fail(root, "", "", field.ErrInvalid, "%v", err)
		return
	}
	locate(o, field.NewSource(start, d.lines))
	if d.failed {
		p.validateRest(o, d.faults)
		return
	}
	p.add(o)
}

// validateRest reports what else is wrong with an object that could be read in part only, so that its author sees
// everything at once. Nothing is said of fields that could not be read, nor of missing ones: they may be the same.
func (p *parser) validateRest(o hostendpoint.Object, faults []string) {
	for _, e := range o.Validate() {
		at := strings.ToLower(e.Path) // a field in the wrong case is an unknown one
		known := slices.ContainsFunc(faults, func(f string) bool {
			f = strings.ToLower(f)
			return strings.HasPrefix(f, at) || strings.HasPrefix(at, f)
		})
		if !known && !errors.Is(e, field.ErrRequired) {
			p.report(e)
		}
	}
}

// locate sets the Source of o.
func locate(o hostendpoint.Object, s *field.Source) {
	switch o := o.(type) {
	case *hostendpoint.HostEndpoint:
		o.Source = s
	case *hostendpoint.Profile:
		o.Source = s
	case *hostendpoint.Tier:
		o.Source = s
	case *hostendpoint.GlobalNetworkPolicy:
		o.Source = s
	case *hostendpoint.NetworkPolicy:
		o.Source = s
	case *hostendpoint.GlobalNetworkSet:
		o.Source = s
	case *hostendpoint.NetworkSet:
		o.Source = s
	case *hostendpoint.Node:
		o.Source = s
	}
}

// add takes a finished object in.
func (p *parser) add(o hostendpoint.Object) {
	if !p.opts.Stored {
		for _, e := range o.Validate() {
			p.report(e)
		}
	}
	id := o.ID().Stored()
	if id.Name == "" {
		if p.opts.Stored {
			p.report(&field.Error{Object: o.ID().String(), Path: "metadata.name", Pos: o.At("metadata"), Err: field.ErrRequired, Reason: "a name is required"})
		}
		return
	}
	pos := o.At("metadata.name")
	if first, ok := p.seen[id]; ok {
		where := "defined before"
		if s := first.String(); s != "" {
			where += ", at " + s
		}
		p.report(&field.Error{Object: o.ID().String(), Path: "metadata.name", Pos: pos, Value: o.ID().Name, Err: field.ErrDuplicate, Reason: where})
		return
	}
	p.seen[id] = pos
	p.out.Add(o)
}

func isList(version, kind string) bool {
	if kind == "List" {
		return version == "v1" || version == hostendpoint.APIVersion
	}
	base, ok := strings.CutSuffix(kind, "List")
	return ok && version == hostendpoint.APIVersion && schemaOf(base) != nil
}

// list reads the items of a list; kind is that of items which do not say theirs, "" in a List of all kinds.
func (p *parser) list(d *decoder, root *yaml.Node, kind string) {
	for _, e := range d.entries(root, "") {
		key := e[0].Value
		switch {
		case listSchema.member(key) == nil:
			d.unknown(e[0], listSchema, key, key)
		case key == "items":
			items := d.enter(e[1], key)
			if items == nil || isNull(items) {
				continue
			}
			if items.Kind != yaml.SequenceNode {
				d.fail(items, key, "", field.ErrInvalid, "must be a list%s", not(items))
				continue
			}
			for i, item := range items.Content {
				p.resource(d.doc, item, "items["+strconv.Itoa(i)+"]", kind)
			}
		}
	}
}

// head returns the text of a field that says what the document is; "" if it is missing. It reports what is not text.
func (d *decoder) head(root *yaml.Node, name string) string {
	n := child(root, name)
	if n == nil {
		return ""
	}
	n = d.enter(n, name)
	if n == nil {
		return ""
	}
	d.depth--
	if n.Kind != yaml.ScalarNode {
		d.fail(n, name, "", field.ErrInvalid, "must be text%s", not(n))
		return ""
	}
	return n.Value
}

// known returns the schema of a kind, or reports why there is none.
func (d *decoder) known(root *yaml.Node, prefix, version, kind string) *schema {
	at := func(name string) (*yaml.Node, string) {
		if n := child(root, name); n != nil {
			return n, join(prefix, name)
		}
		return root, join(prefix, name)
	}
	versionNode, versionPath := at("apiVersion")
	kindNode, kindPath := at("kind")
	s := schemaOf(kind)
	switch {
	case kind == "":
		d.fail(kindNode, kindPath, "", field.ErrRequired, "a resource must say its kind: one of %s", strings.Join(hostendpoint.Kinds(), ", "))
	case version == "":
		d.fail(versionNode, versionPath, "", field.ErrRequired, "a resource must say its apiVersion: %s", hostendpoint.APIVersion)
	case version == storageVersion:
		d.fail(versionNode, versionPath, version, field.ErrUnknown,
			"this is how Kubernetes stores the resource, with parts of it in an annotation; export it as %s, with calicoctl get -o yaml", hostendpoint.APIVersion)
	case s == nil:
		reason := "unknown kind; there are " + strings.Join(hostendpoint.Kinds(), ", ")
		for _, k := range hostendpoint.Kinds() {
			if strings.EqualFold(k, kind) {
				reason = "unknown kind; did you mean " + k + "?"
			}
		}
		d.fail(kindNode, kindPath, kind, field.ErrUnknown, "%s", reason)
	case version != hostendpoint.APIVersion:
		d.fail(versionNode, versionPath, version, field.ErrUnknown, "unknown apiVersion of a %s; must be %s", kind, hostendpoint.APIVersion)
		s = nil
	default:
		return s
	}
	return nil
}

// storageVersion is the apiVersion under which Calico stores its resources in Kubernetes.
const storageVersion = "crd.projectcalico.org/v1"

// child returns the value of a field, aliases followed; nil if there is none.
func child(n *yaml.Node, name string) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

func scalarText(n *yaml.Node) string {
	if n == nil || n.Kind != yaml.ScalarNode || isNull(n) {
		return ""
	}
	return n.Value
}
