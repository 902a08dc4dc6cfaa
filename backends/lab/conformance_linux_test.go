// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"context"
	"flag"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/lab"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
	"github.com/hostpolicy/hostpolicy/render"
	rendernft "github.com/hostpolicy/hostpolicy/render/nftables"
)

var (
	universes = flag.Int("universes", 200, "how many random universes to put before the kernel")
	packets   = flag.Int("packets", 250, "how many packets of each")
	seed      = flag.Uint64("seed", 0, "the first universe")
)

const eventGroup = 61

func openNFTables(_ context.Context, ns lab.Netns) (lab.Dataplane, error) {
	b, err := nftables.New(nftables.Options{
		NetNS: ns.FD(), Render: rendernft.Options{Events: rendernft.AllEvents, LogGroup: eventGroup},
	})
	if err != nil {
		return nil, err
	}
	return lab.WithEvents(b, lab.NFLOG(ns, eventGroup)), nil
}

// requireAgreement runs cases and reports every packet on which the kernel disagrees.
func requireAgreement(t *testing.T, cases []*policytest.Case, open lab.Opener, o lab.Options) {
	t.Helper()
	start, n := time.Now(), 0
	for _, out := range lab.RunAll(t.Context(), cases, open, o) {
		if out.Err != nil {
			t.Error(out.Err)
			continue
		}
		bad, err := policytest.Compare(out.Case, out.Results)
		require.NoError(t, err)
		for _, m := range bad {
			t.Error(m)
		}
		n += len(out.Results)
	}
	t.Logf("%d cases, %d packets in %s", len(cases), n, time.Since(start).Round(time.Millisecond))
}

func corpus(t *testing.T) []*policytest.Case {
	cases, err := policytest.Cases()
	require.NoError(t, err)
	if testing.Short() {
		cases = everyNth(cases, 10)
	}
	return cases
}

func everyNth(cases []*policytest.Case, n int) []*policytest.Case {
	var out []*policytest.Case
	for i := 0; i < len(cases); i += n {
		out = append(out, cases[i])
	}
	return out
}

func TestNFTablesAgreesWithTheCorpus(t *testing.T) {
	needLab(t)
	requireAgreement(t, corpus(t), openNFTables, lab.Options{})
}

// Policy sees whole packets: connection tracking puts fragments together before anything else looks at them.
func TestNFTablesAgreesWithTheCorpusInFragments(t *testing.T) {
	needLab(t)
	requireAgreement(t, everyNth(corpus(t), 8), openNFTables, lab.Options{Fragment: true})
}

func TestNFTablesAgreesWithTheEvaluatorOnRandomUniverses(t *testing.T) {
	needLab(t)
	n := *universes
	if testing.Short() {
		n = min(n, 20)
	}
	cases := make([]*policytest.Case, n)
	for i := range cases {
		cases[i] = policytest.Generate(*seed+uint64(i), policytest.Size{Packets: *packets})
		askEvaluator(t, cases[i])
	}
	requireAgreement(t, cases, openNFTables, lab.Options{})
}

// askEvaluator makes what the evaluator says what the case demands.
func askEvaluator(t *testing.T, c *policytest.Case) {
	want, err := policytest.Pure()[0].Run(t.Context(), c)
	require.NoError(t, err)
	for i := range c.Packets {
		c.Packets[i].Asked, c.Packets[i].Want, c.Packets[i].By = true, want[i].Verdict, want[i].By.ID()
	}
}

// One wrong rule is found: a comparison that never fails would prove nothing.
func TestAWrongRuleIsFound(t *testing.T) {
	needLab(t)
	found := 0
	for s := range uint64(12) {
		c := policytest.Generate(500+s, policytest.Size{Packets: 100})
		askEvaluator(t, c)
		i := slices.IndexFunc(c.Packets, func(p policytest.Packet) bool {
			return p.By.Kind == flow.OriginPolicy && p.By.Stage == flow.StageNormal
		})
		if i < 0 {
			continue
		}
		rs, err := lab.Run(t.Context(), c, func(ctx context.Context, ns lab.Netns) (lab.Dataplane, error) {
			dp, err := openNFTables(ctx, ns)
			return &mutant{Dataplane: dp, origin: c.Packets[i].By}, err
		}, lab.Options{})
		require.NoError(t, err)
		bad, err := policytest.Compare(c, rs)
		require.NoError(t, err)
		require.True(t, slices.ContainsFunc(bad, func(m policytest.Mismatch) bool { return m.Packet == &c.Packets[i] }), "seed %d: %s", 500+s, c.Packets[i].Text)
		found++
	}
	require.Greater(t, found, 3)
}

// mutant is a dataplane in which one rule does the opposite.
type mutant struct {
	lab.Dataplane
	origin flow.Origin
}

func (m *mutant) Close() error { return m.Dataplane.(io.Closer).Close() }

func (m *mutant) Apply(ctx context.Context, p *ir.Program, members ir.Members) (backends.Receipt, error) {
	q := *p
	q.Blocks = slices.Clone(p.Blocks)
	for i := range q.Blocks {
		steps := slices.Clone(q.Blocks[i].Steps)
		for j, s := range steps {
			if r, ok := s.(ir.Rule); ok && p.Origin(r.Origin).ID() == m.origin.ID() {
				switch r.Then {
				case ir.Allow:
					r.Then = ir.Deny
				case ir.Deny:
					r.Then = ir.Allow
				}
				steps[j] = r
			}
		}
		q.Blocks[i].Steps = steps
	}
	return m.Dataplane.Apply(ctx, &q, members)
}

// plain is a source of events that knows nothing of fences.
type plain struct{ lab.EventSource }

// late is one that keeps everything to itself until it is asked.
type late struct {
	lab.EventSource
	mu   sync.Mutex
	kept []lab.Event
	out  chan lab.Event
}

func (l *late) Subscribe(ctx context.Context) (<-chan lab.Event, error) {
	in, err := l.EventSource.Subscribe(ctx)
	l.out = make(chan lab.Event, 4096)
	go func() {
		defer close(l.out)
		for e := range in {
			l.mu.Lock()
			l.kept = append(l.kept, e)
			l.mu.Unlock()
		}
	}()
	return l.out, err
}

func (l *late) Drain(context.Context) error {
	time.Sleep(30 * time.Millisecond) // longer than NFLOG holds anything back
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.kept {
		l.out <- e
	}
	l.kept = nil
	return nil
}

func TestSourcesNeedNotKnowFences(t *testing.T) {
	needLab(t)
	for name, wrap := range map[string]func(lab.EventSource) lab.EventSource{
		"silence": func(e lab.EventSource) lab.EventSource { return plain{e} },
		"drain":   func(e lab.EventSource) lab.EventSource { return &late{EventSource: e} },
	} {
		t.Run(name, func(t *testing.T) {
			requireAgreement(t, everyNth(corpus(t), 60), func(ctx context.Context, ns lab.Netns) (lab.Dataplane, error) {
				b, err := nftables.New(nftables.Options{NetNS: ns.FD(), Render: rendernft.Options{Events: rendernft.AllEvents, LogGroup: eventGroup}})
				return lab.WithEvents(b, wrap(lab.NFLOG(ns, eventGroup))), err
			}, lab.Options{Patience: 100 * time.Millisecond})
		})
	}
}

// The answers to rejected packets quote them; they are not the packets.
func TestNFTablesAgreesWithTheCorpusWhenItRejects(t *testing.T) {
	needLab(t)
	cases := slices.DeleteFunc(corpus(t), func(c *policytest.Case) bool {
		return !strings.Contains(c.Name, "loopback") && !strings.Contains(c.Name, "00")
	})
	requireAgreement(t, cases, func(ctx context.Context, ns lab.Netns) (lab.Dataplane, error) {
		b, err := nftables.New(nftables.Options{
			NetNS: ns.FD(), Render: rendernft.Options{Events: rendernft.AllEvents, LogGroup: eventGroup, DenyAction: render.Reject},
		})
		return lab.WithEvents(b, lab.NFLOG(ns, eventGroup)), err
	}, lab.Options{})
}
