// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/kube"
	"github.com/hostpolicy/hostpolicy/backends/store/storetest"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
)

// sameOnAServer creates the objects of the vectors, which were made by running Calico 3.29.7 itself: what the server holds
// then is what Calico sends, apart from what the server assigns, and it is read back as Calico reads it.
func sameOnAServer(t *testing.T, c *storetest.Cluster) {
	d, err := kube.Open(kube.Config{REST: config(c.Addr, "admin")})
	require.NoError(t, err)
	f, err := os.Open(filepath.Join("testdata", "convert.jsonl"))
	require.NoError(t, err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	same, refused := 0, 0
	for lines.Scan() {
		var v struct {
			ID   int
			Doc  string
			Body string                     `json:"k8s_body"`
			Path string                     `json:"k8s_path"`
			Back *hostendpoint.HostEndpoint `json:"k8s_read_back"`
		}
		require.NoError(t, json.Unmarshal(lines.Bytes(), &v))
		r, err := manifest.Options{Stored: true}.Parse(manifest.Source{Data: []byte(v.Doc)})
		require.NoError(t, err)
		h := r.HostEndpoints[0]
		created, err := d.Create(t.Context(), h)
		if errors.Is(err, store.ErrRefused) {
			// Names and labels that Kubernetes does not have, for Calico's client as for ours.
			code, _ := c.Do(http.MethodPost, v.Path, "application/json", v.Body)
			require.GreaterOrEqual(t, code, 400, "%d: %v", v.ID, err)
			refused++
			continue
		}
		require.NoError(t, err, "%d", v.ID)
		path := v.Path + "/" + h.Metadata.Name
		code, data := c.Do(http.MethodGet, path, "", "")
		require.Equal(t, http.StatusOK, code)
		require.JSONEq(t, unassigned(t, []byte(v.Body)), unassigned(t, data), "%d", v.ID)

		back, err := d.Get(t.Context(), h.ID())
		require.NoError(t, err)
		require.Equal(t, created, back)
		v.Back.Metadata.UID, v.Back.Metadata.ResourceVersion = back.Meta().UID, back.Meta().ResourceVersion
		if h.Metadata.CreationTimestamp == nil {
			v.Back.Metadata.CreationTimestamp = back.Meta().CreationTimestamp
		}
		want, err := json.Marshal(v.Back)
		require.NoError(t, err)
		got, err := json.Marshal(back)
		require.NoError(t, err)
		require.JSONEq(t, string(want), string(got), "%d", v.ID)
		_, err = d.Delete(t.Context(), h.ID(), store.DeleteOptions{})
		require.NoError(t, err)
		same++
	}
	require.NoError(t, lines.Err())
	t.Logf("%d are the same, %d are refused", same, refused)
	require.Greater(t, same, 15)
}

// unassigned returns a custom resource without what the server assigns.
func unassigned(t *testing.T, data []byte) string {
	var o map[string]any
	require.NoError(t, json.Unmarshal(data, &o))
	m := o["metadata"].(map[string]any)
	for _, k := range []string{"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"} {
		delete(m, k)
	}
	out, err := json.Marshal(o)
	require.NoError(t, err)
	return string(out)
}
