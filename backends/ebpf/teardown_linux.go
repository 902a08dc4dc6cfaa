// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Teardown implements backends.Backend.
func (b *Backend) Teardown(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ready(ctx); err != nil {
		return err
	}
	var ids []linkID
	for id := range b.links {
		ids = append(ids, id)
	}
	errs := []error{b.remove(ids), b.removeOutdated()}
	if err := removeTable(b.ns, b.opts.Table); err != nil {
		errs = append(errs, &Error{"teardown", "table " + b.opts.Table, err})
	}
	// What is left in the directory is ours: maps and programs.
	entries, err := os.ReadDir(b.opts.Path)
	if err != nil {
		errs = append(errs, err)
	}
	for _, e := range entries {
		kind, _, _ := strings.Cut(e.Name(), "_")
		if kind == "map" || kind == "prog" || kind == "link" {
			errs = append(errs, os.Remove(filepath.Join(b.opts.Path, e.Name())))
		}
	}
	if err := os.Remove(b.opts.Path); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("ebpf: teardown: %w", err)
	}
	b.release()
	return nil
}
