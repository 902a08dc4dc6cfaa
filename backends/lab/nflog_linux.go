// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/florianl/go-nflog/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// nflogBuffer holds some ten thousand records; the lab sends far fewer at a time.
const nflogBuffer = 32 << 20

// logRecord is one record of an NFLOG group.
type logRecord struct {
	prefix  string
	in, out uint32 // interface index; 0 if there is none
	packet  []byte
}

// readLog sends the records of a group of a namespace to fn until ctx ends. Fn runs on one goroutine; failed is called
// once, when the group can be read no longer, unless that is because of ctx.
func readLog(ctx context.Context, ns Netns, group uint16, fn func(logRecord), failed func(error)) (stop func(), err error) {
	nf, err := nflog.Open(&nflog.Config{
		NetNS: ns.FD(), Group: group, Copymode: nflog.CopyPacket, Bufsize: 0xffff,
		QThresh: 64, Timeout: 1, // of 1/100 s
	})
	if err != nil {
		return nil, fmt.Errorf("nflog group %d: %w", group, err)
	}
	if err := nf.Con.SetReadBuffer(nflogBuffer); err != nil {
		nf.Close()
		return nil, fmt.Errorf("nflog group %d: %w", group, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var once sync.Once
	fail := func(err error) int {
		if ctx.Err() != nil {
			return 1
		}
		var op *netlink.OpError
		if errors.As(err, &op) && op.Timeout() {
			return 0
		}
		if errors.Is(err, unix.ENOBUFS) {
			err = ErrLost
		}
		once.Do(func() { failed(fmt.Errorf("nflog group %d: %w", group, err)) })
		return 1
	}
	err = nf.RegisterWithErrorFunc(ctx, func(a nflog.Attribute) int {
		var r logRecord
		if a.Prefix != nil {
			r.prefix = *a.Prefix
		}
		if a.InDev != nil {
			r.in = *a.InDev
		}
		if a.OutDev != nil {
			r.out = *a.OutDev
		}
		if a.Payload != nil {
			r.packet = *a.Payload
		}
		fn(r)
		return 0
	}, fail)
	if err != nil {
		cancel()
		nf.Close()
		return nil, fmt.Errorf("nflog group %d: %w", group, err)
	}
	return func() { cancel(); nf.Close() }, nil
}

// NFLOG returns the events that a dataplane in ns sends to an NFLOG group with prefixes as flow.LogPrefix writes them.
func NFLOG(ns Netns, group uint16) EventSource { return &nflogSource{ns: ns, group: group} }

type nflogSource struct {
	ns    Netns
	group uint16

	mu  sync.Mutex
	err error
}

func (s *nflogSource) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// FenceGroup returns the group.
func (s *nflogSource) FenceGroup() uint16 { return s.group }

func (s *nflogSource) Subscribe(ctx context.Context) (<-chan Event, error) {
	ch := make(chan Event, 1024)
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	s.err = nil
	s.mu.Unlock()
	stop, err := readLog(ctx, s.ns, s.group, func(r logRecord) {
		rec, ok := flow.ParseLogPrefix(r.prefix)
		if r.prefix == fencePrefix {
			rec, ok = flow.LogRecord{Text: fencePrefix}, true
		}
		if ok {
			select {
			case ch <- Event{Record: rec, Packet: r.packet}:
			case <-ctx.Done():
			}
		}
	}, func(err error) {
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		cancel()
	})
	if err != nil {
		cancel()
		return nil, err
	}
	go func() {
		<-ctx.Done()
		stop()
		close(ch)
	}()
	return ch, nil
}
