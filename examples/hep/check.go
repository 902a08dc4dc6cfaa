// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/policy"
)

// checkResult is what `hep check` says, for machines.
type checkResult struct {
	OK        bool             `json:"ok"`
	Node      string           `json:"node"`
	Endpoints []checkEndpoint  `json:"endpoints"`
	Problems  []policy.Problem `json:"problems"`
}

type checkEndpoint struct {
	Name       string   `json:"name"`
	Interfaces []string `json:"interfaces"`
	Untracked  int      `json:"untracked"` // policies in each stage
	PreDNAT    int      `json:"preDNAT"`
	Normal     int      `json:"normal"`
	Forward    int      `json:"forward"`
	Profiles   []string `json:"profiles"`
	Pos        string   `json:"pos,omitempty"`
}

func checkCommand(out *output, stdin *os.File) *cobra.Command {
	in := &input{stdin: stdin}
	var failOn string
	cmd := &cobra.Command{
		Use:   "check -f FILE",
		Short: "Validate documents and show what they come to on a host",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			limit := slices.Index([]string{"error", "warning", "info"}, failOn)
			if limit < 0 {
				return fmt.Errorf("--fail-on %q: want error, warning or info", failOn)
			}
			s, _, err := in.snapshot()
			if err != nil {
				return err
			}
			r := checkResult{Node: s.Host.Node, Problems: s.Problems, Endpoints: []checkEndpoint{}}
			r.OK = !slices.ContainsFunc(s.Problems, func(p policy.Problem) bool { return int(p.Severity) <= limit })
			eps := s.Endpoints
			if s.Wildcard != nil {
				eps = append(slices.Clone(eps), s.Wildcard)
			}
			for _, ep := range eps {
				r.Endpoints = append(r.Endpoints, describeEndpoint(ep))
			}
			if out.format != "table" {
				if err := out.value(r); err != nil {
					return err
				}
			} else {
				printCheck(out, r)
			}
			if !r.OK {
				return errMismatch
			}
			return nil
		},
	}
	in.flags(cmd)
	cmd.Flags().StringVar(&failOn, "fail-on", "error", "the mildest severity that makes the exit code 1: error, warning or info")
	return cmd
}

func describeEndpoint(ep *policy.Endpoint) checkEndpoint {
	e := checkEndpoint{
		Name: ep.Name, Interfaces: ep.Interfaces, Profiles: []string{}, Pos: ep.Pos.String(),
		Untracked: countPolicies(ep.Untracked), PreDNAT: countPolicies(ep.PreDNAT), Normal: countPolicies(ep.Normal), Forward: countPolicies(ep.Forward),
	}
	if e.Interfaces == nil {
		e.Interfaces = []string{"*"}
	}
	for _, p := range ep.Profiles {
		e.Profiles = append(e.Profiles, p.Name)
	}
	return e
}

func countPolicies(tiers []policy.TierPolicies) int {
	seen := map[*policy.Policy]bool{}
	for _, t := range tiers {
		for _, p := range t.Ingress {
			seen[p] = true
		}
		for _, p := range t.Egress {
			seen[p] = true
		}
	}
	return len(seen)
}

func printCheck(out *output, r checkResult) {
	if len(r.Endpoints) == 0 {
		fmt.Fprintf(out.out, "no host endpoint governs an interface of node %s\n", r.Node)
	} else {
		var rows [][]cell
		for _, e := range r.Endpoints {
			n := func(i int) cell {
				if i == 0 {
					return cell{"-", dim}
				}
				return cell{fmt.Sprint(i), plain}
			}
			rows = append(rows, []cell{{e.Name, cyan}, {strings.Join(e.Interfaces, ","), plain}, n(e.Untracked), n(e.PreDNAT), n(e.Normal), n(e.Forward), {strings.Join(e.Profiles, ","), plain}, {e.Pos, dim}})
		}
		out.table([]string{"ENDPOINT", "INTERFACES", "UNTRACKED", "PREDNAT", "NORMAL", "FORWARD", "PROFILES", "SOURCE"}, rows)
	}
	printProblems(out, r.Problems)
}

func printProblems(out *output, problems []policy.Problem) {
	if len(problems) == 0 {
		fmt.Fprintln(out.out, "\n"+out.paint(green, "no problems"))
		return
	}
	fmt.Fprintln(out.out)
	var rows [][]cell
	for _, p := range problems {
		st := dim
		switch p.Severity {
		case policy.Error:
			st = red
		case policy.Warning:
			st = yellow
		}
		rows = append(rows, []cell{{p.Severity.String(), st}, {p.Object, cyan}, {p.Pos.String(), dim}, {p.Path, plain}, {p.Message, plain}})
	}
	out.table([]string{"SEVERITY", "OBJECT", "SOURCE", "PATH", "PROBLEM"}, rows)
}
