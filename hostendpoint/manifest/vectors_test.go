// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
)

// The vectors in hostendpoint/testdata were made by running Calico 3.29.7 itself.

// vectors calls do with each line of a file, as a subtest.
func vectors[T any](t *testing.T, file string, do func(t *testing.T, v T)) {
	f, err := os.Open(filepath.Join("..", "testdata", file))
	require.NoError(t, err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	n := 0
	for lines.Scan() {
		var v T
		require.NoError(t, json.Unmarshal(lines.Bytes(), &v))
		n++
		t.Run(fmt.Sprintf("line %d", n), func(t *testing.T) { do(t, v) })
	}
	require.NoError(t, lines.Err())
	require.NotZero(t, n)
}

// one parses a document that must be one valid object.
func one(doc string) (hostendpoint.Object, error) {
	r, err := manifest.Parse(manifest.Source{Name: "doc.yaml", Data: []byte(doc)})
	if err != nil {
		return nil, err
	}
	all := slices.Collect(r.All())
	if len(all) != 1 {
		return nil, fmt.Errorf("%d objects", len(all))
	}
	return all[0], nil
}

// decided lists the vectors in which we differ by decision although the vectors do not say so.
var decided = map[int]string{
	1471: "an empty CIDR in a network set is refused",
	1516: "field names are case sensitive",
	1585: "YAML tags are refused",
}

func TestValidationVectors(t *testing.T) {
	type vector struct {
		ID        int
		Class     string
		Doc       string
		OK        bool
		Errs      []string
		Deviation string
		Stored    *struct {
			Labels        map[string]string
			Types         []hostendpoint.PolicyType
			Order         *float64
			DefaultAction *hostendpoint.Action
		}
	}
	used := map[int]bool{}
	vectors(t, "validation.jsonl", func(t *testing.T, v vector) {
		o, err := one(v.Doc)
		if err == nil {
			err = hostendpoint.ValidateCreate(o) // the vectors show Calico's Create
		}
		want := v.OK
		switch v.Deviation {
		case "duplicate-port-name":
			want = false
		case "object-name", "object-name-reference":
			want = err == nil // what the larger alphabet allows is in TestObjectNames
		}
		if decided[v.ID] != "" {
			used[v.ID] = true
			want = !want
		}
		require.Equal(t, want, err == nil, "%d %s\n%s\nCalico: %v\ngot: %v", v.ID, v.Class, v.Doc, v.Errs, err)
		if err != nil || v.Stored == nil {
			return
		}
		switch d := hostendpoint.Default(o).(type) {
		case *hostendpoint.GlobalNetworkPolicy:
			require.Equal(t, v.Stored.Labels, d.Metadata.Labels)
			require.Equal(t, v.Stored.Types, d.Spec.Types)
		case *hostendpoint.NetworkPolicy:
			require.Equal(t, v.Stored.Labels, d.Metadata.Labels)
			require.Equal(t, v.Stored.Types, d.Spec.Types)
		case *hostendpoint.Tier:
			require.Equal(t, v.Stored.Order, d.Spec.Order)
			require.Equal(t, v.Stored.DefaultAction, d.Spec.DefaultAction)
		default:
			require.Fail(t, "a kind without defaults", "%T", d)
		}
	})
	require.Len(t, used, len(decided))
}
