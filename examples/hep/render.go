// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
	"github.com/hostpolicy/hostpolicy/render/nftables"
)

// renderFlags are the choices that shape an artifact.
type renderFlags struct {
	backend  string
	table    string
	events   string
	group    uint16
	counters bool
}

func (f *renderFlags) flags(cmd *cobra.Command, backends string) {
	cmd.Flags().StringVar(&f.backend, "backend", "nftables", "which dataplane: "+backends)
	cmd.Flags().StringVar(&f.table, "table", "", "name of the table, so that several instances live side by side (default \""+nftables.DefaultTable+"\")")
	cmd.Flags().StringVar(&f.events, "events", "none", "which decisions are reported over NFLOG: none, denies or all")
	cmd.Flags().Uint16Var(&f.group, "log-group", 0, "NFLOG group of events and Log rules")
	cmd.Flags().BoolVar(&f.counters, "counters", true, "count packets and bytes for each deciding rule")
}

func (f *renderFlags) nftables(c policy.Config) (nftables.Options, error) {
	o := nftables.Options{Table: f.table, LogGroup: f.group, Counters: f.counters}
	if c.DenyAction == policy.Reject {
		o.DenyAction = render.Reject
	}
	switch f.events {
	case "none":
	case "denies":
		o.Events = nftables.Denies
	case "all":
		o.Events = nftables.AllEvents
	default:
		return o, fmt.Errorf("--events %q: want none, denies or all", f.events)
	}
	return o, nil
}

// compiled reads everything and compiles it; problems of severity error are reported on the way.
func compiled(out *output, in *input) (*policy.Snapshot, *ir.Program, ir.Members, error) {
	s, _, err := in.snapshot()
	if err != nil {
		return nil, nil, ir.Members{}, err
	}
	for _, p := range s.Problems {
		if p.Severity == policy.Error {
			fmt.Fprintln(out.err, out.paint(yellow, "hep: ")+p.String())
		}
	}
	prog, members, err := compile.Compile(s)
	return s, prog, members, err
}

func renderCommand(out *output, stdin *os.File) *cobra.Command {
	in := &input{stdin: stdin}
	var f renderFlags
	cmd := &cobra.Command{
		Use:   "render -f FILE",
		Short: "Print what a backend would load",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			s, prog, members, err := compiled(out, in)
			if err != nil {
				return err
			}
			text := ""
			switch f.backend {
			case "ir":
				text = prog.String() + members.String()
			case "nftables":
				o, err := f.nftables(s.Config)
				if err != nil {
					return err
				}
				rs, err := nftables.Render(prog, members, o)
				if err != nil {
					return err
				}
				text = rs.String()
			default:
				return fmt.Errorf("--backend %q: want nftables or ir", f.backend)
			}
			if out.format != "table" {
				return out.value(map[string]any{"backend": f.backend, "text": text})
			}
			fmt.Fprint(out.out, text)
			return nil
		},
	}
	in.flags(cmd)
	f.flags(cmd, "nftables, or ir for the rule IR")
	return cmd
}
