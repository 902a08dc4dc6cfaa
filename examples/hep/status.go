// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/hostendpoint/field"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
)

// statusResult is what `hep status` says, for machines.
type statusResult struct {
	Node       string            `json:"node"`
	Agent      *agentStatus      `json:"agent,omitempty"` // nil if none runs
	State      backends.State    `json:"state"`
	Endpoints  []endpointStatus  `json:"endpoints"`
	Interfaces []interfaceStatus `json:"interfaces"`
	Problems   []policy.Problem  `json:"problems"`
	Counters   []counterStatus   `json:"counters"` // busiest first
}

// endpointStatus is a host endpoint that is in force here.
type endpointStatus struct {
	Name       string    `json:"name"`
	Interfaces []string  `json:"interfaces"` // empty for the one of all others
	Wildcard   bool      `json:"wildcard,omitempty"`
	Profiles   []string  `json:"profiles,omitempty"`
	Policies   []string  `json:"policies,omitempty"` // TIER/NAME, in order, of all stages
	Pos        field.Pos `json:"pos,omitzero"`
}

// interfaceStatus is an interface and what governs it.
type interfaceStatus struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses,omitempty"`
	Endpoint  string   `json:"endpoint,omitempty"` // "" if none does
	Workload  bool     `json:"workload,omitempty"` // it belongs to a workload, which no endpoint of its own governs
}

type counterStatus struct {
	backends.Counter
	Pos field.Pos `json:"pos,omitzero"`
}

func statusCommand(out *output, stdin *os.File) *cobra.Command {
	in := &input{stdin: stdin}
	var t target
	var idle bool
	cmd := &cobra.Command{
		Use:   "status [-f FILE]",
		Short: "Show what a running agent enforces, compare the kernel with documents, and show what was counted",
		Long: `status reads back what the kernel enforces and lists every difference from what the documents come to; it shows the
endpoints and interfaces of this host, the problems of the documents, and the packets and bytes counted for each rule,
busiest first. Exit code 1 means that there is a difference.

If an agent runs here (hep run, of the same backend, table, namespace and --state), it says which generation is enforced,
what keeps a newer one from it, and what it has mended; without -f all of it is what the agent says.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			runs, err := t.askAgent(cmd.Context())
			if err != nil {
				return err
			}
			if len(in.files) == 0 && runs != nil {
				r, err := t.agentResult(cmd.Context(), runs)
				if err != nil {
					return err
				}
				return printStatus(out, r, idle)
			}
			s, _, err := in.snapshot()
			if err != nil {
				return err
			}
			prog, members, err := compile.Compile(s)
			if err != nil {
				return err
			}
			ctx, b, done, err := t.open(cmd.Context(), s.Config)
			if err != nil {
				return err
			}
			defer done()
			r := hostStatus(s)
			r.Agent = runs
			if r.State, err = b.Adopt(ctx, prog, members); err != nil {
				return err
			}
			cs, err := b.Counters(ctx)
			if err != nil {
				return err
			}
			slices.SortStableFunc(cs, func(a, b backends.Counter) int { return cmp.Compare(b.Packets, a.Packets) })
			for _, c := range cs {
				r.Counters = append(r.Counters, counterStatus{c, c.Origin.Pos})
			}
			return printStatus(out, r, idle)
		},
	}
	in.flags(cmd)
	t.flags(cmd)
	cmd.Flags().BoolVar(&idle, "idle", true, "show also rules that counted nothing")
	return cmd
}

// hostStatus says what the snapshot makes of this host.
func hostStatus(s *policy.Snapshot) statusResult {
	r := statusResult{Node: s.Host.Node, Endpoints: []endpointStatus{}, Interfaces: []interfaceStatus{}, Problems: s.Problems, Counters: []counterStatus{}}
	if r.Problems == nil {
		r.Problems = []policy.Problem{}
	}
	governs := map[string]string{}
	all := s.Endpoints
	if s.Wildcard != nil {
		all = append(slices.Clone(all), s.Wildcard)
	}
	for _, e := range all {
		x := endpointStatus{Name: e.Name, Interfaces: e.Interfaces, Wildcard: e == s.Wildcard, Pos: e.Pos}
		if x.Interfaces == nil {
			x.Interfaces = []string{}
		}
		for _, n := range e.Interfaces {
			governs[n] = e.Name
		}
		for _, p := range e.Profiles {
			x.Profiles = append(x.Profiles, p.Name)
		}
		seen := map[string]bool{}
		for _, stage := range [][]policy.TierPolicies{e.Untracked, e.PreDNAT, e.Normal, e.Forward} {
			for _, t := range stage {
				for _, p := range slices.Concat(t.Ingress, t.Egress) {
					if n := p.Tier + "/" + p.Name; !seen[n] {
						seen[n] = true
						x.Policies = append(x.Policies, n)
					}
				}
			}
		}
		r.Endpoints = append(r.Endpoints, x)
	}
	for _, i := range s.Host.Interfaces {
		x := interfaceStatus{Name: i.Name, Endpoint: governs[i.Name]}
		x.Workload = slices.ContainsFunc(s.Config.WorkloadInterfacePrefixes, func(p string) bool { return strings.HasPrefix(i.Name, p) })
		if x.Endpoint == "" && s.Wildcard != nil && !(i.Name == "lo" && s.Config.ExemptLoopback) {
			x.Endpoint = s.Wildcard.Name
		}
		for _, a := range i.Addresses {
			x.Addresses = append(x.Addresses, a.String())
		}
		r.Interfaces = append(r.Interfaces, x)
	}
	return r
}

func printStatus(out *output, r statusResult, idle bool) error {
	var result error
	if !r.State.Present || len(r.State.Drift) > 0 {
		result = errMismatch
	}
	if out.format != "table" {
		if err := out.value(r); err != nil {
			return err
		}
		return result
	}
	section := func(header []string, rows [][]cell) {
		if len(rows) > 0 {
			fmt.Fprintln(out.out)
			out.table(header, rows)
		}
	}
	printAgent(out, r.Agent)
	switch {
	case r.Agent != nil && len(r.Endpoints) == 0 && r.State.Present && len(r.State.Drift) == 0:
		fmt.Fprintln(out.out, "fingerprint", out.paint(dim, short(r.State.Fingerprint)))
	case !r.State.Present:
		fmt.Fprintln(out.out, out.paint(red, "nothing of ours is in the kernel: this host is unprotected; run hep apply"))
	case len(r.State.Drift) > 0:
		fmt.Fprintln(out.out, out.paint(red, "the kernel differs from the documents; hep apply mends it"))
		var rows [][]cell
		for _, d := range r.State.Drift {
			rows = append(rows, []cell{{string(d.Kind), yellow}, {d.Object, plain}, {d.Origin, cyan}, {d.Want, green}, {d.Got, red}})
		}
		section([]string{"DRIFT", "OBJECT", "ORIGIN", "WANT", "GOT"}, rows)
	default:
		line := out.paint(green, "the kernel enforces exactly these documents") + " " + out.paint(dim, short(r.State.Fingerprint))
		if r.State.Generation > 0 {
			line += out.paint(dim, fmt.Sprintf(", generation %d", r.State.Generation))
		}
		fmt.Fprintln(out.out, line)
	}

	var rows [][]cell
	for _, e := range r.Endpoints {
		ifaces := strings.Join(e.Interfaces, " ")
		if e.Wildcard {
			ifaces = "*"
		}
		rows = append(rows, []cell{{e.Name, bold}, {ifaces, plain}, {strings.Join(e.Policies, " "), cyan}, {strings.Join(e.Profiles, " "), plain}, {e.Pos.String(), dim}})
	}
	section([]string{"ENDPOINT", "INTERFACES", "POLICIES", "PROFILES", "SOURCE"}, rows)

	rows = nil
	for _, i := range r.Interfaces {
		by := cell{i.Endpoint, bold}
		switch {
		case len(r.Endpoints) == 0 && r.Agent != nil: // who governs it is not known here
		case i.Workload:
			by = cell{"(workload)", dim}
		case i.Endpoint == "":
			by = cell{"none: unprotected", yellow}
		}
		rows = append(rows, []cell{{i.Name, plain}, by, {strings.Join(i.Addresses, " "), dim}})
	}
	section([]string{"INTERFACE", "ENDPOINT", "ADDRESSES"}, rows)

	rows = nil
	for _, p := range r.Problems {
		st := map[policy.Severity]style{policy.Error: red, policy.Warning: yellow}[p.Severity]
		rows = append(rows, []cell{{p.Severity.String(), st}, {p.Object, plain}, {p.Path, plain}, {p.Message, plain}, {p.Pos.String(), dim}})
	}
	section([]string{"PROBLEM", "OBJECT", "FIELD", "MESSAGE", "SOURCE"}, rows)

	rows = nil
	for _, c := range r.Counters {
		st := dim
		if c.Packets > 0 {
			st = plain
		} else if !idle {
			continue
		}
		rows = append(rows, []cell{{strconv.FormatUint(c.Packets, 10), st}, {strconv.FormatUint(c.Bytes, 10), st}, {c.Origin.String(), cyan}, {c.Pos.String(), dim}})
	}
	section([]string{"PACKETS", "BYTES", "ORIGIN", "SOURCE"}, rows)
	return result
}
