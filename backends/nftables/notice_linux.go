// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
)

var _ backends.Noticer = (*Backend)(nil)

// Notice implements backends.Noticer. It calls changed for transactions of others that name our table, and when notices
// were lost.
func (b *Backend) Notice(ctx context.Context, changed func()) error {
	b.mu.Lock()
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: b.opts.NetNS})
	own, ownErr := b.sock.port()
	b.mu.Unlock()
	if err == nil && ownErr != nil {
		c.Close()
		err = ownErr
	}
	if err != nil {
		return fmt.Errorf("nftables: notice: %w", err)
	}
	defer c.Close()
	if err := c.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("nftables: notice: %w", err)
	}
	_ = c.SetReadBuffer(1 << 20)
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		msgs, err := c.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS):
			changed()
		case err != nil:
			return fmt.Errorf("nftables: notice: %w", err)
		}
		for _, m := range msgs {
			if m.Header.PID != own && namesTable(m, b.opts.Render.Table) {
				changed()
				break
			}
		}
	}
}

// namesTable reports whether a notice is about something in a table. The first attribute of all objects that are in
// tables is the name of the table. Ref: linux/netfilter/nf_tables.h, NFTA_TABLE_NAME, NFTA_RULE_TABLE and others.
func namesTable(m netlink.Message, table string) bool {
	if uint16(m.Header.Type)>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < nfgenLen || m.Data[0] != familyInet {
		return false
	}
	a, err := netlink.NewAttributeDecoder(m.Data[nfgenLen:])
	if err != nil {
		return true // what we do not understand may be ours
	}
	for a.Next() {
		if a.Type() == unix.NFTA_TABLE_NAME {
			return string(bytes.TrimRight(a.Bytes(), "\x00")) == table
		}
	}
	return false
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
