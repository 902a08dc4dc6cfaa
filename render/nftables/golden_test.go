// SPDX-License-Identifier: Apache-2.0

package nftables_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"golang.org/x/tools/txtar"

	"github.com/hostpolicy/hostpolicy/policy/ir"
	"github.com/hostpolicy/hostpolicy/render"
	"github.com/hostpolicy/hostpolicy/render/nftables"
)

var update = flag.Bool("update", false, "rewrite the ruleset sections of testdata")

// TestGolden renders the programs in testdata. A file holds the program in a section "ir" and the ruleset for each set
// of options in a section with the name of the options.
func TestGolden(t *testing.T) {
	options := map[string]nftables.Options{
		"plain":  {Linear: true, Caps: render.Caps{ConcatRanges: true}},
		"full":   {Linear: true, Caps: render.Caps{ConcatRanges: true}, Events: nftables.AllEvents, Counters: true, LogGroup: 7, SnapLen: 128},
		"reject": {Linear: true, DenyAction: render.Reject, Events: nftables.Denies, Table: "other", Mark: 1},
	}
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			a := txtar.Parse(data)
			require.Equal(t, "ir", a.Files[0].Name)
			p, m, err := ir.Parse(string(a.Files[0].Data))
			require.NoError(t, err)
			require.NoError(t, ir.Validate(p, m))
			require.Greater(t, len(a.Files), 1)
			for i := range a.Files[1:] {
				f := &a.Files[1+i]
				o, ok := options[f.Name]
				require.True(t, ok, f.Name)
				r, err := nftables.Render(p, m, o)
				got := ""
				if err != nil {
					got = err.Error() + "\n"
				} else {
					got = r.String()
				}
				if *update {
					f.Data = []byte(got)
				} else if d := cmp.Diff(string(f.Data), got); d != "" {
					t.Errorf("%s (-want +got):\n%s", f.Name, d)
				}
			}
			if *update {
				require.NoError(t, os.WriteFile(file, txtar.Format(a), 0o644))
			}
		})
	}
}
