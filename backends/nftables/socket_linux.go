// SPDX-License-Identifier: Apache-2.0

package nftables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// socket speaks nfnetlink. The messages are our own: a transaction of thousands of rules is one write of one buffer,
// the sequence number of an error leads back to the rule, and elements of any type are sent in lists that fit.
type socket struct {
	conn *netlink.Conn
	raw  syscall.RawConn
	sent int // bytes that the send buffer is known to hold
	seq  uint32
	buf  []byte
}

func dial(netns int) (*socket, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: netns})
	if err != nil {
		return nil, fmt.Errorf("nftables: netlink: %w", err)
	}
	s := &socket{conn: c, buf: make([]byte, 1<<17)}
	// Without these the kernel sends back whole messages with their errors, and no text.
	if err := errors.Join(c.SetOption(netlink.CapAcknowledge, true), c.SetOption(netlink.ExtendedAcknowledge, true), c.SetReadBuffer(1<<22)); err != nil {
		c.Close()
		return nil, fmt.Errorf("nftables: netlink: %w", err)
	}
	if s.raw, err = c.SyscallConn(); err != nil {
		c.Close()
		return nil, fmt.Errorf("nftables: netlink: %w", err)
	}
	return s, nil
}

func (s *socket) close() error { return s.conn.Close() }

// send hands one buffer to the kernel, which has done everything in it when send returns.
func (s *socket) send(b []byte) error {
	if len(b)+1024 > s.sent {
		if err := s.conn.SetWriteBuffer(len(b) + 1<<16); err != nil {
			return fmt.Errorf("nftables: netlink: %w", err)
		}
		s.sent = len(b) + 1<<16
	}
	var err error
	if e := s.raw.Write(func(fd uintptr) bool {
		for {
			err = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	}); e != nil {
		return fmt.Errorf("nftables: netlink: %w", e)
	}
	if err != nil {
		return fmt.Errorf("nftables: send %d bytes: %w", len(b), os.NewSyscallError("sendto", err))
	}
	return nil
}

// receive returns the next datagram without waiting, nil if there is none. It is valid until the next call.
func (s *socket) receive() ([]byte, error) {
	var n int
	var err error
	for {
		if e := s.raw.Control(func(fd uintptr) {
			n, _, err = unix.Recvfrom(int(fd), s.buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		}); e != nil {
			return nil, fmt.Errorf("nftables: netlink: %w", e)
		}
		if err != unix.EINTR {
			break
		}
	}
	switch {
	case err == unix.EAGAIN:
		return nil, nil
	case err != nil:
		return nil, os.NewSyscallError("recvfrom", err)
	case n > len(s.buf):
		return nil, fmt.Errorf("nftables: a datagram of %d bytes", n)
	}
	return s.buf[:n], nil
}

// message is one message of an answer.
type message struct {
	typ, flags uint16
	seq        uint32
	data       []byte // behind the header
}

// messages calls f with every message of a datagram.
func messages(b []byte, f func(message) error) error {
	for len(b) >= headerLen {
		n := int(host.Uint32(b))
		if n < headerLen || n > len(b) {
			return fmt.Errorf("nftables: message of %d bytes in %d", n, len(b))
		}
		m := message{typ: host.Uint16(b[4:]), flags: host.Uint16(b[6:]), seq: host.Uint32(b[8:]), data: b[headerLen:n]}
		if err := f(m); err != nil {
			return err
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return nil
}

// kernelError is an error message. Errno is 0 for an acknowledgement.
type kernelError struct {
	seq   uint32
	errno syscall.Errno
	text  string
}

func parseError(m message) (kernelError, error) {
	if len(m.data) < 4+headerLen {
		return kernelError{}, errors.New("nftables: an error message is cut off")
	}
	e := kernelError{errno: syscall.Errno(-int32(host.Uint32(m.data))), seq: host.Uint32(m.data[4+8:])}
	if m.flags&unix.NLM_F_ACK_TLVS != 0 {
		rest := m.data[4+headerLen:]
		if m.flags&unix.NLM_F_CAPPED == 0 { // the whole message stands in between
			n := int(host.Uint32(m.data[4:])) - headerLen
			if n < 0 || n > len(rest) {
				return e, nil
			}
			rest = rest[n:]
		}
		_ = attrs(rest, func(typ uint16, data []byte) error { // the text is all that can be lost
			if typ == unix.NLMSGERR_ATTR_MSG {
				e.text = string(bytes.TrimRight(data, "\x00"))
			}
			return nil
		})
	}
	return e, nil
}

// errUnknown means that the answer to a transaction was lost: it may have taken effect or not.
var errUnknown = errors.New("nftables: the kernel's answer was lost")

// commit runs a transaction. The error is an *Error for what the kernel refused first.
func (s *socket) commit(op string, b *batch) error {
	s.drain()
	if err := s.send(b.buf); err != nil {
		return err
	}
	done, lost := false, false
	var first *kernelError
	for {
		d, err := s.receive()
		switch {
		case errors.Is(err, unix.ENOBUFS): // more errors than fit; the first ones are there
			lost = true
			continue
		case err != nil:
			return err
		}
		if d == nil {
			break
		}
		if err := messages(d, func(m message) error {
			if m.typ != unix.NLMSG_ERROR {
				return nil
			}
			e, err := parseError(m)
			if err != nil {
				return err
			}
			o := e.seq - b.first
			switch {
			case int64(o) >= int64(len(b.objects)):
			case e.errno == 0:
				done = true
			case first == nil || e.seq-b.first < first.seq-b.first:
				first = &e
			}
			return nil
		}); err != nil {
			return err
		}
	}
	switch {
	case first != nil:
		e := &Error{Op: op, Errno: first.errno, Text: first.text}
		if o, ok := b.object(first.seq); ok {
			e.Object = o.String()
			if o.origin != nil {
				e.Origin = *o.origin
			}
		}
		return e
	case !done || lost:
		return errUnknown
	}
	return nil
}

// drain throws away answers to nothing.
func (s *socket) drain() {
	for {
		d, err := s.receive()
		if d == nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
	}
}

// errInterrupted means that somebody changed what was being listed.
var errInterrupted = errors.New("nftables: interrupted by a change")

// dump sends a request and calls f with the content of every answer, behind the header of nfnetlink. The content is
// valid during the call. Before the first answer, and before the first one of another try, it calls reset.
func (s *socket) dump(ctx context.Context, op string, typ uint16, family uint8, write func(*writer), reset func(), f func([]byte) error) error {
	for tries := 0; ; tries++ {
		reset()
		err := s.request(ctx, op, typ, unix.NLM_F_DUMP, family, write, f)
		if errors.Is(err, errInterrupted) && tries < 10 {
			continue
		}
		return err
	}
}

// request sends a request and reads all answers.
func (s *socket) request(ctx context.Context, op string, typ, flags uint16, family uint8, write func(*writer), f func([]byte) error) error {
	s.drain()
	w := writer{seq: s.seq}
	seq := w.begin(unix.NFNL_SUBSYS_NFTABLES<<8|typ, flags, family, 0)
	s.seq = w.seq
	if write != nil {
		write(&w)
	}
	w.end()
	if err := s.send(w.buf); err != nil {
		return err
	}
	interrupted := false
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		d, err := s.receive()
		if err != nil {
			return err
		}
		if d == nil { // the kernel answers before send returns, and goes on when we read
			return errUnknown
		}
		done := false
		if err := messages(d, func(m message) error {
			if m.seq != seq {
				return nil
			}
			interrupted = interrupted || m.flags&unix.NLM_F_DUMP_INTR != 0
			switch m.typ {
			case unix.NLMSG_ERROR:
				e, err := parseError(m)
				if err != nil {
					return err
				}
				if e.errno != 0 {
					return &Error{Op: op, Errno: e.errno, Text: e.text, Origin: flow.Origin{}}
				}
				done = true
				return nil
			case unix.NLMSG_DONE:
				done = true
				return nil
			}
			if flags&unix.NLM_F_DUMP != unix.NLM_F_DUMP {
				done = true
			}
			if len(m.data) < nfgenLen {
				return fmt.Errorf("nftables: %s: answer of %d bytes", op, len(m.data))
			}
			return f(m.data[nfgenLen:])
		}); err != nil {
			return err
		}
		if done {
			if interrupted {
				return errInterrupted
			}
			return nil
		}
	}
}

// generation returns the number of the ruleset of the namespace, which every transaction changes.
func (s *socket) generation(ctx context.Context, op string) (gen uint32, err error) {
	err = s.request(ctx, op, unix.NFT_MSG_GETGEN, 0, familyUnspec, nil, func(b []byte) error {
		return attrs(b, func(typ uint16, data []byte) error {
			if typ == 1 { // NFTA_GEN_ID
				gen = be32(data)
			}
			return nil
		})
	})
	return gen, err
}
