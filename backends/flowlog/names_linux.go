// SPDX-License-Identifier: Apache-2.0

package flowlog

import (
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// nameAge is how long the name of an interface is taken for granted: interfaces are renamed, and indexes used again.
const nameAge = 2 * time.Second

// maxNames is how many names are kept, against a storm of interfaces.
const maxNames = 4096

// names are those of the interfaces of a namespace. Not safe for concurrent use.
type names struct {
	nl    *netlink.Handle
	known map[uint32]knownName
}

type knownName struct {
	name string
	at   time.Time
}

// newNames returns the names of a namespace; 0 is that of the calling thread.
func newNames(ns int) (*names, error) {
	h := netns.None()
	if ns > 0 {
		h = netns.NsHandle(ns)
	}
	nl, err := netlink.NewHandleAt(h, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("rtnetlink: %w", err)
	}
	return &names{nl: nl, known: map[uint32]knownName{}}, nil
}

// name returns the name of the interface; "" if there is none any more.
func (n *names) name(index uint32) string {
	now := time.Now()
	if k, ok := n.known[index]; ok && now.Sub(k.at) < nameAge {
		return k.name
	}
	if len(n.known) >= maxNames {
		clear(n.known)
	}
	k := knownName{at: now}
	if l, err := n.nl.LinkByIndex(int(index)); err == nil {
		k.name = l.Attrs().Name
	} else if old, ok := n.known[index]; ok {
		k.name = old.name // its last packets
	}
	n.known[index] = k
	return k.name
}

func (n *names) close() { n.nl.Close() }
