// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/picture"
)

func graphCommand(out *output, stdin *os.File) *cobra.Command {
	in := &input{stdin: stdin}
	var endpoint, file, counters string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "graph -f FILE [--endpoint NAME]",
		Short: "Draw the policy of an endpoint as SVG",
		Long: `graph draws what packets of one host endpoint meet: stages, tiers, policies, rules and profiles, in order. Rules that
no packet can reach are grey, with the rules that take their packets. With --counters, a file that hep status -o json
wrote, each rule shows how many packets it decided.`,
		Example: `  hep graph -f policy/ --host host.yaml --endpoint web-1 -w web-1.svg`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, _, err := in.snapshot()
			if err != nil {
				return err
			}
			name, err := chooseEndpoint(s, endpoint)
			if err != nil {
				return err
			}
			var o picture.Options
			ctx, cancel := within(cmd.Context(), timeout)
			defer cancel()
			var partial string
			if o.Notes, partial, err = deadNotes(ctx, s); err != nil {
				return err
			}
			if partial != "" {
				fmt.Fprintln(out.err, "hep: not every dead rule is grey: "+partial+"; --timeout gives it more time")
			}
			if counters != "" {
				if o.Counters, err = readCounters(counters, stdin); err != nil {
					return err
				}
			}
			svg, err := picture.Endpoint(s, name, o)
			if err != nil {
				return err
			}
			return writeTo(out, file, svg)
		},
	}
	in.flags(cmd)
	cmd.Flags().StringVar(&endpoint, "endpoint", "", "name of the host endpoint; may be left out if the host has only one")
	cmd.Flags().StringVarP(&file, "write", "w", "", "write to this file instead of standard output")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to look for dead rules; 0 is as long as it takes")
	cmd.Flags().StringVar(&counters, "counters", "", "show the counters in this output of hep status -o json, - for standard input")
	return cmd
}

// chooseEndpoint returns the endpoint of a host that is meant.
func chooseEndpoint(s *policy.Snapshot, name string) (string, error) {
	var names []string
	for _, ep := range s.Endpoints {
		names = append(names, ep.Name)
	}
	if s.Wildcard != nil {
		names = append(names, s.Wildcard.Name)
	}
	switch {
	case len(names) == 0:
		return "", fmt.Errorf("no host endpoint governs an interface of node %s", s.Host.Node)
	case name != "":
		return name, nil
	case len(names) > 1:
		return "", fmt.Errorf("node %s has several endpoints: give --endpoint %s", s.Host.Node, strings.Join(names, " or "))
	}
	return names[0], nil
}

// readCounters reads what hep status -o json printed.
func readCounters(name string, stdin *os.File) (map[flow.Origin]uint64, error) {
	data, err := readFile(name, stdin)
	if err != nil {
		return nil, err
	}
	var r struct {
		Counters []struct {
			Origin  flow.Origin `json:"origin"`
			Packets uint64      `json:"packets"`
		} `json:"counters"`
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, invalid(fmt.Errorf("%s: not what hep status -o json writes: %w", name, err))
	}
	out := make(map[flow.Origin]uint64, len(r.Counters))
	for _, c := range r.Counters {
		out[c.Origin.ID()] += c.Packets
	}
	return out, nil
}

// writeTo writes text to a file, or to standard output if there is none.
func writeTo(out *output, file, text string) error {
	if file == "" {
		_, err := fmt.Fprint(out.out, text)
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

// deadNotes says which rules no packet of the host can reach, and what takes their packets; and why that is not known of
// all, if it is not.
func deadNotes(ctx context.Context, s *policy.Snapshot) (notes map[flow.Origin]picture.Note, partial string, err error) {
	prog, members, err := compile.Compile(s)
	if err != nil {
		return nil, "", err
	}
	r, err := analyze.Reach(ctx, analyze.Input{Program: prog, Members: members}, analyze.Options{})
	if err != nil {
		return nil, "", err
	}
	if r.Partial {
		partial = r.Reason
	}
	return picture.Notes(s, r), partial, nil
}
