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

func TestEffectiveVectorsAreValidAlike(t *testing.T) {
	type vector struct {
		ID    int
		Valid bool
		Doc   string
	}
	vectors(t, "effective.jsonl", func(t *testing.T, v vector) {
		_, err := one(v.Doc)
		require.Equal(t, v.Valid, err == nil, "%d\n%s\n%v", v.ID, v.Doc, err)
	})
}

// decidedHostEndpoints lists the vectors of hep_v1.jsonl in which we differ by decision.
var decidedHostEndpoints = map[int]string{
	13:   "an object name may begin with a hyphen",
	107:  "a node name may begin with a hyphen",
	236:  "a profile name is in the larger alphabet",
	242:  "a profile name is in the larger alphabet",
	351:  "port names are unique",
	1520: "a key is given once",
	1589: "field names are case sensitive",
	1755: "port names are unique",
}

func TestHostEndpointVectorsAreValidAlike(t *testing.T) {
	type vector struct {
		ID    int
		Valid bool
		Doc   string
	}
	vectors(t, "hep_v1.jsonl", func(t *testing.T, v vector) {
		o, err := one(v.Doc)
		want := v.Valid != (decidedHostEndpoints[v.ID] != "")
		require.Equal(t, want, err == nil, "%d\n%s\n%v", v.ID, v.Doc, err)
		if err != nil {
			return
		}
		errs, _ := o.Check()
		require.Empty(t, errs, "a valid object is usable")
	})
}

func TestAutoHostEndpointVectors(t *testing.T) {
	type vector struct {
		ID     int
		Node   string
		NodeOK bool `json:"node_ok"`
		HEP    *hostendpoint.HostEndpoint
		HEPOK  bool `json:"hep_ok"`
	}
	vectors(t, "autohep.jsonl", func(t *testing.T, v vector) {
		r, err := manifest.Options{Stored: true}.Parse(manifest.Source{Data: []byte(v.Node)})
		require.NoError(t, err)
		require.Len(t, r.Nodes, 1)
		n := r.Nodes[0]
		require.Equal(t, v.NodeOK, hostendpoint.Validate(n) == nil, "%d\n%s\n%v", v.ID, v.Node, hostendpoint.Validate(n))
		h, err := hostendpoint.AutoHostEndpoint(n)
		if v.HEP == nil {
			require.Error(t, err)
			return
		}
		require.NoError(t, err)
		require.Equal(t, v.HEPOK, hostendpoint.Validate(h) == nil)
		v.HEP.TypeMeta = h.TypeMeta
		require.Equal(t, v.HEP, h)
	})
}

// Calico's etcd values are the JSON of the objects.
func TestConvertVectorsGiveTheSameBytes(t *testing.T) {
	type vector struct {
		ID    int
		Doc   string
		Value string `json:"etcd_value"`
	}
	vectors(t, "convert.jsonl", func(t *testing.T, v vector) {
		r, err := manifest.Options{Stored: true}.Parse(manifest.Source{Data: []byte(v.Doc)})
		require.NoError(t, err)
		require.Len(t, r.HostEndpoints, 1)
		got, err := json.Marshal(r.HostEndpoints[0])
		require.NoError(t, err)
		require.Equal(t, v.Value, string(got), "%d\n%s", v.ID, v.Doc)

		var again hostendpoint.HostEndpoint
		require.NoError(t, json.Unmarshal(got, &again))
		twice, err := json.Marshal(again)
		require.NoError(t, err)
		require.Equal(t, got, twice)
	})
}
