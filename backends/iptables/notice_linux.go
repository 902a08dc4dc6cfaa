// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"context"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/internal/nftnotice"
)

var _ backends.Noticer = (*Backend)(nil)

// Notice implements backends.Noticer. In the variant nft it calls changed for transactions of others that touch our
// chains, or those of the kernel that lead to ours. Of the variant legacy, and of ipsets, the kernel gives no notice:
// Notice only waits for ctx then.
func (b *Backend) Notice(ctx context.Context, changed func()) error {
	if b.tools.variant != NFT {
		<-ctx.Done()
		return ctx.Err()
	}
	touched := false
	return nftnotice.Follow(ctx, b.tools.netns, nftnotice.Handler{
		Change: func(c nftnotice.Change) {
			touched = touched || (c.Family == unix.NFPROTO_IPV4 || c.Family == unix.NFPROTO_IPV6) && b.concerns(c)
		},
		Commit: func(generation uint32) {
			if touched && !b.made(generation) {
				changed()
			}
			touched = false
		},
		Lost: changed,
	})
}

// concerns reports whether a change may be one of what we have made.
func (b *Backend) concerns(c nftnotice.Change) bool {
	switch c.Table {
	case "raw", "mangle", "nat", "filter":
	default:
		return false
	}
	switch c.Chain {
	case "", "PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING":
		return true
	}
	return strings.HasPrefix(c.Chain, b.opts.Render.Prefix)
}

// made reports whether we have made a generation of the rules of the namespace: those up to the last one, if nobody had
// a transaction between ours. It waits for what is under way.
func (b *Backend) made(generation uint32) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last != nil && b.last.counted && int32(generation-b.last.kernel) <= 0
}
