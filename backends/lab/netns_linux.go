// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Netns is a network namespace that the lab made. It has no name: it exists as long as something in it is open. The
// zero value is none. Safe for concurrent use until the lab closes it.
type Netns struct{ f *os.File }

// FD returns the file descriptor of the namespace, for libraries that take one. It belongs to the lab; -1 for the zero
// value.
func (n Netns) FD() int {
	if n.f == nil {
		return -1
	}
	return int(n.f.Fd())
}

// Do runs fn on a thread that is in the namespace, and waits for it. What fn opens there stays there; goroutines that
// fn starts are elsewhere.
func (n Netns) Do(fn func() error) error {
	if n.f == nil {
		return errors.New("no namespace")
	}
	return onThread(func() error {
		if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter namespace: %w", err)
		}
		return fn()
	})
}

// onThread runs fn on a thread that may change its namespace, and brings the thread back. A thread that cannot be
// brought back ends with its goroutine.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := errors.New("the function did not return") // Goexit, as FailNow of a test does it
		defer func() { done <- err }()
		home, e := os.Open("/proc/thread-self/ns/net")
		if e != nil {
			err = e
			return
		}
		defer home.Close()
		err = fn()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return <-done
}

// NewNetns makes a network namespace with nothing in it. It exists until release is called and nothing in it is open.
func NewNetns() (n Netns, release func() error, err error) {
	if n, err = newNetns(); err != nil {
		return Netns{}, nil, unavailable(err)
	}
	return n, n.close, nil
}

func newNetns() (Netns, error) {
	var n Netns
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		n.f = f
		return err
	})
	return n, err
}

func (n Netns) close() error {
	if n.f == nil {
		return nil
	}
	return n.f.Close()
}
