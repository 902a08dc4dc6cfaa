// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// provideFS makes the directory, and mounts the file system if it is missing.
func provideFS(path string) error {
	isBPF := func(dir string) bool {
		var st unix.Statfs_t
		return unix.Statfs(dir, &st) == nil && st.Type == unix.BPF_FS_MAGIC
	}
	dir := path
	for {
		if _, err := os.Stat(dir); err == nil || dir == "/" {
			break
		}
		dir = filepath.Dir(dir)
	}
	const usual = "/sys/fs/bpf"
	if !isBPF(dir) && (path == usual || strings.HasPrefix(path, usual+"/")) {
		if err := unix.Mount("bpf", usual, "bpf", 0, "mode=0700"); err != nil {
			return lacks("a BPF file system at "+usual, "", err)
		}
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return &Error{"open", "directory " + path, err}
	}
	if !isBPF(path) {
		return &Error{"open", "directory " + path, errors.New("not in a BPF file system")}
	}
	return nil
}

func (b *Backend) pin(kind, name string) string { return filepath.Join(b.opts.Path, kind+"_"+name) }

// defaultPath returns the directory of a namespace.
func defaultPath(ns *os.File, table string) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
		return "", &Error{"open", "network namespace", err}
	}
	table = strings.NewReplacer(".", "_", "/", "_").Replace(table) // the file system takes no dots
	return filepath.Join(DefaultPath, fmt.Sprintf("net_%d-%s", st.Ino, table)), nil
}

// open takes over what is pinned, if anything is.
func (b *Backend) open() error {
	if _, err := os.Stat(b.opts.Path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := b.openMaps(false); err != nil {
		return err
	}
	if err := b.openLinks(); err != nil {
		return err
	}
	return b.continued()
}

// provideMaps makes the maps that are not there.
func (b *Backend) provideMaps() error {
	if len(b.maps) == len(mapSpecs(b.opts, &b.kernel)) {
		return nil
	}
	if err := provideFS(b.opts.Path); err != nil {
		return err
	}
	return b.openMaps(true)
}

func (b *Backend) openMaps(missing bool) error {
	for name, spec := range mapSpecs(b.opts, &b.kernel) {
		if b.maps[name] != nil {
			continue
		}
		m, err := ebpf.LoadPinnedMap(b.pin("map", name), nil)
		if err == nil && (m.Type() != spec.Type || m.KeySize() != spec.KeySize || m.ValueSize() != spec.ValueSize) {
			m.Close()
			err = errors.New("it has another shape; Teardown removes it")
		}
		if errors.Is(err, fs.ErrNotExist) {
			if !missing {
				continue
			}
			if m, err = ebpf.NewMap(spec); err == nil {
				if err = m.Pin(b.pin("map", name)); err != nil {
					m.Close()
				}
			}
		}
		if err != nil {
			return &Error{"open", "map " + name, err}
		}
		b.maps[name] = m
	}
	if m := b.maps[render.MapCounters]; m != nil {
		b.slots.limit = m.MaxEntries()
	}
	return nil
}

// removeOldMaps takes away the maps of versions with another layout.
func (b *Backend) removeOldMaps() error {
	pins, err := filepath.Glob(b.pin("map", "*"))
	if err != nil {
		return &Error{"apply", "directory " + b.opts.Path, err}
	}
	specs := mapSpecs(b.opts, &b.kernel)
	var errs []error
	for _, pin := range pins {
		if _, ok := specs[strings.TrimPrefix(filepath.Base(pin), "map_")]; !ok {
			errs = append(errs, os.Remove(pin))
		}
	}
	return errors.Join(errs...)
}

// openLinks takes over the links that an earlier process made.
func (b *Backend) openLinks() error {
	files, err := os.ReadDir(b.opts.Path)
	if err != nil {
		return &Error{"open", "directory " + b.opts.Path, err}
	}
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), "link_") {
			continue
		}
		pin := filepath.Join(b.opts.Path, f.Name())
		l, err := link.LoadPinnedLink(pin, nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return &Error{"open", f.Name(), err}
		}
		h := &held{l, pin}
		if id, version, ok := pinnedLink(f.Name()); ok && version == b.code[id.place].version {
			b.links[id] = h
		} else if index, version, ok := pinnedDevice(f.Name()); ok && version == b.code[render.AtDevice].version {
			b.devices[index] = h
		} else {
			b.outdated = append(b.outdated, h)
		}
	}
	return nil
}

// continued takes over the number of the generation in force, and what counts where.
func (b *Backend) continued() error {
	m, err := b.inForce()
	if err != nil || m == nil {
		return err
	}
	defer m.close()
	n, os, err := render.ReadOrigins(m.bytes)
	if err != nil {
		b.log.Warn("the generation in force cannot be read", "error", err)
		return nil
	}
	b.gens = n
	b.slots.adopt(os)
	return nil
}

// number returns the number of the generation in force, which another process may have applied, or of the last one of ours.
func (b *Backend) number() (uint64, error) {
	m, err := b.inForce()
	if err != nil || m == nil {
		return b.gens, err
	}
	defer m.close()
	n, _, err := render.ReadOrigins(m.bytes)
	if err != nil {
		return b.gens, nil // it is none of ours
	}
	return max(n, b.gens), nil
}

// inForce returns the memory of the generation in force; nil if there is none.
func (b *Backend) inForce() (*memory, error) {
	if b.maps[render.MapGeneration] == nil {
		return nil, nil
	}
	var m *ebpf.Map
	err := b.maps[render.MapGeneration].Lookup(uint32(0), &m)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &Error{"open", "the generation in force", err}
	}
	return mapMemory(m)
}
