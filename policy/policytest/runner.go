// SPDX-License-Identifier: Apache-2.0

package policytest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hostpolicy/hostpolicy/policy/flow"
)

// Runner is an implementation of host endpoint policy that can be asked about a case.
type Runner interface {
	// Name is what the runner is called in the unsupported section of cases.
	Name() string
	// Run returns one Result for each packet of the case, in order. The error is non-nil if the case could not be run;
	// if that is because the implementation cannot express something, Check looks for the reason in its text.
	Run(ctx context.Context, c *Case) ([]Result, error)
}

// Result is what an implementation made of one packet.
type Result struct {
	Verdict flow.Verdict
	By      flow.Origin // what decided; the position is not compared
	Trace   string      // how it came to that, for people
	// Problem says that what was observed contradicts itself, so that Verdict and By mean little; "" normally.
	Problem string
}

// Mismatch is a packet whose Result is not what its case says.
type Mismatch struct {
	Case   *Case
	Packet *Packet
	Got    Result
}

// String says what was expected, what came, and how.
func (m Mismatch) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d: %s: got %s", m.Case.Name, m.Packet.Line, m.Packet.String(), m.Got.Verdict)
	if m.Got.By != (flow.Origin{}) {
		fmt.Fprintf(&b, " by %s", m.Got.By)
	}
	if m.Got.Problem != "" {
		fmt.Fprintf(&b, "; %s", m.Got.Problem)
	}
	if t := strings.TrimSpace(m.Got.Trace); t != "" {
		b.WriteString("\n\t" + strings.ReplaceAll(t, "\n", "\n\t"))
	}
	return b.String()
}

// Compare returns the packets whose results are not what the case says, in order. Packets without verdict are only
// checked for contradictions. Results that do not fit the packets in number are an error of the runner.
func Compare(c *Case, results []Result) ([]Mismatch, error) {
	if len(results) != len(c.Packets) {
		return nil, fmt.Errorf("%s: %d results for %d packets", c.Name, len(results), len(c.Packets))
	}
	var out []Mismatch
	for i, r := range results {
		p := &c.Packets[i]
		switch {
		case r.Problem != "",
			p.Asked && r.Verdict != p.Want,
			p.Asked && p.By != (flow.Origin{}) && r.By.ID() != p.By.ID():
			out = append(out, Mismatch{Case: c, Packet: p, Got: r})
		}
	}
	return out, nil
}

// Check runs a case and returns an error that lists all mismatches. A runner that the case lists as unsupported must
// fail with an error whose text holds the listed reason: cases must not rot into ones that nobody runs.
func Check(ctx context.Context, r Runner, c *Case) error {
	results, err := r.Run(ctx, c)
	if reason, ok := c.Unsupported[r.Name()]; ok {
		switch {
		case err == nil:
			return fmt.Errorf("%s: %s runs it, although the case says that it cannot: %s", c.Name, r.Name(), reason)
		case !strings.Contains(err.Error(), reason):
			return fmt.Errorf("%s: %s fails for another reason than %q: %w", c.Name, r.Name(), reason, err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %s: %w", c.Name, r.Name(), err)
	}
	bad, err := Compare(c, results)
	if err != nil {
		return err
	}
	errs := make([]error, len(bad))
	for i, m := range bad {
		errs[i] = errors.New(r.Name() + ": " + m.String())
	}
	return errors.Join(errs...)
}
