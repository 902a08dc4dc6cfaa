// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/policy/eval"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// explanation is what `hep explain` says of one packet, for machines.
type explanation struct {
	Packet  string      `json:"packet"`
	Verdict string      `json:"verdict"`
	By      string      `json:"by"`
	Pos     string      `json:"pos,omitempty"`
	Trace   []eval.Step `json:"trace"`
}

func explainCommand(out *output, stdin *os.File) *cobra.Command {
	in := &input{stdin: stdin}
	var (
		packets []string
		file    string
		verbose bool
	)
	cmd := &cobra.Command{
		Use:   "explain -f FILE --packet PACKET...",
		Short: "Say what happens to packets, and which rule decides",
		Long: `explain prints the verdict on each packet, the rule that decides, and where it is written; with -v everything that
was asked on the way and the first criterion that kept each rule from matching.

A packet is PATH PACKET [STATE]:
  input eth0        tcp 10.9.0.2:40000 > 10.9.0.1:443
  output eth0       udp [fd00::1]:5000 > [fd00::2]:53
  forward eth0>eth1 icmp 8/0 10.9.0.2 > 10.8.0.2
  local cali1       proto 253 10.65.0.2 > 10.9.0.1
  input eth0        tcp 10.9.0.2:40000 > 10.9.0.1:443 established`,
		Example: `  hep explain -f policy/ --host host.yaml --packet "input eth0 tcp 10.9.0.2:40000 > 10.9.0.1:443"`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if file != "" {
				data, err := readFile(file, stdin)
				if err != nil {
					return err
				}
				for l := range strings.Lines(string(data)) {
					l, _, _ = strings.Cut(l, "#")
					if l = strings.TrimSpace(l); l != "" {
						packets = append(packets, l)
					}
				}
			}
			if len(packets) == 0 {
				return errors.New("no packet: give --packet PACKET or --packets FILE")
			}
			s, h, err := in.snapshot()
			if err != nil {
				return err
			}
			e := eval.New(s)
			var dnat []policytest.DNAT
			for _, d := range h.DNAT {
				dnat = append(dnat, policytest.DNAT(d))
			}
			var rows [][]cell
			for i, text := range packets {
				p, err := policytest.ParsePacket(text, h.Host, dnat)
				if err != nil {
					return invalid(fmt.Errorf("packet %d: %w", i+1, err))
				}
				d := e.Explain(&p.Packet)
				x := explanation{Packet: text, Verdict: d.Verdict.String(), By: d.By.String(), Pos: d.By.Pos.String(), Trace: d.Trace}
				if out.format != "table" {
					if err := out.value(x); err != nil {
						return err
					}
					continue
				}
				row := []cell{{text, plain}, verdictCell(x.Verdict), {x.By, cyan}, {x.Pos, dim}}
				if !verbose {
					rows = append(rows, row)
					continue
				}
				if i > 0 {
					fmt.Fprintln(out.out)
				}
				out.table([]string{"PACKET", "VERDICT", "BY", "SOURCE"}, [][]cell{row})
				fmt.Fprintln(out.out)
				printTrace(out, d.Trace)
			}
			if len(rows) > 0 {
				out.table([]string{"PACKET", "VERDICT", "BY", "SOURCE"}, rows)
			}
			return nil
		},
	}
	in.flags(cmd)
	cmd.Flags().StringArrayVar(&packets, "packet", nil, "a packet (repeatable)")
	cmd.Flags().StringVar(&file, "packets", "", "a file of packets, one a line, - for standard input")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show everything that was asked")
	return cmd
}

func printTrace(out *output, steps []eval.Step) {
	var rows [][]cell
	for _, s := range steps {
		mark, text := cell{"no", dim}, cell{s.Note, dim}
		if s.Matched {
			mark, text = cell{"yes", green}, cell{s.Note, plain}
			if s.Effect != "" {
				text = cell{s.Effect, bold}
			}
		}
		rows = append(rows, []cell{{"  " + s.Hook.String(), plain}, {s.Endpoint, plain}, mark, {s.Origin.String(), cyan}, {s.Pos, dim}, text})
	}
	out.table([]string{"  HOOK", "ENDPOINT", "MATCHED", "ASKED", "SOURCE", "OUTCOME"}, rows)
}
