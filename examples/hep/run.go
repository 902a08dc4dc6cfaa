// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/backends/agent"
	"github.com/hostpolicy/hostpolicy/backends/netif"
	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/examples/serve"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

func runCommand(out *output, stdin *os.File) *cobra.Command {
	in := &input{stdin: stdin}
	var ds datastore
	var t target
	o := agent.Options{}
	var g gateFlags
	var within time.Duration
	var listen string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "run {-f DIR | --datastore DATASTORE}",
		Short: "Enforce a datastore for as long as it runs, as its objects and the host change",
		Long: `run follows a datastore, or a directory of documents, and the interfaces of this host, and has the kernel enforce what
they say at every moment. It mends what others do to its rules, keeps the last good version of a document that is broken, and takes
over what an earlier hep left. Each generation that the kernel takes is a line.

A change that would cut a guarded flow (see hep lockout) is not applied: the line says which one and by which rule, and
the last generation stays until the documents or the flow go away.
` + datastoreHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			switch {
			case len(in.files) == 1 && ds.at == "":
				ds.at = "file:" + in.files[0]
			case len(in.files) != 0 || ds.at == "":
				return errors.New("give one datastore, --datastore file:DIR, etcd:URL[,URL] or kube[:CONTEXT], or one directory, -f DIR")
			}
			level := slog.LevelWarn
			if verbose {
				level = slog.LevelDebug
			}
			o.Logger = slog.New(slog.NewTextHandler(out.err, &slog.HandlerOptions{Level: level}))
			ds.log = o.Logger
			d, closeStore, err := ds.open(context.WithoutCancel(ctx)) // the agent ends first
			if err != nil {
				return answer(err)
			}
			defer closeStore()
			o.Store = store.New(d, store.Options{Log: o.Logger})
			var described *hostendpoint.Host
			if in.host != "" {
				h, err := in.loadHost()
				if err != nil {
					return err
				}
				if o.Config, err = policytest.ConfigOf(h); err != nil {
					return invalid(err)
				}
				described = &h.Host
			}
			t.timeout = 0 // it runs for as long as it runs
			_, b, done, err := t.open(context.WithoutCancel(ctx), o.Config)
			if err != nil {
				return err
			}
			defer done()
			if described != nil {
				o.Host = agent.FixedHost(*described)
			} else if o.Host, err = netif.New(netif.Options{Node: in.node, NetNS: t.fd, Logger: o.Logger}); err != nil {
				return err
			}
			o.Backend = b
			if o.Guard, err = t.guard(ctx, b, o.Config); err != nil {
				return err
			}
			if o.StateDir, err = t.stateDir(); err != nil {
				return err
			}
			if within > 0 {
				o.Confirm = agent.OfResources(within)
			}
			if o.Gate, err = g.open(t.fd, out); err != nil {
				return err
			}
			a, err := agent.New(o)
			if err != nil {
				return err
			}
			socket, err := t.agentAddress()
			if err != nil {
				return err
			}
			var beside sync.WaitGroup
			beside.Go(func() { tell(ctx, out, a) })
			beside.Go(serve.Start(ctx, serve.Options{Agent: a, Backend: b, Logger: o.Logger}, socket, listen))
			err = a.Run(ctx)
			beside.Wait()
			return err
		},
	}
	in.flags(cmd)
	ds.flags(cmd, "datastore", "what to enforce")
	ds.nativeFlag(cmd)
	t.flags(cmd)
	g.flags(cmd)
	cmd.Flags().StringVar(&listen, "listen", "", "serve status, health, counters and metrics over HTTP at this address, such as 127.0.0.1:9091")
	cmd.Flags().DurationVar(&within, "confirm", 0, "revert changes of rules unless hep confirm is called within this time")
	cmd.Flags().TextVar(&o.OnStop, "on-stop", agent.Leave, "what to leave in the kernel: leave, failsafes-only or open")
	cmd.Flags().TextVar(&o.Unsynced, "unsynced", agent.Leave, "what to enforce before the documents were read: leave, failsafes-only or open")
	cmd.Flags().StringVar(&o.BootFile, "boot-file", "", "where to write an executable file that early boot can load the rules with")
	cmd.Flags().DurationVar(&o.DriftEvery, "drift-every", 0, "how often to compare the kernel with what was applied (default 1m)")
	cmd.Flags().BoolVar(&o.AlertOnly, "alert-only", false, "report what others do to the rules, and do not mend it")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "say more on standard error")
	return cmd
}

// tell prints a line for each generation, and what keeps the newest from being enforced.
func tell(ctx context.Context, out *output, a *agent.Agent) {
	var last uint64
	said, waiting := "", ""
	for {
		changed := a.Changed()
		s := a.Status()
		if s.Enforced != last {
			last = s.Enforced
			printReceipt(out, &s)
		}
		reason := ""
		if s.Err != nil {
			reason = string(s.Phase) + ": " + s.Err.Error()
		}
		if reason != said && reason != "" {
			fmt.Fprintln(out.err, out.paint(red, reason))
		}
		said = reason
		if p := s.Pending; p != nil && p.ID != waiting && out.format == "table" {
			waiting = p.ID
			fmt.Fprintln(out.out, out.paint(yellow, "reverts at "+p.Deadline().Format(time.TimeOnly)+" unless you run hep confirm"))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// maxNamed is how many objects a line names.
const maxNamed = 3

func printReceipt(out *output, s *agent.Status) {
	r := &s.Receipt
	if out.format != "table" {
		_ = out.value(r)
		return
	}
	var names []string
	for i, v := range r.Objects {
		if i == maxNamed {
			names = append(names, fmt.Sprintf("and %d more", len(r.Objects)-i))
			break
		}
		names = append(names, v.ID.String())
	}
	what := strings.Join(names, ", ")
	switch {
	case r.Posture != agent.Leave:
		what = r.Posture.String()
	case r.Repair:
		what = "repaired"
	case what == "":
		what = "the host changed"
	}
	problems := ""
	if n := len(s.Problems) + len(s.Held) + len(s.Store.Problems); n > 0 {
		problems = out.paint(yellow, "  "+strconv.Itoa(n)+" problems")
	}
	fmt.Fprintf(out.out, "%s  %s  %4d  %-12s  %5d changes  %8s  %s%s\n", r.Enforced.Format(time.TimeOnly), out.paint(green, "enforced"), r.Generation,
		short(r.Kernel.Fingerprint), r.Kernel.Changes, r.Latency().Round(100*time.Microsecond), what, problems)
}
