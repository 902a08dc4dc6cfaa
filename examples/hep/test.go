// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
	"github.com/hostpolicy/hostpolicy/policy/policytest/assertion"
)

// testResult is what `hep test` says, for machines.
type testResult struct {
	OK      bool          `json:"ok"`
	Tests   []testOutcome `json:"tests"`
	Packets int           `json:"packets"`
	Rules   int           `json:"rules"`
	Covered int           `json:"covered"`
	// Undecided are the rules that no test decided anything by.
	Undecided []testRule `json:"undecided"`
}

type testOutcome struct {
	Name     string   `json:"name"`
	Pos      string   `json:"pos"`
	OK       bool     `json:"ok"`
	Packets  int      `json:"packets"`
	Failed   int      `json:"failed,omitempty"`
	Failures []string `json:"failures,omitempty"`
	Error    string   `json:"error,omitempty"`
}

type testRule struct {
	Rule   string `json:"rule"`
	Action string `json:"action"`
	Pos    string `json:"pos,omitempty"`
}

func testCommand(out *output, stdin *os.File) *cobra.Command {
	in := &cluster{stdin: stdin}
	var (
		junit, only   string
		cover, detail bool
		least         float64
	)
	cmd := &cobra.Command{
		Use:   "test -f FILE TESTS...",
		Short: "Run policy tests: what must become of traffic between host endpoints",
		Long: `test asks the policies of all hosts whether the statements of test files hold, and says which rules no test has
decided anything by. TESTS are files or directories of files like this one:

  tests:
  - name: the web servers reach the database
    from: {selector: role == 'web'}
    to: db-1
    protocol: TCP
    port: 5432
    expect: allow
    by: policy:default/db/ingress[0]

from and to are a host endpoint by name, an address, a CIDR, {selector: ...} or {networkSet: ...}, or a list of these.
expect is allow, deny or none. by is optional. Instead of from and to there may be a node and one packet, as explain
reads it. Hosts are concluded from the documents, unless --host describes them.`,
		Example: `  hep test -f policy/ tests.yaml --junit report.xml --cover-min 80`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if least < 0 || least > 100 {
				return fmt.Errorf("--cover-min %g: want a percentage from 0 to 100", least)
			}
			want, err := regexp.Compile(only)
			if err != nil {
				return fmt.Errorf("--run: %w", err)
			}
			r, hosts, err := in.load(cmd.Context())
			if err != nil {
				return err
			}
			srcs, err := readAll(args, stdin)
			if err != nil {
				return err
			}
			tests, err := manifest.ParseTests(srcs...)
			if err != nil {
				return invalid(err)
			}
			suite, err := assertion.New(r, hosts)
			if err != nil {
				return invalid(err)
			}
			tests = assertion.Select(tests, want.MatchString)
			if len(tests) == 0 {
				return errors.New("no tests to run: the files hold none, or --run matches none")
			}
			rep, err := suite.Run(cmd.Context(), tests)
			if err != nil {
				return err
			}
			if junit != "" {
				var b bytes.Buffer
				if err := rep.WriteJUnit(&b); err != nil {
					return err
				}
				if err := os.WriteFile(junit, b.Bytes(), 0o644); err != nil {
					return err
				}
			}
			res := describeTests(rep)
			little := res.Rules > 0 && 100*float64(res.Covered) < least*float64(res.Rules)
			res.OK = res.OK && !little
			if out.format != "table" {
				if err := out.value(res); err != nil {
					return err
				}
			} else {
				printTests(out, rep, &res, detail, cover || little)
				if little {
					fmt.Fprintf(out.out, "\n%s\n", out.paint(red, fmt.Sprintf("fewer than %g %% of the rules decided anything", least)))
				}
			}
			if !res.OK {
				return errMismatch
			}
			return nil
		},
	}
	in.flags(cmd)
	cmd.Flags().StringVar(&junit, "junit", "", "also write the result to this file as JUnit XML")
	cmd.Flags().StringVar(&only, "run", "", "run only the tests whose names match this regular expression")
	cmd.Flags().BoolVar(&cover, "cover", false, "list the rules that no test decided anything by")
	cmd.Flags().Float64Var(&least, "cover-min", 0, "fail if fewer than this percentage of the rules decided anything")
	cmd.Flags().BoolVarP(&detail, "verbose", "v", false, "list the tests that hold, too")
	return cmd
}

func describeTests(rep *assertion.Report) testResult {
	out := testResult{OK: rep.Failed == 0, Packets: rep.Packets, Rules: len(rep.Rules), Covered: rep.Covered(), Tests: []testOutcome{}, Undecided: []testRule{}}
	for i := range rep.Results {
		r := &rep.Results[i]
		x := testOutcome{Name: r.Name, Pos: r.Test.Pos.String(), OK: r.OK(), Packets: r.Packets, Failed: r.Failed}
		if r.Err != nil {
			x.Error = r.String()
		}
		for _, f := range r.Failures {
			x.Failures = append(x.Failures, f.String())
		}
		out.Tests = append(out.Tests, x)
	}
	for _, r := range rep.Rules {
		if r.Packets == 0 {
			out.Undecided = append(out.Undecided, testRule{Rule: r.Origin.String(), Action: string(r.Action), Pos: r.Origin.Pos.String()})
		}
	}
	return out
}

func printTests(out *output, rep *assertion.Report, res *testResult, detail, cover bool) {
	var rows [][]cell
	for i := range rep.Results {
		r := &rep.Results[i]
		mark := cell{"ok", green}
		switch {
		case r.Err != nil:
			mark = cell{"ERROR", red}
		case !r.OK():
			mark = cell{"FAIL", red}
		case !detail:
			continue
		}
		rows = append(rows, []cell{mark, {fmt.Sprint(r.Packets), plain}, {r.Test.Pos.String(), dim}, {r.Name, plain}})
	}
	if len(rows) > 0 {
		out.table([]string{"RESULT", "PACKETS", "SOURCE", "TEST"}, rows)
		fmt.Fprintln(out.out)
	}
	for i := range rep.Results {
		if r := &rep.Results[i]; !r.OK() {
			fmt.Fprintf(out.out, "%s: %s\n", out.paint(dim, r.Test.Pos.String()), out.paint(bold, r.Name))
			for l := range strings.Lines(r.String()) {
				fmt.Fprintln(out.out, "    "+strings.TrimRight(l, "\n"))
			}
			fmt.Fprintln(out.out)
		}
	}
	if cover && len(res.Undecided) > 0 {
		rows = nil
		for _, r := range res.Undecided {
			rows = append(rows, []cell{{r.Rule, cyan}, {r.Action, plain}, {r.Pos, dim}})
		}
		out.table([]string{"NO TEST DECIDED BY", "ACTION", "SOURCE"}, rows)
		fmt.Fprintln(out.out)
	}
	n := len(rep.Results)
	line := fmt.Sprintf("%d of %d tests hold", n-rep.Failed, n)
	st := green
	if rep.Failed > 0 {
		st = red
	}
	tail := fmt.Sprintf("; %d packets", rep.Packets)
	if res.Rules > 0 {
		tail += fmt.Sprintf("; %d of %d rules decided something (%d %%)", res.Covered, res.Rules, 100*res.Covered/res.Rules)
	}
	fmt.Fprintln(out.out, out.paint(st, line)+tail)
}
