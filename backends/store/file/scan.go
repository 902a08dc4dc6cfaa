// SPDX-License-Identifier: Apache-2.0

package file

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
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
	recent  bool                  // it was young when it was read: a later change may not show in its time
	objects []hostendpoint.Object // of its last good version, in its order
	err     error                 // why the present version is not good; nil if it is
}

// scan reads the files that have changed, and only as of now, or for the first time, those that changed a moment ago.
// It returns how long to wait for those that it left alone. The caller holds mu.
func (d *Driver) scan(now string, first bool) (again time.Duration, err error) {
	defer func() { d.report(err) }()
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return 0, err
	}
	there := map[string]bool{}
	changed := false
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
		old := d.files[name]
		if old != nil && !old.recent && old.info.ModTime().Equal(info.ModTime()) && old.info.Size() == info.Size() && os.SameFile(old.info, info) {
			continue
		}
		age := time.Since(info.ModTime())
		if !first && name != now && age >= 0 && age < d.opts.Settle {
			again = max(again, d.opts.Settle-age+time.Millisecond)
			continue
		}
		changed = d.read(name, path, info, age) || changed
	}
	for name := range d.files {
		if !there[name] {
			delete(d.files, name)
			changed = true
		}
	}
	if changed || first {
		d.merge()
	}
	return again, nil
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
	f.err, f.objects = nil, nil
	for o := range r.All() {
		if err := complete(o, info.ModTime()); err != nil {
			f.err = err
			return true
		}
		f.objects = append(f.objects, o)
	}
	// All goes by kind; a file that is written again shall keep its order.
	slices.SortStableFunc(f.objects, func(a, b hostendpoint.Object) int { return a.At("").Line - b.At("").Line })
	return true
}

// complete adds to o what a datastore assigns and a file does not say.
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

// merge makes the log show what the files say.
func (d *Driver) merge() {
	names := slices.Sorted(maps.Keys(d.files))
	want := map[hostendpoint.ID]hostendpoint.Object{}
	var order []hostendpoint.ID
	problems := map[string]store.Problem{}
	for _, name := range names {
		f := d.files[name]
		if f.err != nil {
			problems[name] = store.Problem{Key: name, Err: f.err}
		}
		for _, o := range f.objects {
			id := o.ID().Stored()
			if first, ok := want[id]; ok {
				key := name + ": " + id.String()
				problems[key] = store.Problem{ID: id, Key: key, Err: &field.Error{
					Object: o.ID().String(), Pos: o.At(""), Err: field.ErrDuplicate, Reason: "defined before, at " + first.At("").String() + ", which counts",
				}}
				continue
			}
			want[id] = o
			order = append(order, id)
		}
	}
	_ = d.log.Do(func(tx *mvcc.Tx) error {
		for _, id := range tx.All() {
			if _, ok := want[id]; !ok {
				tx.Delete(id)
			}
		}
		for _, id := range order {
			o := want[id]
			if old, ok := tx.Get(id); !ok || old != o {
				tx.Put(id, o)
			}
		}
		for _, p := range tx.Problems() {
			if _, ok := problems[p.Key]; !ok {
				tx.Problem(p.Key, p.ID, nil)
			}
		}
		for _, k := range slices.Sorted(maps.Keys(problems)) {
			tx.Problem(k, problems[k].ID, problems[k].Err)
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
