// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Teardown implements backends.Backend. Afterwards Apply begins anew.
func (b *Backend) Teardown(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return err
	}
	b.unwatch()
	errs := []error{b.remove(slices.Collect(maps.Keys(b.links))), b.removeOutdated()}
	for i, l := range b.devices {
		errs = append(errs, l.remove())
		delete(b.devices, i)
	}
	if err := removeTables(b.ns, b.opts.Table); err != nil {
		errs = append(errs, &Error{"teardown", "table " + b.opts.Table, err})
	}
	errs = append(errs, removeTables(b.ns, b.opts.Table+bootTable), removePins(b.opts.Path))
	b.forget()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("ebpf: teardown: %w", err)
	}
	return nil
}

// removePins takes away what we pinned in a directory, and the directory, and DefaultPath if nothing is left in it.
func removePins(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		kind, _, _ := strings.Cut(e.Name(), "_")
		if kind == "map" || kind == "prog" || kind == "link" {
			errs = append(errs, os.Remove(filepath.Join(path, e.Name())))
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	if filepath.Dir(path) == DefaultPath {
		os.Remove(DefaultPath) // others may be in it
	}
	return errors.Join(errs...)
}
