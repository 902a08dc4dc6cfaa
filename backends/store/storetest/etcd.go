// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// DebianEtcd is the server of Debian's package etcd-server, version 3.4.
const DebianEtcd = "/usr/bin/etcd"

// StartEtcd starts an etcd of one member, with its data in a directory of t, and returns it and its client URL. The
// program may need a first argument of its own; flags for TLS can follow, if the scheme is https.
func StartEtcd(t testing.TB, program []string, scheme string, flags ...string) (*Server, string) {
	t.Helper()
	require.FileExists(t, program[0], "install the package etcd-server")
	client, peer := scheme+"://"+FreeAddr(t), "http://"+FreeAddr(t)
	args := append(program[1:len(program):len(program)], "--name", "test", "--data-dir", filepath.Join(t.TempDir(), "etcd"),
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "test="+peer)
	return Start(t, program[0], append(args, flags...)...), client
}

// EtcdReady waits until an etcd serves. It speaks to the JSON gateway, so that no client of etcd is needed.
func EtcdReady(t testing.TB, url string) {
	t.Helper()
	require.Eventually(t, func() bool {
		client := http.Client{Timeout: time.Second}
		resp, err := client.Post(url+"/v3/kv/range", "application/json", strings.NewReader(`{"key":"eA=="}`))
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}, 60*time.Second, 20*time.Millisecond)
}

// EtcdCompact makes an etcd forget its history.
func EtcdCompact(t testing.TB, url string) {
	t.Helper()
	post := func(path, body string, into any) {
		resp, err := http.Post(url+path, "application/json", strings.NewReader(body))
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, http.StatusOK, resp.StatusCode)
		require.NoError(t, json.NewDecoder(resp.Body).Decode(into))
	}
	var got struct{ Header struct{ Revision string } }
	post("/v3/kv/range", `{"key":"eA=="}`, &got)
	post("/v3/kv/compaction", `{"revision":"`+got.Header.Revision+`"}`, &struct{}{})
}
