// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Traits implements store.Driver.
func (d *Driver) Traits() store.Traits { return store.Traits{Joint: true} }

// Create implements store.Driver: a transaction on the condition that the key does not exist.
func (d *Driver) Create(ctx context.Context, o hostendpoint.Object) (hostendpoint.Object, error) {
	key := Key(o.ID())
	value, err := encode(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := d.bounded(ctx)
	defer cancel()
	resp, err := d.client.Txn(ctx).If(clientv3.Compare(clientv3.Version(key), "=", 0)).
		Then(clientv3.OpPut(key, string(value))).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return nil, failure(err)
	}
	id := o.ID().Stored()
	if !resp.Succeeded {
		return nil, present(id, store.ErrAlreadyExists, resp)
	}
	return read(id, value, resp.Header.Revision)
}

// present is the error of a transaction whose condition failed; the else branch has read the key.
func present(id hostendpoint.ID, kind error, resp *clientv3.TxnResponse) error {
	e := &store.Error{ID: id, Err: kind}
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		if o, err := read(id, kvs[0].Value, kvs[0].ModRevision); err == nil {
			e.Current = o
		}
	} else if kind == store.ErrConflict {
		e.Err = store.ErrNotFound
	}
	return e
}

// version reads a resourceVersion of this datastore.
func version(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: %q is no resourceVersion of this datastore", store.ErrConflict, text)
	}
	return n, nil
}

// Update implements store.Driver: a transaction on the condition that the key has the revision.
func (d *Driver) Update(ctx context.Context, o hostendpoint.Object) (hostendpoint.Object, error) {
	key := Key(o.ID())
	rev, err := version(o.Meta().ResourceVersion)
	if err != nil {
		return nil, err
	}
	value, err := encode(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := d.bounded(ctx)
	defer cancel()
	resp, err := d.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).
		Then(clientv3.OpPut(key, string(value))).Else(clientv3.OpGet(key)).Commit()
	if err != nil {
		return nil, failure(err)
	}
	id := o.ID().Stored()
	if !resp.Succeeded {
		return nil, present(id, store.ErrConflict, resp)
	}
	return read(id, value, resp.Header.Revision)
}

// Delete implements store.Driver. An entry that cannot be read is deleted too; its error is returned then.
//
// Deviation: Calico ignores the UID in etcd.
func (d *Driver) Delete(ctx context.Context, id hostendpoint.ID, opts store.DeleteOptions) (hostendpoint.Object, error) {
	ctx, cancel := d.bounded(ctx)
	defer cancel()
	key := Key(id)
	for {
		got, err := d.client.Get(ctx, key)
		if err != nil {
			return nil, failure(err)
		}
		if len(got.Kvs) == 0 {
			return nil, store.ErrNotFound
		}
		kv := got.Kvs[0]
		o, bad := read(id, kv.Value, kv.ModRevision)
		if opts.UID != "" && (bad != nil || o.Meta().UID != opts.UID) {
			return nil, fmt.Errorf("%w: it has another UID", store.ErrNotFound)
		}
		if opts.ResourceVersion != "" {
			rev, err := version(opts.ResourceVersion)
			if err != nil {
				return nil, err
			}
			if rev != kv.ModRevision {
				return nil, &store.Error{ID: id, Err: store.ErrConflict, Current: o}
			}
		}
		resp, err := d.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).Then(clientv3.OpDelete(key)).Commit()
		if err != nil {
			return nil, failure(err)
		}
		if resp.Succeeded {
			return o, bad
		}
		// Written meanwhile: look again.
	}
}

// Get implements store.Driver.
func (d *Driver) Get(ctx context.Context, id hostendpoint.ID) (hostendpoint.Object, error) {
	ctx, cancel := d.bounded(ctx)
	defer cancel()
	resp, err := d.client.Get(ctx, Key(id))
	if err != nil {
		return nil, failure(err)
	}
	if len(resp.Kvs) == 0 {
		return nil, store.ErrNotFound
	}
	return read(id, resp.Kvs[0].Value, resp.Kvs[0].ModRevision)
}

// token is what a Continue holds.
type token struct {
	Rev  int64  `json:"r"`
	Next string `json:"k"`
}

// List implements store.Driver.
func (d *Driver) List(ctx context.Context, kind string, opts store.ListOptions) (store.List[hostendpoint.Object], error) {
	var out store.List[hostendpoint.Object]
	prefix := kindPrefix(kind)
	if hostendpoint.Namespaced(kind) && opts.Namespace != "" {
		prefix += opts.Namespace + "/"
	}
	if kind != "" && opts.Name != "" && (!hostendpoint.Namespaced(kind) || opts.Namespace != "") {
		prefix += opts.Name
	}
	from := token{Next: prefix}
	if opts.Continue != "" {
		data, err := base64.RawURLEncoding.DecodeString(opts.Continue)
		if err == nil {
			err = json.Unmarshal(data, &from)
		}
		if err != nil || from.Rev <= 0 {
			return out, fmt.Errorf("%w: not a continue token of this datastore", store.ErrExpired)
		}
	}
	ctx, cancel := d.bounded(ctx)
	defer cancel()
	resp, err := d.client.Get(ctx, from.Next, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithRev(from.Rev),
		clientv3.WithLimit(int64(opts.Limit)), clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
	if err != nil {
		return out, failure(err)
	}
	if from.Rev == 0 {
		from.Rev = resp.Header.Revision
	}
	out.ResourceVersion = strconv.FormatInt(from.Rev, 10)
	for _, kv := range resp.Kvs {
		id, ok := parseKey(string(kv.Key))
		if !ok || !opts.Wants(id) {
			continue
		}
		o, err := read(id, kv.Value, kv.ModRevision)
		if err != nil {
			out.Problems = append(out.Problems, store.Problem{ID: id, Key: string(kv.Key), Err: err})
			continue
		}
		out.Items = append(out.Items, o)
	}
	if resp.More && len(resp.Kvs) > 0 {
		from.Next = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		data, err := json.Marshal(from)
		if err != nil {
			return store.List[hostendpoint.Object]{}, err
		}
		out.Continue = base64.RawURLEncoding.EncodeToString(data)
	}
	return out, nil
}
