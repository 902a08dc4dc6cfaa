// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"flag"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/agent/agenttest"
	"github.com/hostpolicy/hostpolicy/backends/store/kube"
	"github.com/hostpolicy/hostpolicy/backends/store/storetest"
)

var sequences = flag.Int("sequences", 3, "how many random sequences of edits to enforce with each datastore and backend")

// What the agent opens by its flags leads, whatever the edits, where a compiler would get from nothing.
func TestDatastores(t *testing.T) {
	edit := func(t *testing.T, datastore string) {
		for name, open := range agenttest.Backends() {
			t.Run(name, func(t *testing.T) {
				c := &config{datastore: datastore}
				c.Logger = slog.New(slog.DiscardHandler)
				ctx, cancel := context.WithCancel(t.Context())
				s, done, err := c.openStore(ctx)
				require.NoError(t, err)
				defer func() { cancel(); done() }()
				agenttest.Edits{Store: s, Sequences: *sequences, Seed: 7, Open: open}.Run(t)
			})
		}
	}
	t.Run("file", func(t *testing.T) { edit(t, "file:"+t.TempDir()) })
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
