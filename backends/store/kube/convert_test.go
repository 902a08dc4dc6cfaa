// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
)

// The vectors in testdata were made by running Calico 3.29.7 itself.

func vectors[T any](t *testing.T, file string, do func(t *testing.T, v T)) {
	f, err := os.Open(filepath.Join("testdata", file))
	require.NoError(t, err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	n := 0
	for lines.Scan() {
		var v T
		require.NoError(t, json.Unmarshal(lines.Bytes(), &v))
		n++
		do(t, v)
	}
	require.NoError(t, lines.Err())
	require.NotZero(t, n)
}

func TestWrittenAsCalicoDoes(t *testing.T) {
	type vector struct {
		ID   int
		Doc  string
		Path string                     `json:"k8s_path"`
		Body string                     `json:"k8s_body"`
		Back *hostendpoint.HostEndpoint `json:"k8s_read_back"`
	}
	vectors(t, "convert.jsonl", func(t *testing.T, v vector) {
		r, err := manifest.Options{Stored: true}.Parse(manifest.Source{Data: []byte(v.Doc)})
		require.NoError(t, err)
		h := r.HostEndpoints[0]
		before, err := store.Encode(h)
		require.NoError(t, err)
		got, err := encode(h)
		require.NoError(t, err)
		require.Equal(t, v.Body, string(got), "%d", v.ID)
		after, err := store.Encode(h)
		require.NoError(t, err)
		require.Equal(t, string(before), string(after))
		d := &Driver{}
		require.Equal(t, v.Path, d.path(hostendpoint.KindHostEndpoint, ""))

		// As the server gives it back.
		var cr map[string]any
		require.NoError(t, json.Unmarshal(got, &cr))
		cr["metadata"].(map[string]any)["resourceVersion"] = "77"
		data, err := json.Marshal(cr)
		require.NoError(t, err)
		back, err := d.decode(hostendpoint.KindHostEndpoint, data)
		require.NoError(t, err)
		// As JSON: raw messages differ in white space.
		want, err := json.Marshal(v.Back)
		require.NoError(t, err)
		text, err := json.Marshal(back)
		require.NoError(t, err)
		require.Equal(t, string(want), string(text), "%d", v.ID)
	})
}

func TestReadAsCalicoDoes(t *testing.T) {
	type vector struct {
		ID       int
		CR       json.RawMessage
		Get      *hostendpoint.HostEndpoint
		GetError string `json:"get_error"`
	}
	vectors(t, "convert_read.jsonl", func(t *testing.T, v vector) {
		got, err := decode(hostendpoint.KindHostEndpoint, v.CR)
		if v.Get == nil {
			require.ErrorIs(t, err, store.ErrCorrupt, "%d: %s", v.ID, v.GetError)
			return
		}
		require.NoError(t, err, "%d", v.ID)
		require.Empty(t, cmp.Diff(v.Get, got), "%d", v.ID)
		o, err := (&Driver{}).decode(hostendpoint.KindHostEndpoint, v.CR)
		require.NoError(t, err)
		require.Equal(t, "h1", o.ID().Name, "Kubernetes says what it is")
	})
}

func TestUIDs(t *testing.T) {
	got, err := reverseUID("11111111-2222-4333-8444-555555555555")
	require.NoError(t, err)
	require.Equal(t, "88888888-4444-43cc-8422-aaaaaaaaaaaa", got)
	back, err := reverseUID(got)
	require.NoError(t, err)
	require.Equal(t, "11111111-2222-4333-8444-555555555555", back)
	for _, bad := range []string{"x", "1111", strings.Repeat("z", 36)} {
		_, err = reverseUID(bad)
		require.ErrorIs(t, err, store.ErrRefused)
	}
	h := &hostendpoint.HostEndpoint{Metadata: hostendpoint.ObjectMeta{Name: "h", UID: "mine"}}
	_, err = encode(h)
	require.ErrorIs(t, err, store.ErrRefused)
}

func TestPoliciesHaveTwoNames(t *testing.T) {
	for _, name := range []string{"foo", "default.foo", "web.x"} {
		p := &hostendpoint.GlobalNetworkPolicy{Metadata: hostendpoint.ObjectMeta{Name: name, Labels: map[string]string{"a": "b"}}}
		store.SetType(p, hostendpoint.KindGlobalNetworkPolicy)
		data, err := encode(p)
		require.NoError(t, err)
		require.Contains(t, string(data), `"metadata":{"name":"`+hostendpoint.BackendPolicyName(name)+`"`)
		back, err := (&Driver{}).decode(hostendpoint.KindGlobalNetworkPolicy, data)
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(p, back))
	}
	raw, err := (&Driver{}).decode(hostendpoint.KindGlobalNetworkPolicy, []byte(`{"metadata":{"name":"default.foo"},"spec":{}}`))
	require.NoError(t, err)
	require.Equal(t, "foo", raw.ID().Name)
}

func TestNodes(t *testing.T) {
	o, err := decodeNode([]byte(`{"metadata":{"name":"n1","uid":"11111111-2222-4333-8444-555555555555","resourceVersion":"5","labels":{"a":"b"},
		"annotations":{"projectcalico.org/IPv4Address":"10.0.0.1/24","projectcalico.org/IPv4VXLANTunnelAddr":"10.1.0.1"}},
		"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.9"},{"type":"Hostname","address":"n1"},{"type":"ExternalIP","address":"192.0.2.1"}]}}`))
	require.NoError(t, err)
	h, err := hostendpoint.AutoHostEndpoint(o.(*hostendpoint.Node))
	require.NoError(t, err)
	require.Equal(t, []string{"10.0.0.1", "10.1.0.1", "10.0.0.9"}, h.Spec.ExpectedIPs)
	require.Equal(t, "b", h.Metadata.Labels["a"])
}
