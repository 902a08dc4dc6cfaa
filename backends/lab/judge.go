// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// arrival is where a packet got to.
type arrival struct {
	path    flow.Path // Input, Output or Forward
	in, out string
	state   flow.ConnState
}

func (a arrival) String() string {
	switch a.path {
	case flow.Input, flow.Local:
		return fmt.Sprintf("input %s (%s)", a.in, a.state)
	case flow.Forward:
		return fmt.Sprintf("forward %s>%s (%s)", a.in, a.out, a.state)
	}
	return fmt.Sprintf("output %s (%s)", a.out, a.state)
}

// decision is an event with its origin looked up.
type decision struct {
	hook  flow.Hook
	event flow.Event
	by    flow.Origin
	known bool // by is what the event means
}

func (d decision) String() string {
	by := d.by.String()
	if !d.known {
		by = "an unknown rule"
	}
	return fmt.Sprintf("%s: %s by %s", d.hook, d.event, by)
}

// observation is everything that was seen of one packet.
type observation struct {
	forwarded *arrival // seen in the forward hook
	arrived   *arrival // seen at its end
	copies    int      // how often it was seen at its end
	loops     bool     // it is sent to everybody, the host included: the kernel makes a second copy of it
	decisions []decision
}

func (o *observation) denied() bool {
	return slices.ContainsFunc(o.decisions, func(d decision) bool { return d.event == flow.EventDeny })
}

// asClaimed checks that an observed arrival is the one that p claims.
func asClaimed(p *flow.Packet, o *observation) error {
	a := o.arrived
	switch {
	case a == nil && o.forwarded != nil:
		return fmt.Errorf("it was being forwarded (%s) and did not leave", o.forwarded)
	case a == nil:
		return fmt.Errorf("it did not arrive")
	case o.copies > 1 && !o.loops:
		return fmt.Errorf("it arrived %d times", o.copies)
	}
	want := arrival{path: p.Path, in: p.In, out: p.Out, state: p.State}
	if p.Path == flow.Local {
		want.path = flow.Input
	}
	if p.Path == flow.Output {
		want.in = ""
	}
	if *a != want {
		return fmt.Errorf("it went %s instead of %s", a, want)
	}
	return nil
}

// judge puts together what the dataplane reported and what arrived. Ref: policy/ir, Entry.
func judge(p *flow.Packet, o *observation) policytest.Result {
	var r policytest.Result
	var trace strings.Builder
	r.Verdict, r.By = flow.None, flow.Origin{Kind: flow.OriginNoEndpoint}
	problem := func(format string, args ...any) {
		if r.Problem == "" {
			r.Problem = fmt.Sprintf(format, args...)
		}
	}
	byHook := slices.Clone(o.decisions)
	slices.SortStableFunc(byHook, func(a, b decision) int { return int(a.hook) - int(b.hook) })
	denied, untracked := false, false
	var hooks flow.HookSet
	for _, d := range byHook {
		fmt.Fprintln(&trace, d)
		if !d.known {
			problem("the dataplane names a rule that the program does not have: %s", d)
		}
		if d.event == flow.EventLog {
			continue
		}
		if !slices.Contains(p.Path.Hooks(), d.hook) && !(untracked && d.hook == flow.NormalIn) {
			problem("asked at %s, which is not on the way %s", d.hook, p.Path)
			continue
		}
		if hooks.Has(d.hook) && !o.loops {
			problem("%s decided twice", d.hook)
		}
		hooks |= flow.HooksOf(d.hook)
		if denied {
			problem("%s decided after the packet was denied", d.hook)
			continue
		}
		switch d.event {
		case flow.EventDeny:
			denied = true
			r.Verdict, r.By = flow.Deny, d.by
		case flow.EventAllow:
			r.Verdict, r.By = flow.Allow, d.by
			untracked = untracked || d.hook == flow.UntrackedIn || d.hook == flow.UntrackedOut
		case flow.EventPass:
			if st := d.hook.Stage(); st == flow.StageNormal || st == flow.StageForward {
				r.Verdict, r.By = flow.None, d.by
			}
		}
	}
	if o.arrived != nil {
		fmt.Fprintln(&trace, "arrived:", o.arrived)
	} else {
		fmt.Fprintln(&trace, "did not arrive")
	}
	switch {
	case denied && o.arrived != nil:
		problem("reported as denied, and it arrived: %s", o.arrived)
	case !denied && o.arrived == nil:
		problem("it did not arrive, and nothing was reported that says why")
		r.Verdict, r.By = flow.Deny, flow.Origin{}
	case !denied && o.copies > 1 && !o.loops:
		problem("it arrived %d times", o.copies)
	case !denied && !untracked:
		if err := asClaimed(p, o); err != nil {
			problem("with the rules in place %v", err)
		}
	}
	r.Trace = trace.String()
	return r
}
