// SPDX-License-Identifier: Apache-2.0

package analyze_test

import (
	"flag"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/policy/analyze"
	"github.com/hostpolicy/hostpolicy/policy/flow"
	"github.com/hostpolicy/hostpolicy/policy/ir"
)

var pairs = flag.Int("pairs", 2000, "how many pairs of programs are compared with exhaustion; 10000 take a minute")

func interpreter(t testing.TB, in analyze.Input) *ir.Interpreter {
	i, err := ir.NewInterpreter(in.Program, in.Members)
	require.NoError(t, err)
	return i
}

func decision(i *ir.Interpreter, p *flow.Packet) analyze.Decision {
	v, o := i.Verdict(p)
	return analyze.Decision{Verdict: v, By: o}
}

// where returns the change whose boxes hold the packet, and how many boxes do.
func where(r *analyze.Report, p *flow.Packet) (at, n int) {
	for i := range r.Changes {
		for j := range r.Changes[i].Boxes {
			if r.Changes[i].Boxes[j].Contains(p) {
				at = i
				n++
			}
		}
	}
	return at, n
}

func TestDiffIsWhatExhaustionFinds(t *testing.T) {
	packets, changes, boxes := 0, 0, 0
	for seed := range uint64(*pairs) {
		w := newWorld(seed)
		a := w.program(1+w.IntN(3), 3)
		b := w.edit(a)
		if w.IntN(3) == 0 {
			b = w.program(1+w.IntN(3), 3)
		}
		o := analyze.Options{By: w.IntN(2) == 0}
		r, err := analyze.Diff(t.Context(), a, b, o)
		require.NoError(t, err)
		require.False(t, r.Partial, r.Reason)
		x, y := interpreter(t, a), interpreter(t, b)
		w.Packets(func(p *flow.Packet) {
			packets++
			before, after := decision(x, p), decision(y, p)
			changed := before.Verdict != after.Verdict || o.By && before.By.ID() != after.By.ID()
			at, n := where(r, p)
			want := 0
			if changed {
				want = 1
				changes++
			}
			if n != want || n == 1 && (r.Changes[at].Before != before || r.Changes[at].After != after) {
				t.Fatalf("seed %d by %t: %+v: %s becomes %s, but %d boxes hold it: %+v\nbefore\n%safter\n%s", seed, o.By, p, before, after, n, r.Changes, a.Program, b.Program)
			}
		})
		for _, c := range r.Changes {
			boxes += len(c.Boxes)
			require.Positive(t, c.Share)
			for i := range c.Boxes {
				p := c.Boxes[i].Packet()
				at, n := where(r, &p)
				require.Equal(t, 1, n, "seed %d: %+v", seed, p)
				require.Equal(t, c.Before, r.Changes[at].Before)
				require.Equal(t, c.Before, decision(x, &p), "seed %d: %+v", seed, p)
				require.Equal(t, c.After, decision(y, &p), "seed %d: %+v", seed, p)
			}
		}
	}
	t.Logf("%d packets, %d change, %d boxes", packets, changes, boxes)
	require.Greater(t, changes, 10**pairs)
}
