// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/picture"
)

func diffCommand(out *output, stdin *os.File) *cobra.Command {
	in := &cluster{stdin: stdin}
	var (
		html    string
		long    bool
		timeout time.Duration
		o       analyze.Options
	)
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Say which packets fare differently, on which hosts, and by which rules",
		Long: `diff compares two sets of documents, each a file, a directory, - or a datastore (file:DIR,
etcd:URL or kube[:CONTEXT]), on all hosts. The answer is exact: every packet whose
verdict changes is in the answer, unless it says that it was stopped; then it has examples from where not all packets were
looked at. Hosts that change alike are compared once. A line stands for one change; -v shows all packets of it, what
decided before and after, and an example.

The exit code is 0 if nothing changes, 1 if something does, 2 if there is no answer.`,
		Example: `  hep diff main/policy policy --html diff.html
  hep diff kube policy`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := in.compare(cmd.Context(), args[0], args[1], timeout, o)
			if err != nil {
				return noAnswer(err)
			}
			r := describeDelta(d)
			if html != "" {
				if err := os.WriteFile(html, []byte(picture.Diff(d, picture.DiffOptions{Before: args[0], After: args[1]})), 0o644); err != nil {
					return err
				}
			}
			if out.format != "table" {
				if err := out.value(r); err != nil {
					return err
				}
			} else {
				printDelta(out, &r, long)
			}
			switch {
			case slices.ContainsFunc(r.Hosts, func(h deltaHost) bool { return len(h.Changes) > 0 }):
				return errMismatch
			case r.Partial != "":
				return errors.New("nobody knows whether anything changes: the comparison was stopped")
			}
			return nil
		},
	}
	in.hostFlags(cmd)
	cmd.Flags().BoolVar(&o.By, "by", false, "also say where another rule decides the same")
	cmd.Flags().BoolVarP(&long, "verbose", "v", false, "print all that is known of each change")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to compare before the answer is partial; 0 is as long as it takes")
	cmd.Flags().StringVar(&html, "html", "", "also write a page about it to this file; it needs no network")
	return cmd
}

// noAnswer makes an error one of exit code 2, whatever it was: 1 is taken by the answer that something changes.
func noAnswer(err error) error { return &exitError{exitFailed, err} }
