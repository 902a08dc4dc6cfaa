// SPDX-License-Identifier: Apache-2.0

//go:build unix && !aix && !solaris

package storetest

import (
	"os"

	"golang.org/x/sys/unix"
)

// lock waits for the lock of a file, which a process that is killed gives back.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}
