// SPDX-License-Identifier: Apache-2.0

package nftnotice

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Change is an object that a transaction makes, changes or deletes. What is not known is "".
type Change struct {
	Family uint8 // such as unix.NFPROTO_INET
	Table  string
	Chain  string // of chains and rules
	Port   uint32 // the netlink address of who did it
}

// Handler is told of transactions. Functions that are nil are not called.
type Handler struct {
	Change func(Change)
	Commit func(generation uint32) // behind the changes of a transaction: the generation of the namespace that it made
	Lost   func()                  // there were more notices than could be read
}

const nfgenLen = 4

// Follow tells of transactions in a network namespace until ctx ends; 0 is that of the calling thread.
func Follow(ctx context.Context, netns int, h Handler) error {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netns})
	if err != nil {
		return fmt.Errorf("notices of nftables: %w", err)
	}
	defer c.Close()
	if err := c.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("notices of nftables: %w", err)
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
			if h.Lost != nil {
				h.Lost()
			}
		case err != nil:
			return fmt.Errorf("notices of nftables: %w", err)
		}
		for _, m := range msgs {
			h.handle(m)
		}
	}
}

func (h *Handler) handle(m netlink.Message) {
	if uint16(m.Header.Type)>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < nfgenLen {
		return
	}
	kind := uint16(m.Header.Type) & 0xff
	x := Change{Family: m.Data[0], Port: m.Header.PID}
	a, err := netlink.NewAttributeDecoder(m.Data[nfgenLen:])
	if err != nil {
		return
	}
	a.ByteOrder = binary.BigEndian
	text := func() string { return string(bytes.TrimRight(a.Bytes(), "\x00")) }
	var generation uint32
	for a.Next() {
		switch {
		case kind == unix.NFT_MSG_NEWGEN && a.Type() == unix.NFTA_GEN_ID:
			generation = a.Uint32()
		case kind == unix.NFT_MSG_NEWGEN:
		case a.Type() == unix.NFTA_TABLE_NAME: // the first attribute of all objects that are in tables
			x.Table = text()
		case (kind == unix.NFT_MSG_NEWRULE || kind == unix.NFT_MSG_DELRULE) && a.Type() == unix.NFTA_RULE_CHAIN,
			(kind == unix.NFT_MSG_NEWCHAIN || kind == unix.NFT_MSG_DELCHAIN) && a.Type() == unix.NFTA_CHAIN_NAME:
			x.Chain = text()
		}
	}
	switch {
	case kind == unix.NFT_MSG_NEWGEN && h.Commit != nil:
		h.Commit(generation)
	case kind != unix.NFT_MSG_NEWGEN && h.Change != nil:
		h.Change(x)
	}
}
