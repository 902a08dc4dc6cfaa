// SPDX-License-Identifier: Apache-2.0

package file

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/internal/mvcc"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
)

// file is what is known of one file.
type file struct {
	info    os.FileInfo
	sum     [sha256.Size]byte
	recent  bool                                    // it was young when it was read: a later change may not show in its time
	objects []hostendpoint.Object                   // of its last good version, in its order
	byID    map[hostendpoint.ID]hostendpoint.Object // the same, by stored identity
	err     error                                   // why the present version is not good; nil if it is
}

// unchanged reports whether a file is as it was when it was read.
func (f *file) unchanged(info os.FileInfo) bool {
	return !f.recent && f.info.ModTime().Equal(info.ModTime()) && f.info.Size() == info.Size() && os.SameFile(f.info, info)
}

// scan reads the files that have changed; unless all are wanted, not those that changed a moment ago. It returns how long
// to wait for those that it left alone. The caller holds mu.
func (d *Driver) scan(all bool) (again time.Duration, err error) {
	defer func() { d.report(err) }()
	self, err := os.Stat(d.dir)
	if err != nil {
		return 0, err
	}
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return 0, err
	}
	d.seen = nil
	there := make(map[string]bool, len(entries))
	var changed []string
	for _, e := range entries {
		name := e.Name()
		if !isManifest(name) {
			continue
		}
		path := filepath.Join(d.dir, name)
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() {
			continue // gone meanwhile, or a folder
		}
		there[name] = true
		if old := d.files[name]; old != nil && old.unchanged(info) {
			continue
		}
		age := time.Since(info.ModTime())
		if !all && age >= 0 && age < d.opts.Settle {
			again = max(again, d.opts.Settle-age+time.Millisecond)
			continue
		}
		if d.read(name, path, info, age) {
			changed = append(changed, name)
		}
	}
	for name := range d.files {
		if !there[name] {
			delete(d.files, name)
			changed = append(changed, name)
		}
	}
	d.merge(changed)
	if again == 0 { // nothing was left alone
		d.seen = self // as it was before it was read: what changes meanwhile shows
	}
	return again, nil
}

// look reads one file, if it has changed. The caller holds mu.
func (d *Driver) look(name string) {
	path := filepath.Join(d.dir, name)
	info, err := os.Stat(path)
	switch old := d.files[name]; {
	case err == nil && info.Mode().IsRegular():
		if old != nil && old.unchanged(info) || !d.read(name, path, info, time.Since(info.ModTime())) {
			return
		}
	case old != nil:
		delete(d.files, name)
	default:
		return
	}
	d.merge([]string{name})
}

func isManifest(name string) bool {
	switch filepath.Ext(name) {
	case ".yaml", ".yml", ".json":
		return !strings.HasPrefix(name, ".")
	}
	return false
}

// read takes a new version of a file in; false if it is gone.
func (d *Driver) read(name, path string, info os.FileInfo, age time.Duration) bool {
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return false
	}
	f := d.files[name]
	if f == nil {
		f = &file{}
		d.files[name] = f
	}
	f.info, f.recent = info, age < 2*time.Second
	if sum := sha256.Sum256(data); err == nil {
		if f.sum == sum {
			return false
		}
		f.sum = sum
	} else {
		f.sum = [sha256.Size]byte{}
	}
	var r hostendpoint.Resources
	switch {
	case err != nil:
	case len(data) == 0 && len(f.objects) > 0:
		// Whoever writes in place has emptied it first, and may take its time, or have been killed.
		err = fmt.Errorf("%s: it is empty and had %d objects: remove it if they shall go", path, len(f.objects))
	default:
		r, err = manifest.Parse(manifest.Source{Name: path, Data: data})
	}
	if err != nil {
		if f.err == nil || f.err.Error() != err.Error() {
			d.opts.Log.Warn("a file cannot be read; its last good version stays", "file", path, "error", err)
		}
		f.err = err
		return true
	}
	var objects []hostendpoint.Object
	byID := map[hostendpoint.ID]hostendpoint.Object{}
	for o := range r.All() {
		if err := complete(o, info.ModTime()); err != nil {
			f.err = err
			return true
		}
		objects = append(objects, o)
		byID[o.ID().Stored()] = o // two of one name in one file are an error of its text
	}
	f.err, f.objects, f.byID = nil, objects, byID
	// All goes by kind; a file that is written again shall keep its order.
	slices.SortStableFunc(f.objects, func(a, b hostendpoint.Object) int { return a.At("").Line - b.At("").Line })
	return true
}

// complete adds to o what a datastore or its client assigns and a file does not say.
func complete(o hostendpoint.Object, modified time.Time) error {
	m := o.Meta()
	m.ResourceVersion, m.SelfLink = "", ""
	if !hostendpoint.Namespaced(o.ID().Kind) {
		m.Namespace = ""
	}
	data, err := store.Encode(o)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	m.ResourceVersion = hex.EncodeToString(sum[:8])
	if m.UID == "" {
		m.UID = nameUID(o.ID())
	}
	if m.CreationTimestamp == nil {
		t := modified.UTC().Format(time.RFC3339)
		m.CreationTimestamp = &t
	} else if t, err := hostendpoint.NormalizeTimestamp(*m.CreationTimestamp); err == nil {
		m.CreationTimestamp = &t
	}
	// People write the files, as they write what they give to a client.
	switch p := o.(type) {
	case *hostendpoint.GlobalNetworkPolicy:
		p.Spec.Types = hostendpoint.InferTypes(p.Spec.Types, p.Spec.Ingress, p.Spec.Egress)
	case *hostendpoint.NetworkPolicy:
		p.Spec.Types = hostendpoint.InferTypes(p.Spec.Types, p.Spec.Ingress, p.Spec.Egress)
	}
	return nil
}

// nameUID returns the UUID of an identity. Ref: RFC 9562, version 8.
func nameUID(id hostendpoint.ID) string {
	s := id.Stored()
	b := sha256.Sum256([]byte(s.Kind + "\x00" + s.Namespace + "\x00" + s.Name))
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// merge makes the log show what files say that have changed; what others say costs nothing.
func (d *Driver) merge(changed []string) {
	if len(changed) == 0 {
		return
	}
	slices.Sort(changed)
	touched := map[hostendpoint.ID][]string{} // by which files an object was or is defined, doubles not left out
	var order []hostendpoint.ID
	touch := func(id hostendpoint.ID) {
		if _, ok := touched[id]; !ok {
			touched[id] = d.having[id]
			order = append(order, id)
		}
	}
	for _, name := range changed {
		for _, id := range d.merged[name] {
			touch(id)
			d.having[id] = slices.DeleteFunc(slices.Clone(d.having[id]), func(n string) bool { return n == name })
		}
		delete(d.merged, name)
		f := d.files[name]
		if f == nil {
			continue
		}
		ids := make([]hostendpoint.ID, 0, len(f.objects))
		for _, o := range f.objects {
			id := o.ID().Stored()
			touch(id)
			i, _ := slices.BinarySearch(d.having[id], name)
			d.having[id] = slices.Insert(slices.Clone(d.having[id]), i, name)
			ids = append(ids, id)
		}
		d.merged[name] = ids
	}
	_ = d.log.Do(func(tx *mvcc.Tx) error {
		for _, id := range order {
			if len(d.having[id]) == 0 {
				delete(d.having, id)
				tx.Delete(id)
			}
		}
		for _, id := range order {
			names := d.having[id]
			for _, name := range touched[id] {
				if i := slices.Index(names, name); i <= 0 {
					tx.Problem(name+": "+id.String(), id, nil)
				}
			}
			if len(names) == 0 {
				continue
			}
			first := d.files[names[0]].byID[id]
			tx.Problem(names[0]+": "+id.String(), id, nil)
			if old, ok := tx.Get(id); !ok || old != first {
				tx.Put(id, first)
			}
			for _, name := range names[1:] {
				o := d.files[name].byID[id]
				tx.Problem(name+": "+id.String(), id, &field.Error{
					Object: o.ID().String(), Pos: o.At(""), Err: field.ErrDuplicate, Reason: "defined before, at " + first.At("").String() + ", which counts",
				})
			}
		}
		for _, name := range changed {
			var err error
			if f := d.files[name]; f != nil {
				err = f.err
			}
			tx.Problem(name, hostendpoint.ID{}, err)
		}
		return nil
	})
}

// moved reports whether the directory is another one than at the last call, and remembers it.
func (d *Driver) moved() bool {
	info, err := os.Stat(d.dir)
	if err != nil {
		return false
	}
	old := d.self
	d.self = info
	return old != nil && !os.SameFile(old, info)
}
