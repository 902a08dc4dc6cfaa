// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

// Available returns nil if a lab can be built here, and an error that wraps ErrUnavailable if this process may not.
func Available() error {
	n, err := newNetns()
	if err != nil {
		return unavailable(err)
	}
	return n.close()
}

// Run puts a case before the kernel and returns one result for each packet. Open makes the dataplane under test; Run
// tears it down, and everything else that it made, whatever happens. The error is non-nil if the case could not be
// judged; a dataplane that judges wrongly is no error but a difference between results and case.
func Run(ctx context.Context, c *policytest.Case, open Opener, o Options) ([]policytest.Result, error) {
	out := RunAll(ctx, []*policytest.Case{c}, open, o)
	return out[0].Results, out[0].Err
}

// RunAll runs many cases and returns their outcomes in the same order. Cases with the same host share namespaces, and
// one dataplane that is given one program after the other; several namespaces are worked in at the same time.
func RunAll(ctx context.Context, cases []*policytest.Case, open Opener, o Options) []Outcome {
	o = o.withDefaults()
	out := make([]Outcome, len(cases))
	workers := o.Parallel
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	jobs := make(chan []int)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for job := range jobs {
				runShared(ctx, cases, job, out, open, o)
			}
		})
	}
	for _, job := range share(cases, workers) {
		jobs <- job
	}
	close(jobs)
	wg.Wait()
	return out
}

// share divides cases into lists that can use one set of namespaces, short enough to keep all workers busy.
func share(cases []*policytest.Case, workers int) [][]int {
	byHost := map[string][]int{}
	var order []string
	for i, c := range cases {
		k := sameHost(c)
		if byHost[k] == nil {
			order = append(order, k)
		}
		byHost[k] = append(byHost[k], i)
	}
	limit := max(1, min(32, (len(cases)+workers-1)/workers))
	var jobs [][]int
	for _, k := range order {
		jobs = slices.AppendSeq(jobs, slices.Chunk(byHost[k], limit))
	}
	// Long jobs first, so that the workers end together.
	slices.SortStableFunc(jobs, func(a, b []int) int { return len(b) - len(a) })
	return jobs
}

// runShared runs the cases of one job. A case whose packets need other routes than those before it gets namespaces of
// its own.
func runShared(ctx context.Context, cases []*policytest.Case, job []int, out []Outcome, opener Opener, o Options) {
	for len(job) > 0 {
		top := newTopology(cases[job[0]])
		var now, later []int
		for _, i := range job {
			out[i].Case = cases[i]
			switch err := top.add(cases[i]); {
			case err == nil:
				now = append(now, i)
			case len(now) == 0:
				out[i].Err = fmt.Errorf("%w: %s: %w", ErrControl, cases[i].Name, err)
			default:
				later = append(later, i)
			}
		}
		if err := runTogether(ctx, cases, now, out, top, opener, o); err != nil {
			for _, i := range now {
				if out[i].Err == nil && out[i].Results == nil {
					out[i].Err = err
				}
			}
		}
		job = later
	}
}

func runTogether(ctx context.Context, cases []*policytest.Case, job []int, out []Outcome, top *topology, opener Opener, o Options) (err error) {
	if len(job) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := open(ctx, top, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := s.m.provide(top); err != nil {
		return err
	}
	for _, i := range job {
		start := time.Now()
		out[i].Err = s.control(ctx, cases[i])
		out[i].Elapsed = time.Since(start)
	}
	dp, err := opener(ctx, s.m.host)
	if err != nil {
		return fmt.Errorf("open the dataplane: %w", err)
	}
	defer func() {
		// Even when ctx is over.
		err = errors.Join(err, dp.Teardown(context.WithoutCancel(ctx)))
		if c, ok := dp.(io.Closer); ok {
			err = errors.Join(err, c.Close())
		}
	}()
	evctx, cancel := context.WithCancel(ctx)
	defer cancel()
	source := dp.Events()
	events, err := source.Subscribe(evctx)
	if err != nil {
		return fmt.Errorf("subscribe to events: %w", err)
	}
	h := hearing{events: events}
	h.drain, _ = source.(Drainer)
	if f, ok := source.(Fenced); ok {
		h.fenced = true
		if err := installFence(s.m.host, o.LogGroup, f.FenceGroup()); err != nil {
			return err
		}
	}
	for _, i := range job {
		if out[i].Err != nil {
			continue
		}
		start := time.Now()
		out[i].Results, out[i].Err = s.live(ctx, cases[i], dp, h)
		if out[i].Err != nil {
			out[i].Err = errors.Join(out[i].Err, source.Err())
		}
		out[i].Elapsed += time.Since(start)
	}
	return nil
}

// live applies the policy of a case and judges its packets.
func (s *station) live(ctx context.Context, c *policytest.Case, dp Dataplane, h hearing) ([]policytest.Result, error) {
	snap, err := policy.Resolve(c.Resources, c.Host, c.Config)
	if err != nil {
		return nil, err
	}
	prog, members, err := compile.Compile(snap)
	if err != nil {
		return nil, err
	}
	if _, err := dp.Apply(ctx, prog, members); err != nil {
		return nil, fmt.Errorf("apply: %w", err)
	}
	origins := make(map[flow.RuleKey]flow.Origin, len(prog.Origins))
	for _, or := range prog.Origins {
		origins[or.Key()] = or
	}
	h.lookup = func(e Event) decision {
		d := decision{hook: e.Record.Hook, event: e.Record.Event, by: e.Origin, known: true}
		if d.by == (flow.Origin{}) {
			d.by, d.known = origins[e.Record.Key]
		}
		return d
	}
	ps := make([]*flow.Packet, len(c.Packets))
	for i := range c.Packets {
		ps[i] = &c.Packets[i].Packet
	}
	seen, err := s.fire(ctx, ps, h, func(o *observation) bool { return o.arrived != nil || o.denied() })
	if err != nil {
		return nil, err
	}
	results := make([]policytest.Result, len(ps))
	for i, o := range seen {
		results[i] = judge(ps[i], o)
	}
	return results, nil
}
