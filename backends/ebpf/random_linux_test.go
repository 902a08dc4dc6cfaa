// SPDX-License-Identifier: Apache-2.0

package ebpf_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/ebpf"
	"github.com/hostpolicy/hostpolicy/backends/lab"
	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
	render "github.com/hostpolicy/hostpolicy/render/ebpf"
	"github.com/hostpolicy/hostpolicy/render/rendertest"
)

// swapped is a dataplane that enforces other programs than it is given. Their origins are those of the given ones.
type swapped struct {
	*ebpf.Backend
	programs map[ir.Fingerprint]*program
}

type program struct {
	p *ir.Program
	m ir.Members
}

func (s *swapped) Apply(ctx context.Context, p *ir.Program, _ ir.Members) (backends.Receipt, error) {
	mine := s.programs[p.Fingerprint()]
	r, err := s.Backend.Apply(ctx, mine.p, mine.m)
	if err != nil {
		return r, fmt.Errorf("%w\n%s", err, mine.p)
	}
	st, err := s.Observe(ctx)
	if err == nil && len(st.Drift) > 0 {
		err = fmt.Errorf("drift after apply: %+v", st.Drift[0])
	}
	return r, err
}

// withOrigins returns p with other origins; more than there are share one.
func withOrigins(p *ir.Program, origins []flow.Origin) *ir.Program {
	q := *p
	q.Origins = make([]flow.Origin, len(p.Origins))
	for i := range p.Origins {
		q.Origins[i] = origins[i%len(origins)]
	}
	return ir.Canonical(&q)
}

// TestKernelAgreesWithTheInterpreter compares the kernel with what the IR means, for programs that no policy compiles
// to: verdict, deciding rule, and which rules logged how often.
func TestKernelAgreesWithTheInterpreter(t *testing.T) {
	t.Parallel()
	seeds := uint64(40)
	if testing.Short() {
		seeds = 8
	}
	agrees(t, 0, seeds, 60)
}

func agrees(t *testing.T, first, n uint64, packets int) {
	programs := map[ir.Fingerprint]*program{}
	var cases []*policytest.Case
	explained := map[*policytest.Case][]ir.Result{}
	for seed := first; seed < first+n; seed++ {
		c := policytest.Generate(seed, policytest.Size{Packets: packets, Policies: 20, Rules: 8})
		snap, err := policy.Resolve(c.Resources, c.Host, c.Config)
		require.NoError(t, err)
		given, _, err := compile.Compile(snap)
		require.NoError(t, err)
		f := given.Fingerprint()
		if programs[f] == nil {
			p, m := rendertest.Program(seed, rendertest.Size{})
			programs[f] = &program{withOrigins(p, given.Origins), m}
		}
		in, err := ir.NewInterpreter(programs[f].p, programs[f].m)
		require.NoError(t, err)
		for i := range c.Packets {
			r := in.Explain(&c.Packets[i].Packet)
			explained[c] = append(explained[c], r)
			v, by := said(r)
			c.Packets[i].Asked, c.Packets[i].Want, c.Packets[i].By = true, v, by
		}
		cases = append(cases, c)
	}
	open := func(_ context.Context, ns lab.Netns) (lab.Dataplane, error) {
		b, err := ebpf.New(ebpf.Options{NetNS: ns.FD(), Path: pinPath(), Render: render.Options{Events: render.AllEvents}})
		if err != nil {
			return nil, err
		}
		return lab.WithEvents(&swapped{b, programs}, lab.RingBuffer(ns, b, fenceGroup)), nil
	}
	for _, o := range lab.RunAll(t.Context(), cases, open, lab.Options{}) {
		if o.Err != nil {
			t.Errorf("%s: %v", o.Case.Name, o.Err)
			continue
		}
		ms, err := policytest.Compare(o.Case, o.Results)
		require.NoError(t, err)
		for _, m := range ms {
			for i := range o.Case.Packets {
				if &o.Case.Packets[i] == m.Packet {
					t.Errorf("%s\n%s", m, explained[o.Case][i])
				}
			}
		}
		for i, r := range o.Results {
			var logged []string
			for _, l := range strings.Split(r.Trace, "\n") {
				if _, by, ok := strings.Cut(l, ": log by "); ok {
					logged = append(logged, by)
				}
			}
			var want []string
			for _, o := range explained[o.Case][i].Logged {
				want = append(want, o.String())
			}
			if !sameStrings(want, logged) {
				t.Errorf("%s: %s: logged %v instead of %v", o.Case.Name, o.Case.Packets[i].Text, logged, want)
			}
		}
	}
}

func sameStrings(a, b []string) bool { return strings.Join(a, "\n") == strings.Join(b, "\n") }

// said returns what the lab can see of a result: it knows no origins that mean nothing.
func said(r ir.Result) (flow.Verdict, flow.Origin) {
	v, by := flow.None, flow.Origin{Kind: flow.OriginNoEndpoint}
	for _, h := range r.Hooks {
		switch h.Outcome {
		case ir.Deny:
			return flow.Deny, h.By
		case ir.Allow:
			v, by = flow.Allow, h.By
		case ir.Pass:
			if st := h.Hook.Stage(); h.By.Kind != 0 && (st == flow.StageNormal || st == flow.StageForward) {
				v, by = flow.None, h.By
			}
		}
	}
	return v, by
}
