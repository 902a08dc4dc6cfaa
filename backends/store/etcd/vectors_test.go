// SPDX-License-Identifier: Apache-2.0

package etcd_test

import (
	"bufio"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/etcd"
	"github.com/hostpolicy/hostpolicy/backends/store/storetest"
	"github.com/hostpolicy/hostpolicy/hostendpoint"
	"github.com/hostpolicy/hostpolicy/hostendpoint/manifest"
)

// lines reads a file of vectors, which were made by running Calico 3.29.7 itself.
func lines[T any](t *testing.T, file string, do func(v T)) {
	f, err := os.Open(filepath.Join("testdata", file))
	require.NoError(t, err)
	defer f.Close()
	text := bufio.NewScanner(f)
	text.Buffer(nil, 1<<20)
	for text.Scan() {
		var v T
		require.NoError(t, json.Unmarshal(text.Bytes(), &v))
		do(v)
	}
	require.NoError(t, text.Err())
}

// What a server holds after a write is what Calico would have put there, byte for byte; what Calico has put there is read
// as Calico reads it.
func TestSameBytesOnAServer(t *testing.T) {
	_, url := storetest.StartEtcd(t, []string{storetest.DebianEtcd}, "http")
	storetest.EtcdReady(t, url)
	c := raw(t, clientv3.Config{Endpoints: []string{url}})
	d := open(t, url)
	n := 0
	lines(t, "convert.jsonl", func(v struct {
		ID    int
		Doc   string
		Key   string `json:"etcd_key"`
		Value string `json:"etcd_value"`
	}) {
		r, err := manifest.Options{Stored: true}.Parse(manifest.Source{Data: []byte(v.Doc)})
		require.NoError(t, err)
		h := r.HostEndpoints[0]
		created, err := d.Create(t.Context(), h)
		require.NoError(t, err, "%d", v.ID)
		got, err := c.Get(t.Context(), v.Key)
		require.NoError(t, err)
		require.Len(t, got.Kvs, 1, "%d", v.ID)
		require.Equal(t, v.Value, string(got.Kvs[0].Value), "%d", v.ID)
		read, err := d.Get(t.Context(), h.ID())
		require.NoError(t, err)
		require.Empty(t, cmp.Diff(created, read))
		_, err = d.Delete(t.Context(), h.ID(), store.DeleteOptions{})
		require.NoError(t, err)
		n++
	})
	require.Greater(t, n, 20)
	lines(t, "convert_read_etcd.jsonl", func(v struct {
		ID    int
		Key   string `json:"etcd_key"`
		Value string `json:"etcd_value"`
		Get   *hostendpoint.HostEndpoint
	}) {
		_, err := c.Put(t.Context(), v.Key, v.Value)
		require.NoError(t, err)
		id := hostendpoint.ID{Kind: hostendpoint.KindHostEndpoint, Name: filepath.Base(v.Key)}
		require.Equal(t, v.Key, etcd.Key(id))
		got, err := d.Get(t.Context(), id)
		if v.Get == nil {
			require.ErrorIs(t, err, store.ErrCorrupt, "%d", v.ID)
			return
		}
		require.NoError(t, err, "%d", v.ID)
		require.Equal(t, v.Get.Spec, got.(*hostendpoint.HostEndpoint).Spec, "%d", v.ID)
		require.Equal(t, v.Get.Metadata.Labels, got.Meta().Labels, "%d", v.ID)
		n++
	})
	require.Greater(t, n, 25)
}

// A server that takes connections and says nothing is given up, by requests and by watches.
func TestSilentServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	d, err := etcd.Open(etcd.Config{Endpoints: []string{"http://" + l.Addr().String()}, Timeout: 200 * time.Millisecond, Probe: 200 * time.Millisecond})
	require.NoError(t, err)
	defer d.Close()
	s := store.New(d, store.Options{Retry: 10 * time.Millisecond})
	_, err = s.Get(t.Context(), hostendpoint.ID{Kind: hostendpoint.KindHostEndpoint, Name: "x"})
	require.ErrorIs(t, err, store.ErrUnavailable)
	require.ErrorIs(t, d.Watch(t.Context(), "", "1", func(store.Change) error { return nil }), store.ErrUnavailable)
	w, err := s.Watch(t.Context(), "", store.WatchOptions{})
	require.NoError(t, err)
	e, err := w.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, store.Stale, e.Type)
	require.ErrorIs(t, e.Status.Err, store.ErrUnavailable)
}
