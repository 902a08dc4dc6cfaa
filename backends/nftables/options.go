// SPDX-License-Identifier: Apache-2.0

// Package nftables enforces rule programs through nftables, over netlink.
//
// Everything that one Apply changes is one transaction of the kernel: it takes effect as a whole or not at all, for
// packets and for a process that dies. The first Apply replaces the table, whatever an earlier process left in it;
// later ones send what differs. Where the kernel refuses the difference because somebody else has changed the table,
// the table is replaced, again in one transaction.
//
// It needs Linux 5.10 and CAP_NET_ADMIN in the network namespace; elsewhere New returns an error. Large transactions
// need the capability in the initial user namespace, too, for a send buffer beyond net.core.wmem_max.
package nftables

import (
	"errors"
	"fmt"
	"log/slog"
	"syscall"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	render "github.com/hostpolicy/hostpolicy/render/nftables"
)

// Options say where and how to enforce. The zero value is useful.
type Options struct {
	// Render is passed to the renderer. Caps is filled in by New from the release of the kernel.
	Render render.Options
	// NetNS is a file descriptor of the network namespace, which New uses and does not keep; 0 is the namespace of the
	// calling thread.
	NetNS int
	// Logger gets what an operator may want to know; nil is silence.
	Logger *slog.Logger
}

// ErrUnavailable is what New returns where there is no nftables.
var ErrUnavailable = errors.New("nftables is not available")

// Error is an operation that the kernel refused. It works with errors.Is(err, syscall.Errno) and errors.As.
type Error struct {
	Op     string        // "apply", "observe", "counters", "teardown"
	Object string        // "chain normal-in", "rule tier/default[3]", "set v4.s.vp0q"; "" if the kernel named none
	Origin flow.Origin   // of the rule, if it has one
	Text   string        // what the kernel said, if anything
	Errno  syscall.Errno // never 0
}

// Error implements error.
func (e *Error) Error() string {
	s := "nftables: " + e.Op
	if e.Object != "" {
		s += ": " + e.Object
	}
	if e.Origin.Kind != 0 {
		s += " (" + e.Origin.String()
		if p := e.Origin.Pos.String(); p != "" {
			s += " at " + p
		}
		s += ")"
	}
	if e.Text != "" {
		s += ": " + e.Text
	}
	return fmt.Sprintf("%s: %v", s, e.Errno)
}

// Unwrap returns the errno.
func (e *Error) Unwrap() error { return e.Errno }

// ErrNotApplied is what ApplyMembers returns if there is nothing whose members could change: before the first Apply, and
// after somebody else changed the table.
var ErrNotApplied = errors.New("nftables: nothing was applied yet")
