// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends"
	"github.com/hostpolicy/hostpolicy/backends/agent/agenttest"
	"github.com/hostpolicy/hostpolicy/backends/nftables"
	"github.com/hostpolicy/hostpolicy/backends/store/kube"
	"github.com/hostpolicy/hostpolicy/backends/store/storetest"
)

var sequences = flag.Int("sequences", 3, "how many random sequences of edits to enforce with each datastore")

// What the agent opens by its flags leads, whatever the edits, where a compiler would get from nothing.
func TestDatastores(t *testing.T) {
	edit := func(t *testing.T, datastore string) {
		c := &config{datastore: datastore}
		c.Logger = slog.New(slog.DiscardHandler)
		s, done, err := c.openStore(t.Context())
		require.NoError(t, err)
		defer done()
		agenttest.Edits{Store: s, Sequences: *sequences, Seed: 7, Open: func(t testing.TB, netns int) backends.Backend {
			b, err := nftables.New(nftables.Options{NetNS: netns})
			require.NoError(t, err)
			return b
		}}.Run(t)
	}
	t.Run("etcd", func(t *testing.T) {
		_, url := storetest.StartEtcd(t, []string{storetest.DebianEtcd}, "http")
		storetest.EtcdReady(t, url)
		edit(t, "etcd:"+url)
	})
	t.Run("kube", func(t *testing.T) {
		c := storetest.StartCluster(t, storetest.Build(t, "../../backends/store/kube/apiserver"))
		path := c.Kubeconfig()
		_, err := kube.Install(t.Context(), kube.Config{Kubeconfig: path}, kube.InstallOptions{})
		require.NoError(t, err)
		c.Namespaces("default", "a", "b", "ns", "ns1")
		edit(t, "kube:"+path)
	})
}
