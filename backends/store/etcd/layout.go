// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/internal/stored"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// root is the prefix of all resources. Ref: libcalico-go/lib/backend/model/resource.go.
const root = "/calico/resources/v3/projectcalico.org/"

// Key returns where Calico keeps an object. Names are not escaped.
func Key(id hostendpoint.ID) string {
	id = id.Stored()
	if id.Namespace != "" {
		return kindPrefix(id.Kind) + id.Namespace + "/" + id.Name
	}
	return kindPrefix(id.Kind) + id.Name
}

// kindPrefix is the prefix of the keys of a kind, and for "" that of all.
func kindPrefix(kind string) string {
	if kind == "" {
		return root
	}
	return root + stored.Plural(kind) + "/"
}

// parseKey returns the stored identity of a key; false for keys of other things.
func parseKey(key string) (hostendpoint.ID, bool) {
	rest, ok := strings.CutPrefix(key, root)
	if !ok {
		return hostendpoint.ID{}, false
	}
	plural, name, ok := strings.Cut(rest, "/")
	if !ok || name == "" {
		return hostendpoint.ID{}, false
	}
	for _, kind := range hostendpoint.Kinds() {
		if stored.Plural(kind) != plural {
			continue
		}
		id := hostendpoint.ID{Kind: kind, Name: name}
		if hostendpoint.Namespaced(kind) {
			if id.Namespace, id.Name, ok = strings.Cut(name, "/"); !ok {
				return hostendpoint.ID{}, false
			}
		}
		return id, !strings.Contains(id.Name, "/")
	}
	return hostendpoint.ID{}, false
}

// encode returns the value of an object, which it does not change. Ref: libcalico-go/lib/backend/etcdv3.
func encode(o hostendpoint.Object) ([]byte, error) {
	c, err := store.Clone(o)
	if err != nil {
		return nil, err
	}
	m := c.Meta()
	m.ResourceVersion, m.SelfLink = "", ""
	if err := stored.HideName(c); err != nil {
		return nil, err
	}
	return store.Encode(c)
}

// decode reads a value as Calico does.
func decode(kind string, value []byte, revision int64) (hostendpoint.Object, error) {
	if len(value) == 0 {
		return nil, fmt.Errorf("%w: %w", store.ErrCorrupt, errors.New("the value is empty"))
	}
	o, err := store.Decode(kind, value)
	if err != nil {
		return nil, err
	}
	o.Meta().ResourceVersion = strconv.FormatInt(revision, 10)
	stored.ShowName(o)
	return o, nil
}

// read reads the value of an entry as the object that its key names.
func read(id hostendpoint.ID, value []byte, revision int64) (hostendpoint.Object, error) {
	o, err := decode(id.Kind, value, revision)
	if err != nil {
		return nil, err
	}
	store.SetType(o, id.Kind)
	stored.Identify(o, id)
	return o, nil
}
