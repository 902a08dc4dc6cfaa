// SPDX-License-Identifier: Apache-2.0

// Package netif follows the interfaces of a network namespace and the addresses that are local on them: it is where a
// hostendpoint.Host comes from.
//
// What an interface has is what Calico takes for it: the addresses for which the table "local" has a route of type local
// to it, whether or not they are configured. What comes is told at once; what goes when it has stayed away for a while,
// since DHCP clients and others take addresses away to put them back.
// Ref: felix/ifacemonitor (ifacemonitor.go, update_filter.go).
//
// The kernel's notices say only that something has changed. What there is comes from listing it, so that no notice that
// was lost or misunderstood can leave anything out.
package netif

import (
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// Options say what to follow. The zero value is useful.
type Options struct {
	// Node is the name that spec.node of this host's endpoints has; "" is the host name in lower case, as in Calico.
	Node string
	// NetNS is a file descriptor of the network namespace, which must stay open; 0 is that of the process.
	NetNS int
	// Debounce is how long something must be gone until it is told; 0 is 100 ms, as in Calico; negative is not at all.
	Debounce time.Duration
	// Settle is how long to wait after a notice for those that follow; 0 is 2 ms.
	Settle time.Duration
	// Refresh is how often to look although there was no notice; 0 is 90 s, as in Calico; negative is never.
	Refresh time.Duration
	// Logger gets what an operator may want to know; nil is silence.
	Logger *slog.Logger
}

// Link is an interface as the kernel has it.
type Link struct {
	Index     int            `json:"index"`
	Name      string         `json:"name"`
	Up        bool           `json:"up"`                  // it is set up, and can carry packets
	Addresses []netip.Prefix `json:"addresses,omitempty"` // sorted; the length is that of the network, or of the address if it is not configured
}

// ErrUnavailable is what errors wrap where there is no rtnetlink.
var ErrUnavailable = errors.New("interfaces cannot be followed here")

// Monitor follows one network namespace. Make it with New; it is safe for concurrent use and holds nothing that has to
// be released.
type Monitor struct {
	opts   Options
	groups []uint32        // whose notices are listened to
	buffer int             // of the socket for them, in bytes
	dialed func(io.Closer) // of tests: is given that socket

	lost atomic.Uint64

	mu    sync.Mutex
	links []Link
}

// New returns a Monitor that does nothing yet.
func New(o Options) (*Monitor, error) {
	if o.Node == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, err
		}
		o.Node = strings.ToLower(name)
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.Debounce, 100*time.Millisecond)
	def(&o.Settle, 2*time.Millisecond)
	def(&o.Refresh, 90*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	// With a smaller buffer more notices are lost, which costs a look.
	return &Monitor{opts: o, groups: groups, buffer: 1 << 20}, nil
}

// Lost returns how often the kernel had more notices than it could keep. Nothing is missed for that: the host is looked
// at then.
func (m *Monitor) Lost() uint64 { return m.lost.Load() }

// Links returns what the kernel had when Follow or Look looked last, sorted by name; nil if they never did.
func (m *Monitor) Links() []Link {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.links
}

// host returns what endpoints are matched with.
func (m *Monitor) host(links []Link) hostendpoint.Host {
	h := hostendpoint.Host{Node: m.opts.Node}
	for _, l := range links {
		h.Interfaces = append(h.Interfaces, hostendpoint.Interface{Name: l.Name, Addresses: l.Addresses})
	}
	return h
}
