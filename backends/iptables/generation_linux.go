// SPDX-License-Identifier: Apache-2.0

package iptables

import (
	"encoding/binary"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// generation returns the generation of all nftables rules of the namespace, which every transaction of anybody
// increases by one; false if it cannot be had, which is always so for the variant legacy.
// Ref: net/netfilter/nf_tables_api.c, nf_tables_commit.
func (b *Backend) generation() (uint32, bool) {
	if b.tools.variant != NFT {
		return 0, false
	}
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: b.tools.netns})
	if err != nil {
		return 0, false
	}
	defer c.Close()
	msgs, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, 0, 0, 0},
	})
	if err != nil || len(msgs) != 1 || len(msgs[0].Data) < 4 {
		return 0, false
	}
	d, err := netlink.NewAttributeDecoder(msgs[0].Data[4:])
	if err != nil {
		return 0, false
	}
	d.ByteOrder = binary.BigEndian
	for d.Next() {
		if d.Type() == unix.NFTA_GEN_ID {
			return d.Uint32(), true
		}
	}
	return 0, false
}
