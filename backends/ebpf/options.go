// SPDX-License-Identifier: Apache-2.0

// Package ebpf enforces rule programs through netfilter BPF programs.
//
// The programs stand at the hooks where nftables would have its chains, read the state that the kernel's connection
// tracking gives a packet, and look everything else up in one map, the memory of the generation in force. Apply fills
// another one and puts it in its place: one write, which packets see as a whole. ApplyMembers writes what differs into the
// one that is there, and then one number, with the same effect. Programs, links and maps are pinned, so that the policy is
// enforced whether or not the process lives; a Backend of the same path takes them over. On x86-64, 128 KiB for each
// possible processor remember the rules of packets like those that come.
//
// What BPF cannot do at netfilter hooks, a table of nftables does, which never changes with policy either: it keeps
// connection tracking on, and takes packets out of it that a BPF program of another kind tells it to.
//
// It needs Linux 6.4 and the capabilities BPF, PERFMON, NET_ADMIN and SYS_ADMIN; elsewhere New returns an error that
// names what is missing.
package ebpf

import (
	"errors"
	"fmt"
	"log/slog"

	render "github.com/hostpolicy/hostpolicy/render/ebpf"
)

// The defaults of Options.
const (
	DefaultPath     = "/sys/fs/bpf/hostpolicy" // each namespace and table has a directory in it
	DefaultCounters = 1 << 16
	DefaultBuffer   = 8 << 20
	DefaultTable    = "hostpolicy-ebpf"
)

// Options say where and how to enforce. The zero value is useful.
type Options struct {
	// Path is the directory of a BPF file system in which everything is pinned, made if it is missing, with the file
	// system if /sys/fs/bpf is none; "" is a directory of DefaultPath that is named after the network namespace and Table.
	// One path serves one network namespace.
	Path string
	// Render is passed to the renderer.
	Render render.Options
	// NetNS is a file descriptor of the network namespace, which New duplicates; 0 is that of the calling thread.
	NetNS int
	// Counters is how many origins can be counted; 0 is DefaultCounters. Adopted maps keep their size.
	Counters int
	// Buffer is the size of the ring buffer of events, a power of two; 0 is DefaultBuffer.
	Buffer int
	// Table is the name of our tables of nftables, one in each of the families inet, ip and ip6; "" is DefaultTable.
	// Instances with other names live side by side.
	Table string
	// XDP says where denials of untracked ingress policy may be made, before the kernel has spent anything on the packet.
	// It changes no verdict.
	XDP XDP
	// Logger gets what an operator may want to know; nil is silence.
	Logger *slog.Logger
}

// XDP says which programs at devices there may be. The zero value is XDPAuto.
type XDP uint8

// The choices.
const (
	XDPAuto    XDP = iota // in the driver, otherwise in front of the stack
	XDPGeneric            // in front of the stack only: drivers may reset a link when a program comes
	XDPOff                // none
)

// ErrUnavailable is what New returns where the kernel lacks what the package needs. The error is a *FeatureError, too.
var ErrUnavailable = errors.New("eBPF is not available")

// ErrNotApplied is what ApplyMembers returns if there is nothing whose members could change: before the first Apply, and
// if somebody else has put a generation in force since.
var ErrNotApplied = errors.New("no generation of this process is in force")

// FeatureError says what a kernel lacks.
type FeatureError struct {
	Feature string // "netfilter BPF links", "the kfunc bpf_dynptr_slice"
	Since   string // the release of Linux that has it, "" if it is a matter of configuration
	Release string // of the kernel that runs, "6.2.0-39-generic"; "" if it did not say
	Err     error  // what the kernel said
}

// Error implements error.
func (e *FeatureError) Error() string {
	who := "the kernel"
	if e.Release != "" {
		who = "Linux " + e.Release
	}
	s := "ebpf: " + who + " lacks " + e.Feature
	if e.Since != "" {
		s += ", which is in Linux since " + e.Since
	}
	if e.Err != nil {
		s = fmt.Sprintf("%s: %v", s, e.Err)
	}
	return s
}

// Unwrap returns ErrUnavailable and what the kernel said.
func (e *FeatureError) Unwrap() []error { return []error{ErrUnavailable, e.Err} }

// Error is an operation that failed.
type Error struct {
	Op     string // "apply", "observe", "counters", "teardown", "events"
	Object string // "map events", "link input_4"
	Err    error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("ebpf: %s: %s: %v", e.Op, e.Object, e.Err) }

// Unwrap returns what was wrong.
func (e *Error) Unwrap() error { return e.Err }
