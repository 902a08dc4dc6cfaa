// SPDX-License-Identifier: Apache-2.0

package hostendpoint

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hostpolicy/hostpolicy/hostendpoint/inet"
)

func TestProtocolJSON(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     Protocol
		out      string
	}{
		{"a number stays a number", `6`, Protocol{Number: 6}, `6`},
		{"a number in a string becomes a number", `"6"`, Protocol{Number: 6}, `6`},
		{"leading zeros are decimal", `"010"`, Protocol{Number: 10}, `10`},
		{"a name keeps its case", `"tcp"`, Protocol{Name: "tcp"}, `"tcp"`},
		{"256 in a string is a name", `"256"`, Protocol{Name: "256"}, `"256"`},
		{"null is the number 0", `null`, Protocol{}, `0`},
		{"zero decodes", `0`, Protocol{}, `0`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p Protocol
			require.NoError(t, json.Unmarshal([]byte(c.in), &p))
			require.Equal(t, c.want, p)
			out, err := json.Marshal(p)
			require.NoError(t, err)
			require.Equal(t, c.out, string(out))
		})
	}
	for _, in := range []string{`256`, `-1`, `true`, `[]`, `{}`, `1.5`} {
		t.Run("refuses "+in, func(t *testing.T) {
			p := Protocol{Name: "TCP"}
			require.Error(t, json.Unmarshal([]byte(in), &p))
			require.Equal(t, Protocol{Name: "TCP"}, p)
		})
	}
}

func TestProtocolIP(t *testing.T) {
	for name, want := range map[string]inet.Protocol{"TCP": inet.TCP, "UDPLite": inet.UDPLite, "ICMPv6": inet.ICMPv6, "253": 253} {
		got, ok := ParseProtocol(name).IP()
		require.True(t, ok, name)
		require.Equal(t, want, got, name)
	}
	_, ok := ParseProtocol("GRE").IP()
	require.False(t, ok)
}

func TestPortJSON(t *testing.T) {
	for _, c := range []struct {
		name, in string
		want     Port
		out      string
	}{
		{"a number", `80`, Port{Min: 80, Max: 80}, `80`},
		{"a number in a string", `"80"`, Port{Min: 80, Max: 80}, `80`},
		{"leading zeros are decimal", `"080"`, Port{Min: 80, Max: 80}, `80`},
		{"a range", `"1:10"`, Port{Min: 1, Max: 10}, `"1:10"`},
		{"a range of one", `"7:7"`, Port{Min: 7, Max: 7}, `7`},
		{"the whole range", `"0:65535"`, Port{Max: 65535}, `"0:65535"`},
		{"a name", `"web"`, Port{Name: "web"}, `"web"`},
		{"a hyphen makes no range", `"80-90"`, Port{Name: "80-90"}, `"80-90"`},
		{"null is port 0", `null`, Port{}, `0`},
		{"port 0 decodes", `0`, Port{}, `0`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p Port
			require.NoError(t, json.Unmarshal([]byte(c.in), &p))
			require.Equal(t, c.want, p)
			out, err := json.Marshal(p)
			require.NoError(t, err)
			require.Equal(t, c.out, string(out))
		})
	}
	for _, in := range []string{`65536`, `-1`, `"65536"`, `"2:1"`, `"80:"`, `":80"`, `""`, `"a b"`, `"1:2:3"`, `true`, `[80]`,
		`"` + strings.Repeat("x", 129) + `"`} {
		t.Run("refuses "+in[:min(len(in), 12)], func(t *testing.T) {
			p := Port{Name: "web"}
			require.Error(t, json.Unmarshal([]byte(in), &p))
			require.Equal(t, Port{Name: "web"}, p)
		})
	}
}

func TestPortTextRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Uint16().Draw(t, "a"), rapid.Uint16().Draw(t, "b")
		p := Port{Min: min(a, b), Max: max(a, b)}
		got, err := ParsePort(p.String())
		require.NoError(t, err)
		require.Equal(t, p, got)
	})
}
