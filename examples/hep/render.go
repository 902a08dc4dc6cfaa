// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	backend "github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
	"github.com/hostpolicy/hostpolicy/render/ebpf"
	"github.com/hostpolicy/hostpolicy/render/iptables"
	"github.com/hostpolicy/hostpolicy/render/nftables"
)

// backendNames are the dataplanes of a kernel, as --backend and --runner name them.
var backendNames = []string{"nftables", "iptables-nft", "iptables-legacy", "ebpf"}

// renderFlags are the choices that shape an artifact.
type renderFlags struct {
	backend  string
	table    string
	events   string
	group    uint16
	counters bool
}

func (f *renderFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.backend, "backend", backendNames[0], "which dataplane: "+strings.Join(backendNames, ", "))
	cmd.Flags().StringVar(&f.table, "table", "", fmt.Sprintf("name of the nftables table (default %q, for ebpf %q) or prefix of the iptables chains and sets (default %q), so that several instances live side by side", nftables.DefaultTable, backend.DefaultTable, iptables.DefaultPrefix))
	cmd.Flags().StringVar(&f.events, "events", "none", "which decisions are reported, over NFLOG or the ring buffer of ebpf: none, denies or all")
	cmd.Flags().Uint16Var(&f.group, "log-group", 0, "NFLOG group of events and Log rules; ebpf needs none")
	cmd.Flags().BoolVar(&f.counters, "counters", true, "nftables: count packets and bytes for each deciding rule; the others always do")
}

func (f *renderFlags) unknown() error {
	return fmt.Errorf("--backend %q: want one of %s", f.backend, strings.Join(backendNames, ", "))
}

// selection returns the number of --events, which all renderers give the same meaning.
func (f *renderFlags) selection() (uint8, error) {
	i := slices.Index([]string{"none", "denies", "all"}, f.events)
	if i < 0 {
		return 0, fmt.Errorf("--events %q: want none, denies or all", f.events)
	}
	return uint8(i), nil
}

func (f *renderFlags) nftables(c policy.Config) (nftables.Options, error) {
	events, err := f.selection()
	o := nftables.Options{Table: f.table, LogGroup: f.group, Counters: f.counters, Events: nftables.Events(events)}
	if c.DenyAction == policy.Reject {
		o.DenyAction = render.Reject
	}
	return o, err
}

func (f *renderFlags) iptables(c policy.Config) (iptables.Options, error) {
	events, err := f.selection()
	o := iptables.Options{Prefix: f.table, LogGroup: f.group, Events: iptables.Events(events)}
	if c.DenyAction == policy.Reject {
		o.DenyAction = render.Reject
	}
	if c.AllowAction == policy.Return {
		o.AllowAction = iptables.AllowReturn
	}
	return o, err
}

func (f *renderFlags) ebpf(c policy.Config) (ebpf.Options, error) {
	events, err := f.selection()
	o := ebpf.Options{Events: ebpf.Events(events)}
	if c.DenyAction == policy.Reject {
		o.DenyAction = render.Reject
	}
	return o, err
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
			case "iptables-nft", "iptables-legacy":
				o, err := f.iptables(s.Config)
				if err != nil {
					return err
				}
				rs, err := iptables.Render(prog, members, o)
				if err != nil {
					return err
				}
				text = rs.String()
			case "ebpf":
				o, err := f.ebpf(s.Config)
				if err != nil {
					return err
				}
				a, err := ebpf.Render(prog, members, o)
				if err != nil {
					return err
				}
				text = a.String()
			default:
				return fmt.Errorf("%w, or ir for the rule IR", f.unknown())
			}
			if out.format != "table" {
				return out.value(map[string]any{"backend": f.backend, "text": text})
			}
			fmt.Fprint(out.out, text)
			return nil
		},
	}
	in.flags(cmd)
	f.flags(cmd)
	return cmd
}
