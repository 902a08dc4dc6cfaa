// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/autohep"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

func autohepCommand(out *output) *cobra.Command {
	var s session
	var nodes datastore
	var once, disable bool
	cmd := &cobra.Command{
		Use: "autohep --datastore DATASTORE", Short: "Keep a host endpoint for every node",
		Long: `autohep makes a host endpoint for every node of the datastore, follows the nodes, and puts right what others change of its
own endpoints. Those of users are left alone, whatever their names.
` + datastoreHelp,
		Args: cobra.NoArgs, Annotations: names,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if s.dryRun && !once {
				return errors.New("--dry-run needs --once")
			}
			return s.in(cmd.Context(), func(ctx context.Context, st store.Store) error {
				o := autohep.Options{Disabled: disable}
				if nodes.at != "" {
					driver, done, err := nodes.open(ctx)
					if err != nil {
						return err
					}
					defer done()
					o.Nodes = store.New(driver, store.Options{})
				}
				return s.keep(ctx, out, st, o, once)
			})
		},
	}
	s.flags(cmd, 0)
	s.dryRunFlag(cmd)
	nodes.flags(cmd, "nodes", "where the nodes are, if elsewhere")
	cmd.Flags().BoolVar(&once, "once", false, "stop when all is as it should be")
	cmd.Flags().BoolVar(&disable, "disable", false, "delete the endpoints that were made for nodes")
	return cmd
}

// keep runs the controller until ctx ends, or once.
func (s *session) keep(ctx context.Context, out *output, st store.Store, o autohep.Options, once bool) error {
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	passed, said := false, ""
	var problems error
	o.Done = func(r autohep.Report) {
		for _, part := range []struct {
			action string
			names  []string
		}{{"created", r.Created}, {"configured", r.Updated}, {"deleted", r.Deleted}} {
			for _, name := range part.names {
				id := hostendpoint.ID{Kind: hostendpoint.KindHostEndpoint, Name: name}
				if out.format == "json" || out.format == "yaml" {
					_ = out.value(result{id.Kind, "", name, part.action, s.dryRun})
					continue
				}
				_ = s.done(out, id, nil, part.action)
			}
		}
		problems = errors.Join(r.Problems...)
		if passed = true; once {
			cancel()
			return
		}
		if text := fmt.Sprint(problems); problems != nil && text != said {
			said = text
			fmt.Fprintln(out.err, out.paint(red, "problem"), text)
		}
	}
	err := autohep.Run(run, st, o)
	switch {
	case once && passed && problems == nil:
		return nil
	case once && passed && !hopeless(problems):
		return invalid(problems)
	case once && passed:
		return problems
	case !once && errors.Is(err, context.Canceled), !once && errors.Is(err, context.DeadlineExceeded):
		return nil
	}
	return err
}
