// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/lint"
)

// lintResult is what `hep lint` says, for machines.
type lintResult struct {
	OK       bool           `json:"ok"`
	Hosts    int            `json:"hosts"`
	Findings []lint.Finding `json:"findings"`
	Partial  string         `json:"partial,omitempty"`
}

func lintCommand(out *output, stdin *os.File) *cobra.Command {
	in := &cluster{stdin: stdin}
	var (
		limit   = severity{s: policy.Warning}
		codes   bool
		quick   bool
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "lint -f FILE",
		Short: "Find what is legal in policy and probably not meant, on all hosts",
		Long: `lint looks at the policies of all hosts at once: rules that can never match and the rules that shadow them, policies that
select nothing or cut endpoints off, failsafes that rules cannot close, and more. Each finding has a stable code, the file
and line, why it matters, and what to write instead. --codes lists what there is.

The exit code is 1 if there is a finding of --fail-on or worse.`,
		Example: `  hep lint -f policy/ --fail-on warning`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if codes {
				return printCodes(out)
			}
			r, hosts, err := in.load(cmd.Context())
			if err != nil {
				return err
			}
			ctx, cancel := within(cmd.Context(), timeout)
			defer cancel()
			rep, err := lint.Run(ctx, r, hosts, lint.Options{SkipDead: quick})
			if err != nil {
				return err
			}
			bad := !limit.never && rep.Worst(limit.s) > 0
			res := lintResult{OK: !bad, Hosts: len(hosts), Findings: rep.Findings, Partial: rep.Partial}
			if out.format != "table" {
				if err := out.value(res); err != nil {
					return err
				}
			} else {
				printLint(out, &res)
			}
			if bad {
				return errMismatch
			}
			return nil
		},
	}
	in.flags(cmd)
	cmd.Flags().Var(&limit, "fail-on", "the mildest severity that makes the exit code 1: error, warning, info, or never")
	cmd.Flags().BoolVar(&codes, "codes", false, "list all codes, and what they mean")
	cmd.Flags().BoolVar(&quick, "quick", false, "leave out dead rules and lost flows, which take the time")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Minute, "how long to look for dead rules before the answer is partial; 0 is as long as it takes")
	return cmd
}

// within is ctx with a limit of time; 0 is none.
func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, limit)
}

// severity is the value of --fail-on.
type severity struct {
	s     policy.Severity
	never bool
}

func (f *severity) String() string {
	if f.never {
		return "never"
	}
	return f.s.String()
}

func (f *severity) Type() string { return "severity" }

func (f *severity) Set(text string) error {
	for s := policy.Error; s <= policy.Info; s++ {
		if s.String() == text {
			*f = severity{s: s}
			return nil
		}
	}
	if text != "never" {
		return fmt.Errorf("want error, warning, info or never")
	}
	*f = severity{never: true}
	return nil
}

func severityStyle(s policy.Severity) style {
	switch s {
	case policy.Error:
		return red
	case policy.Warning:
		return yellow
	}
	return cyan
}

func printLint(out *output, r *lintResult) {
	counts := map[policy.Severity]int{}
	for i := range r.Findings {
		f := &r.Findings[i]
		counts[f.Severity]++
		pos := ""
		if p := f.Pos.String(); p != "" {
			pos = out.paint(dim, p+": ")
		}
		object := f.Object
		if f.Path != "" {
			object += " " + f.Path
		}
		fmt.Fprintf(out.out, "%s%s: %s: %s %s\n", pos, out.paint(severityStyle(f.Severity), f.Severity.String()), out.paint(bold, object), f.Message, out.paint(dim, "("+f.Code+")"))
		for _, x := range f.Related {
			line := "    " + x.Text
			if p := x.Pos.String(); p != "" {
				line += out.paint(dim, " ("+p+")")
			}
			fmt.Fprintln(out.out, line)
		}
		fmt.Fprintln(out.out, "    "+out.paint(green, "fix: ")+f.Fix)
		if n := len(f.Nodes); n > 0 && n < r.Hosts {
			fmt.Fprintln(out.out, "    "+out.paint(dim, "on "+nodeList(f.Nodes)))
		}
		fmt.Fprintln(out.out)
	}
	if r.Partial != "" {
		fmt.Fprintln(out.out, out.paint(yellow, "not all rules were looked at: ")+r.Partial)
	}
	if len(r.Findings) == 0 {
		fmt.Fprintln(out.out, out.paint(green, "no findings")+" on "+hostCount(r.Hosts))
		return
	}
	var parts []string
	for s := policy.Error; s <= policy.Info; s++ {
		if n := counts[s]; n > 0 {
			parts = append(parts, out.paint(severityStyle(s), counted(n, s)))
		}
	}
	fmt.Fprintf(out.out, "%s on %s\n", strings.Join(parts, ", "), hostCount(r.Hosts))
}

func counted(n int, s policy.Severity) string {
	if n == 1 || s == policy.Info {
		return fmt.Sprintf("%d %s", n, s)
	}
	return fmt.Sprintf("%d %ss", n, s)
}

func hostCount(n int) string {
	if n == 1 {
		return "1 host"
	}
	return fmt.Sprintf("%d hosts", n)
}

// nodeList names a few nodes, and how many more there are.
func nodeList(nodes []string) string {
	const most = 6
	if len(nodes) <= most {
		return strings.Join(nodes, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(nodes[:most], ", "), len(nodes)-most)
}

func printCodes(out *output) error {
	codes := lint.Codes()
	if out.format != "table" {
		return out.value(codes)
	}
	for i, c := range codes {
		if i > 0 {
			fmt.Fprintln(out.out)
		}
		fmt.Fprintf(out.out, "%s  %s  %s\n    %s\n    %s%s\n", out.paint(bold, c.Name), out.paint(severityStyle(c.Severity), c.Severity.String()), c.What, c.Why, out.paint(green, "fix: "), c.Fix)
	}
	return nil
}
