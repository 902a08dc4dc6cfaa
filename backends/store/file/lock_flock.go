// SPDX-License-Identifier: Apache-2.0

//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package file

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lock takes the lock of a directory, waiting for it until ctx ends. It belongs to the process that has the file open,
// so that a killed process gives it back.
func lock(ctx context.Context, path string) (*held, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return &held{f}, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// held is a lock that is held. Its file has the number of writes that were made under it.
type held struct{ f *os.File }

func (h *held) unlock() { _ = h.f.Close() }

// count returns the number of writes.
func (h *held) count() (uint64, bool) {
	var b [8]byte
	if n, err := h.f.ReadAt(b[:], 0); n != 0 && n != len(b) || err != nil && err != io.EOF {
		return 0, false
	}
	return binary.BigEndian.Uint64(b[:]), true
}

func (h *held) setCount(n uint64) error {
	_, err := h.f.WriteAt(binary.BigEndian.AppendUint64(nil, n), 0)
	return err
}

// syncDir makes renames and removals in a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
