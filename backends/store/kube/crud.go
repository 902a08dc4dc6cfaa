// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/internal/stored"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Traits implements store.Driver. Kinds have revisions and watches of their own. The storage form keeps the creation time
// that an object was written with in its annotation; the native form has no place for it.
func (d *Driver) Traits() store.Traits { return store.Traits{OwnUIDs: true, OwnTimes: d.cfg.Native} }

// group returns the path of the API group of a kind.
func (d *Driver) group(kind string) string {
	switch {
	case kind == hostendpoint.KindNode:
		return "/api/v1"
	case d.cfg.Native:
		return "/apis/" + hostendpoint.APIVersion
	}
	return "/apis/" + storageVersion
}

// path returns the path of a collection, of one namespace if there is one.
func (d *Driver) path(kind, namespace string) string {
	p := d.group(kind)
	if namespace != "" {
		p += "/namespaces/" + url.PathEscape(namespace)
	}
	return p + "/" + stored.Plural(kind)
}

// Accepts returns an error for an object that the datastore refuses whatever it has: a kind that can only be read, or a
// name that Kubernetes does not allow. Errors: ErrUnsupported, ErrRefused.
func (d *Driver) Accepts(o hostendpoint.Object) error {
	id := o.ID()
	if err := readOnly(id.Kind); err != nil {
		return err
	}
	name := id.Name
	if !d.cfg.Native {
		name = id.Stored().Name
	}
	if why := validation.IsDNS1123Subdomain(name); len(why) > 0 {
		return fmt.Errorf("%w: the name %q: %s", store.ErrRefused, name, strings.Join(why, "; "))
	}
	return nil
}

// readOnly refuses writes of what Kubernetes makes itself.
func readOnly(kind string) error {
	if kind == hostendpoint.KindProfile || kind == hostendpoint.KindNode {
		return fmt.Errorf("%w: it is made of what Kubernetes has, and is changed there", store.ErrUnsupported)
	}
	return nil
}

// encode returns what is sent for an object, and its name in Kubernetes.
func (d *Driver) encode(o hostendpoint.Object) ([]byte, string, error) {
	if err := readOnly(o.ID().Kind); err != nil {
		return nil, "", err
	}
	if !d.cfg.Native {
		data, err := encode(o)
		return data, o.ID().Stored().Name, err
	}
	c, err := store.Clone(o)
	if err != nil {
		return nil, "", err
	}
	c.Meta().SelfLink, c.Meta().ManagedFields = "", nil
	data, err := typed(c, hostendpoint.APIVersion)
	return data, o.ID().Name, err
}

// decode reads what the server sends of an object.
func (d *Driver) decode(kind string, data []byte) (hostendpoint.Object, error) {
	switch {
	case kind == hostendpoint.KindNode:
		return decodeNode(data)
	case d.cfg.Native:
		o, err := decodePlain(kind, data)
		if err == nil {
			o.Meta().ManagedFields = nil
		}
		return o, err
	}
	var name struct {
		Metadata struct{ Name, Namespace string }
	}
	if err := json.Unmarshal(data, &name); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	o, err := decode(kind, data)
	if err != nil {
		return nil, err
	}
	id := hostendpoint.ID{Kind: kind, Name: name.Metadata.Name}
	if hostendpoint.Namespaced(kind) {
		id.Namespace = name.Metadata.Namespace
	}
	stored.Identify(o, id.Stored())
	return o, nil
}

// Create implements store.Driver.
func (d *Driver) Create(ctx context.Context, o hostendpoint.Object) (hostendpoint.Object, error) {
	body, _, err := d.encode(o)
	if err != nil {
		return nil, err
	}
	id := o.ID()
	if d.cfg.Native && stored.IsPolicy(id.Kind) {
		// There "x" and "default.x" are two objects, and for everyone else here one.
		if cur, err := d.Get(ctx, id.Stored()); err == nil {
			return nil, &store.Error{ID: id, Err: store.ErrAlreadyExists, Current: cur}
		}
	}
	var out json.RawMessage
	if err := d.do(ctx, http.MethodPost, d.path(id.Kind, id.Namespace), nil, body, &out); err != nil {
		return nil, err
	}
	return d.decode(id.Kind, out)
}

// Update implements store.Driver. A conflict because of another UID means that the object is not there any more: another
// one has its name.
func (d *Driver) Update(ctx context.Context, o hostendpoint.Object) (hostendpoint.Object, error) {
	body, name, err := d.encode(o)
	if err != nil {
		return nil, err
	}
	id := o.ID()
	var out json.RawMessage
	err = d.do(ctx, http.MethodPut, d.path(id.Kind, id.Namespace)+"/"+url.PathEscape(name), nil, body, &out)
	if errors.Is(err, store.ErrConflict) {
		cur, getErr := d.Get(ctx, id.Stored())
		if errors.Is(getErr, store.ErrNotFound) || getErr == nil && cur.Meta().UID != o.Meta().UID {
			return nil, fmt.Errorf("%w: %w", store.ErrNotFound, err)
		}
		if getErr == nil {
			return nil, &store.Error{ID: id, Err: store.ErrConflict, Cause: err, Current: cur}
		}
	}
	if err != nil {
		return nil, err
	}
	return d.decode(id.Kind, out)
}

// names returns the names that an object of a stored identity can have in Kubernetes, the likelier first.
func (d *Driver) names(id hostendpoint.ID) []string {
	if d.cfg.Native && stored.IsPolicy(id.Kind) {
		if short := shortName(id.Name); short != id.Name {
			return []string{short, id.Name}
		}
	}
	return []string{id.Name}
}

// raw reads what Kubernetes has of an object, and its name there.
func (d *Driver) raw(ctx context.Context, id hostendpoint.ID) (data json.RawMessage, name string, err error) {
	for _, name = range d.names(id) {
		err = d.do(ctx, http.MethodGet, d.path(id.Kind, id.Namespace)+"/"+url.PathEscape(name), nil, nil, &data)
		if !errors.Is(err, store.ErrNotFound) {
			break
		}
	}
	return data, name, err
}

// Get implements store.Driver.
func (d *Driver) Get(ctx context.Context, id hostendpoint.ID) (hostendpoint.Object, error) {
	if id.Kind == hostendpoint.KindProfile {
		return d.getProfile(ctx, id)
	}
	data, _, err := d.raw(ctx, id)
	if err != nil {
		return nil, err
	}
	return d.decode(id.Kind, data)
}

// Delete implements store.Driver. An entry that cannot be read is deleted too; its error is returned then.
//
// Deviation: Calico ignores the resourceVersion in Kubernetes.
func (d *Driver) Delete(ctx context.Context, id hostendpoint.ID, opts store.DeleteOptions) (hostendpoint.Object, error) {
	if err := readOnly(id.Kind); err != nil {
		return nil, err
	}
	data, name, err := d.raw(ctx, id)
	if err != nil {
		return nil, err
	}
	o, bad := d.decode(id.Kind, data)
	if opts.UID != "" && (bad != nil || o.Meta().UID != opts.UID) {
		return nil, fmt.Errorf("%w: it has another UID", store.ErrNotFound)
	}
	var meta struct {
		Metadata struct{ UID, ResourceVersion string }
	}
	if err := json.Unmarshal(data, &meta); err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	if opts.ResourceVersion != "" && opts.ResourceVersion != meta.Metadata.ResourceVersion {
		return nil, &store.Error{ID: id, Err: store.ErrConflict, Current: o}
	}
	pre := map[string]string{"uid": meta.Metadata.UID}
	if opts.ResourceVersion != "" {
		pre["resourceVersion"] = opts.ResourceVersion
	}
	body, err := json.Marshal(map[string]any{"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": pre})
	if err != nil {
		return nil, err
	}
	var out json.RawMessage
	if err := d.do(ctx, http.MethodDelete, d.path(id.Kind, id.Namespace)+"/"+url.PathEscape(name), nil, body, &out); err != nil {
		return nil, err
	}
	return o, bad
}

// page is a list as the server sends it; each item is decoded by itself, so that a bad one does not hide the others.
type page struct {
	Metadata struct{ ResourceVersion, Continue string }
	Items    []json.RawMessage
}

// List implements store.Driver.
func (d *Driver) List(ctx context.Context, kind string, opts store.ListOptions) (store.List[hostendpoint.Object], error) {
	if kind == hostendpoint.KindProfile {
		return d.listProfiles(ctx, opts)
	}
	params := map[string]string{}
	if opts.Limit > 0 {
		params["limit"] = strconv.Itoa(opts.Limit)
	}
	if opts.Continue != "" {
		params["continue"] = opts.Continue
	}
	if names := d.names(hostendpoint.ID{Kind: kind, Name: opts.Name}); opts.Name != "" && !opts.Prefix && len(names) == 1 {
		params["fieldSelector"] = "metadata.name=" + names[0]
	}
	var out store.List[hostendpoint.Object]
	var p page
	path := d.path(kind, opts.Namespace)
	if err := d.do(ctx, http.MethodGet, path, params, nil, &p); err != nil {
		return out, err
	}
	out.ResourceVersion, out.Continue = p.Metadata.ResourceVersion, p.Metadata.Continue
	for _, item := range p.Items {
		id, key := d.identify(kind, item)
		if !opts.Wants(id) {
			continue
		}
		o, err := d.decode(kind, item)
		if err != nil {
			out.Problems = append(out.Problems, store.Problem{ID: id, Key: key, Err: err})
			continue
		}
		out.Items = append(out.Items, o)
	}
	if d.cfg.Native && stored.IsPolicy(kind) && opts.Limit == 0 {
		slices.SortStableFunc(out.Items, func(a, b hostendpoint.Object) int {
			x, y := a.ID().Stored(), b.ID().Stored()
			return slices.Compare([]byte(x.Namespace+"\x00"+x.Name), []byte(y.Namespace+"\x00"+y.Name))
		})
	}
	return out, nil
}

// identify returns the stored identity of an item, whatever else is wrong with it, and its path.
func (d *Driver) identify(kind string, item json.RawMessage) (hostendpoint.ID, string) {
	var meta struct {
		Metadata struct{ Name, Namespace string }
	}
	_ = json.Unmarshal(item, &meta) // no name: the problem has none
	id := hostendpoint.ID{Kind: kind, Name: meta.Metadata.Name}
	if hostendpoint.Namespaced(kind) {
		id.Namespace = meta.Metadata.Namespace
	}
	return id.Stored(), d.path(kind, id.Namespace) + "/" + meta.Metadata.Name
}
