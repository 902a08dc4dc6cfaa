// SPDX-License-Identifier: Apache-2.0

package inet_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

func ExamplePortSet() {
	s, err := inet.NewPortSet(inet.PortRange{Min: 8080, Max: 8090}, inet.PortRange{Min: 80, Max: 80}, inet.PortRange{Min: 8085, Max: 9000})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(s, s.Contains(8500), s.Complement())
	// Output: 80,8080:9000 true 0:79,81:8079,9001:65535
}

// drawPorts draws a set from a universe of two clusters, one at each end, and the same set as a table.
func drawPorts(t *rapid.T, name string) (inet.PortSet, map[uint16]bool) {
	port := rapid.OneOf(rapid.Uint16Range(0, 8), rapid.Uint16Range(65530, 65535))
	var rs []inet.PortRange
	in := map[uint16]bool{}
	for range rapid.IntRange(0, 5).Draw(t, name) {
		a, b := port.Draw(t, "a"), port.Draw(t, "b")
		rs = append(rs, inet.PortRange{Min: min(a, b), Max: max(a, b)})
		for p := int(min(a, b)); p <= int(max(a, b)); p++ { // int: 65535 is the last port
			in[uint16(p)] = true
		}
	}
	s, err := inet.NewPortSet(rs...)
	require.NoError(t, err)
	return s, in
}

func TestPortSetAgainstTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, inA := drawPorts(t, "A")
		b, inB := drawPorts(t, "B")
		union, both, not := a.Union(b), a.Intersect(b), a.Complement()
		n := len(inA)
		for i := range 32 {
			p := uint16(i - 16) // both ends, where the universe is
			require.True(t, a.Contains(p) == inA[p] && union.Contains(p) == (inA[p] || inB[p]) &&
				both.Contains(p) == (inA[p] && inB[p]) && not.Contains(p) != inA[p], "port %d", p)
		}
		require.Equal(t, n, a.Len())
		require.Equal(t, n == 0, a.IsEmpty())
		require.True(t, not.Complement().Equal(a))
		for _, s := range []inet.PortSet{a, union, both, not} {
			again, err := inet.NewPortSet(s.Ranges()...)
			require.NoError(t, err)
			require.Equal(t, s, again, "canonical")
		}
	})
}

func TestPortSetRefusesReversedRange(t *testing.T) {
	_, err := inet.NewPortSet(inet.PortRange{Min: 1, Max: 2}, inet.PortRange{Min: 2, Max: 1})
	require.ErrorIs(t, err, inet.ErrPort)
}

func TestPortSetDoesNotKeepTheSlice(t *testing.T) {
	rs := []inet.PortRange{{Min: 5, Max: 6}, {Min: 1, Max: 2}}
	s, err := inet.NewPortSet(rs...)
	require.NoError(t, err)
	require.Equal(t, inet.PortRange{Min: 5, Max: 6}, rs[0])
	s.Ranges()[0] = inet.PortRange{}
	require.Equal(t, "1:2,5:6", s.String())
}
