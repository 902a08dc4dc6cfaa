// SPDX-License-Identifier: Apache-2.0

// Package metrics gives what agents, dataplanes and flow logs count as plain values, for whatever system an embedder
// watches them by. Nothing is registered or kept: a Source is asked when somebody wants to know.
package metrics

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/agent"
	"github.com/hostpolicy/hostpolicy/backends/flowlog"
)

// Kind says how a value behaves. The zero value is Gauge.
type Kind uint8

// The kinds.
const (
	Gauge   Kind = iota // goes up and down
	Counter             // only grows, but for restarts
)

// Label tells samples of one name apart.
type Label struct{ Name, Value string }

// Sample is one value. Samples of one Name have the same Help, Kind and names of labels, in the same order. Names are those
// of Prometheus: lower case, units at the end, "_total" behind counters.
type Sample struct {
	Name   string
	Help   string
	Kind   Kind
	Labels []Label
	Value  float64
}

// String returns `name{label="value"} 1`.
func (s Sample) String() string {
	var b strings.Builder
	b.WriteString(s.Name)
	if len(s.Labels) > 0 {
		b.WriteByte('{')
		for i, l := range s.Labels {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, "%s=%q", l.Name, l.Value)
		}
		b.WriteByte('}')
	}
	fmt.Fprintf(&b, " %v", s.Value)
	return b.String()
}

// Source is asked for what it counts. It is safe for concurrent use; what it returns belongs to the caller.
type Source interface {
	Metrics(ctx context.Context) ([]Sample, error)
}

// Func is a Source that is a function.
type Func func(ctx context.Context) ([]Sample, error)

// Metrics implements Source.
func (f Func) Metrics(ctx context.Context) ([]Sample, error) { return f(ctx) }

// Gather asks all sources. The samples are sorted by name and labels; those of sources that fail are missing, and the
// errors are joined.
func Gather(ctx context.Context, sources ...Source) ([]Sample, error) {
	var out []Sample
	var errs []error
	for _, s := range sources {
		list, err := s.Metrics(ctx)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, list...)
	}
	slices.SortStableFunc(out, func(a, b Sample) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), slices.CompareFunc(a.Labels, b.Labels, func(x, y Label) int {
			return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.Value, y.Value))
		}))
	})
	return out, errors.Join(errs...)
}

// Rules returns what a dataplane counted for each rule.
func Rules(b interface {
	Counters(context.Context) ([]backends.Counter, error)
}) Source {
	return Func(func(ctx context.Context) ([]Sample, error) {
		cs, err := b.Counters(ctx)
		if err != nil {
			return nil, err
		}
		out := make([]Sample, 0, 2*len(cs))
		for _, c := range cs {
			l := []Label{{"origin", c.Origin.String()}}
			out = append(out,
				Sample{"hostpolicy_rule_packets_total", "Packets that a rule decided or logged.", Counter, l, float64(c.Packets)},
				Sample{"hostpolicy_rule_bytes_total", "Bytes of the packets that a rule decided or logged.", Counter, l, float64(c.Bytes)})
		}
		return out, nil
	})
}

// Flows returns what a flow log counted.
func Flows(l *flowlog.Log) Source {
	return Func(func(context.Context) ([]Sample, error) {
		s := l.Stats()
		count := func(name, help string, v uint64) Sample {
			return Sample{"hostpolicy_flowlog_" + name + "_total", help, Counter, nil, float64(v)}
		}
		return []Sample{
			count("events", "Events that were read from the dataplane.", s.Events),
			count("records", "Records that were made of events.", s.Records),
			count("lost_events", "Events that the kernel dropped, since they were not read quickly enough.", s.Lost),
			count("dropped_records", "Records that their receivers did not take quickly enough.", s.Dropped),
			count("foreign_events", "Events that are not of our making.", s.Foreign),
			count("unknown_events", "Events of rules that nobody knows.", s.Unknown),
			count("reopens", "How often a source had to be opened again.", s.Reopens),
		}, nil
	})
}

// phases are all phases of an agent; one of them is 1.
var phases = []agent.Phase{agent.Starting, agent.Enforcing, agent.Changing, agent.Blocked, agent.Failing, agent.Stopped}

// Agent returns how an agent is.
func Agent(a interface{ Status() agent.Status }) Source {
	return Func(func(context.Context) ([]Sample, error) {
		s := a.Status()
		gauge := func(name, help string, v float64, labels ...Label) Sample {
			return Sample{"hostpolicy_agent_" + name, help, Gauge, labels, v}
		}
		count := func(name, help string, v float64) Sample {
			return Sample{"hostpolicy_agent_" + name + "_total", help, Counter, nil, v}
		}
		out := []Sample{
			gauge("generation_enforced", "The generation that the kernel enforces.", float64(s.Enforced)),
			gauge("generation_wanted", "The newest generation.", float64(s.Wanted)),
			gauge("failures", "Failed attempts at the newest generation.", float64(s.Failures)),
			gauge("held_objects", "Objects whose newest version is kept out.", float64(len(s.Held))),
			gauge("enforce_latency_seconds", "Time from the first change to enforcement, of the last generation.", s.Receipt.Latency().Seconds()),
			gauge("commit_seconds", "Time spent in the kernel, for the last generation.", s.Receipt.Kernel.Committed.Seconds()),
			count("drift_checks", "Comparisons of the kernel with what was applied.", float64(s.Drift.Checks)),
			count("drift_findings", "Comparisons that found a difference.", float64(s.Drift.Findings)),
			count("panics", "Panics that were caught.", float64(s.Panics)),
		}
		for _, p := range phases {
			v := 0.0
			if p == s.Phase {
				v = 1
			}
			out = append(out, gauge("phase", "1 for the phase that the agent is in.", v, Label{"phase", string(p)}))
		}
		problems := map[string]int{"error": 0, "warning": 0, "info": 0}
		for _, p := range s.Problems {
			problems[p.Severity.String()]++
		}
		for _, sev := range []string{"error", "info", "warning"} {
			out = append(out, gauge("problems", "Problems of the resources.", float64(problems[sev]), Label{"severity", sev}))
		}
		return out, nil
	})
}
