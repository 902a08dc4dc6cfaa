// SPDX-License-Identifier: Apache-2.0

package iptables_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
	"github.com/hostpolicy/hostpolicy/render/iptables"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// compiled returns what the compiler's own golden files hold.
func compiled(t testing.TB, name string) (*ir.Program, ir.Members) {
	t.Helper()
	b, err := os.ReadFile("../../policy/compile/testdata/" + name + ".txt")
	require.NoError(t, err)
	p, m, err := ir.Parse(string(b))
	require.NoError(t, err)
	return p, m
}

func TestGolden(t *testing.T) {
	tests := map[string]struct {
		from    string
		options iptables.Options
	}{
		"empty":        {"empty", iptables.Options{}},
		"simple":       {"simple", iptables.Options{}},
		"quiet":        {"quiet", iptables.Options{Insert: iptables.Append}},
		"stages":       {"stages", iptables.Options{}},
		"stages-loud":  {"stages", iptables.Options{Events: iptables.AllEvents, LogGroup: 7, SnapLen: 128, Prefix: "x1-", MarkMask: 0xff}},
		"simple-other": {"simple", iptables.Options{AllowAction: iptables.AllowReturn, DenyAction: render.Reject, Events: iptables.Denies}},
	}
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".txt")
		_, ok := tests[name]
		require.True(t, ok, "%s belongs to no test", f)
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, m := compiled(t, tt.from)
			r, err := iptables.Render(p, m, tt.options)
			require.NoError(t, err)
			file := "testdata/" + name + ".txt"
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(file, []byte(r.String()), 0o644))
			}
			want, err := os.ReadFile(file)
			require.NoError(t, err)
			if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(r.String(), "\n")); d != "" {
				t.Error(d)
			}
		})
	}
}
