// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
)

// memory keeps the versions of objects that were enforced last in a directory, a file for each, so that the next process
// has them if the datastore has only others by then that cannot be used.
type memory struct {
	dir  string
	sums map[hostendpoint.ID][sha256.Size]byte // of the files
}

// kept is what a memory has of an object.
type kept struct {
	object hostendpoint.Object
	source string // the file that the object was read from; "" if it was none
}

const (
	keptEnd    = ".yaml"
	sourceMark = "# from "
)

// load returns what the process before kept. Files that cannot be read are left out, and are in the error.
func (m *memory) load() (map[hostendpoint.ID]kept, error) {
	m.sums = map[hostendpoint.ID][sha256.Size]byte{}
	out := map[hostendpoint.ID]kept{}
	if m.dir == "" {
		return out, nil
	}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return out, err
	}
	files, err := os.ReadDir(m.dir)
	if err != nil {
		return out, err
	}
	var errs []error
	for _, f := range files {
		name := filepath.Join(m.dir, f.Name())
		if !strings.HasSuffix(name, keptEnd) {
			if strings.HasPrefix(f.Name(), ".") && strings.Contains(f.Name(), keptEnd+".") { // of a process that was killed
				errs = append(errs, os.Remove(name))
			}
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		r, err := manifest.Parse(manifest.Source{Name: name, Data: text})
		n := 0
		for o := range r.All() {
			if n++; err == nil {
				k := kept{object: o}
				if line, _, _ := bytes.Cut(text, []byte("\n")); bytes.HasPrefix(line, []byte(sourceMark)) {
					k.source = string(line[len(sourceMark):])
				}
				id := o.ID().Stored()
				out[id], m.sums[id] = k, sha256.Sum256(text)
			}
		}
		if err == nil && n != 1 {
			err = fmt.Errorf("%s: %d objects and not 1", name, n)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return out, errors.Join(errs...)
}

// file returns the name of the file of an object.
func (m *memory) file(id hostendpoint.ID) string {
	sum := sha256.Sum256([]byte(id.Kind + "\x00" + id.Namespace + "\x00" + id.Name))
	return filepath.Join(m.dir, hex.EncodeToString(sum[:16])+keptEnd)
}

// save notes a version; nil that there is no object any more.
func (m *memory) save(id hostendpoint.ID, o hostendpoint.Object) error {
	if m.dir == "" {
		return nil
	}
	if o == nil {
		delete(m.sums, id)
		if err := os.Remove(m.file(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	name, source := m.file(id), o.At("").File
	if source == name { // it comes from there
		return nil
	}
	text, err := manifest.Marshal(o)
	if err != nil {
		return err
	}
	if source != "" && !strings.ContainsAny(source, "\n\r") {
		text = append([]byte(sourceMark+source+"\n"), text...)
	}
	sum := sha256.Sum256(text)
	if sum == m.sums[id] {
		return nil
	}
	f, err := os.CreateTemp(m.dir, "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	m.sums[id] = sum
	return nil
}

// remember loads what the process before kept as the good versions.
func (a *Agent) remember() {
	was, err := a.memory.load()
	if err != nil {
		a.log.Error("not all of the last good versions can be read", "directory", a.opts.StateDir, "error", err)
	}
	a.was = was
	for id, k := range was {
		a.good[id] = k.object
	}
}

// keep notes the good version of an object for the next process.
func (a *Agent) keep(id hostendpoint.ID) {
	err := a.memory.save(id, a.good[id])
	if err != nil {
		a.log.Error("the last good version is not kept", "object", id.String(), "error", err)
	}
	a.update(func(s *Status) { s.StateErr = err })
}

// recover puts good versions of the process before in the place of objects that the datastore has but cannot tell,
// when it has been read for the first time, and takes them away again when it can, or has them no more.
func (a *Agent) recover(l *letters) {
	if l.status == nil || !a.synced {
		return
	}
	for id, k := range a.was {
		switch {
		case a.objects[id] != nil:
		case unreadable(l.status.Problems, id, k.source):
			a.objects[id] = k.object
			a.stuck[id] = k.source
			a.log.Warn("cannot be read: the last good version of an earlier process stays in force", "object", id.String())
		}
		a.dirty[id] = true // what is in neither goes
	}
	a.was = nil
	for id, source := range a.stuck {
		if !unreadable(l.status.Problems, id, source) {
			delete(a.stuck, id)
			a.in.put(func() {
				if _, ok := a.in.objects[id]; !ok { // what can be read now may be on its way
					if a.in.objects == nil {
						a.in.objects = map[hostendpoint.ID]hostendpoint.Object{}
					}
					a.in.objects[id] = nil
					a.in.touch()
				}
			})
		}
	}
}

// unreadable reports whether a problem is about an object, or about the whole file that it was in.
func unreadable(ps []store.Problem, id hostendpoint.ID, source string) bool {
	for _, p := range ps {
		if p.ID.Name != "" && p.ID.Stored() == id {
			return true
		}
		if p.ID.Name == "" && p.Key != "" && (source == p.Key || strings.HasSuffix(source, "/"+p.Key)) {
			return true
		}
	}
	return false
}
