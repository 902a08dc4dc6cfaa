// SPDX-License-Identifier: Apache-2.0

package main

import (
	_ "embed"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/backends/lab"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/eval"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
	"github.com/hostpolicy/hostpolicy/render/nftables"
)

//go:embed demo.txtar
var demoCase []byte

// demoPacket is one line of the demo, for machines.
type demoPacket struct {
	Packet   string `json:"packet"`
	Expected string `json:"expected"`
	Kernel   string `json:"kernel,omitempty"`
	By       string `json:"by"`
	Pos      string `json:"pos,omitempty"`
	OK       bool   `json:"ok"`
}

func demoCommand(out *output) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show all of it, with real packets, in network namespaces of its own",
		Long: `demo takes a realistic policy set (a named endpoint, the all-interfaces endpoint, three tiers, named ports, a profile,
a port published by NAT), enforces it in a network namespace of its own, sends real packets from another one, and
compares what the kernel did with what the evaluator says. Nothing is left behind, and nothing outside these namespaces
is touched. Without root it evaluates and renders, and says what it left out.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := policytest.Parse("demo.txtar", demoCase)
			if err != nil {
				return err
			}
			s, err := policy.Resolve(c.Resources, c.Host, c.Config)
			if err != nil {
				return err
			}
			prog, members, err := compile.Compile(s)
			if err != nil {
				return err
			}
			ruleset, err := nftables.Render(prog, members, nftables.Options{})
			if err != nil {
				return err
			}
			say := func(format string, args ...any) {
				if out.format == "table" {
					fmt.Fprintf(out.out, format+"\n", args...)
				}
			}
			say("%s %d resources on node %s: %d endpoints, %d blocks, %d sets; %d bytes of nftables",
				out.paint(bold, "policy "), c.Resources.Len(), c.Host.Node, len(s.Endpoints)+1, len(prog.Blocks), len(prog.Sets), len(ruleset.String()))

			var kernel []policytest.Result
			unavailable := lab.Available()
			if unavailable == nil {
				say("%s enforcing through netlink in a namespace of its own, and sending %d real packets", out.paint(bold, "kernel "), len(c.Packets))
				if kernel, err = lab.Run(cmd.Context(), c, kernelRunners()[0].open, lab.Options{}); err != nil {
					return err
				}
			}
			say("")

			e := eval.New(s)
			var rows [][]cell
			bad := 0
			for i := range c.Packets {
				p := &c.Packets[i]
				d := e.Explain(&p.Packet)
				x := demoPacket{Packet: policytest.FormatPacket(&p.Packet), Expected: d.Verdict.String(), By: d.By.String(), Pos: d.By.Pos.String(), OK: true}
				seen := cell{"-", dim}
				if kernel != nil {
					k := kernel[i]
					x.Kernel = k.Verdict.String()
					x.OK = k.Problem == "" && k.Verdict == d.Verdict && k.By.ID() == d.By.ID()
					x.By = k.By.String()
					seen = verdictCell(x.Kernel)
				}
				mark := cell{"ok", green}
				if !x.OK {
					bad++
					mark = cell{"DIFFERS", red}
				}
				if out.format != "table" {
					if err := out.value(x); err != nil {
						return err
					}
					continue
				}
				rows = append(rows, []cell{{x.Packet, plain}, verdictCell(x.Expected), seen, mark, {x.By, cyan}, {x.Pos, dim}})
			}
			if out.format == "table" {
				out.table([]string{"PACKET", "EXPECTED", "KERNEL", "", "RULE", "SOURCE"}, rows)
			}
			say("")
			switch {
			case bad > 0:
				fmt.Fprintln(out.err, out.paint(red, fmt.Sprintf("%d of %d packets: the kernel differs", bad, len(c.Packets))))
				return errMismatch
			case kernel == nil:
				say("%s no kernel was asked (%v): the verdicts are the evaluator's, and the ruleset was rendered but not loaded.", out.paint(yellow, "left out"), unavailable)
				say("Run it as root on Linux to see the same verdicts from the kernel.")
			default:
				say("%s", out.paint(green, fmt.Sprintf("all %d packets: the kernel did what the evaluator says, by the same rule; nothing is left behind", len(c.Packets))))
			}
			return nil
		},
	}
}
