// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends/iptables"
	"github.com/hostpolicy/hostpolicy/backends/lab"
)

// variants are those under test.
var variants = []iptables.Variant{iptables.NFT, iptables.Legacy}

// netns is a network namespace that lives as long as its test.
type netns struct{ *os.File }

func newNetns(t testing.TB) netns {
	t.Helper()
	var f *os.File
	onThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("these tests need root: %v", err)
			return
		}
		var err error
		if f, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			t.Error(err)
		}
	})
	require.NotNil(t, f)
	t.Cleanup(func() { f.Close() })
	n := netns{f}
	n.run(t, "", "ip", "link", "set", "lo", "up")
	return n
}

func (n netns) fd() int { return int(n.Fd()) }

// onThread runs f on a thread of its own, which ends with it.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: nobody else may get this thread
		f()
	}()
	<-done
}

// do runs f on a thread in the namespace.
func (n netns) do(f func()) {
	onThread(func() {
		if err := unix.Setns(n.fd(), unix.CLONE_NEWNET); err != nil {
			panic(err)
		}
		f()
	})
}

// run runs a command in the namespace with the given input.
func (n netns) run(t testing.TB, input string, args ...string) string {
	t.Helper()
	out, err := n.try(input, args...)
	require.NoError(t, err, "%v: %s", args, out)
	return out
}

func (n netns) try(input string, args ...string) (out string, err error) {
	c := exec.Command(args[0], args[1:]...)
	c.Stdin = strings.NewReader(input)
	var b bytes.Buffer
	c.Stdout, c.Stderr = &b, &b
	n.do(func() { err = c.Start() })
	if err == nil {
		err = c.Wait()
	}
	return b.String(), err
}

// newBackend returns a Backend in a namespace of its own unless o names one.
func newBackend(t testing.TB, o iptables.Options) *iptables.Backend {
	t.Helper()
	if o.NetNS == 0 {
		o.NetNS = newNetns(t).fd()
	}
	b, err := iptables.New(o)
	require.NoError(t, err)
	return b
}

const eventGroup = 78

// open returns an Opener for a variant.
func open(o iptables.Options) lab.Opener {
	o.Render.LogGroup = eventGroup
	return func(_ context.Context, ns lab.Netns) (lab.Dataplane, error) {
		o := o // hosts are set up side by side
		o.NetNS = ns.FD()
		b, err := iptables.New(o)
		if err != nil {
			return nil, err
		}
		return lab.WithEvents(b, lab.NFLOG(ns, eventGroup)), nil
	}
}
