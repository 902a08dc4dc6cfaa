// SPDX-License-Identifier: Apache-2.0

package selector_test

import (
	"bufio"
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/selector"
)

// vector is what Calico 3.29.7 itself makes of one selector. Bytes that are not UTF-8 come in base64.
type vector struct {
	In, Canonical     string
	In64, Canonical64 []byte
	OK                bool
	UID               string
	Eval              []struct {
		Labels selector.MapLabels
		Match  bool
	}
}

func readVectors(t testing.TB, file string) []vector {
	t.Helper()
	f, err := os.Open("testdata/" + file)
	require.NoError(t, err)
	defer f.Close()
	var out []vector
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var v vector
		require.NoError(t, json.Unmarshal(sc.Bytes(), &v))
		if v.In64 != nil {
			v.In, v.Canonical = string(v.In64), string(v.Canonical64)
		}
		out = append(out, v)
	}
	require.NoError(t, sc.Err())
	require.NotEmpty(t, out)
	return out
}

func TestCalicoVectors(t *testing.T) {
	for _, file := range []string{"selectors.jsonl", "selectors_bytes.jsonl"} {
		valid := 0
		for _, v := range readVectors(t, file) {
			s, err := selector.Parse(v.In)
			if !v.OK {
				var e *selector.Error
				require.ErrorAs(t, err, &e, "%q", v.In)
				require.True(t, s.IsZero(), "%q", v.In)
				requireErrorFits(t, v.In, e)
				continue
			}
			valid++
			require.NoError(t, err, "%q", v.In)
			require.Equal(t, v.Canonical, s.String(), "%q", v.In)
			require.Equal(t, v.UID, s.ID(), "%q", v.In)
			for _, e := range v.Eval {
				require.Equal(t, e.Match, s.Matches(e.Labels), "%q on %v", v.In, e.Labels)
			}
		}
		require.NotZero(t, valid)
	}
}

// requireErrorFits checks that an error points at what it says it found.
func requireErrorFits(t testing.TB, text string, e *selector.Error) {
	t.Helper()
	require.LessOrEqual(t, e.Offset, len(text), "%q", text)
	require.NotEmpty(t, e.Expected, "%q", text)
	if e.Token == "" {
		require.Equal(t, len(text), e.Offset, "%q", text)
	} else {
		require.Equal(t, e.Token, text[e.Offset:][:len(e.Token)], "%q", text)
	}
}
