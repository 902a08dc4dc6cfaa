// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostpolicy/hostpolicy/backends/store"
	"github.com/hostpolicy/hostpolicy/backends/store/kube"
	"github.com/hostpolicy/hostpolicy/backends/store/storetest"
)

func install(t *testing.T, c *storetest.Cluster) {
	actions := func(cfg kube.Config, o kube.InstallOptions) map[kube.Action]int {
		t.Helper()
		done, err := kube.Install(t.Context(), cfg, o)
		require.NoError(t, err)
		n := map[kube.Action]int{}
		for _, d := range done {
			n[d.Action]++
		}
		return n
	}
	admin := kube.Config{REST: config(c.Addr, "admin")}
	all := kube.InstallOptions{Native: true, Roles: true}
	require.Equal(t, map[kube.Action]int{kube.Unchanged: len(kinds) + 2}, actions(admin, all), "they were installed before")

	// What differs is put right, but not as a trial; what is another's is left alone.
	const tiers, reader = crdPath + "/tiers.projectcalico.org", "/apis/rbac.authorization.k8s.io/v1/clusterroles/hostpolicy-reader"
	patch(t, c, reader, `{"rules":[]}`)
	patch(t, c, tiers, `{"metadata":{"labels":null},"spec":{"names":{"shortNames":["mine"]}}}`)
	trial := all
	trial.DryRun = true
	want := map[kube.Action]int{kube.Unchanged: len(kinds), kube.Kept: 1, kube.Updated: 1}
	require.Equal(t, want, actions(admin, trial))
	require.Equal(t, want, actions(admin, all))
	require.Equal(t, map[kube.Action]int{kube.Unchanged: len(kinds) + 1, kube.Kept: 1}, actions(admin, all))
	_, data := c.Do(http.MethodGet, tiers, "", "")
	require.Contains(t, string(data), `"mine"`)

	_, err := kube.Install(t.Context(), kube.Config{REST: config(c.Addr, "nobody")}, all)
	require.ErrorIs(t, err, store.ErrForbidden)
	require.ErrorContains(t, err, "hostendpoints.projectcalico.org")
}

const crdPath = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

// kubectl takes the manifests too, and finds nothing to change.
func manifestsForKubectl(t *testing.T, c *storetest.Cluster) {
	for _, m := range [][]byte{kube.StorageCRDs, kube.RBAC} {
		out := c.Kubectl(string(m), "apply", "--server-side", "--field-manager=hostpolicy", "--dry-run=server", "-f", "-")
		require.NotEmpty(t, out)
		for line := range strings.Lines(out) {
			require.Contains(t, line, "serverside-applied")
		}
	}
}
