// SPDX-License-Identifier: Apache-2.0

package classify

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

// Whatever has ports has its destination port on the axis L4, in order.
func TestProtocolsWithPorts(t *testing.T) {
	i := 0
	for _, f := range []inet.Family{inet.IPv4, inet.IPv6} {
		for p := range 256 {
			if hasPorts(inet.Protocol(p)) {
				require.Equal(t, f, protocolsWithPorts[i].family)
				require.Equal(t, inet.Protocol(p), protocolsWithPorts[i].protocol)
				i++
			}
		}
	}
	require.Len(t, protocolsWithPorts, i)
}

// A sweep that puts changes off gives the rows of one that does not, whether few or many atoms hold.
func TestSweep(t *testing.T) {
	const rules = 100
	a := &atoms{demands: [][]uint32{nil}}
	demands := make([]demand, rules)
	for i := range uint32(rules) {
		a.list = append(a.list, atom{})
		a.demands = append(a.demands, []uint32{i})
		demands[i] = demand(i + 1)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 20 {
		w := newRowState(a, demands, make([]demand, rules))
		s := newSweep(w)
		on := make([]bool, rules)
		want := make([]uint64, 2)
		count, goal, crowded := 0, 0, 0
		var classes []uint32
		var rows [][2]uint64
		for range 2000 {
			if r.IntN(40) == 0 {
				goal = r.IntN(3 * few)
			}
			i := r.IntN(rules)
			if on[i] == (count < goal) && r.IntN(10) > 0 {
				continue // tend to the goal
			}
			on[i] = !on[i]
			want[i/64] ^= 1 << (i % 64)
			if on[i] {
				count++
			} else {
				count--
			}
			if count > few {
				crowded++
			}
			s.toggle(i)
			if s.few {
				require.Len(t, s.list, count, "what is remembered would not be found again")
				require.True(t, slices.IsSorted(s.list))
			}
			if r.IntN(3) == 0 {
				classes = append(classes, s.class())
				rows = append(rows, [2]uint64(want))
			}
		}
		require.Positive(t, crowded)
		filed := w.out.finish()
		for i, c := range classes {
			require.Equal(t, rows[i][:], filed.Row(c))
		}
	}
}
