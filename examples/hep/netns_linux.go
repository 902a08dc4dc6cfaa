// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// netnsID identifies a network namespace as long as it exists; "" is that of the thread.
func netnsID(path string) (string, error) {
	if path == "" {
		path = "/proc/thread-self/ns/net"
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("%s: no inode", path)
	}
	return strconv.FormatUint(s.Ino, 10), nil
}
