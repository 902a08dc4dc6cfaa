// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
)

// exclusively calls f when no other process writes and the directory was read.
//
// It need not be read anew if no process of this package has written, which they count in the lock file, and no file has
// come or gone, which the time of the directory shows. A file that is edited in place shows in neither: that matters for
// the one that f changes, at which it looks itself.
func (d *Driver) exclusively(ctx context.Context, f func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	held, err := lock(ctx, filepath.Join(d.dir, ".lock"))
	if err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	defer held.unlock()
	writes, counted := held.count()
	if info, err := os.Stat(d.dir); !counted || writes != d.writes || err != nil || d.seen == nil || !os.SameFile(info, d.seen) || !info.ModTime().Equal(d.seen.ModTime()) {
		if _, err := d.scan(true); err != nil { // what is there now decides, settled or not
			return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
	}
	// Counted before it is done: whoever is killed in between makes others look once more.
	if err := held.setCount(writes + 1); err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	d.writes = writes + 1
	err = f()
	if info, statErr := os.Stat(d.dir); statErr == nil {
		d.seen = info // a file that somebody else makes in this very moment is left to follow
	}
	return err
}

// Create implements store.Driver. The object gets a file of its own.
func (d *Driver) Create(ctx context.Context, o hostendpoint.Object) (out hostendpoint.Object, err error) {
	id := o.ID().Stored()
	err = d.exclusively(ctx, func() error {
		if old, err := d.log.Get(id); err == nil {
			return &store.Error{ID: old.ID(), Err: store.ErrAlreadyExists, Current: old}
		}
		name := ""
		for i := 0; ; i++ {
			name = fileName(id, i)
			if _, err := os.Lstat(filepath.Join(d.dir, name)); errors.Is(err, os.ErrNotExist) {
				break
			}
		}
		if err := d.write(name, []hostendpoint.Object{o}, 0o644); err != nil {
			return err
		}
		out, err = d.log.Get(id)
		return err
	})
	return out, err
}

// Update implements store.Driver.
func (d *Driver) Update(ctx context.Context, o hostendpoint.Object) (out hostendpoint.Object, err error) {
	id := o.ID().Stored()
	err = d.exclusively(ctx, func() error {
		name, i, err := d.find(id, o.Meta().ResourceVersion, "")
		if err != nil {
			return err
		}
		objects := slices.Clone(d.files[name].objects)
		objects[i] = o
		if err := d.write(name, objects, d.files[name].info.Mode().Perm()); err != nil {
			return err
		}
		out, err = d.log.Get(id)
		return err
	})
	return out, err
}

// Delete implements store.Driver. A file that is left without an object is removed.
func (d *Driver) Delete(ctx context.Context, id hostendpoint.ID, opts store.DeleteOptions) (out hostendpoint.Object, err error) {
	err = d.exclusively(ctx, func() error {
		name, i, err := d.find(id, opts.ResourceVersion, opts.UID)
		if err != nil {
			return err
		}
		if out, err = d.log.Get(id); err != nil {
			return err
		}
		if objects := d.files[name].objects; len(objects) > 1 {
			return d.write(name, slices.Delete(slices.Clone(objects), i, i+1), d.files[name].info.Mode().Perm())
		}
		if err := os.Remove(filepath.Join(d.dir, name)); err != nil {
			return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
		if err := syncDir(d.dir); err != nil {
			return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
		d.look(name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// find returns the file that has an object, and its place there, if the object may be changed.
func (d *Driver) find(id hostendpoint.ID, version, uid string) (string, int, error) {
	for _, name := range d.having[id] {
		d.look(name)
	}
	cur, err := d.log.Get(id)
	if err != nil {
		return "", 0, err
	}
	if uid != "" && uid != cur.Meta().UID {
		return "", 0, fmt.Errorf("%w: the UID is %s", store.ErrNotFound, cur.Meta().UID)
	}
	if version != "" && version != cur.Meta().ResourceVersion {
		return "", 0, &store.Error{ID: cur.ID(), Err: store.ErrConflict, Current: cur}
	}
	name := filepath.Base(cur.At("").File)
	f := d.files[name]
	if f == nil {
		return "", 0, store.ErrNotFound
	}
	if f.err != nil {
		return "", 0, fmt.Errorf("%w: its file must be repaired first: %w", store.ErrCorrupt, f.err)
	}
	if info, err := os.Lstat(filepath.Join(d.dir, name)); err == nil && info.Mode()&os.ModeSymlink != 0 {
		return "", 0, fmt.Errorf("%w: %s is a symbolic link", store.ErrUnsupported, name)
	}
	i := slices.IndexFunc(f.objects, func(o hostendpoint.Object) bool { return o.ID().Stored() == id })
	if i < 0 {
		return "", 0, store.ErrNotFound
	}
	return name, i, nil
}

// write replaces a file at once, and reads it.
func (d *Driver) write(name string, objects []hostendpoint.Object, perm os.FileMode) error {
	data, err := encode(name, objects)
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(d.dir, name), data, perm); err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	d.look(name)
	return nil
}

// encode returns the text of a file, without versions: they follow from it.
func encode(name string, objects []hostendpoint.Object) ([]byte, error) {
	var docs []hostendpoint.Object
	for _, o := range objects {
		c, err := store.Clone(o)
		if err != nil {
			return nil, err
		}
		c.Meta().ResourceVersion = ""
		docs = append(docs, c)
	}
	if filepath.Ext(name) != ".json" {
		return manifest.Marshal(docs...)
	}
	var out bytes.Buffer
	for _, o := range docs {
		data, err := store.Encode(o)
		if err != nil {
			return nil, err
		}
		out.Write(append(data, '\n'))
	}
	return out.Bytes(), nil
}

// replace writes a file so that it is always the old one or the new one, also after a crash.
func replace(path string, data []byte, perm os.FileMode) (err error) {
	dir, name := filepath.Split(path)
	// One name for each target: what a killed process left is overwritten by the next writer, which holds the lock.
	temp := filepath.Join(dir, "."+name+".tmp")
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, perm)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDir(dir)
}

// longestName leaves room for ".", ".tmp" and a number in the 255 bytes that most file systems allow.
const longestName = 200

// fileName returns the i-th choice of a name for the file of an object. Capitals are escaped: on some systems "A" and "a"
// are one file.
func fileName(id hostendpoint.ID, i int) string {
	var b strings.Builder
	b.WriteString(strings.ToLower(id.Kind))
	for _, s := range [...]string{id.Namespace, id.Name} {
		if s == "" {
			continue
		}
		b.WriteByte('.')
		for j := range len(s) {
			switch c := s[j]; {
			case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
				b.WriteByte(c)
			default:
				fmt.Fprintf(&b, "%%%02x", c)
			}
		}
	}
	name := b.String()
	if len(name) > longestName {
		sum := sha256.Sum256([]byte(name))
		name = name[:longestName-17] + "-" + hex.EncodeToString(sum[:8])
	}
	if i > 0 {
		name += fmt.Sprintf("~%d", i+1)
	}
	return name + ".yaml"
}
