// SPDX-License-Identifier: Apache-2.0

package flowlog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/florianl/go-nflog/v2"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// The queue of the kernel is handed over when it holds that many packets, or after that many hundredths of a second.
const (
	nflogQueue   = 64
	nflogTimeout = 1
)

// Read implements Source.
func (n NFLOG) Read(ctx context.Context, to Sink) error {
	if err := ctx.Err(); err != nil {
		return nil
	}
	fail := func(err error) error {
		err = fmt.Errorf("NFLOG group %d: %w", n.Group, err)
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EPROTONOSUPPORT) {
			err = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		return err
	}
	names, err := newNames(n.NetNS)
	if err != nil {
		return fail(err)
	}
	defer names.close()
	nf, err := nflog.Open(&nflog.Config{
		NetNS: n.NetNS, Group: n.Group, Copymode: nflog.CopyPacket, Bufsize: 0xffff,
		QThresh: nflogQueue, Timeout: nflogTimeout, Flags: nflog.FlagSeq,
	})
	if err != nil {
		return fail(err)
	}
	r := &nflogReader{to: to, names: names}
	defer nf.Close() // waits for the goroutine that watches the context, which must end first
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer r.stop()
	buffer := n.Buffer
	if buffer <= 0 {
		buffer = DefaultBuffer
	}
	if err := nf.Con.SetReadBuffer(buffer); err != nil {
		return fail(err)
	}
	failed := make(chan error, 1)
	onError := func(err error) int {
		var op *netlink.OpError
		switch {
		case ctx.Err() != nil:
			return 1
		case errors.As(err, &op) && op.Timeout():
			return 0
		case errors.Is(err, unix.ENOBUFS):
			r.lost()
			return 0
		}
		failed <- err
		return 1
	}
	if err := r.start(func() error { return nf.RegisterWithErrorFunc(ctx, r.event, onError) }); err != nil {
		return fail(err)
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return fail(err)
	}
}

// nflogReader hands on what it is called with until it is stopped. Go-nflog may call it once more after that.
type nflogReader struct {
	names *names

	mu      sync.Mutex
	to      Sink
	stopped bool
	next    uint32 // the number that the next event has if none is lost
}

func (r *nflogReader) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
}

// start says that it is ready before the first event comes.
func (r *nflogReader) start(register func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := register(); err != nil {
		return err
	}
	r.to.Ready()
	return nil
}

// lost notes that the kernel lost something. How much follows from the number of the next event.
func (r *nflogReader) lost() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.stopped {
		r.to.Lost(0)
	}
}

func (r *nflogReader) event(a nflog.Attribute) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return 1
	}
	// The kernel numbers what it queues from 0 on, delivered or not. Ref: net/netfilter/nfnetlink_log.c, inst->seq.
	if a.Seq != nil {
		if gap := *a.Seq - r.next; int32(gap) > 0 {
			r.to.Lost(uint64(gap))
		}
		r.next = *a.Seq + 1
	}
	var e Event
	if a.Prefix != nil {
		e.Prefix = *a.Prefix
		e.Record, _ = flow.ParseLogPrefix(e.Prefix)
	}
	if a.InDev != nil {
		e.InDev, e.In = *a.InDev, r.names.name(*a.InDev)
	}
	if a.OutDev != nil {
		e.OutDev, e.Out = *a.OutDev, r.names.name(*a.OutDev)
	}
	if a.Payload != nil {
		e.Packet = *a.Payload
		e.Length = packetLength(e.Packet)
	}
	r.to.Event(e)
	return 0
}

// packetLength returns the length that an IP packet gives itself; it may have been cut off.
func packetLength(b []byte) int {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return max(len(b), int(binary.BigEndian.Uint16(b[2:])))
	case len(b) >= 40 && b[0]>>4 == 6:
		return max(len(b), 40+int(binary.BigEndian.Uint16(b[4:])))
	}
	return len(b)
}
