// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/internal/nftnotice"
)

var _ backends.Noticer = (*Backend)(nil)

// Notice implements backends.Noticer. It calls changed for transactions of others that name our table, and when notices
// were lost.
func (b *Backend) Notice(ctx context.Context, changed func()) error {
	b.mu.Lock()
	own, err := b.sock.port()
	b.mu.Unlock()
	if err != nil {
		return err
	}
	touched := false
	return nftnotice.Follow(ctx, b.opts.NetNS, nftnotice.Handler{
		Change: func(c nftnotice.Change) {
			touched = touched || c.Port != own && c.Family == familyInet && c.Table == b.opts.Render.Table
		},
		Commit: func(uint32) {
			if touched {
				changed()
			}
			touched = false
		},
		Lost: changed,
	})
}

// port returns the address of the socket, which notices name as their cause.
func (s *socket) port() (port uint32, err error) {
	if e := s.raw.Control(func(fd uintptr) {
		var sa unix.Sockaddr
		if sa, err = unix.Getsockname(int(fd)); err == nil {
			n, ok := sa.(*unix.SockaddrNetlink)
			if !ok {
				err = unix.EAFNOSUPPORT
				return
			}
			port = n.Pid
		}
	}); e != nil {
		return 0, e
	}
	return port, err
}
