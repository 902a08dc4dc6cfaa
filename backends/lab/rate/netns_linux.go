// SPDX-License-Identifier: Apache-2.0

package rate

import (
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Netns is a network namespace that lives as long as its test.
type Netns struct{ *os.File }

// NewNetns makes a network namespace.
func NewNetns(t testing.TB) Netns {
	t.Helper()
	var f *os.File
	onThread(t, func() {
		require.NoError(t, unix.Unshare(unix.CLONE_NEWNET), "these tests need root")
		var err error
		f, err = os.Open("/proc/thread-self/ns/net")
		require.NoError(t, err)
	})
	t.Cleanup(func() { f.Close() })
	return Netns{f}
}

// FD returns the file descriptor of n, which belongs to it.
func (n Netns) FD() int { return int(n.Fd()) }

// Do runs f on a thread in the namespace.
func (n Netns) Do(t testing.TB, f func()) {
	t.Helper()
	onThread(t, func() {
		require.NoError(t, unix.Setns(n.FD(), unix.CLONE_NEWNET))
		f()
	})
}

// onThread runs f on a thread of its own, which ends with it.
func onThread(t testing.TB, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: nobody else may get this thread
		f()
	}()
	<-done
}
