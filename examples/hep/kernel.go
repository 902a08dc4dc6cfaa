// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/confirm"
	"github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/backends/iptables"
	"github.com/hostpolicy/hostpolicy/backends/lab"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

// kernelRunner is a dataplane that the lab can judge.
type kernelRunner struct {
	name string
	open lab.Opener
}

// labGroup is the NFLOG group of dataplanes in the lab, whose namespaces nobody else listens in.
const labGroup = 7

func kernelRunners() []kernelRunner {
	var rs []kernelRunner
	for _, name := range backendNames {
		rs = append(rs, kernelRunner{name, func(_ context.Context, ns lab.Netns) (lab.Dataplane, error) {
			f := renderFlags{backend: name, events: "all", group: labGroup}
			b, err := f.connect(policy.Config{}, ns.FD())
			if err != nil {
				return nil, err
			}
			if b, ok := b.(*ebpf.Backend); ok {
				return lab.WithEvents(b, lab.RingBuffer(ns, b, labGroup)), nil
			}
			return lab.WithEvents(b, lab.NFLOG(ns, labGroup)), nil
		}})
	}
	return rs
}

// dataplane is a backend that can also be compared with what an earlier process applied.
type dataplane interface {
	backends.Backend
	Adopt(context.Context, *ir.Program, ir.Members) (backends.State, error)
}

// connect opens the backend in a network namespace; 0 is the current one.
func (f *renderFlags) connect(c policy.Config, netns int) (dataplane, error) {
	switch f.backend {
	case "nftables":
		o, err := f.nftables(c)
		if err != nil {
			return nil, err
		}
		return nftables.New(nftables.Options{Render: o, NetNS: netns})
	case "iptables-nft", "iptables-legacy":
		o, err := f.iptables(c)
		if err != nil {
			return nil, err
		}
		v := iptables.NFT
		if f.backend == "iptables-legacy" {
			v = iptables.Legacy
		}
		return iptables.New(iptables.Options{Render: o, NetNS: netns, Variant: v})
	case "ebpf":
		o, err := f.ebpf(c)
		if err != nil {
			return nil, err
		}
		return ebpf.New(ebpf.Options{Render: o, NetNS: netns, Table: f.table})
	}
	return nil, f.unknown()
}

// target is the kernel that apply, status and teardown talk to.
type target struct {
	renderFlags
	netns   string
	state   string
	timeout time.Duration
	fd      int // of the network namespace once it is open; 0 is this one
}

func (t *target) flags(cmd *cobra.Command) {
	t.renderFlags.flags(cmd)
	t.confirmFlags(cmd)
	t.placeFlags(cmd)
}

func (t *target) placeFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.netns, "netns", "", "network namespace: a path, or a name of `ip netns`; default: this one")
	cmd.Flags().DurationVar(&t.timeout, "timeout", time.Minute, "how long to wait for the kernel, or the datastore")
}

// netnsPath returns the path of the namespace; "" is that of the thread.
func (t *target) netnsPath() string {
	if _, err := os.Stat(t.netns); t.netns != "" && err != nil {
		return "/run/netns/" + t.netns
	}
	return t.netns
}

// enter opens the network namespace and bounds the time. The function releases what it took.
func (t *target) enter(ctx context.Context) (context.Context, func(), error) {
	release := func() {}
	if t.netns != "" {
		f, err := os.Open(t.netnsPath())
		if err != nil {
			return nil, nil, fmt.Errorf("--netns %s: %w", t.netns, err)
		}
		t.fd, release = int(f.Fd()), func() { _ = f.Close() }
	}
	if t.timeout <= 0 {
		return ctx, release, nil
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	return ctx, func() { cancel(); release() }, nil
}

// open connects to the kernel. The function releases what it took.
func (t *target) open(ctx context.Context, c policy.Config) (context.Context, dataplane, func(), error) {
	ctx, release, err := t.enter(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	b, err := t.connect(c, t.fd)
	if err != nil {
		release()
		if errors.Is(err, nftables.ErrUnavailable) || errors.Is(err, iptables.ErrUnavailable) || errors.Is(err, ebpf.ErrUnavailable) {
			err = fmt.Errorf("%w (this needs Linux and root)", err)
		}
		return nil, nil, nil, err
	}
	return ctx, b, func() {
		if x, ok := b.(io.Closer); ok {
			_ = x.Close()
		}
		release()
	}, nil
}

func applyCommand(out *output, stdin *os.File) *cobra.Command {
	in := &input{stdin: stdin}
	var t target
	var g gateFlags
	var within time.Duration
	w := &writer{documents: documents{stdin: stdin}}
	cmd := &cobra.Command{
		Use:   "apply -f FILE [--datastore DATASTORE]",
		Short: "Enforce documents in the kernel, all or nothing; with --datastore, write them to a datastore instead",
		Long: `apply enforces documents in the kernel of this host, in one step. Before that it looks at the flows that are under way:
if one that keeps this host in reach (ssh, name servers, datastore, API server; hep lockout shows them) would be cut, or
could not be made again, nothing is changed, the flow and the rule are named, and the exit code is 1. --force applies all
the same.

With --datastore the kernel is left alone: resources are created in the datastore, or made what the documents say if they
exist.
` + datastoreHelp,
		Args:        cobra.NoArgs,
		Annotations: names,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if w.wanted(cmd) {
				if err := w.alone(cmd); err != nil {
					return err
				}
				w.files, w.timeout = in.files, t.timeout
				return w.run(cmd.Context(), out, apply)
			}
			if out.format == "name" {
				return errors.New("-o name is for --datastore")
			}
			s, prog, members, err := compiled(out, in)
			if err != nil {
				return err
			}
			ctx, b, done, err := t.open(cmd.Context(), s.Config)
			if err != nil {
				return err
			}
			defer done()
			gate, err := g.open(t.fd, out)
			if err != nil {
				return err
			}
			if err := gate.Before(ctx, prog, members); err != nil {
				return lockedOut(err)
			}
			r, err := t.apply(ctx, b, s.Config, prog, members, within)
			if err != nil {
				return err
			}
			cut, err := gate.After(ctx, prog, members)
			if err != nil {
				return fmt.Errorf("the documents are enforced, but flows could not be cut: %w", err)
			}
			if out.format != "table" {
				return out.value(struct {
					backends.Receipt
					Cut int `json:"cut"`
				}{r, cut})
			}
			out.table([]string{"BACKEND", "FINGERPRINT", "CHANGES", "RENDERED", "COMMITTED", "CUT"}, [][]cell{{
				{t.backend, cyan}, {short(r.Fingerprint), plain}, {strconv.Itoa(r.Changes), plain}, {r.Rendered.Round(time.Microsecond).String(), plain}, {r.Committed.Round(time.Microsecond).String(), plain}, {strconv.Itoa(cut), plain},
			}})
			if within > 0 {
				fmt.Fprintln(out.out, out.paint(yellow, "reverts in "+within.String()+" unless you run hep confirm"))
			}
			return nil
		},
	}
	in.flags(cmd)
	t.flags(cmd)
	g.flags(cmd)
	w.applyFlags(cmd)
	cmd.Flags().DurationVar(&within, "confirm", 0, "revert to what was confirmed last unless hep confirm is called within this time, also if hep or this session ends")
	return cmd
}

func short(fingerprint string) string { return fingerprint[:min(12, len(fingerprint))] }

func teardownCommand(out *output, stdin *os.File) *cobra.Command {
	in := &input{stdin: stdin} // taken like everywhere, so that a script can pass the same flags; nothing of it is read
	var t target
	cmd := &cobra.Command{
		Use:   "teardown",
		Short: "Remove everything that apply made; the host is then unprotected",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, b, done, err := t.open(cmd.Context(), policy.Config{})
			if err != nil {
				return err
			}
			defer done()
			if dir, err := t.stateDir(); err == nil {
				if err := confirm.Forget(ctx, dir); err != nil && !errors.Is(err, os.ErrPermission) {
					return err
				}
			}
			if err := b.Teardown(ctx); err != nil {
				return err
			}
			if out.format == "table" {
				fmt.Fprintln(out.out, "nothing of ours is left; this host is unprotected")
			}
			return nil
		},
	}
	in.flags(cmd)
	t.flags(cmd)
	return cmd
}
