// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/backends/lab"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// tryResult is what became of one case on one runner, for machines.
type tryResult struct {
	Case       string        `json:"case"`
	Runner     string        `json:"runner"`
	OK         bool          `json:"ok"`
	Packets    int           `json:"packets"`
	Mismatches []tryMismatch `json:"mismatches,omitempty"`
	Error      string        `json:"error,omitempty"`
	Seconds    float64       `json:"seconds"`
}

type tryMismatch struct {
	Line   int    `json:"line"`
	Packet string `json:"packet"`
	Want   string `json:"want"`
	WantBy string `json:"wantBy,omitempty"`
	Got    string `json:"got"`
	GotBy  string `json:"gotBy,omitempty"`
	Note   string `json:"note,omitempty"`
}

func tryCommand(out *output, stdin *os.File) *cobra.Command {
	var (
		runners  []string
		fragment bool
		verbose  bool
	)
	cmd := &cobra.Command{
		Use:   "try [--runner NAME,...] CASE...",
		Short: "Run conformance cases and compare what they expect with what happens",
		Long: `try runs case files (txtar: resources.yaml, host.yaml, packets) or directories of them on one or more
implementations and prints what differs. The kernel runners send real packets through network namespaces that they
make, and need root. Runners: ` + strings.Join(runnerNames(), ", ") + `, or all (those that can run here).`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			chosen, err := chooseRunners(out, runners)
			if err != nil {
				return err
			}
			cases, err := readCases(args, stdin)
			if err != nil {
				return invalid(err)
			}
			var results []tryResult
			for _, r := range chosen {
				rs, err := r.run(cmd.Context(), out, cases, lab.Options{Fragment: fragment})
				if err != nil {
					return err
				}
				results = append(results, rs...)
			}
			slices.SortStableFunc(results, func(a, b tryResult) int { return strings.Compare(a.Case, b.Case) })
			failed, err := printTry(out, results, verbose)
			if err != nil {
				return err
			}
			if failed {
				return errMismatch
			}
			return cmd.Context().Err()
		},
	}
	cmd.Flags().StringSliceVar(&runners, "runner", []string{"eval", "ir"}, "implementations to run: "+strings.Join(runnerNames(), ", ")+" or all")
	cmd.Flags().BoolVar(&fragment, "fragment", false, "kernel runners send every packet in two fragments")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "list cases that pass, too, and how a verdict came about")
	return cmd
}

// runner is an implementation that cases can be run on.
type runner struct {
	name   string
	kernel bool
	run    func(context.Context, *output, []*policytest.Case, lab.Options) ([]tryResult, error)
}

func allRunners() []runner {
	var rs []runner
	for _, p := range policytest.Pure() {
		rs = append(rs, runner{name: p.Name(), run: func(ctx context.Context, _ *output, cases []*policytest.Case, _ lab.Options) ([]tryResult, error) {
			var out []tryResult
			for _, c := range cases {
				start := time.Now()
				got, err := p.Run(ctx, c)
				out = append(out, judge(c, p.Name(), got, err, time.Since(start)))
			}
			return out, ctx.Err()
		}})
	}
	for _, k := range kernelRunners() {
		rs = append(rs, runner{name: k.name, kernel: true, run: func(ctx context.Context, out *output, cases []*policytest.Case, o lab.Options) ([]tryResult, error) {
			var rs []tryResult
			for _, x := range lab.RunAll(ctx, cases, k.open, o) {
				rs = append(rs, judge(x.Case, k.name, x.Results, x.Err, x.Elapsed))
			}
			return rs, ctx.Err()
		}})
	}
	return rs
}

func runnerNames() []string {
	var names []string
	for _, r := range allRunners() {
		names = append(names, r.name)
	}
	return names
}

// chooseRunners finds runners by name. With "all", kernel runners that cannot run here are left out, aloud.
func chooseRunners(out *output, names []string) ([]runner, error) {
	all := allRunners()
	if slices.Contains(names, "all") {
		err := lab.Available()
		if err == nil {
			return all, nil
		}
		fmt.Fprintf(out.err, "%s kernel runners are left out: %v\n", out.paint(yellow, "hep:"), err)
		return slices.DeleteFunc(all, func(r runner) bool { return r.kernel }), nil
	}
	var chosen []runner
	for _, n := range names {
		i := slices.IndexFunc(all, func(r runner) bool { return r.name == n })
		if i < 0 {
			return nil, fmt.Errorf("--runner %q: want one of %s, or all", n, strings.Join(runnerNames(), ", "))
		}
		if all[i].kernel {
			if err := lab.Available(); err != nil {
				return nil, fmt.Errorf("runner %s: %w", n, err)
			}
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// readCases reads case files; all that is wrong with them comes in one error.
func readCases(args []string, stdin *os.File) ([]*policytest.Case, error) {
	var files []string
	for _, a := range args {
		info, err := os.Stat(a)
		if a == "-" || err == nil && !info.IsDir() {
			files = append(files, a)
			continue
		}
		if err != nil {
			return nil, err
		}
		n := len(files)
		err = filepath.WalkDir(a, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && filepath.Ext(path) == ".txtar" {
				files = append(files, path)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		if len(files) == n {
			return nil, fmt.Errorf("%s: no .txtar file in this directory", a)
		}
	}
	var cases []*policytest.Case
	var errs []error
	for _, f := range files {
		data, err := readFile(f, stdin)
		if err == nil {
			var c *policytest.Case
			if c, err = policytest.Parse(f, data); err == nil {
				cases = append(cases, c)
			}
		}
		errs = append(errs, err)
	}
	return cases, errors.Join(errs...)
}

// judge compares what a runner found with what the case says.
func judge(c *policytest.Case, name string, got []policytest.Result, err error, took time.Duration) tryResult {
	r := tryResult{Case: c.Name, Runner: name, Packets: len(c.Packets), Seconds: took.Seconds()}
	if reason, ok := c.Unsupported[name]; ok && err != nil && strings.Contains(err.Error(), reason) {
		r.OK = true
		return r
	} else if ok && err == nil {
		r.Error = "runs, although the case says that it cannot: " + reason
		return r
	}
	var bad []policytest.Mismatch
	if err == nil {
		bad, err = policytest.Compare(c, got)
	}
	if err != nil {
		r.Error = err.Error()
		return r
	}
	for _, m := range bad {
		x := tryMismatch{Line: m.Packet.Line, Packet: policytest.FormatPacket(&m.Packet.Packet), Want: m.Packet.Want.String(), WantBy: m.Packet.By.String(), Got: m.Got.Verdict.String(), GotBy: m.Got.By.String(), Note: m.Got.Problem}
		r.Mismatches = append(r.Mismatches, x)
	}
	r.OK = len(bad) == 0
	return r
}

func printTry(out *output, results []tryResult, verbose bool) (failed bool, err error) {
	var rows, bad [][]cell
	packets, ok := 0, 0
	for _, r := range results {
		failed = failed || !r.OK
		packets += r.Packets
		if r.OK {
			ok++
		}
		if out.format != "table" {
			if err := out.value(r); err != nil {
				return failed, err
			}
			continue
		}
		if r.OK && !verbose && len(results) > 40 {
			continue
		}
		verdict, note := cell{"pass", green}, cell{}
		if !r.OK {
			verdict, note = cell{"FAIL", red}, cell{fmt.Sprintf("%d of %d packets differ", len(r.Mismatches), r.Packets), plain}
			if r.Error != "" {
				note.text, _, _ = strings.Cut(r.Error, "\n")
			}
		}
		rows = append(rows, []cell{{r.Case, plain}, {r.Runner, cyan}, {fmt.Sprint(r.Packets), plain}, verdict, {fmt.Sprintf("%.2fs", r.Seconds), dim}, note})
		for _, m := range r.Mismatches {
			bad = append(bad, []cell{{fmt.Sprintf("%s:%d", r.Case, m.Line), dim}, {r.Runner, cyan}, {m.Packet, plain}, verdictCell(m.Want), {m.WantBy, plain}, verdictCell(m.Got), {m.GotBy, plain}, {m.Note, yellow}})
		}
	}
	if out.format != "table" {
		return failed, nil
	}
	if len(rows) > 0 {
		out.table([]string{"CASE", "RUNNER", "PACKETS", "RESULT", "TIME", "NOTE"}, rows)
		fmt.Fprintln(out.out)
	}
	if len(bad) > 0 {
		out.table([]string{"WHERE", "RUNNER", "PACKET", "WANT", "BY", "GOT", "BY", "NOTE"}, bad)
		fmt.Fprintln(out.out)
	}
	style := green
	if failed {
		style = red
	}
	fmt.Fprintln(out.out, out.paint(style, fmt.Sprintf("%d of %d runs pass, %d packets", ok, len(results), packets)))
	return failed, nil
}
