// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Proxy is a TCP proxy that can stop forwarding without closing anything, as a network does that drops all packets.
type Proxy struct {
	Addr string // where it listens

	mu    sync.Mutex
	open  *sync.Cond // of mu: the state below changed
	cut   bool
	ended bool
	conns map[net.Conn]bool
}

// NewProxy returns a proxy to an address; t ends it.
func NewProxy(t *testing.T, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &Proxy{Addr: l.Addr().String(), conns: map[net.Conn]bool{}}
	p.open = sync.NewCond(&p.mu)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.serve(c, target) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		p.ended = true
		for c := range p.conns {
			_ = c.Close()
		}
		p.open.Broadcast()
		p.mu.Unlock()
		wg.Wait()
	})
	return p
}

func (p *Proxy) serve(c net.Conn, target string) {
	if !p.track(c) {
		return
	}
	defer p.drop(c)
	if !p.wait() {
		return
	}
	s, err := net.Dial("tcp", target)
	if err != nil || !p.track(s) {
		return
	}
	defer p.drop(s)
	var wg sync.WaitGroup
	wg.Go(func() { p.copy(s, c) })
	p.copy(c, s)
	wg.Wait()
}

func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		_ = c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

// wait returns when data may pass; false at the end.
func (p *Proxy) wait() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.cut && !p.ended {
		p.open.Wait()
	}
	return !p.ended
}

// copy moves data one way, and closes both connections when one ends.
func (p *Proxy) copy(to, from net.Conn) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if !p.wait() {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// Cut stops all traffic; the function that it returns lets it go on.
func (p *Proxy) Cut() (heal func()) {
	p.set(true)
	return func() { p.set(false) }
}

func (p *Proxy) set(cut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = cut
	p.open.Broadcast()
}
