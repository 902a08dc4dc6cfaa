// SPDX-License-Identifier: Apache-2.0

package policytest_test

import (
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// layers are the folders of the module, lowest first. A package imports its own layer and lower ones. Packages of the
// first layer stand side by side, apart from the selectors that resources hold.
var layers = []string{"selector", "hostendpoint", "policy", "render", "backends", "examples"}

type edge struct{ from, to string }

// Which package imports which is decided by testdata/imports.txt.
func TestImports(t *testing.T) {
	b, err := os.ReadFile("testdata/imports.txt")
	require.NoError(t, err)
	allowed := map[edge]string{}
	from := ""
	for n, line := range strings.Split(string(b), "\n") {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0 || strings.HasPrefix(line, "#"):
		case !strings.HasPrefix(line, "\t"):
			require.Len(t, fields, 1, "line %d", n+1)
			from = fields[0]
		default:
			require.Greater(t, len(fields), 1, "line %d: an import without a reason", n+1)
			e := edge{from, fields[0]}
			require.NotContains(t, allowed, e, "line %d", n+1)
			allowed[e] = strings.Join(fields[1:], " ")
		}
	}

	found := map[edge]bool{}
	for _, goos := range []string{"linux", "darwin", "windows"} {
		for _, p := range goList(t, goos, "-e", "-json=ImportPath,Imports", "./...") {
			for _, i := range p.Imports {
				to := (&goPackage{ImportPath: i}).short()
				if to != i || strings.Contains(strings.Split(i, "/")[0], ".") {
					found[edge{p.short(), to}] = true
				}
			}
		}
	}
	require.Greater(t, len(found), 50)
	compare := func(a, b edge) int { return strings.Compare(a.from+" "+a.to, b.from+" "+b.to) }
	for _, e := range slices.SortedFunc(maps.Keys(found), compare) {
		if allowed[e] == "" {
			t.Errorf("%s imports %s: give the reason in testdata/imports.txt", e.from, e.to)
		}
		if from, to := layer(e.from), layer(e.to); to > from {
			t.Errorf("%s imports %s: %s is above %s", e.from, e.to, layers[to], layers[from])
		}
	}
	for _, e := range slices.SortedFunc(maps.Keys(allowed), compare) {
		if !found[e] {
			t.Errorf("testdata/imports.txt: %s does not import %s any more", e.from, e.to)
		}
	}

	// Two independent readings of the semantics, or a comparison of them proves nothing.
	for _, e := range []edge{{"policy/eval", "policy/ir"}, {"policy/eval", "policy/compile"}, {"policy/ir", "policy/eval"}, {"policy/compile", "policy/eval"}} {
		require.NotContains(t, found, e)
	}
}

// layer returns the index of a package's layer, -1 for packages of others.
func layer(pkg string) int {
	return slices.IndexFunc(layers, func(l string) bool { return inFolder(pkg, l) })
}
