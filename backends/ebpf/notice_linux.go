// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/internal/nftnotice"
)

var _ backends.Noticer = (*Backend)(nil)

// Notice implements backends.Noticer. It calls changed when pins go, and for transactions of nftables that touch our
// table, also our own, which are rare. Of links that are detached, and of maps that are written, the kernel gives no
// notice.
func (b *Backend) Notice(ctx context.Context, changed func()) error {
	b.mu.Lock()
	ns, path := b.ns, b.opts.Path
	b.mu.Unlock()
	if ns == nil {
		return errClosed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cancel(watchPins(ctx, path, changed))
	}()
	touched := false
	err := nftnotice.Follow(ctx, int(ns.Fd()), nftnotice.Handler{
		Change: func(c nftnotice.Change) {
			touched = touched || c.Table == b.opts.Table
		},
		Commit: func(uint32) {
			if touched {
				changed()
			}
			touched = false
		},
		Lost: changed,
	})
	cancel(err)
	<-ended
	return context.Cause(ctx)
}

// watchPins calls changed when an entry of a directory goes, or the directory, until ctx ends.
func watchPins(ctx context.Context, path string, changed func()) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("ebpf: notices of pins: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		// The directory comes with the first Apply, in one that may have to come, too.
		for dir := path; ; dir = filepath.Dir(dir) {
			_, err := unix.InotifyAddWatch(fd, dir, unix.IN_ONLYDIR|unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_FROM|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.ENOENT) || dir == filepath.Dir(dir) {
				return fmt.Errorf("ebpf: notices of pins in %s: %w", dir, err)
			}
		}
		_, err := f.Read(buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("ebpf: notices of pins: %w", err)
		}
		changed()
	}
}
