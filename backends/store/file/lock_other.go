// SPDX-License-Identifier: Apache-2.0

//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package file

import "context"

// lock does nothing here: on this system only one process may write to a directory.
func lock(context.Context, string) (unlock func(), err error) { return func() {}, nil }

// syncDir does nothing here: directories cannot be synced.
func syncDir(string) error { return nil }
