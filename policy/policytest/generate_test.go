// SPDX-License-Identifier: Apache-2.0

package policytest_test

import (
	"flag"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/policy"
	"github.com/hostpolicy/hostpolicy/policy/classify"
	"github.com/hostpolicy/hostpolicy/policy/compile"
	"github.com/hostpolicy/hostpolicy/policy/eval"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/policy/policytest"
)

var (
	universes = flag.Int("universes", 200, "how many random universes to compare")
	seed      = flag.Uint64("seed", 0, "the first of them")
)

// The two readings of the semantics, and the classifier, agree on verdict and origin for every packet of every universe.
func TestPureRunnersAgreeOnRandomUniverses(t *testing.T) {
	n := *universes
	if testing.Short() {
		n = min(n, 100)
	}
	var next, packets, decided atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n) && !t.Failed(); i = next.Add(1) - 1 {
				c := policytest.Generate(*seed+uint64(i), policytest.Size{})
				bad, total, byRule := disagree(t, c)
				packets.Add(int64(total))
				decided.Add(int64(byRule))
				if bad != "" {
					small := policytest.Shrink(c, func(c *policytest.Case) bool {
						bad, _, _ := disagree(t, c)
						return bad != ""
					})
					bad, _, _ = disagree(t, small)
					text, err := policytest.Format(small)
					t.Errorf("%s: %s\n%s%v", c.Name, bad, text, err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d universes, %d packets, %d of them decided by a rule", n, packets.Load(), decided.Load())
	if !t.Failed() {
		require.Greater(t, decided.Load(), packets.Load()/20, "the universes must exercise rules")
	}
}

// disagree returns a description of the first packet of c on which evaluator and program differ.
func disagree(t *testing.T, c *policytest.Case) (what string, packets, byRule int) {
	s, err := policy.Resolve(c.Resources, c.Host, c.Config)
	if err != nil {
		return "resolve: " + err.Error(), 0, 0
	}
	p, m, err := compile.Compile(s)
	if err != nil {
		return "compile: " + err.Error(), 0, 0
	}
	in, err := ir.NewInterpreter(p, m)
	if err != nil {
		return "interpreter: " + err.Error(), 0, 0
	}
	fast, err := classify.New(p, m)
	if err != nil {
		return "classifier: " + err.Error(), 0, 0
	}
	others := []struct {
		name    string
		verdict func(*flow.Packet) (flow.Verdict, flow.Origin)
	}{{"ir", in.Verdict}, {"fast", fast.Verdict}}
	e := eval.New(s)
	for i := range c.Packets {
		pkt := &c.Packets[i].Packet
		wantV, want := e.Decide(pkt)
		for _, other := range others {
			if gotV, got := other.verdict(pkt); wantV != gotV || want.ID() != got.ID() {
				return fmt.Sprintf("%s: eval %s %s, %s %s %s", c.Packets[i].Text, wantV, want, other.name, gotV, got), 0, 0
			}
		}
		if want.Kind == flow.OriginPolicy || want.Kind == flow.OriginProfile {
			byRule++
		}
	}
	return "", len(c.Packets), byRule
}

func TestGeneratedResourcesAreValid(t *testing.T) {
	for i := range uint64(300) {
		c := policytest.Generate(i, policytest.Size{})
		for o := range c.Resources.All() {
			require.NoError(t, o.Validate().Err(), "seed %d: %s", i, o.ID())
		}
	}
}

func TestGenerateIsDeterministic(t *testing.T) {
	for i := range uint64(20) {
		a, err := policytest.Format(policytest.Generate(i, policytest.Size{Packets: 50}))
		require.NoError(t, err)
		b, err := policytest.Format(policytest.Generate(i, policytest.Size{Packets: 50}))
		require.NoError(t, err)
		require.Equal(t, string(a), string(b))
	}
}
