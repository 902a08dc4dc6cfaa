// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

// The multicast groups whose notices say that something may have changed. Ref: linux/rtnetlink.h, RTNLGRP_*.
var groups = []uint32{unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE}

// Look returns the host as it is.
func (m *Monitor) Look(context.Context) (hostendpoint.Host, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: m.opts.NetNS})
	if err != nil {
		return hostendpoint.Host{}, unavailable(err)
	}
	defer c.Close()
	links, err := list(c)
	if err != nil {
		return hostendpoint.Host{}, err
	}
	m.seen(links)
	return m.host(links), nil
}

func (m *Monitor) seen(links []Link) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.links = links
}

// Follow calls changed with the host as it is, and again whenever it is another, until ctx ends; it returns then. When it
// loses the kernel it asks anew, and tells what changed in between. It may be called several times, at the same time, too.
func (m *Monitor) Follow(ctx context.Context, changed func(hostendpoint.Host)) error {
	f := &follower{Monitor: m, changed: changed, damper: damper{debounce: m.opts.Debounce}}
	const most = 5 * time.Second
	wait := 50 * time.Millisecond
	for {
		err := f.follow(ctx, func() { wait = 50 * time.Millisecond })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.opts.Logger.Warn("interfaces are not followed", "error", err, "retry", wait)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		wait = min(2*wait, most)
	}
}

// follower is one Follow. What it has told outlives its sockets.
type follower struct {
	*Monitor
	changed func(hostendpoint.Host)
	damper  damper
	begun   bool
}

// follow follows until something fails. It calls good when it has looked.
func (f *follower) follow(ctx context.Context, good func()) error {
	notices, err := f.dial()
	if err != nil {
		return err
	}
	ask, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: f.opts.NetNS})
	if err != nil {
		notices.Close()
		return unavailable(err)
	}
	defer ask.Close()
	wake := make(chan struct{}, 1)
	ended := make(chan error, 1)
	go func() { ended <- f.listen(notices, wake) }()
	stopped := false
	defer func() {
		notices.Close()
		if !stopped {
			<-ended
		}
	}()

	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		due := time.Time{}
		began := time.Now()
		links, err := list(ask)
		if err != nil {
			return err
		}
		good()
		due = f.tell(links)
		took := time.Since(began)
		next := f.opts.Refresh
		if next < 0 {
			next = time.Duration(1<<63 - 1)
		}
		if !due.IsZero() {
			next = min(next, max(0, time.Until(due)))
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			stopped = true
			return err
		case <-timer.C:
		case <-wake:
			// Listing takes at most half of the time, however many notices there are.
			timer.Reset(max(f.opts.Settle, took))
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-timer.C:
			}
		}
		select { // what was noticed until now will be in the list
		case <-wake:
		default:
		}
	}
}

// tell tells what is another than before, and returns when to look again at the latest.
func (f *follower) tell(links []Link) time.Time {
	f.seen(links)
	before := f.damper.told
	tell, later := f.damper.see(links, time.Now())
	if !f.begun || !equal(before, tell) {
		f.begun = true
		f.changed(f.host(tell))
	}
	return later
}

func (f *follower) dial() (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{NetNS: f.opts.NetNS})
	if err != nil {
		return nil, unavailable(err)
	}
	for _, g := range f.groups {
		if err := c.JoinGroup(g); err != nil {
			c.Close()
			return nil, unavailable(err)
		}
	}
	_ = c.SetReadBuffer(f.buffer)
	if f.dialed != nil {
		f.dialed(c)
	}
	return c, nil
}

// listen wakes for notices until the socket is closed.
func (f *follower) listen(c *netlink.Conn, wake chan<- struct{}) error {
	for {
		msgs, err := c.Receive()
		relevant := false
		switch {
		case errors.Is(err, unix.ENOBUFS):
			f.lost.Add(1)
			relevant = true
		case err != nil:
			return fmt.Errorf("rtnetlink: notices: %w", err)
		}
		for _, msg := range msgs {
			relevant = relevant || matters(msg)
		}
		if relevant {
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}
}

// matters reports whether a notice can mean another host. Routing daemons change thousands of routes that cannot.
func matters(m netlink.Message) bool {
	switch m.Header.Type {
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return len(m.Data) >= unix.SizeofRtMsg && localRoute(m.Data)
	}
	return true
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", ErrUnavailable, err) }
