// SPDX-License-Identifier: Apache-2.0

package hostendpoint_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
)

func TestNormalizeTimestamp(t *testing.T) {
	for in, want := range map[string]string{
		"2024-01-02T03:04:05Z":          "2024-01-02T03:04:05Z",
		"2024-01-02T03:04:05.678Z":      "2024-01-02T03:04:05Z",
		"2024-01-01T00:30:00+01:00":     "2023-12-31T23:30:00Z",
		"2024-02-29T23:30:00-00:45":     "2024-03-01T00:15:00Z",
		"2024-12-31T23:30:00.5-23:59":   "2025-01-01T23:29:00Z",
		"2024-03-01T00:00:00+00:01":     "2024-02-29T23:59:00Z",
		"9999-12-31T23:59:59Z":          "9999-12-31T23:59:59Z",
		"2000-02-29T00:00:00.000+00:00": "2000-02-29T00:00:00Z",
	} {
		got, err := hostendpoint.NormalizeTimestamp(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got)
	}
	for _, in := range []string{"", "yesterday", "2024-01-02", "2024-01-02T03:04:05", "2024-13-02T03:04:05Z", "2023-02-29T03:04:05Z",
		"1900-02-29T00:00:00Z", "2024-01-02T24:04:05Z", "2024-01-02T03:04:60Z", "2024-01-02T03:04:05.Z", "2024-01-02 03:04:05Z",
		"2024-01-02T03:04:05+0100", "2024-01-02T03:04:05+01:00x", "2024-01-02T03:04:05+24:00", "9999-12-31T23:59:59-01:00", "0000-01-01T00:00:00+01:00"} {
		_, err := hostendpoint.NormalizeTimestamp(in)
		require.Error(t, err, in)
	}
}

// Package time, which reads the same format, is the oracle for what is accepted.
func FuzzNormalizeTimestamp(f *testing.F) {
	for _, s := range []string{"2024-01-02T03:04:05Z", "2024-02-29T00:00:00.5+01:30", "2023-02-29T00:00:00-00:00", "0000-01-01T00:00:00+00:01"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := hostendpoint.NormalizeTimestamp(s)
		if err != nil {
			return
		}
		want, err := time.Parse(time.RFC3339, s)
		require.NoError(t, err)
		require.Equal(t, want.UTC().Format("2006-01-02T15:04:05Z"), got)
		again, err := hostendpoint.NormalizeTimestamp(got)
		require.NoError(t, err)
		require.Equal(t, got, again)
	})
}
